"""Optimizers and schedules: against Optax, by their definitions, and where they cannot be made."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax import optim
from fer_jax.config import default_config
from fer_jax.errors import UserError


def descend(optimizer, steps=5, **extra):
    """The parameters after some steps of which each gradient is a function of them."""
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([0.5])}
    state = optimizer.init(params)
    for _ in range(steps):
        grads = jax.tree.map(lambda p: p * 0.3 + 1, params)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params


def optimize(name, hyper, steps=5, **options):
    config = default_config().optim
    config.update({"name": name, "momentum": 0.9, "nesterov": False} | options)
    return descend(optim.make_optimizer(config), steps, hyper=hyper)


def check_against_optax(ours, reference):
    for key, expected in descend(reference).items():
        np.testing.assert_allclose(ours[key], expected, rtol=1e-5)


def test_l2_is_the_gradient_of_half_the_squared_kernels_and_leaves_biases_alone():
    plain = optimize("sgd", {"learning_rate": 0.1, "weight_decay": 0.0}, steps=1)
    decayed = optimize("sgd", {"learning_rate": 0.1, "weight_decay": 0.2}, steps=1)
    np.testing.assert_allclose(decayed["bias"], plain["bias"])
    np.testing.assert_allclose(decayed["kernel"], plain["kernel"] - 0.1 * 0.2 * jnp.array([1.0, -2.0]), rtol=1e-6)


def test_clipping_bounds_the_global_norm_of_the_gradient():
    hyper = {"learning_rate": 1.0, "weight_decay": 0.0}
    start = optimize("sgd", hyper, steps=0)
    moved = optimize("sgd", hyper, steps=1, momentum=0.0, clip_norm=0.01)
    step = jax.tree.map(lambda a, b: a - b, moved, start)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(step)))
    assert float(norm) == pytest.approx(0.01, rel=1e-5)
    free, bounded = (optimize("sgd", hyper, steps=1, momentum=0.0, clip_norm=norm) for norm in (0.0, 1e6))
    jax.tree.map(np.testing.assert_array_equal, free, bounded)


def test_what_is_clipped_is_the_gradient_and_not_the_decay():
    hyper = {"learning_rate": 1.0, "weight_decay": 0.5}
    moved = optimize("sgd", hyper, steps=1, momentum=0.0, clip_norm=0.01)
    bare = optimize("sgd", hyper | {"weight_decay": 0.0}, steps=1, momentum=0.0, clip_norm=0.01)
    np.testing.assert_allclose(moved["kernel"], bare["kernel"] - 0.5 * jnp.array([1.0, -2.0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("sgd", {}, lambda: optax.sgd(0.1, momentum=0.9)),
        ("sgd", {"nesterov": True}, lambda: optax.sgd(0.1, momentum=0.9, nesterov=True)),
        ("adam", {}, lambda: optax.adam(0.1)),
        ("rmsprop", {}, lambda: optax.rmsprop(0.1)),
        (
            "adam",
            {"decoupled": True},
            lambda: optax.adamw(0.1, weight_decay=0.2, mask={"kernel": True, "bias": False}),
        ),
        ("adagrad", {}, lambda: optax.adagrad(0.1)),
    ],
)
def test_optimizers_equal_optax(name, options, reference):
    decay = 0.2 if options.get("decoupled") else 0.0
    check_against_optax(optimize(name, {"learning_rate": 0.1, "weight_decay": decay}, **options), reference())


@pytest.mark.parametrize(
    ("name", "scaled"),
    [("adam", optax.scale_by_adam), ("rmsprop", optax.scale_by_rms), ("adagrad", optax.scale_by_rss)],
)
def test_l2_is_scaled_with_the_gradient_unless_decoupled(name, scaled):
    decay = optax.add_decayed_weights(0.2, {"kernel": True, "bias": False})
    reference = optax.chain(decay, scaled(), optax.scale(-0.1))
    check_against_optax(optimize(name, {"learning_rate": 0.1, "weight_decay": 0.2}), reference)


@pytest.mark.parametrize("shape", [(40, 24), (3, 3, 4, 64), (1, 1, 16, 16)])
def test_muon_takes_steps_along_the_polar_factor_of_the_momentum(shape):
    config = default_config().optim
    config.update({"name": "muon", "momentum": 0.9, "nesterov": True})
    optimizer = optim.make_optimizer(config)
    random = np.random.default_rng(0)
    params = {"kernel": jnp.zeros(shape)}
    state, momentum = optimizer.init(params), np.zeros(shape)
    for _ in range(3):
        grad = random.normal(size=shape)
        updates, state = optimizer.update(
            {"kernel": jnp.array(grad, jnp.float32)}, state, params, hyper={"learning_rate": 0.5, "weight_decay": 0.0}
        )
        momentum = 0.9 * momentum + grad
        left, _, right = np.linalg.svd((grad + 0.9 * momentum).reshape(-1, shape[-1]), full_matrices=False)
        update = np.asarray(updates["kernel"]).reshape(-1, shape[-1])
        # In the coordinates of the momentum's singular vectors the update is diagonal, about 1 there.
        scale = 0.2 * max(update.shape) ** 0.5
        found = left.T @ update @ right.T / (-0.5 * scale)
        np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-4)
        assert (np.abs(np.diag(found) - 1) < 0.35).all()
        assert np.sqrt((update**2).mean()) == pytest.approx(0.5 * 0.2, rel=0.2)  # as large as Adam's


def test_muon_is_stable_where_singular_values_are_near_zero():
    config = default_config().optim
    config.update({"name": "muon", "momentum": 0.0})
    random = np.random.default_rng(0)
    left, _, right = np.linalg.svd(random.normal(size=(64, 400)), full_matrices=False)
    grad = left * np.logspace(0, -7, 64) @ right
    expected = grad / np.linalg.norm(grad)
    for _ in range(5):  # as Jordan et al. write it, in float64
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    optimizer, params = optim.make_optimizer(config), {"kernel": jnp.zeros((64, 400))}
    hyper = {"learning_rate": 1.0, "weight_decay": 0.0}
    updates, _ = optimizer.update({"kernel": jnp.array(grad, jnp.float32)}, optimizer.init(params), params, hyper=hyper)
    np.testing.assert_allclose(updates["kernel"] / (-0.2 * 400**0.5), expected, atol=1e-3 * np.abs(expected).max())


def test_muon_leaves_what_is_no_matrix_to_adam():
    params = {"Conv_0": {"kernel": jnp.ones((3, 3, 1, 8)), "bias": jnp.ones(8)}, "norm": {"scale": jnp.ones(8)}}
    grads = jax.tree.map(lambda p: jnp.linspace(-1, 1, p.size).reshape(p.shape), params)
    hyper = {"learning_rate": 0.1, "weight_decay": 0.0}
    updates = []
    for name in ("muon", "adam"):
        config = default_config().optim
        config.name = name
        optimizer = optim.make_optimizer(config)
        updates.append(optimizer.update(grads, optimizer.init(params), params, hyper=hyper)[0])
    jax.tree.map(np.testing.assert_array_equal, *updates)


def schedule(steps_per_epoch=10, total_steps=100, **options):
    config = default_config().optim
    config.update(options)
    return optim.make_schedule(config, steps_per_epoch=steps_per_epoch, total_steps=total_steps)


def test_schedules():
    assert float(schedule(schedule="constant")(57)) == 1
    cosine = schedule(schedule="cosine", warmup_epochs=1.0)
    assert float(cosine(0)) == pytest.approx(0.1)
    assert float(cosine(9)) == pytest.approx(1)
    assert float(cosine(55)) == pytest.approx(0.5, abs=1e-6)
    assert float(cosine(100)) == pytest.approx(0, abs=1e-6)
    steps = schedule(schedule="step", decay_epochs=(3, 6), decay_factor=0.1)
    assert [float(steps(s)) for s in (29, 31, 61)] == pytest.approx([1, 0.1, 0.01])
    # Both within the warm-up: both count.
    early = schedule(schedule="step", decay_epochs=(1, 2), decay_factor=0.1, warmup_epochs=3.0)
    assert float(early(35)) == pytest.approx(0.01)


def test_step_schedule_falls_with_the_first_step_after_the_epoch():
    steps = schedule(schedule="step", decay_epochs=(3, 6), decay_factor=0.1)
    assert [float(steps(s)) for s in (29, 30, 59, 60)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_schedules_that_cannot_be_are_refused():
    with pytest.raises(UserError, match=r"optim\.decay_factor = -1\.0 is negative"):
        schedule(schedule="step", decay_epochs=(3,), decay_factor=-1.0)
    with pytest.raises(UserError, match=r"optim\.warmup_epochs = 10\.0 is as long as the run"):
        schedule(schedule="cosine", warmup_epochs=10.0)


def test_wrong_names_list_the_right_ones():
    with pytest.raises(UserError, match=r"optim\.schedule = 'cosinus'.*constant, cosine, step"):
        schedule(schedule="cosinus")
    with pytest.raises(UserError, match=r"optim\.name = 'adamm'.*sgd, adam"):
        optimize("adamm", {})
