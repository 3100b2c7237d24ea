"""Every registered model keeps its contract: parameters, shapes, types, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import models, sharding
from fer_jax.errors import UserError
from fer_jax.models import layers


def variables_of(name, **options):
    model = models.create(name, num_outputs=7, **options)
    images = jnp.zeros((1, *models.MODELS[name].input_shape))
    return model, jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", models.MODELS)
def test_the_number_of_parameters_is_the_one_registered(name):
    _, variables = variables_of(name)
    assert count(variables["params"]) == models.MODELS[name].parameters
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32_whatever_is_computed_in(name, dtype):
    model, variables = variables_of(name, dtype=dtype)
    images = jnp.zeros((3, *models.MODELS[name].input_shape))
    assert model.apply  # a Linen module
    evaluated = jax.eval_shape(lambda v: model.apply(v, images, train=False), variables)
    assert (evaluated.shape, evaluated.dtype) == ((3, 7), jnp.float32)
    trained, updated = jax.eval_shape(
        lambda v: model.apply(v, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}),
        variables,
    )
    assert trained.dtype == jnp.float32
    assert jax.tree.structure(updated.get("batch_stats", {})) == jax.tree.structure(variables.get("batch_stats", {}))


def test_small_vggs_weighs_what_the_paper_says():
    _, variables = variables_of("vggs_small")
    assert 4 * count(variables["params"]) / 1e6 == pytest.approx(12.1, rel=0.01)


def test_mini_xception_is_the_published_net():
    _, variables = variables_of("mini_xception")
    assert count(variables) == 58_423
    assert 4 * count(variables) <= 800e3


@pytest.mark.parametrize("shape", [(48, 48, 1), (64, 64, 1)])
def test_mini_xception_takes_both_sizes(shape):
    model = models.create("mini_xception", num_outputs=7)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False))
    assert count(variables) == 58_423


def test_the_stanford_nets_have_their_layers():
    _, shallow = variables_of("shallow")
    assert [shallow["params"][f"Conv_{i}"]["kernel"].shape for i in (0, 1)] == [(3, 3, 1, 32), (3, 3, 32, 64)]
    assert shallow["params"]["Dense_0"]["kernel"].shape == (24 * 24 * 64, 512)  # one pooling: 48 -> 24
    _, deep = variables_of("deep")
    shapes = [deep["params"][f"Conv_{i}"]["kernel"].shape for i in range(4)]
    assert shapes == [(3, 3, 1, 64), (5, 5, 64, 128), (3, 3, 128, 512), (3, 3, 512, 512)]
    assert deep["params"]["Dense_0"]["kernel"].shape == (3 * 3 * 512, 256)
    assert deep["params"]["Dense_1"]["kernel"].shape == (256, 512)


def test_unknown_models_and_options_list_the_right_ones():
    with pytest.raises(UserError, match=r"unknown model 'minixception'. Did you mean 'mini_xception'\? Known: vggs_"):
        models.create("minixception", num_outputs=7)
    with pytest.raises(UserError, match=r"deep has no options \['widht'\]; it has: filters, kernels"):
        models.create("deep", num_outputs=7, widht=3)


def test_batch_norm_equals_torch():
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 5, 4)).astype(np.float32)
    norm = layers.BatchNorm(None, momentum=0.9)
    variables = norm.init(jax.random.key(0), x, train=False)
    ours, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    reference = torch.nn.BatchNorm2d(4, momentum=0.1)
    theirs = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    statistics = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], reference.running_mean, rtol=1e-5)
    # PyTorch keeps the unbiased variance, Flax the biased one.
    unbiased = (statistics["var"] - 0.9) * 200 / 199 + 0.9
    np.testing.assert_allclose(unbiased, reference.running_var, rtol=1e-5)


def test_dropout_keeps_its_share_and_the_mean():
    x = jnp.ones((64, 100))
    out = layers.Dropout(0.3, None).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert float((out == 0).mean()) == pytest.approx(0.3, abs=0.02)
    assert float(out.mean()) == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(layers.Dropout(0.3, None).apply({}, x, train=False), x)


def test_dropout_draws_by_the_place_in_the_global_batch():
    x = jnp.ones((16, 10))
    masks = []
    for mesh in (sharding.make_mesh(), sharding.make_mesh(jax.devices()[:1])):
        drop = jax.shard_map(
            lambda x: layers.Dropout(0.5, sharding.AXIS).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}),
            mesh=mesh,
            in_specs=sharding.SPLIT,
            out_specs=sharding.SPLIT,
        )
        masks.append(np.asarray(drop(x)))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert len({row.tobytes() for row in masks[0]}) > 8
