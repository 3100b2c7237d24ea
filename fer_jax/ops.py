"""The operations written by hand because XLA's own lowering is slow on a CPU, each with its proof.

On GPU and TPU they are XLA's own: `jax.lax.platform_dependent` decides when the program is compiled.
tests/test_ops.py holds each one, gradients included, to XLA's within 1e-5.
"""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise 3x3 convolution, stride 1, padding SAME: x [B, H, W, C], kernel [3, 3, 1, C] -> [B, H, W, C].

    XLA's CPU kernel is 10 to 60 times slower than the nine shifted multiply-adds used here.
    """
    return lax.platform_dependent(x, kernel, cpu=_shifted, default=_grouped)


def _grouped(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=x.shape[-1])


def _shifts(x):
    """The nine views of x shifted by -1..1 rows and columns, zeros beyond the border, in the kernel's order."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def _shifted(x, kernel):
    return sum(view * tap for view, tap in zip(_shifts(x), kernel.reshape(9, -1), strict=True))


def _forward(x, kernel):
    return depthwise_conv(x, kernel), (x, kernel)


def _backward(residuals, grad):
    return lax.platform_dependent(*residuals, grad, cpu=_backward_shifted, default=_backward_grouped)


def _backward_shifted(x, kernel, grad):
    flipped = kernel[::-1, ::-1]
    grad_kernel = jnp.stack([(view * grad).sum((0, 1, 2)) for view in _shifts(x)])
    return _shifted(grad, flipped), grad_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _backward_grouped(x, kernel, grad):
    return jax.vjp(_grouped, x, kernel)[1](grad)


depthwise_conv.defvjp(_forward, _backward)
