"""The operations written by hand equal XLA's own, values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax import ops
from fer_jax.models.layers import max_pool


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


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 9, 3), (1, 6, 5, 2), (1, 1, 2, 1)])
def test_overlapping_max_pooling(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    assert_equal(ops.max_pool_3x3_stride_2, lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"), x)


def test_overlapping_max_pooling_gives_the_gradient_of_equal_maxima_to_the_first():
    x = jnp.zeros((1, 4, 4, 1))
    assert_equal(ops.max_pool_3x3_stride_2, lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"), x)


@pytest.mark.parametrize(("shape", "size"), [((2, 8, 6, 3), 2), ((2, 10, 7, 3), 3)])
def test_block_max_pooling(shape, size):
    x = jax.random.normal(jax.random.key(0), shape)
    assert_equal(lambda x: max_pool(x, size), lambda x: nn.max_pool(x, (size, size), (size, size)), x)


def test_block_max_pooling_shares_the_gradient_among_equal_maxima():
    gradient = jax.grad(lambda x: max_pool(x, 2).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, np.full((1, 2, 2, 1), 0.25))
