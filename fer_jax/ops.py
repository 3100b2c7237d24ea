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
    return _convolve(x, kernel, x.shape[-1])


def _convolve(x, kernel, groups):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups)


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
    return _shifted(grad, kernel[::-1, ::-1]), _kernel_gradient(x, grad).astype(kernel.dtype)


def _kernel_gradient(x, grad):
    """The gradient of the kernel [3, 3, 1, C].

    Nine sums of products over all pixels would be nine slow reductions. A dense convolution's kernel gradient holds
    them on its diagonal, and even with the rest computed in vain, eight channels at a time, it is 2 to 4 times faster.
    """
    channels = x.shape[-1]
    diagonals = []
    for start in range(0, channels, 8):
        some = slice(start, min(start + 8, channels))
        dense = jax.ShapeDtypeStruct((3, 3, some.stop - start, some.stop - start), x.dtype)
        transpose = jax.linear_transpose(lambda k, x=x[..., some]: _convolve(x, k, 1), dense)
        diagonals.append(jnp.diagonal(transpose(grad[..., some])[0], axis1=2, axis2=3))
    return jnp.concatenate(diagonals, -1)[:, :, None]


def _backward_grouped(x, kernel, grad):
    return jax.vjp(_grouped, x, kernel)[1](grad)


depthwise_conv.defvjp(_forward, _backward)


@jax.custom_vjp
def max_pool_3x3_stride_2(x: jax.Array) -> jax.Array:
    """Maxima of overlapping 3x3 windows, stride 2, padding SAME: x [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C].

    XLA's CPU gradient is a serial scatter, 4 to 15 times slower than the nine comparisons used here. As there, the
    first of equal maxima takes the whole gradient.
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _pool_forward(x):
    y = max_pool_3x3_stride_2(x)
    return y, (x, y)


def _pool_backward(residuals, grad):
    return (lax.platform_dependent(*residuals, grad, cpu=_pool_gradient_compared, default=_pool_gradient_scattered),)


def _pool_gradient_scattered(x, _y, grad):
    window = (1, 3, 3, 1), (1, 2, 2, 1)
    return jax.vjp(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *window, "SAME"), x)[1](grad)[0]


def _pool_gradient_compared(x, y, grad):
    (_, height, width, _), (batch, rows, columns, channels) = x.shape, y.shape
    top, left = height % 2, width % 2  # SAME pads an even side behind only
    sides = ((0, 0), (top, 2 * rows + 1 - height - top), (left, 2 * columns + 1 - width - left), (0, 0))
    padded = jnp.pad(x, sides, constant_values=-jnp.inf)
    taken = jnp.zeros(y.shape, bool)
    part = {}  # the gradient that goes to each of the nine places of a window
    for i in range(3):
        for j in range(3):
            view = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
            hit = (view == y) & ~taken
            taken |= hit
            part[i, j] = jnp.where(hit, grad, 0)

    def place(i, j):
        """A part on the grid of the even (i, j = 0, 2) or odd (1) rows and columns of the padded image."""
        return jnp.pad(part[i, j], ((0, 0), (i // 2, 1 - i // 2), (j // 2, 1 - j // 2), (0, 0)))

    # Even rows (columns) are the first of one window and the last of the one before; odd ones belong to one window.
    even = jnp.stack([place(0, 0) + place(2, 0) + place(0, 2) + place(2, 2), place(0, 1) + place(2, 1)], 3)
    odd = jnp.stack([place(1, 0) + place(1, 2), place(1, 1)], 3)
    whole = jnp.stack([even, odd], 2).reshape(batch, 2 * rows + 2, 2 * columns + 2, channels)
    return whole[:, top : top + height, left : left + width]


max_pool_3x3_stride_2.defvjp(_pool_forward, _pool_backward)
