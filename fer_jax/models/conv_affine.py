"""The configurable builder of the Stanford paper and its nets.

Alizadeh & Fazel 2017, "Convolutional Neural Networks for Facial Expression Recognition" (arXiv:1704.06756),
section 3: [Conv-(BN)-ReLU-(Dropout)-(MaxPool)] x M - [Affine-(BN)-ReLU-(Dropout)] x N - Affine. Padding and
dropout rates, which the paper leaves open, are ours: SAME, and those below.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax.models.layers import BatchNorm, Dropout, max_pool


class ConvAffine(nn.Module):
    """M convolutions and N affine layers; the tuples of the convolutions have one item a layer."""

    num_outputs: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    filters: tuple[int, ...] = (32, 64)
    kernels: tuple[int, ...] = (3, 3)
    pools: tuple[bool, ...] = (False, True)  # a 2x2 max-pooling after the layer
    hidden: tuple[int, ...] = (512,)
    batch_norm: bool = True
    conv_dropout: float = 0.0
    dropout: float = 0.5  # of the affine layers

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def activate(x, rate):
            x = BatchNorm(self.axis_name)(x, train=train) if self.batch_norm else x
            return Dropout(rate, self.axis_name)(nn.relu(x), train=train)

        bias = not self.batch_norm  # BatchNorm brings its own
        x = x.astype(self.dtype)
        for filters, kernel, pool in zip(self.filters, self.kernels, self.pools, strict=True):
            x = nn.Conv(filters, (kernel, kernel), use_bias=bias, dtype=self.dtype)(x)
            x = activate(x, self.conv_dropout)
            x = max_pool(x, 2) if pool else x
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = activate(nn.Dense(width, use_bias=bias, dtype=self.dtype)(x), self.dropout)
        return nn.Dense(self.num_outputs, dtype=self.dtype)(x).astype(jnp.float32)


def shallow(**options) -> ConvAffine:
    """The shallow net: 32 and 64 filters 3x3, pooling after the second only, one affine layer of 512."""
    return ConvAffine(**options)


def deep(**options) -> ConvAffine:
    """The deep net: 64 filters 3x3, 128 5x5, 512 3x3, 512 3x3, each with pooling; affine layers of 256 and 512."""
    layers = {
        "filters": (64, 128, 512, 512),
        "kernels": (3, 5, 3, 3),
        "pools": (True,) * 4,
        "hidden": (256, 512),
        "conv_dropout": 0.25,
    }
    return ConvAffine(**(layers | options))
