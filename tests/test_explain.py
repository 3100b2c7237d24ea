"""What explains a network: against hand-written gradients and nets whose answer is known."""

import functools

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import explain, models
from fer_jax.errors import UserError


class Small(nn.Module):
    """Convolution, ReLU, affine, ReLU, affine."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


class Pooled(nn.Module):
    """One convolution, the means of its channels, an affine layer."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(2)(nn.relu(nn.Conv(2, (1, 1))(x)).mean((1, 2)))


class Block(nn.Module):
    """A model of a block inside a model."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return nn.Dense(2)(Small(name="inner")(x, train=train))


@pytest.fixture(scope="module")
def small():
    images = jax.random.normal(jax.random.key(0), (5, 6, 6, 1))
    model = Small()
    return model, model.init(jax.random.key(1), images, train=False), images, jnp.array([0, 1, 2, 1, 0])


@pytest.fixture(scope="module")
def shallow():
    """A registered net at a small size with images: (model, variables, images, targets)."""
    images = jax.random.normal(jax.random.key(2), (4, 16, 16, 1))
    model = models.create("shallow", num_outputs=7, filters=(8, 8), hidden=(16,))
    variables = model.init(jax.random.key(3), images, train=False)
    return model, variables, images, jnp.array([0, 3, 6, 2])


def plain_gradient(model, variables, images, targets):
    def score(images):
        return jnp.take_along_axis(model.apply(variables, images, train=False), targets[:, None], 1).sum()

    return jax.grad(score)(images)


def test_guided_backpropagation_is_the_backward_pass_written_by_hand(small):
    model, variables, images, targets = small
    params = variables["params"]

    def conv(x):
        return jax.lax.conv_general_dilated(
            x, params["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    first = conv(images) + params["Conv_0"]["bias"]
    flat = np.maximum(first, 0).reshape(len(images), -1)
    second = flat @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    gradient = np.eye(3)[targets] @ params["Dense_1"]["kernel"].T
    gradient = np.where((second > 0) & (gradient > 0), gradient, 0) @ params["Dense_0"]["kernel"].T
    gradient = gradient.reshape(first.shape)
    gradient = jnp.where((first > 0) & (gradient > 0), gradient, 0)
    (expected,) = jax.vjp(conv, images)[1](gradient)

    found = explain.guided_backprop(model, variables, images, targets)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jitted = jax.jit(functools.partial(explain.guided_backprop, model))(variables, images, targets)
    np.testing.assert_allclose(jitted, expected, atol=1e-5)
    plain = plain_gradient(model, variables, images, targets)
    assert np.abs(plain - expected).max() > 0.01  # the rule makes a difference here


def test_the_ordinary_gradient_is_the_same_after_the_context_and_after_an_exception(small):
    before = plain_gradient(*small)
    relu = nn.relu
    explain.guided_backprop(*small)
    assert nn.relu is relu
    with pytest.raises(ZeroDivisionError), explain.relu_replaced(explain.guided_relu):
        assert nn.relu is explain.guided_relu
        raise ZeroDivisionError
    assert nn.relu is relu
    model, variables, _, targets = small
    with pytest.raises(Exception, match="kernel"):  # fails within the model: another input shape
        explain.guided_backprop(model, variables, jnp.zeros((5, 8, 8, 1)), targets)
    assert nn.relu is relu
    np.testing.assert_array_equal(plain_gradient(*small), before)


@pytest.fixture
def bright():
    """A net whose first output is the mean of the red pixels, its second that of the green ones, and an image."""
    eye = jnp.eye(2)
    variables = {
        "params": {
            "Conv_0": {"kernel": eye[None, None], "bias": jnp.zeros(2)},
            "Dense_0": {"kernel": eye, "bias": jnp.zeros(2)},
        }
    }
    images = np.zeros((2, 12, 12, 2), np.float32)
    images[:, 2:5, 1:4, 0] = 1  # red at the top left
    images[:, 7:10, 8:11, 1] = 1  # green at the bottom right
    return Pooled(), variables, jnp.asarray(images), jnp.array([0, 1])


def test_grad_cam_lies_where_the_channel_is_that_decides(bright):
    _, _, images, _ = bright
    heat = np.asarray(explain.grad_cam(*bright))
    # By equation 1 the weight of the logit's own channel is 1 / pixels, that of the other 0.
    np.testing.assert_allclose(heat, np.stack([images[0, :, :, 0], images[1, :, :, 1]]) / 144, atol=1e-7)
    at_convolution = explain.grad_cam(*bright, layer="Conv_0")
    np.testing.assert_allclose(at_convolution, heat * [[[9 / 144]], [[9 / 144]]], atol=1e-7)  # 9 live pixels of 144
    with pytest.raises(UserError, match=r"unknown layer with a map 'Conv_1'.*Did you mean 'Conv_0'.*Conv_0, relu_0"):
        explain.grad_cam(*bright, layer="Conv_1")


class Coarse(nn.Module):
    """The mean of each channel, by maps of a quarter of the image's side."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.avg_pool(x, (4, 4), (4, 4))
        return nn.relu(nn.Conv(2, (1, 1))(x)).mean((1, 2))


