"""Layers that several architectures share: BatchNorm and dropout that know of the mesh, pooling, sampling."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fer_jax import ops

# Of the layer that gives the logits: small, so that training begins at the loss of even chances, ln(classes)
# (the sanity check of Alizadeh & Fazel, section 4).
output_init = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")

# Linen's convolution in the form that is fastest on the platform.
Conv = functools.partial(nn.Conv, conv_general_dilated=ops.conv)


class Net(nn.Module):
    """What every network is told: its outputs, the type to compute in, and the mesh axis."""

    num_outputs: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics are those of the whole batch, over all devices of `axis_name`.

    Statistics are computed and kept in float32; the output has the type of the input.
    """

    axis_name: str | None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        if not train:
            slope = scale * lax.rsqrt(var.value + self.epsilon)
            return (x * slope + (bias - mean.value * slope)).astype(x.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, batch_mean, batch_var = ops.batch_norm(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        return y


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


def affine_classifier(net: nn.Module, x: jax.Array, widths: Sequence[int], *, train: bool) -> jax.Array:
    """The end of the VGG nets: x [B, ...] flattened, [Affine-ReLU-Dropout] for each width, an affine layer of logits.

    To be called in the compact method of `net`, whose num_outputs, dtype, dropout and axis_name it takes.
    """
    x = x.reshape(x.shape[0], -1)
    for width in widths:
        x = nn.relu(nn.Dense(width, dtype=net.dtype)(x))
        x = Dropout(net.dropout, net.axis_name)(x, train=train)
    return logits(net, x)


def logits(net: nn.Module, x: jax.Array) -> jax.Array:
    """The affine layer that ends a net: x [B, N] -> float32 [B, num_outputs].

    In float32 whatever `net` computes in: bfloat16 has 128 numbers between 2 and 4, close logits would be equal.
    To be called in the compact method of `net`.
    """
    return nn.Dense(net.num_outputs, kernel_init=output_init, dtype=jnp.float32)(x)


def ceil_pool(kind: str, x: jax.Array, size: int, stride: int) -> jax.Array:
    """Pooling as Caffe does, `kind` max or mean: a last, incomplete window counts, what lies outside does not."""
    sides = tuple((0, -(length - size) % stride) for length in x.shape[1:3])
    if kind == "max":
        return ops.max_pool(x, size, stride, sides)
    return nn.avg_pool(x, (size, size), strides=(stride, stride), padding=sides, count_include_pad=False)


def local_response_norm(
    x: jax.Array, *, size: int = 5, alpha: float = 5e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
    """x / (k + alpha * mean of x**2 over `size` neighbouring channels) ** beta (Krizhevsky et al. 2012, section 3.3).

    As in Caffe and PyTorch the sum is divided by `size`, and channels beyond the ends count as zeros.
    """
    before = size // 2
    window = (1, 1, 1, size)
    sums = lax.reduce_window(
        x.astype(jnp.float32) ** 2, 0.0, lax.add, window, (1, 1, 1, 1), ((0, 0),) * 3 + ((before, size - 1 - before),)
    )
    return (x / (k + alpha / size * sums) ** beta).astype(x.dtype)


def sample_affine(x: jax.Array, theta: jax.Array) -> jax.Array:
    """Samples x [B, H, W, C] bilinearly at theta [B, 2, 3] @ (x, y, 1), coordinates in -1..1, zeros outside.

    The spatial transformer of Jaderberg et al. 2015, equations 1 and 5; -1 and 1 are the outer edges of the image,
    as in PyTorch's `grid_sample(align_corners=False)`.
    """
    _, height, width, _ = x.shape
    centres = [(jnp.arange(side) * 2 + 1) / side - 1 for side in (height, width)]
    down, across = jnp.meshgrid(*centres, indexing="ij")
    grid = jnp.stack([across, down, jnp.ones_like(down)], -1)  # (H, W, 3)
    places = jnp.einsum("bij,hwj->bhwi", theta, grid, precision="highest")
    columns = ((places[..., 0] + 1) * width - 1) / 2
    rows = ((places[..., 1] + 1) * height - 1) / 2
    top, left = jnp.floor(rows), jnp.floor(columns)
    total = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - jnp.abs(rows - row)) * (1 - jnp.abs(columns - column))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = (jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)).astype(jnp.int32)
        pixels = jax.vmap(lambda image, at: image.reshape(-1, image.shape[-1])[at])(x, index)
        total = total + pixels * jnp.where(inside, weight, 0)[..., None]
    return total.astype(x.dtype)
