"""ResNet18 (He et al. 2016, table 1), which Dikshit et al. (CMU), section 4, fine-tune on AffectNet.

Layer by layer torchvision's `resnet18`, so that its ImageNet weights fit (convert.py).
"""

import flax.linen as nn
import jax

from fer_jax import ops
from fer_jax.models.layers import BatchNorm, Conv, Net, logits


class ResNet18(Net):
    """ResNet18 for 224x224 RGB; with `small_stem` for 48x48: a 3x3 convolution of stride 1 and no first pooling."""

    small_stem: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, filters, size, stride=1):
            padding = ((size // 2, size // 2),) * 2  # PyTorch's, which differs from SAME at stride 2
            return Conv(filters, (size, size), stride, padding, use_bias=False, dtype=self.dtype)(x)

        def norm(x):
            return BatchNorm(self.axis_name)(x, train=train)

        x = x.astype(self.dtype)
        if self.small_stem:
            x = nn.relu(norm(conv(x, 64, 3)))
        else:
            x = nn.relu(norm(conv(x, 64, 7, 2)))
            x = ops.max_pool(x, 3, 2, ((1, 1), (1, 1)))
        for filters in (64, 128, 256, 512):
            for block in range(2):
                stride = 2 if block == 0 and filters > 64 else 1
                shortcut = norm(conv(x, filters, 1, stride)) if stride == 2 else x
                x = nn.relu(norm(conv(x, filters, 3, stride)))
                x = nn.relu(norm(conv(x, filters, 3)) + shortcut)
        return logits(self, x.mean((1, 2)))
