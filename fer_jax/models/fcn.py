"""The fully convolutional net with global average pooling of Kaskun et al. (Lviv).

Nine convolutions, BatchNorm, ReLU, and global average pooling in the place of every affine layer; about 600,000
parameters. Section 3 gives these numbers, after Arriaga et al. 2017, section 3. From their published code
(`simple_CNN`) come the kernel sizes, the pooling and the places of dropout; there the first convolution is doubled,
ReLU follows each pair only, and dropout is 0.5. The last convolution has one filter per class.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fer_jax import ops
from fer_jax.models.layers import BatchNorm, Conv, Dropout, Net, output_init


class FullyConvolutional(Net):
    """`fcn_gap`; a stage is the filters of its convolutions; between stages are average pooling and dropout."""

    stages: tuple[tuple[int, ...], ...] = ((16,), (32, 32), (64, 64), (128, 128), (256,))
    kernels: tuple[int, ...] = (7, 5, 3, 3, 3)  # of each stage
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = x.astype(self.dtype)
        for number, (stage, kernel) in enumerate(zip(self.stages, self.kernels, strict=True)):
            if number:
                x = ops.mean_pool(x)
                x = Dropout(self.dropout, self.axis_name)(x, train=train)
            for filters in stage:
                x = Conv(filters, (kernel, kernel), use_bias=False, dtype=self.dtype)(x)
                x = nn.relu(BatchNorm(self.axis_name)(x, train=train))
        # In float32, as `layers.logits`.
        return Conv(self.num_outputs, (3, 3), kernel_init=output_init, dtype=jnp.float32)(x).mean((1, 2))
