"""mini-Xception: four residual modules of depthwise-separable convolutions, global average pooling.

Arriaga et al. 2017, "Real-time Convolutional Neural Networks for Emotion and Gender Classification", section 3
and figure 3; used by Kaskun et al. (Lviv). Layer by layer the authors' Keras net `mini_XCEPTION`, whose
published weights have 58,423 numbers with the BatchNorm statistics (56,951 of them trained).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax import ops
from fer_jax.models.layers import BatchNorm, Conv, DepthwiseConv, Net, output_init


class MiniXception(Net):
    """mini-Xception for 48x48x1 and 64x64x1."""

    stem: tuple[int, int] = (8, 8)
    filters: tuple[int, ...] = (16, 32, 64, 128)
    separable: bool = True  # False: standard 3x3 convolutions in the residual modules, the papers' comparison

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def norm(x):
            return BatchNorm(self.axis_name, momentum=0.99, epsilon=1e-3)(x, train=train)  # Keras's defaults

        def conv(x, filters, size, **options):
            return Conv(filters, (size, size), use_bias=False, dtype=self.dtype, **options)(x)

        def convolve(x, filters):
            return norm(conv(DepthwiseConv(self.dtype)(x), filters, 1) if self.separable else conv(x, filters, 3))

        x = x.astype(self.dtype)
        for filters in self.stem:
            x = nn.relu(norm(conv(x, filters, 3, padding="VALID")))
        for filters in self.filters:
            residual = norm(conv(x, filters, 1, strides=2))
            x = convolve(nn.relu(convolve(x, filters)), filters)
            x = ops.max_pool(x, 3, 2, "SAME") + residual
        # In float32, as `layers.logits`.
        return Conv(self.num_outputs, (3, 3), kernel_init=output_init, dtype=jnp.float32)(x).mean((1, 2))
