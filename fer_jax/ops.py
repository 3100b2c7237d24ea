"""The operations written by hand because XLA's own lowering is slow on a CPU, each with its proof.

On GPU and TPU they are XLA's own: `jax.lax.platform_dependent` decides when the program is compiled.
tests/test_ops.py holds each one, gradients included, to XLA's within 1e-5.
"""

import functools
import itertools

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, padding: str) -> jax.Array:
    """Maxima of size x size windows of x [B, H, W, C], padding SAME or VALID.

    XLA's CPU gradient is a serial scatter, 5 to 15 times slower than the comparisons used here. As there, the first
    of equal maxima takes the whole gradient.
    """
    return _pool_forward(x, size, stride, padding)[0]


def _pool_forward(x, size, stride, padding):
    cpu = functools.partial(_pool_by_comparison, size=size, stride=stride, padding=padding)
    default = functools.partial(_pool_by_window, size=size, stride=stride, padding=padding)
    y, winner = lax.platform_dependent(x, cpu=cpu, default=default)
    return y, (x, winner)


def _pool_backward(size, stride, padding, residuals, grad):
    cpu = functools.partial(_unpool_by_winner, size=size, stride=stride, padding=padding)
    default = functools.partial(_unpool_by_window, size=size, stride=stride, padding=padding)
    return (lax.platform_dependent(*residuals, grad, cpu=cpu, default=default),)


def _pool_by_window(x, *, size, stride, padding):
    y = lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)
    return y, jnp.zeros(y.shape, jnp.uint8)


def _unpool_by_window(x, _winner, grad, **window):
    return jax.vjp(lambda x: _pool_by_window(x, **window)[0], x)[1](grad)[0]


def _pool_by_comparison(x, *, size, stride, padding):
    """The maxima, and which place of its window each one has.

    The places are kept, and not found again by comparing x with the maxima: XLA computes x anew where it is cheap
    to, the last bit may then differ, and the gradient of that window would be lost. (The gradient of `jnp.max` has
    this fault: jitted on a CPU after BatchNorm it was off by half.)
    """
    rows, columns, sides = _windows(x, size, stride, padding)
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
    best, winner = None, None
    for place, (i, j) in enumerate(itertools.product(range(size), repeat=2)):
        view = padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        if best is None:
            best, winner = view, jnp.zeros(view.shape, jnp.uint8)
        else:
            better = view > best
            best, winner = jnp.where(better, view, best), jnp.where(better, jnp.uint8(place), winner)
    return best, winner


def _unpool_by_winner(x, winner, grad, *, size, stride, padding):
    rows, columns, sides = _windows(x, size, stride, padding)
    total = jnp.zeros((), grad.dtype)
    for place, offsets in enumerate(itertools.product(range(size), repeat=2)):
        part = jnp.where(winner == place, grad, 0)
        # Back to where this place lies in the image; what lies in the padding is cut off.
        spread = []
        for offset, windows, length, (before, _) in zip(offsets, (rows, columns), x.shape[1:3], sides, strict=True):
            first = offset - before
            spread.append((first, length - first - ((windows - 1) * stride + 1), stride - 1))
        total = total + lax.pad(part, jnp.zeros((), grad.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return total


def _windows(x, size, stride, padding):
    """The rows and columns of windows, and the padding of the two sides of the image."""
    sides = lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), padding)
    rows, columns = ((n + sum(side) - size) // stride + 1 for n, side in zip(x.shape[1:3], sides, strict=True))
    return rows, columns, sides


max_pool.defvjp(_pool_forward, _pool_backward)
