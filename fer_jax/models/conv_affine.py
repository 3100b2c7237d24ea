"""The configurable builder of the Stanford paper, its nets, and one other of the same make.

Alizadeh & Fazel 2017, "Convolutional Neural Networks for Facial Expression Recognition" (arXiv:1704.06756),
section 3: [Conv-(BN)-ReLU-(Dropout)-(MaxPool)] x M - [Affine-(BN)-ReLU-(Dropout)] x N - Affine, and hybrids whose
affine layers also see HOG features. Padding and dropout rates, which the paper leaves open, are ours. Dropout stands
by default only where no BatchNorm follows: one that does learns the variance of dropped-out activations, which are
not those of evaluation (Li et al. 2019, arXiv:1801.05134; measured on `deep` after two epochs of FER2013 with dropout
everywhere: 29 % of PublicTest's first 1,024 with the running statistics, 45 % with those of the batch; no log is kept).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax import ops
from fer_jax.errors import UserError
from fer_jax.models.hog import hog
from fer_jax.models.layers import BatchNorm, Conv, DepthwiseConv, Dropout, Net, logits


class ConvAffine(Net):
    """M convolutions and N affine layers; every option of a layer is one value for all or a tuple with one for each."""

    # The convolutions, as many as `filters` has.
    filters: tuple[int, ...] = (32, 64)
    kernels: int | tuple[int, ...] = 3
    strides: int | tuple[int, ...] = 1
    paddings: str | tuple[str, ...] = "SAME"  # SAME | VALID
    batch_norm: bool | tuple[bool, ...] = True
    conv_dropout: float | tuple[float, ...] = 0.0
    pools: int | tuple[int, ...] = 1  # side of the max-pooling after the layer; 1 = none
    separable: bool = False  # depthwise-separable convolutions from the second layer on
    # From maps to features.
    global_pool: bool = False  # global average pooling instead of all pixels
    use_hog: bool = False  # HOG of the input, which wants a normalisation other than mean_image, joins the features
    # The affine layers.
    hidden: tuple[int, ...] = (512,)
    hidden_batch_norm: bool | tuple[bool, ...] = True
    dropout: float | tuple[float, ...] = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def activate(x, norm, rate):
            x = BatchNorm(self.axis_name)(x, train=train) if norm else x
            return Dropout(rate, self.axis_name)(nn.relu(x), train=train)

        images, x = x, x.astype(self.dtype)
        layers = self._layers("filters", "kernels", "strides", "paddings", "batch_norm", "conv_dropout", "pools")
        for i, (filters, kernel, stride, padding, norm, rate, pool) in enumerate(layers):
            if padding not in ("SAME", "VALID"):
                raise UserError(f"model.options.paddings = {self.paddings!r}: use SAME or VALID")
            if pool < 1:
                raise UserError(f"model.options.pools = {self.pools}: 1 is no pooling, 2 one of 2x2")
            options = {"use_bias": not norm, "dtype": self.dtype}  # BatchNorm brings its own bias
            if self.separable and i > 0:
                if (kernel, stride, padding) != (3, 1, "SAME"):
                    raise UserError(
                        "model.options.separable wants 3x3 kernels after the first layer, strides of 1 and paddings "
                        "SAME, e.g. --config.model.options=\"{'separable': True, 'kernels': 3}\""
                    )
                x = Conv(filters, (1, 1), **options)(DepthwiseConv(self.dtype)(x))
            else:
                x = Conv(filters, (kernel, kernel), stride, padding, **options)(x)
            x = activate(x, norm, rate)
            x = ops.max_pool(x, pool, pool, "VALID") if pool > 1 else x
        x = x.mean((1, 2)) if self.global_pool else x.reshape(x.shape[0], -1)
        if self.use_hog:
            x = jnp.concatenate([x, hog(images).astype(self.dtype)], -1)
        for width, norm, rate in self._layers("hidden", "hidden_batch_norm", "dropout"):
            x = activate(nn.Dense(width, use_bias=not norm, dtype=self.dtype)(x), norm, rate)
        return logits(self, x)

    def _layers(self, first: str, *others: str) -> list[tuple[Any, ...]]:
        """The options of each layer; the first says how many layers there are."""
        count = len(getattr(self, first))
        columns = [getattr(self, first)]
        for name in others:
            value = getattr(self, name)
            column = value if isinstance(value, tuple) else (value,) * count
            if len(column) != count:
                raise UserError(f"model.options.{name} = {value} has {len(column)} items, {first} has {count}")
            columns.append(column)
        return list(zip(*columns, strict=True))


# Two convolutions 3x3, of 32 and 64 filters, pooling after the second only, one affine layer of 512.
shallow = functools.partial(ConvAffine, filters=(32, 64), pools=(1, 2), hidden=(512,))
# 64 filters 3x3, 128 5x5, 512 3x3, 512 3x3, each with pooling; affine layers of 256 and 512.
deep = functools.partial(
    ConvAffine, filters=(64, 128, 512, 512), kernels=(3, 5, 3, 3), pools=2, hidden=(256, 512), dropout=(0.0, 0.5)
)
# With a fifth convolution, 512 3x3, and with a sixth.
deep5 = functools.partial(deep, filters=(64, 128, 512, 512, 512), kernels=(3, 5, 3, 3, 3), pools=(2, 2, 2, 2, 1))
deep6 = functools.partial(
    deep, filters=(64, 128, 512, 512, 512, 512), kernels=(3, 5, 3, 3, 3, 3), pools=(2, 2, 2, 2, 1, 1)
)
# Those whose affine layers also see HOG features.
shallow_hog = functools.partial(shallow, use_hog=True)
deep_hog = functools.partial(deep, use_hog=True)
# Khaireddin & Chen 2021 (arXiv:2105.03588): four stages of two convolutions and a pooling, two affine layers.
vgg8 = functools.partial(
    ConvAffine,
    filters=(64, 64, 128, 128, 256, 256, 512, 512),
    pools=(1, 2) * 4,
    hidden=(4096, 4096),
    hidden_batch_norm=False,
)
# Dikshit et al. (CMU), section 4: five convolutions 3x3, each with ReLU and max-pooling, and one linear layer.
baseline5 = functools.partial(
    ConvAffine,
    filters=(16, 32, 64, 128, 256),
    pools=2,
    batch_norm=False,
    hidden=(),
    hidden_batch_norm=False,
    dropout=0.0,
)
