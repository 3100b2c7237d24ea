"""VGG-S and its small version (Xu et al., Purdue/HP).

CNN-S of Chatfield et al. 2014 ("Return of the Devil in the Details", BMVC, table 1): convolution 7x7 stride 2,
pool 3/3; convolution 5x5, pool 2/2; three convolutions 3x3, pool 3/3; two wide affine layers. The small one
keeps that shape on 128x128 faces with 12.1 MB of float32 weights, the size that Xu et al. give. How they
spread it over the layers is not known to us: the widths and the first stride (3) are ours, chosen for few
operations (134 MFLOPs a face), and so is BatchNorm in the place of local response normalisation, without
which small batches train slowly.
"""

import flax.linen as nn
import jax

from fer_jax import ops
from fer_jax.models.layers import BatchNorm, Conv, Net, affine_classifier, ceil_pool, local_response_norm


class VGGS(Net):
    """CNN-S of Chatfield et al. 2014, table 1: 224x224x3, local response normalisation, 4096-wide affine layers."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, filters, size, stride=1, padding=1):
            return nn.relu(Conv(filters, (size, size), stride, padding, dtype=self.dtype)(x))

        def pool(x, size):
            return ceil_pool("max", x, size, size)

        x = conv(x.astype(self.dtype), 96, 7, stride=2, padding=0)  # (B, 109, 109, 96)
        x = pool(local_response_norm(x), 3)  # (B, 37, 37, 96)
        x = pool(conv(x, 256, 5), 2)  # (B, 18, 18, 256)
        for _ in range(3):
            x = conv(x, 512, 3)
        x = pool(x, 3)  # (B, 6, 6, 512)
        return affine_classifier(self, x, (4096, 4096), train=train)


class VGGSSmall(Net):
    """Small VGG-S: 128x128x3, 3.0 million parameters."""

    filters: tuple[int, int, int, int, int] = (48, 96, 192, 192, 192)
    hidden: tuple[int, ...] = (813, 813)
    batch_norm: bool = True
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, filters, size, stride=1):
            x = Conv(filters, (size, size), stride, use_bias=not self.batch_norm, dtype=self.dtype)(x)
            x = BatchNorm(self.axis_name)(x, train=train) if self.batch_norm else x
            return nn.relu(x)

        first, second, *others = self.filters
        x = x.astype(self.dtype)  # (B, 128, 128, 3)
        x = ops.max_pool(conv(x, first, 7, stride=3), 3, 3, "VALID")  # (B, 14, 14, 48)
        x = ops.max_pool(conv(x, second, 5), 2, 2, "VALID")  # (B, 7, 7, 96)
        for filters in others:
            x = conv(x, filters, 3)  # (B, 7, 7, 192)
        x = ops.max_pool(x, 3, 3, "SAME")  # (B, 3, 3, 192)
        return affine_classifier(self, x, self.hidden, train=train)
