"""Layers that several architectures share: BatchNorm and dropout that know of the mesh, depthwise convolution."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fer_jax import ops


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics are those of the whole batch, over all devices of `axis_name`.

    Statistics are computed and kept in float32; the output has the type of the input.
    """

    axis_name: str | None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=x.dtype,
            axis_name=self.axis_name,
            name="norm",
        )
        return norm(x)


class Dropout(nn.Module):
    """Inverted dropout in which an example's mask depends on its place in the global batch, not on the device.

    The rate may be a traced number, so that members of a sweep may differ in it.
    """

    rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or (isinstance(self.rate, int | float) and self.rate == 0):
            return x
        first = lax.axis_index(self.axis_name) * x.shape[0] if self.axis_name else 0
        places = first + jnp.arange(x.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), places)
        keep = 1 - self.rate
        kept = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys) < keep
        return jnp.where(kept, x / keep, 0).astype(x.dtype)


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel by itself, padding SAME, no bias."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        return ops.depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """The largest of each size x size block of x [B, H, W, C]; rows and columns that fill no block are left out.

    As a maximum over a reshaped array it takes a third of the time of XLA's CPU pooling, whose gradient is a
    scatter. Equal maxima share the gradient.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size]
    return x.reshape(batch, rows, size, columns, size, channels).max((2, 4))
