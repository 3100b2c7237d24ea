"""The operations written by hand equal XLA's own, values and gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from fer_jax import ops, sharding, winograd


def value_and_gradients(function, *arguments):
    value, transpose = jax.vjp(function, *arguments)
    cotangent = jax.random.normal(jax.random.key(9), value.shape)
    return value, transpose(cotangent)


def assert_equal(ours, reference, *arguments):
    ours = ops.jit(lambda *a: value_and_gradients(ours, *a))(*arguments)
    reference = jax.jit(lambda *a: value_and_gradients(reference, *a))(*arguments)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, float(jnp.abs(b).max())))


def grouped(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=x.shape[-1])


@pytest.mark.parametrize("shape", [(2, 7, 6, 5), (12, 4, 4, 8), (1, 5, 9, 19)])
def test_depthwise_convolution(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, shape[-1]))
    assert_equal(ops.depthwise_conv, grouped, x, kernel)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [
        ((2, 8, 8, 3), 3, 2, "SAME"),
        ((2, 7, 9, 3), 3, 2, "SAME"),
        ((1, 1, 2, 1), 3, 2, "SAME"),
        ((2, 7, 7, 3), 3, 3, "SAME"),
        ((2, 8, 6, 3), 2, 2, "VALID"),
        ((2, 11, 7, 3), 3, 3, "VALID"),
        ((2, 11, 8, 3), 3, 2, "VALID"),
        ((2, 8, 7, 3), 3, 2, ((1, 1), (0, 1))),
        ((2, 17, 18, 1), 17, 17, "VALID"),  # more places than a byte tells apart
    ],
)
def test_max_pooling(shape, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), shape)
    window = {"window_shape": (size, size), "strides": (stride, stride), "padding": padding}
    assert_equal(lambda x: ops.max_pool(x, size, stride, padding), lambda x: nn.max_pool(x, **window), x)
    # Of equal maxima the first takes the gradient.
    equal = jnp.zeros(shape)
    assert_equal(lambda x: ops.max_pool(x, size, stride, padding), lambda x: nn.max_pool(x, **window), equal)


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (2, 7, 5, 3), (1, 1, 2, 1)])
def test_mean_pooling(shape):
    window = {"window_shape": (2, 2), "strides": (2, 2), "padding": "SAME"}
    assert_equal(ops.mean_pool, lambda x: nn.avg_pool(x, **window), jax.random.normal(jax.random.key(0), shape))


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((2, 7, 6, 5), (1, 1, 5, 4), 1, "SAME"),
        ((2, 7, 6, 5), (1, 1, 5, 4), 2, "SAME"),
        ((2, 7, 7, 5), (1, 1, 5, 4), 2, "VALID"),
        ((2, 7, 6, 5), (1, 1, 5, 4), 1, ((1, 1), (0, 0))),
        ((2, 7, 6, 1), (3, 3, 1, 4), 1, "SAME"),
        ((2, 7, 6, 1), (7, 7, 1, 3), 1, "SAME"),
        ((2, 7, 6, 1), (3, 2, 1, 5), 1, "VALID"),
        ((2, 7, 6, 3), (3, 3, 3, 4), 1, "VALID"),
        ((2, 7, 6, 3), (3, 3, 3, 4), 2, "SAME"),
        ((2, 9, 8, 1), (5, 5, 1, 4), 1, "VALID"),
        ((2, 9, 8, 2), (3, 4, 2, 6), 1, ((0, 2), (1, 0))),
        ((2, 9, 8, 5), (3, 3, 5, 4), 1, "VALID"),
        ((2, 9, 8, 5), (3, 3, 5, 4), 1, "SAME"),
        ((2, 5, 3, 8), (3, 3, 8, 8), 1, "VALID"),
        ((2, 9, 8, 5), (5, 3, 5, 4), 1, "VALID"),
        ((2, 9, 8, 5), (3, 3, 5, 17), 1, "VALID"),
        ((3, 1, 9, 4), (1, 2, 4, 30), 1, ((0, 1), (2, 0))),
        ((2, 9, 8, 5), (3, 3, 5, 4), 2, "VALID"),
        ((2, 9, 8, 5), (3, 3, 5, 4), 1, ((0, 2), (1, 0))),
        ((32, 8, 7, 48), (3, 3, 48, 50), 1, "SAME"),
        ((32, 7, 8, 50), (5, 5, 50, 48), 1, "SAME"),
        ((32, 7, 8, 129), (3, 3, 129, 128), 1, "SAME"),
        ((32, 7, 8, 128), (5, 5, 128, 129), 1, "SAME"),
    ],
)
def test_convolution(shape, kernel, stride, padding):
    x = jax.random.normal(jax.random.key(0), shape)
    options = {"window_strides": (stride, stride), "padding": padding, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def ours(x, kernel):
        options = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1}
        return ops.conv(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    def reference(x, kernel):
        return lax.conv_general_dilated(x, kernel, **options)

    assert_equal(ours, reference, x, jax.random.normal(jax.random.key(1), kernel))


def test_a_first_layer_in_bfloat16_is_summed_in_float32():
    x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4), jnp.bfloat16)
    found = ops.conv(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert found.dtype == jnp.bfloat16
    wide = ops.conv(
        *(a.astype(jnp.float32) for a in (x, kernel)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


def test_convolutions_of_many_channels_and_pixels_are_winograds():
    def applies(shape, kernel, *, strides=(1, 1), side=1, dtype=np.float32, **options):
        return winograd.applies(shape, kernel, strides, ((side, side),) * 2, dtype, **options)

    assert applies((32, 8, 7, 48), (3, 3, 48, 50))
    assert applies((32, 7, 8, 50), (5, 5, 50, 48), side=2)
    assert not applies((1, 8, 7, 48), (3, 3, 48, 50))  # the transformation of the kernel would cost more
    assert not applies((32, 8, 7, 48), (3, 3, 48, 8))
    assert not applies((32, 8, 7, 48), (3, 3, 48, 50), strides=(2, 2))
    assert not applies((32, 8, 7, 48), (3, 3, 48, 50), side=0)
    assert not applies((32, 8, 7, 48), (3, 3, 48, 50), dtype=jnp.bfloat16)  # would lose digits
    (images,) = export.symbolic_shape("images")
    assert not applies((images, 8, 7, 48), (3, 3, 48, 50))
    assert applies((32, 7, 8, 129), (3, 3, 129, 128), fewest=winograd.FEWEST_OF_GRADIENT)
    assert not applies((32, 7, 8, 129), (3, 3, 129, 127), fewest=winograd.FEWEST_OF_GRADIENT)


def test_programs_are_made_whether_or_not_xla_knows_the_option(monkeypatch):
    options = {"strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    program = ops.jit(functools.partial(ops.conv, **options), donate_argnums=0)
    arguments = jnp.ones((8, 8, 8, 32)), jnp.ones((3, 3, 32, 32))
    # Where this fails, convolutions are slow: the option may have another name, or another meaning.
    assert "ynn" not in program.lower(*arguments).compile().as_text()
    assert program(*arguments)[0, 1, 1, 0] == 9 * 32
    # The other option, and one that no XLA has.
    assert ops._on_cpus(*ops._LITTLE_OPTIMISED) == dict([ops._LITTLE_OPTIMISED])
    unknown = ("xla_cpu_no_such_option", "1")
    assert ops._on_cpus(*unknown) is None
    for wanted in "_EIGENS", "_LITTLE_OPTIMISED":
        monkeypatch.setattr(ops, wanted, unknown)
    for jit in ops.jit, ops.jit_once:
        assert jit(lambda x: 2 * x)(jnp.ones(3)).sum() == 6


def test_dilated_and_grouped_convolutions_are_left_to_xla():
    x = jax.random.normal(jax.random.key(0), (1, 9, 9, 2))
    for options, channels in (
        ({"kernel_dilation": 2}, 2),
        ({"input_dilation": 2, "padding": 1}, 2),
        ({"feature_group_count": 2}, 1),
    ):
        kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, 4))
        layers = [nn.Conv(4, (3, 3), use_bias=False, conv_general_dilated=conv, **options) for conv in (ops.conv, None)]
        ours, reference = (layer.apply({"params": {"kernel": kernel}}, x) for layer in layers)
        np.testing.assert_array_equal(ours, reference)


def normalised(x, scale, bias):
    """Batch normalisation as autodiff sees it."""
    pixels = tuple(range(x.ndim - 1))
    return (x - x.mean(pixels)) * lax.rsqrt(x.var(pixels) + 1e-3) * scale + bias


@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (9, 6)])
def test_batch_normalisation(shape):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), shape)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 6))
    assert_equal(lambda *a: ops.batch_norm(*a, 1e-3, None)[0], normalised, x, scale, bias)
    _, mean, variance = ops.batch_norm(x, scale, bias, 1e-3, None)
    pixels = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(mean, x.mean(pixels), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(pixels), rtol=1e-4)


@pytest.mark.parametrize("level", [1000.7, 3.3, 77.77])
def test_of_equal_pixels_the_variance_is_not_below_zero(level):
    y, _, variance = ops.batch_norm(jnp.full((64, 24, 24, 8), level), jnp.ones(8), jnp.zeros(8), 1e-5, None)
    assert (variance >= 0).all()
    assert jnp.isfinite(y).all()


def test_batch_normalisation_of_bfloat16_is_summed_in_float32():
    x = (3 + jax.random.normal(jax.random.key(0), (16, 9, 9, 6))).astype(jnp.bfloat16)
    grad = jax.random.normal(jax.random.key(2), x.shape).astype(jnp.bfloat16)
    scale, bias = jax.random.normal(jax.random.key(1), (2, 6))

    def sums(dtype):
        def norm(*arguments):
            y, *moments = ops.batch_norm(*arguments, 1e-5, None)
            return y, moments

        _, transpose, moments = jax.vjp(norm, x.astype(dtype), scale, bias, has_aux=True)
        return (*moments, *transpose(grad.astype(dtype))[1:])

    for narrow, wide in zip(sums(jnp.bfloat16), sums(jnp.float32), strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-4)


def pipeline(axis_name=None):
    """A function of (x, its weights) in which every operation of the module has a part."""

    def apply(x, pointwise, depthwise, scale):
        x = ops.conv(x, pointwise, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = ops.batch_norm(ops.depthwise_conv(x, depthwise), scale, scale, 1e-3, axis_name)[0]
        return (ops.max_pool(x, 3, 2, "SAME") ** 2).mean()

    return apply


def weights(*leading):
    shapes = (1, 1, 8, 8), (3, 3, 1, 8), (8,)
    return [jax.random.normal(jax.random.key(i), (*leading, *shape)) for i, shape in enumerate(shapes)]


def test_ops_agree_under_vmap_and_jit_together():
    x = jax.random.normal(jax.random.key(9), (3, 2, 9, 9, 8))
    gradient = jax.grad(pipeline(), argnums=(0, 1, 2, 3))
    together = jax.jit(jax.vmap(gradient))(x, *weights(3))
    for i in range(3):
        for a, b in zip(together, gradient(x[i], *(w[i] for w in weights(3))), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3, 48, 50), "SAME"), ((3, 3, 3, 8), "SAME"), ((5, 5, 1, 8), "VALID")]
)
def test_convolutions_of_every_form_agree_with_their_derivatives_under_vmap_and_jit(kernel, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.random.normal(jax.random.key(0), (2, 4, 13, 13, kernel[2]))
    w = jax.random.normal(jax.random.key(1), (2, *kernel)) / np.sqrt(np.prod(kernel[:3]))

    def loss(convolve, x, w):
        y = convolve(x, w, (1, 1), padding, dimension_numbers=numbers)
        return (ops.mean_pool(y) ** 2).mean()

    def plain(x, w, strides, padding, dimension_numbers):
        return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=dimension_numbers)

    found = jax.jit(jax.vmap(jax.grad(functools.partial(loss, ops.conv), argnums=(0, 1))))(x, w)
    expected = jax.vmap(jax.grad(functools.partial(loss, plain), argnums=(0, 1)))(x, w)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_ops_agree_under_shard_map():
    x = jax.random.normal(jax.random.key(9), (16, 9, 9, 8))

    def on_each(x, *weights):
        gradients = jax.grad(pipeline(sharding.AXIS), argnums=(0, 1, 2, 3))(x, *weights)
        return gradients[0] / jax.device_count(), lax.pmean(gradients[1:], sharding.AXIS)

    spread = jax.shard_map(
        on_each,
        mesh=sharding.make_mesh(),
        in_specs=(sharding.SPLIT, *[sharding.REPLICATED] * 3),
        out_specs=(sharding.SPLIT, sharding.REPLICATED),
        check_vma=False,
    )
    assert jax.device_count() == 8
    whole = jax.jit(jax.grad(pipeline(), argnums=(0, 1, 2, 3)))(x, *weights())
    of_x, of_weights = jax.jit(spread)(x, *weights())
    for a, b in zip((of_x, *of_weights), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_pooling_after_batch_norm_keeps_the_gradient_of_every_window():
    """Jitted, XLA computes the normalised input twice with other last bits: no window may lose its maximum by that."""
    x = jax.random.normal(jax.random.key(0), (16, 24, 24, 64))

    def loss(x):
        y = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * 1.1 + 0.1
        return (ops.max_pool(nn.relu(y), 2, 2, "VALID") ** 2).sum()

    jitted, eager = jax.jit(jax.grad(loss))(x), jax.grad(loss)(x)
    assert float(jnp.abs(jitted - eager).max()) < 1e-2 * float(jnp.abs(eager).max())
    assert float(jnp.linalg.norm(jitted - eager) / jnp.linalg.norm(eager)) < 1e-4


def test_max_pooling_lets_what_is_not_a_number_through():
    x = jnp.arange(64.0).reshape(1, 8, 8, 1).at[0, 5, 5, 0].set(jnp.nan)
    for padding in ("SAME", "VALID"):
        np.testing.assert_array_equal(
            jax.jit(ops.max_pool, static_argnums=(1, 2, 3))(x, 3, 2, padding), nn.max_pool(x, (3, 3), (2, 2), padding)
        )


def test_what_other_platforms_than_cpus_take_computes_the_same(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 5)) - 3  # below what pads it
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 5))

    def found():
        depthwise, transpose = jax.vjp(ops.depthwise_conv, x, kernel)
        return ops.max_pool(x, 3, 2, "SAME"), ops.mean_pool(x), depthwise, *transpose(depthwise)

    on_cpu = found()
    monkeypatch.setattr(lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    for a, b in zip(on_cpu, found(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
