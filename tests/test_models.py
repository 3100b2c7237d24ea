"""Every registered model keeps its contract: parameters, shapes, types, devices."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax import heads, models, ops, sharding
from fer_jax.config import RATES
from fer_jax.data import synthetic
from fer_jax.data.emotions import BASIC7
from fer_jax.errors import UserError
from fer_jax.imaging import to_input
from fer_jax.models import classic, inception, layers, mini_xception

# What takes seconds to compile and step; the others are in the slow suite.
SMALL = ("vggs_small", "shallow", "fcn_gap", "mini_xception", "l2svm", "deep_emotion")
# Sides at which the big nets learn forty faces in minutes on a CPU, instead of an hour at their own.
REDUCED = {"vggs": 112, "alexnet": 112, "vgg16": 64, "inception_v3": 107, "xception": 96, "resnet18": 96}


def small_first(names, small=SMALL):
    return [pytest.param(name, marks=() if name in small else pytest.mark.slow) for name in names]


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


@pytest.mark.parametrize("name", ["shallow", "fcn_gap"])  # an affine layer, an average
def test_logits_are_not_rounded_to_what_is_computed_in(name):
    model = models.create(name, num_outputs=7, dtype=jnp.bfloat16)
    images = jax.random.uniform(jax.random.key(0), (3, 48, 48, 1))
    logits, _ = ops.jit(functools.partial(model.init_with_output, train=False))(jax.random.key(1), images)
    assert (logits != logits.astype(jnp.bfloat16)).any()


def test_bfloat16_is_chosen_where_there_are_units_for_it(monkeypatch):
    for platform, capability, chosen in (
        ("cpu", None, 4),
        ("gpu", "7.5", 4),
        ("gpu", "9.0", 2),
        ("gpu", "gfx942", 2),
        ("tpu", None, 2),
    ):
        device = SimpleNamespace(platform=platform, **({"compute_capability": capability} if capability else {}))
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        assert models.compute_dtype("auto").itemsize == chosen, (platform, capability)
        assert models.compute_dtype("float32").itemsize == 4


@pytest.fixture(scope="module")
def forty_faces():
    """Forty synthetic faces and their labels."""
    examples = [synthetic.example(0, i // 10, i % 10) for i in range(40)]
    labels = np.array([BASIC7.index(example.emotion) for example in examples])
    return np.stack([example.image for example in examples]), labels


def without_dropout(name, **options):
    options |= {rate: 0.0 for rate in ("dropout", "conv_dropout") if rate in models.options(name)}
    return models.create(name, num_outputs=7, **options)


@pytest.mark.parametrize("name", small_first(models.MODELS, (*SMALL, "deep", "shallow_hog")))
def test_training_begins_at_the_loss_of_even_chances(name, forty_faces):
    """Alizadeh & Fazel, section 4: ln(7) = 1.95 before the first step."""
    images, labels = forty_faces
    x = to_input(images[:14], models.MODELS[name].input_shape) / 127.5 - 1
    model = models.create(name, num_outputs=7)

    @ops.jit
    def loss(key):
        variables = model.init(key, x[:1], train=False)
        rngs = {"dropout": key}
        trained, _ = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
        logits = trained, model.apply(variables, x, train=False)
        return [heads.softmax_cross_entropy(each, labels[:14]).mean() for each in logits]

    np.testing.assert_allclose(loss(jax.random.key(0)), np.log(7), rtol=0.1)


@pytest.mark.parametrize("name", small_first(models.MODELS))
def test_forty_faces_are_learnt_by_heart(name, forty_faces):
    images, labels = forty_faces
    shape = models.MODELS[name].input_shape
    side = REDUCED.get(name, shape[0])
    x = to_input(images, (side, side, shape[2])) / 127.5 - 1
    model = without_dropout(name)
    optimizer = optax.adam(3e-4 if name in ("vggs", "alexnet", "vgg16") else 2e-3)

    @ops.jit
    def step(params, stats, state):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": stats}
            logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return heads.softmax_cross_entropy(logits, labels).mean(), (logits, updated.get("batch_stats", {}))

        grads, (logits, updated) = jax.grad(loss_fn, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), updated, state, (logits.argmax(-1) == labels).mean()

    variables = jax.jit(lambda key: model.init(key, x[:1], train=False))(jax.random.key(0))
    params, stats = variables["params"], variables.get("batch_stats", {})
    state = optimizer.init(params)
    for _ in range(300):
        params, stats, state, accuracy = step(params, stats, state)
        if accuracy == 1:
            return
    pytest.fail(f"{name} knows {accuracy:.0%} of forty faces after 300 steps")


@pytest.mark.parametrize("name", models.MODELS)
def test_training_moves_all_statistics_and_evaluation_none(name):
    model, variables = variables_of(name)
    images = jax.ShapeDtypeStruct((2, *models.MODELS[name].input_shape), jnp.float32)
    for train in (True, False):

        def statistics(variables, images, train=train):
            rngs = {"dropout": jax.random.key(0)}
            return model.apply(variables, images, train=train, mutable=["batch_stats"], rngs=rngs)[1]

        traced = jax.make_jaxpr(statistics)(variables, images).jaxpr
        given = set(map(id, traced.invars))  # what comes out as it went in is the same variable
        assert sum(id(out) in given for out in traced.outvars) == (0 if train else len(traced.outvars)), train


@pytest.mark.parametrize("name", ["vggs_small", "mini_xception", "deep_emotion"])
def test_training_and_evaluation_differ_only_in_dropout_and_statistics(name):
    model = without_dropout(name)
    images = jax.random.normal(jax.random.key(0), (4, *models.MODELS[name].input_shape))
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(1))
    evaluate = ops.jit(lambda v, x: model.apply(v, x, train=False))
    train = ops.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]))
    together = evaluate(variables, images)
    alone = jnp.concatenate([evaluate(variables, images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)  # a face's answer does not depend on its neighbours
    # With the statistics of this very batch, evaluation gives what training does.
    expected, updated = train(variables)
    momentum = 0.99 if name == "mini_xception" else 0.9
    own = jax.tree.map(
        lambda new, old: (new - momentum * old) / (1 - momentum), updated["batch_stats"], variables["batch_stats"]
    )
    np.testing.assert_allclose(evaluate(variables | {"batch_stats": own}, images), expected, atol=1e-3)


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


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("shallow", [48, 48]),
        ("deep", [48, 24, 12, 6]),
        ("deep5", [48, 24, 12, 6, 3]),
        ("deep6", [48, 24, 12, 6, 3, 3]),
        ("vgg8", [48, 48, 24, 24, 12, 12, 6, 6]),
        ("baseline5", [224, 112, 56, 28, 14]),
    ],
)
def test_the_poolings_lie_where_they_should(name, sides):
    model, variables = variables_of(name)
    images = jnp.zeros((1, *models.MODELS[name].input_shape))
    seen = {"capture_intermediates": lambda module, _: isinstance(module, nn.Conv), "mutable": ["intermediates"]}
    _, found = jax.eval_shape(lambda v: model.apply(v, images, train=False, **seen), variables)
    convolutions = [found["intermediates"][f"Conv_{i}"]["__call__"][0] for i in range(len(sides))]
    assert [maps.shape[1] for maps in convolutions] == sides


def test_the_poolings_of_the_l2svm_net_are_those_of_its_paper(monkeypatch):
    kinds, pool = [], layers.ceil_pool
    monkeypatch.setattr(classic, "ceil_pool", lambda kind, *rest: kinds.append(kind) or pool(kind, *rest))
    variables_of("l2svm")
    assert kinds == ["max", "mean", "mean"]


@pytest.mark.parametrize(("module", "name"), [(mini_xception, "mini_xception"), (inception, "xception")])
def test_the_nets_after_keras_average_as_it_does(monkeypatch, module, name):
    options = []
    monkeypatch.setattr(
        module, "BatchNorm", lambda axis, **given: options.append(given) or layers.BatchNorm(axis, **given)
    )
    variables_of(name)
    assert all(given == {"momentum": 0.99, "epsilon": 1e-3} for given in options)
    assert options


def test_unknown_models_and_options_list_the_right_ones():
    with pytest.raises(
        UserError, match=r"unknown model 'minixception'. Did you mean 'mini_xception'\? Known: vggs, vggs_small"
    ):
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
    statistics = updated["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], reference.running_mean, rtol=1e-5)
    # PyTorch keeps the unbiased variance, Flax the biased one.
    unbiased = (statistics["var"] - 0.9) * 200 / 199 + 0.9
    np.testing.assert_allclose(unbiased, reference.running_var, rtol=1e-5)


def test_local_response_norm_equals_torch():
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    x = np.random.default_rng(0).normal(0, 30, (2, 4, 5, 11)).astype(np.float32)
    reference = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    theirs = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(layers.local_response_norm(x), theirs, rtol=1e-5)


def test_the_spatial_transformer_samples_as_torch_does():
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 9, 2)).astype(np.float32)
    theta = (np.array([[1, 0, 0], [0, 1, 0]]) + rng.normal(0, 0.4, (3, 2, 3))).astype(np.float32)
    grid = torch.nn.functional.affine_grid(torch.tensor(theta), (3, 2, 7, 9), align_corners=False)
    theirs = torch.nn.functional.grid_sample(torch.tensor(x).permute(0, 3, 1, 2), grid, align_corners=False)
    np.testing.assert_allclose(layers.sample_affine(x, theta), theirs.permute(0, 2, 3, 1), atol=1e-4)
    identity = np.tile(np.float32([[1, 0, 0], [0, 1, 0]]), (3, 1, 1))
    np.testing.assert_allclose(layers.sample_affine(x, identity), x, atol=1e-5)


def test_the_spatial_transformer_is_in_the_net_that_has_its_name():
    """The map begins as the identity, so only a gradient tells whether the net looks through it."""
    model = models.create("deep_emotion", num_outputs=7)
    x = jax.random.normal(jax.random.key(0), (1, 48, 48, 1))

    @ops.jit
    def slope(key):
        variables = model.init(key, x, train=False)
        of_params = jax.grad(lambda params: model.apply(variables | {"params": params}, x, train=False)[0, 0])
        return of_params(variables["params"])["Dense_1"]["bias"]  # of the affine map

    assert (slope(jax.random.key(1)) != 0).all()


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(("length", "size", "stride"), [(42, 3, 2), (37, 2, 2), (17, 3, 3), (9, 3, 3)])
def test_ceil_pooling_equals_torch(kind, length, size, stride):
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    x = np.random.default_rng(0).normal(size=(1, length, length, 2)).astype(np.float32)
    name = "MaxPool2d" if kind == "max" else "AvgPool2d"
    reference = getattr(torch.nn, name)(size, stride, ceil_mode=True)
    theirs = reference(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(layers.ceil_pool(kind, x, size, stride), theirs, atol=1e-6)


def test_the_switches_of_the_builder_change_what_they_name():
    base = {"filters": (8, 8, 8), "pools": (2, 2, 1), "hidden": (16,)}

    def parameters(**options):
        _, variables = variables_of("shallow", **(base | options))
        return variables["params"]

    plain = parameters()
    assert plain["Dense_0"]["kernel"].shape == (12 * 12 * 8, 16)
    assert parameters(global_pool=True)["Dense_0"]["kernel"].shape == (8, 16)
    assert parameters(strides=(1, 2, 1))["Dense_0"]["kernel"].shape == (6 * 6 * 8, 16)
    assert parameters(paddings="VALID")["Dense_0"]["kernel"].shape == (8 * 8 * 8, 16)
    assert parameters(separable=True)["DepthwiseConv_1"]["kernel"].shape == (3, 3, 1, 8)
    assert "BatchNorm_0" not in parameters(batch_norm=False, hidden_batch_norm=False)
    assert parameters(kernels=(3, 5, 3))["Conv_1"]["kernel"].shape == (5, 5, 8, 8)
    assert parameters(use_hog=True)["Dense_0"]["kernel"].shape == (12 * 12 * 8 + 5 * 5 * 4 * 8, 16)
    with pytest.raises(UserError, match=r"model\.options\.pools = \(2, 2\) has 2 items, filters has 3"):
        parameters(pools=(2, 2))
    with pytest.raises(UserError, match=r"separable wants 3x3 kernels after the first layer"):
        parameters(separable=True, kernels=5)


def test_options_of_the_builder_that_mean_nothing_are_refused():
    for options, message in (
        ({"paddings": "same"}, r"model\.options\.paddings = 'same': use SAME or VALID"),
        ({"pools": (1, -2)}, r"model\.options\.pools = \(1, -2\): 1 is no pooling"),
    ):
        with pytest.raises(UserError, match=message):
            models.variable_shapes(models.create("shallow", num_outputs=7, **options), (48, 48, 1))


def test_the_fully_convolutional_net_has_600_thousand_parameters_in_nine_convolutions():
    _, variables = variables_of("fcn_gap")
    assert count(variables["params"]) == pytest.approx(600_000, rel=0.1)
    assert sum(name.startswith("Conv") for name in variables["params"]) == 9
    assert not any(name.startswith("Dense") for name in variables["params"])


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


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        (name, {rate: 0.5} | ({"hidden": (8,)} if name == "baseline5" else {}))  # which has no layer to drop out of
        for name in models.MODELS
        for rate in RATES
        if rate in models.options(name)
    ]
    + [("deep", {"dropout": (0.0, 0.5)}), ("deep", {"dropout": (0.5, 0.0)})],
)
def test_a_rate_of_dropout_draws_in_training_and_there_alone(name, rates):
    def draws(rates, *, train):
        model, variables = variables_of(name, **dict.fromkeys(set(RATES) & set(models.options(name)), 0.0) | rates)
        images = jnp.zeros((2, *models.MODELS[name].input_shape))
        options = {"train": train, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
        return str(jax.make_jaxpr(lambda v: model.apply(v, images, **options))(variables)).count("random_bits")

    assert draws(rates, train=True) > 0
    assert draws(rates, train=False) == draws({}, train=True) == 0


def test_mini_xception_with_standard_convolutions_has_the_parameters_of_the_readme():
    _, variables = variables_of("mini_xception", separable=False)
    assert count(variables["params"]) == 314_831


def test_operations_are_counted_two_for_a_product_that_is_added():
    """3x3 kernels of four filters on 24x24 pixels of one channel, and an affine layer of 7 on what they give."""
    net = models.create(
        "shallow", num_outputs=7, filters=(4,), hidden=(), batch_norm=False, hidden_batch_norm=False, kernels=3, pools=1
    )
    by_hand = 2 * (24 * 24 * 9 * 4 + 24 * 24 * 4 * 7)
    assert models.forward_flops(net, (24, 24, 1)) == pytest.approx(by_hand, rel=0.1)
    half = net.clone(dtype=jnp.bfloat16)
    assert models.forward_flops(half, (24, 24, 1)) == models.forward_flops(net, (24, 24, 1))
