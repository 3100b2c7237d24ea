"""The operations written by hand equal XLA's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax import ops


def value_and_gradients(function, *arguments):
    value, transpose = jax.vjp(function, *arguments)
    cotangent = jax.random.normal(jax.random.key(9), value.shape)
    return value, transpose(cotangent)


def assert_equal(ours, reference, *arguments):
    ours = jax.jit(lambda *a: value_and_gradients(ours, *a))(*arguments)
    reference = jax.jit(lambda *a: value_and_gradients(reference, *a))(*arguments)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, float(jnp.abs(b).max())))


def grouped(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=x.shape[-1])


@pytest.mark.parametrize("shape", [(2, 7, 6, 5), (3, 4, 4, 8), (1, 5, 9, 19)])
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
    ],
)
def test_max_pooling(shape, size, stride, padding):
    x = jax.random.normal(jax.random.key(0), shape)
    window = {"window_shape": (size, size), "strides": (stride, stride), "padding": padding}
    assert_equal(lambda x: ops.max_pool(x, size, stride, padding), lambda x: nn.max_pool(x, **window), x)
    # Of equal maxima the first takes the gradient.
    equal = jnp.zeros(shape)
    assert_equal(lambda x: ops.max_pool(x, size, stride, padding), lambda x: nn.max_pool(x, **window), equal)


def test_ops_agree_under_vmap_and_jit_together():
    x = jax.random.normal(jax.random.key(0), (3, 2, 9, 9, 8))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 1, 8))

    def both(x, kernel):
        return ops.max_pool(ops.depthwise_conv(x, kernel), 3, 2, "SAME").sum()

    together = jax.jit(jax.vmap(jax.grad(both, argnums=(0, 1))))(x, kernel)
    alone = [jax.grad(both, argnums=(0, 1))(x[i], kernel[i]) for i in range(3)]
    for i in range(3):
        for a, b in zip(together, alone[i], strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)


def test_pooling_after_batch_norm_keeps_the_gradient_of_every_window():
    """Jitted, XLA computes the normalised input twice with other last bits: no window may lose its maximum by that."""
    x = jax.random.normal(jax.random.key(0), (16, 24, 24, 64))

    def loss(x):
        y = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * 1.1 + 0.1
        return (ops.max_pool(nn.relu(y), 2, 2, "VALID") ** 2).sum()

    jitted, eager = jax.jit(jax.grad(loss))(x), jax.grad(loss)(x)
    assert float(jnp.abs(jitted - eager).max()) < 1e-2 * float(jnp.abs(eager).max())
    assert float(jnp.linalg.norm(jitted - eager) / jnp.linalg.norm(eager)) < 1e-4