def test_grad_cam_is_sampled_up_to_the_image():
    variables = {"params": {"Conv_0": {"kernel": jnp.eye(2)[None, None], "bias": jnp.zeros(2)}}}
    images = np.zeros((1, 12, 12, 2), np.float32)
    images[:, 4:8, 4:8, 0] = 1
    assert explain.maps(Coarse(), variables, images)["relu_0"].shape == (1, 3, 3, 2)
    (heat,) = np.asarray(explain.grad_cam(Coarse(), variables, images, jnp.array([0])))
    assert heat.shape == (12, 12)
    assert heat.min() >= 0
    # Bilinear between the centres of the nine blocks: a tent over the middle one that ends at its neighbours' centres.
    tent = 1 - np.abs(np.arange(12) - 5.5) / 4
    np.testing.assert_allclose(heat, np.outer(*[tent.clip(0)] * 2) / 9, atol=1e-6)


def test_the_occlusion_map_peaks_at_the_block_that_decides(bright):
    heat = np.asarray(explain.occlusion(*bright, size=3, stride=1, batch_size=7))
    assert heat.shape == (2, 12, 12)
    # The mean over the squares upon a pixel: by the nearness of the border its peak may be off the block's centre.
    for image, channel, colour in zip(heat, (0, 1), np.moveaxis(np.asarray(bright[2]), -1, 1), strict=True):
        assert colour[channel][np.unravel_index(image.argmax(), (12, 12))] == 1
        assert image.max() > 5 * np.abs(image[colour[channel] == 0]).mean()
    # The square upon the block takes the nine ones and leaves the mean: 9 * (1 - 9 / 144) / 144 of the logit.
    exact = np.asarray(explain.occlusion(*bright, size=12, stride=12))
    np.testing.assert_allclose(exact, 0, atol=1e-6)  # all hidden: the mean colour has the same mean
    np.testing.assert_allclose(heat, explain.occlusion(*bright, size=3, stride=1, batch_size=1000), atol=1e-6)
    assert np.isfinite(explain.occlusion(*bright, size=5, stride=4)).all()  # the last square lies at the border
    with pytest.raises(UserError, match="size=2 and stride=3 on 12x12 pixels"):
        explain.occlusion(*bright, size=2, stride=3)


def test_activations_are_those_of_the_named_layer(bright, shallow):
    model, variables, images, _ = bright
    np.testing.assert_array_equal(explain.activations(model, variables, images, layer="relu_0"), images)
    assert list(explain.layers(model, variables, images)) == ["Conv_0", "relu_0", "Dense_0"]
    with pytest.raises(UserError, match=r"unknown layer 'relu_7'.*Known: .*Conv_0.*relu_1.*Dense_1"):
        explain.activations(*shallow[:3], layer="relu_7")


def test_layers_within_modules_have_their_paths(small):
    images = small[2]
    model = Block()
    variables = model.init(jax.random.key(0), images, train=False)
    assert list(explain.layers(model, variables, images))[:2] == ["inner/Conv_0", "relu_0"]
    assert explain.first_filters(model, variables, images).shape == (3, 3, 1, 4)


def test_the_first_filters_are_the_kernel(shallow):
    model, variables, images, _ = shallow
    found = explain.first_filters(model, variables, images)
    np.testing.assert_array_equal(found, variables["params"]["Conv_0"]["kernel"])


def test_a_dream_raises_its_logit_within_bounds_and_by_its_key(shallow):
    model, variables, images, targets = shallow
    make = jax.jit(
        functools.partial(explain.dream, model=model, octaves=3, steps=8, step_size=0.05, low=-2.0, high=2.0)
    )
    one, same, other = (
        make(jax.random.key(seed), variables=variables, images=images, targets=targets) for seed in (0, 0, 1)
    )
    before, after = (
        np.take_along_axis(model.apply(variables, x, train=False), targets[:, None], 1) for x in (images, one)
    )
    assert (after > before).all()
    assert one.shape == images.shape
    assert one.min() >= -2
    assert one.max() <= 2
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_features_are_what_the_last_layer_is_given(shallow):
    model, variables, images, _ = shallow
    found = explain.features(model, variables, images)
    last = variables["params"]["Dense_1"]
    logits = model.apply(variables, images, train=False)
    np.testing.assert_allclose(found @ last["kernel"] + last["bias"], logits, atol=1e-5)


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 6)) * [9, 4, 1, 1, 1, 1] + 3
    places, shares = map(np.asarray, explain.principal_components(jnp.asarray(features, jnp.float32)))
    values = np.sort(np.linalg.eigvalsh(np.cov(features.T)))[::-1]
    np.testing.assert_allclose(shares, values[:2] / values.sum(), rtol=1e-4)
    np.testing.assert_allclose(np.cov(places.T), np.diag(values[:2]), atol=1e-2)
    assert np.corrcoef(places[:, 0], features[:, 0])[0, 1] > 0.99  # and not its reverse


