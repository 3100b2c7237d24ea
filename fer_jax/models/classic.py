"""The nets that the four papers compare themselves with: L2-SVM, AlexNet, VGG16, Deep-Emotion.

Layer by layer the definitions named at each one, so that a table can be made in one place.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax import ops
from fer_jax.models.layers import BatchNorm, Conv, Dropout, Net, affine_classifier, ceil_pool, logits, sample_affine

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class L2SVM(Net):
    """Tang 2013, "Deep Learning using Linear Support Vector Machines" (arXiv:1306.0239), section 3.1.

    Three convolutions with overlapping 3x3 pooling and one affine layer of 3072 on 42x42 crops, about five million
    parameters; to be trained with `head.loss=squared_hinge`. The widths are those of the usual reconstructions.
    """

    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(self.dtype)
        for filters, kernel, pool in ((32, 5, "max"), (32, 4, "mean"), (64, 5, "mean")):
            x = nn.relu(Conv(filters, (kernel, kernel), dtype=self.dtype)(x))
            x = ceil_pool(pool, x, 3, 2)  # 42 -> 21 -> 10 -> 5
        return affine_classifier(self, x, (3072,), train=train)


class AlexNet(Net):
    """Krizhevsky 2014, "One weird trick" (arXiv:1404.5997), as torchvision's `alexnet`; 224x224x3."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, filters, size, stride=1, padding=1):
            return nn.relu(Conv(filters, (size, size), stride, padding, dtype=self.dtype)(x))

        def pool(x):
            return ops.max_pool(x, 3, 2, "VALID")

        x = pool(conv(x.astype(self.dtype), 64, 11, stride=4, padding=2))
        x = pool(conv(x, 192, 5, padding=2))
        x = pool(conv(conv(conv(x, 384, 3), 256, 3), 256, 3))
        x = x.reshape(x.shape[0], -1)  # (B, 6 * 6 * 256)
        for _ in range(2):
            x = nn.relu(nn.Dense(4096, dtype=self.dtype)(Dropout(self.dropout, self.axis_name)(x, train=train)))
        return logits(self, x)


class VGG16(Net):
    """Simonyan & Zisserman 2015 (arXiv:1409.1556), table 1, column D; 224x224x3, as torchvision's `vgg16`."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(self.dtype)
        for stage in _VGG16:
            for filters in stage:
                x = nn.relu(Conv(filters, (3, 3), dtype=self.dtype)(x))
            x = ops.max_pool(x, 2, 2, "VALID")
        return affine_classifier(self, x, (4096, 4096), train=train)  # of (B, 7, 7, 512)


class DeepEmotion(Net):
    """Minaee & Abdolrashidi 2019, "Deep-Emotion" (arXiv:1902.01019), figure 2: attention by a spatial transformer.

    Four convolutions of ten filters and two affine layers; in parallel a localisation net of two convolutions and
    two affine layers gives the affine map by which the features are sampled (Jaderberg et al. 2015). 48x48x1.
    """

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x, size):
            return Conv(10, (size, size), padding="VALID", dtype=self.dtype)(x)

        def pool(x):
            return ops.max_pool(x, 2, 2, "VALID")

        x = x.astype(self.dtype)
        where = nn.relu(pool(Conv(8, (7, 7), padding="VALID", dtype=self.dtype)(x)))
        where = nn.relu(pool(Conv(10, (5, 5), padding="VALID", dtype=self.dtype)(where)))
        where = nn.relu(nn.Dense(32, dtype=self.dtype)(where.reshape(where.shape[0], -1)))
        # The transformer begins as the identity.
        identity = nn.initializers.constant(jnp.array([1.0, 0, 0, 0, 1, 0]))
        zeros = nn.initializers.zeros_init()
        theta = nn.Dense(6, kernel_init=zeros, bias_init=identity, dtype=jnp.float32)(where)
        x = sample_affine(x, theta.reshape(-1, 2, 3))

        x = nn.relu(pool(conv(nn.relu(conv(x, 3)), 3)))
        x = BatchNorm(self.axis_name)(conv(nn.relu(conv(x, 3)), 3), train=train)
        x = nn.relu(pool(x))
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        x = nn.relu(nn.Dense(50, dtype=self.dtype)(x.reshape(x.shape[0], -1)))
        return logits(self, x)
