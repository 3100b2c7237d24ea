"""Inception V3 and Xception, which the papers compare themselves with."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax import ops
from fer_jax.models.layers import BatchNorm, Conv, DepthwiseConv, Dropout, Net, logits


class InceptionV3(Net):
    """Szegedy et al. 2016 (arXiv:1512.00567), table 1, as torchvision's `inception_v3` without the auxiliary head."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, filters, size, stride=1, padding="SAME"):
            x = Conv(filters, size, stride, padding, use_bias=False, dtype=self.dtype)(x)
            return nn.relu(BatchNorm(self.axis_name, epsilon=1e-3)(x, train=train))

        def chain(x, *layers):
            for filters, size in layers:
                x = conv(x, filters, size)
            return x

        def join(*branches):
            return jnp.concatenate(branches, -1)

        def pool(x):
            return ops.max_pool(x, 3, 2, "VALID")

        def average(x):
            return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=True)

        x = conv(x.astype(self.dtype), 32, (3, 3), 2, "VALID")
        x = conv(conv(x, 32, (3, 3), padding="VALID"), 64, (3, 3))
        x = conv(conv(pool(x), 80, (1, 1)), 192, (3, 3), padding="VALID")
        x = pool(x)
        for pooled in (32, 64, 64):
            x = join(
                conv(x, 64, (1, 1)),
                chain(x, (48, (1, 1)), (64, (5, 5))),
                chain(x, (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
                conv(average(x), pooled, (1, 1)),
            )
        x = join(
            conv(x, 384, (3, 3), 2, "VALID"),
            conv(chain(x, (64, (1, 1)), (96, (3, 3))), 96, (3, 3), 2, "VALID"),
            pool(x),
        )
        for inner in (128, 160, 160, 192):
            row, column = (1, 7), (7, 1)
            x = join(
                conv(x, 192, (1, 1)),
                chain(x, (inner, (1, 1)), (inner, row), (192, column)),
                chain(x, (inner, (1, 1)), (inner, column), (inner, row), (inner, column), (192, row)),
                conv(average(x), 192, (1, 1)),
            )
        x = join(
            conv(conv(x, 192, (1, 1)), 320, (3, 3), 2, "VALID"),
            conv(chain(x, (192, (1, 1)), (192, (1, 7)), (192, (7, 1))), 192, (3, 3), 2, "VALID"),
            pool(x),
        )
        for _ in range(2):
            middle = conv(x, 384, (1, 1))
            double = chain(x, (448, (1, 1)), (384, (3, 3)))
            x = join(
                conv(x, 320, (1, 1)),
                conv(middle, 384, (1, 3)),
                conv(middle, 384, (3, 1)),
                conv(double, 384, (1, 3)),
                conv(double, 384, (3, 1)),
                conv(average(x), 192, (1, 1)),
            )
        x = Dropout(self.dropout, self.axis_name)(x.mean((1, 2)), train=train)
        return logits(self, x)


class Xception(Net):
    """Chollet 2017 (arXiv:1610.02357), figure 5, as Keras's `Xception`; 299x299x3."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def norm(x):
            return BatchNorm(self.axis_name, momentum=0.99, epsilon=1e-3)(x, train=train)

        def conv(x, filters, size, stride=1, padding="SAME"):
            return norm(Conv(filters, (size, size), stride, padding, use_bias=False, dtype=self.dtype)(x))

        def separable(x, filters):
            return conv(DepthwiseConv(self.dtype)(x), filters, 1)

        x = nn.relu(conv(x.astype(self.dtype), 32, 3, 2, "VALID"))
        x = nn.relu(conv(x, 64, 3, padding="VALID"))
        for filters in (128, 256, 728):
            residual = conv(x, filters, 1, 2)
            x = separable(x if filters == 128 else nn.relu(x), filters)
            x = separable(nn.relu(x), filters)
            x = ops.max_pool(x, 3, 2, "SAME") + residual
        for _ in range(8):
            residual = x
            for _ in range(3):
                x = separable(nn.relu(x), 728)
            x = x + residual
        residual = conv(x, 1024, 1, 2)
        x = separable(nn.relu(separable(nn.relu(x), 728)), 1024)
        x = ops.max_pool(x, 3, 2, "SAME") + residual
        x = nn.relu(separable(nn.relu(separable(x, 1536)), 2048))
        x = Dropout(self.dropout, self.axis_name)(x.mean((1, 2)), train=train)
        return logits(self, x)