@pytest.mark.parametrize("name", models.MODELS)
def test_every_registered_model_can_be_explained(name):
    entry = models.MODELS[name]
    model = models.create(name, num_outputs=7)
    images = jax.ShapeDtypeStruct((2, *entry.input_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    targets = jax.ShapeDtypeStruct((2,), jnp.int32)
    guided = jax.eval_shape(functools.partial(explain.guided_backprop, model), variables, images, targets)
    assert guided.shape == images.shape
    cam = jax.eval_shape(functools.partial(explain.grad_cam, model), variables, images, targets)
    assert cam.shape == images.shape[:3]
    features = jax.eval_shape(functools.partial(explain.features, model), variables, images)
    assert len(features.shape) == 2
    # No ReLU of any net escapes.
    seen = [layer for layer in explain.layers(model, variables, images) if layer.startswith("relu_")]
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
    assert len(seen) == count_relus(program.jaxpr) >= 2


def count_relus(program):
    """The calls of `jax.nn.relu` in a traced program."""
    calls = [equation.params.get("name") == "relu" for equation in program.eqns]
    inner = [p.jaxpr for equation in program.eqns for p in equation.params.values() if hasattr(p, "jaxpr")]
    return sum(calls) + sum(map(count_relus, inner))


class Halved(nn.Module):
    """Maps of half the size, their means, an affine layer."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(2)(nn.relu(nn.Conv(2, (1, 1), strides=2)(x)).mean((1, 2)))


def test_grad_cam_is_sampled_up_bilinearly():
    eye = jnp.eye(2)
    params = {name: {"kernel": eye, "bias": jnp.zeros(2)} for name in ("Conv_0", "Dense_0")}
    params["Conv_0"]["kernel"] = eye[None, None]
    images = np.random.default_rng(0).uniform(0, 1, (2, 12, 8, 2)).astype(np.float32)
    heat = explain.grad_cam(Halved(), {"params": params}, jnp.asarray(images), jnp.array([0, 1]))
    for image, channel, found in zip(images, (0, 1), heat, strict=True):
        small = image[::2, ::2, channel] / 24  # weight 1 / pixels of the map
        np.testing.assert_allclose(found, cv2.resize(small, (8, 12)), atol=1e-6)


class Last(nn.Module):
    """Ends in a convolution of one pixel and its mean."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Conv(3, (1, 1))(nn.relu(nn.Conv(5, (3, 3))(x))).mean((1, 2))


def test_grad_cam_of_a_net_that_ends_in_a_convolution_is_that_of_the_maps_before_whatever_the_logits(bright):
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 1))
    variables = Last().init(jax.random.key(1), images, train=False)
    variables["params"]["Conv_0"]["bias"] = jnp.full(3, -100.0)  # all scores are below 0, the softmax is the same
    targets = jnp.array([0, 2])
    heat = np.asarray(explain.grad_cam(Last(), variables, images, targets))
    maps = nn.relu(nn.Conv(5, (3, 3)).apply({"params": variables["params"]["Conv_1"]}, images))
    weights = variables["params"]["Conv_0"]["kernel"][0, 0][:, targets].T / 36  # [B, 5]: the gradient of the mean score
    expected = nn.relu((maps * weights[:, None, None]).sum(-1))
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    assert heat.any()
    assert not np.asarray(explain.grad_cam(Last(), variables, images, targets, layer="Conv_0")).any()


def test_features_before_a_last_convolution_are_means_over_the_pixels():
    images = jax.random.normal(jax.random.key(0), (4, 6, 6, 1))
    variables = Last().init(jax.random.key(1), images, train=False)
    found, last = explain.features(Last(), variables, images), variables["params"]["Conv_0"]  # made first, called last
    np.testing.assert_allclose(
        found @ last["kernel"][0, 0] + last["bias"], Last().apply(variables, images, train=False), atol=1e-5
    )


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 3), (5, 5)])
def test_occlusion_is_the_mean_fall_over_the_squares_upon_a_pixel(size, stride):
    images = jax.random.normal(jax.random.key(0), (2, 9, 8, 1))
    variables, targets = Last().init(jax.random.key(1), images, train=False), [2, 0]
    found = explain.occlusion(Last(), variables, images, jnp.array(targets), size=size, stride=stride)
    images = np.asarray(images)
    total, squares = np.zeros((2, 9, 8)), np.zeros((9, 8))
    whole = np.asarray(Last().apply(variables, images, train=False))
    for top in sorted({*range(0, 9 - size + 1, stride), 9 - size}):
        for left in sorted({*range(0, 8 - size + 1, stride), 8 - size}):
            hidden = images.copy()
            hidden[:, top : top + size, left : left + size] = images.mean((1, 2), keepdims=True)
            fall = whole - np.asarray(Last().apply(variables, hidden, train=False))
            total[:, top : top + size, left : left + size] += fall[[0, 1], targets][:, None, None]
            squares[top : top + size, left : left + size] += 1
    np.testing.assert_allclose(found, total / squares, atol=1e-5)
