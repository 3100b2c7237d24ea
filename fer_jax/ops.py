"""The operations written by hand because XLA's own lowering is slow on a CPU.

`jax.lax.platform_dependent` decides when the program is compiled: GPU and TPU take XLA's own, but for BatchNorm and the
gradient of max-pooling. tests/test_ops.py holds each one, gradients included, to XLA's within 1e-5. How many times as
fast they are was measured on 2 CPU cores with JAX 0.10.2, without logs.

`convolutions("columns")` does without XLA's convolutions on every platform, for stacked members (fer_jax/stack.py).
"""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fer_jax import winograd

# XLA's CPU compiler gives products, sums and convolutions to YNNPACK; this leaves it the first two.
_EIGENS = ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE")
_LITTLE_OPTIMISED = ("xla_backend_optimization_level", 1)  # of 3

CONVOLUTIONS = ("grouped", "columns")
_convolutions = contextvars.ContextVar("convolutions", default="grouped")


def jit(function: Callable, **options):
    """`jax.jit` of a program that convolves, which on CPUs takes Eigen's kernels for that and not YNNPACK's.

    With them the gradient of a kernel, for which YNNPACK takes one thread, is 1.5 to 3 times as fast, and a convolution
    up to twice. Call the result directly: JAX allows these options for a whole program only, so it can be neither part
    of another `jit` nor differentiated.
    """
    return jax.jit(function, compiler_options=_on_cpus(*_EIGENS), **options)


def jit_once(function: Callable):
    """`jax.jit` of a program that runs once, as a network's initialisation: on CPUs compiled in half the time."""
    return jax.jit(function, compiler_options=_on_cpus(*_LITTLE_OPTIMISED))


@functools.cache
def _on_cpus(name: str, value: str | int) -> dict[str, str | int] | None:
    """An option of XLA's compiler, on CPUs and where this release of it knows it."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return {name: value}


@contextlib.contextmanager
def convolutions(form: str) -> Iterator[None]:
    """How what is traced inside convolves: `grouped`, which is XLA's way under `vmap`, or `columns`, as products.

    Under a `vmap` over kernels XLA makes one convolution of as many groups as there are kernels, a product on the other
    hand stays a (batched) product.
    """
    token = _convolutions.set(form)
    try:
        yield
    finally:
        _convolutions.reset(token)


def _by_platform(*arrays, cpu, default):
    """The CPU's form on CPUs, and everywhere where no convolution is wanted; elsewhere XLA's."""
    if _convolutions.get() == "columns":
        return cpu(*arrays)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)


def conv(x: jax.Array, kernel: jax.Array, strides, padding, **options) -> jax.Array:
    """`lax.conv_general_dilated` as `flax.linen.Conv` calls it: x [B, H, W, C], kernel [KH, KW, C, F].

    On a CPU it takes other forms, each measured at the shapes of our nets, in programs of `jit`. A kernel of one pixel
    is a matrix product (its gradient 2 to 7 times as fast), one of few channels takes several pixels at a time (up to 4
    times), 3x3 and 5x5 of many are Winograd's (`winograd`, 1.1 to 1.6 times); so do the gradients.
    """
    plain = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    dilated = {*options.get("lhs_dilation", (1,)), *options.get("rhs_dilation", (1,))} != {1}
    if dilated or options.get("feature_group_count", 1) != 1:
        return plain(x, kernel)
    strides = tuple(strides)
    sides = _sides(x, kernel.shape[:2], strides, padding)
    if _convolutions.get() == "columns":
        return _by_columns(x, kernel, strides, sides)
    if kernel.shape[:2] == (1, 1) and sides == _UNPADDED:
        cpu = functools.partial(_pointwise, strides=strides)
    else:
        cpu = functools.partial(_spatial, strides=strides, sides=sides)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)


_UNPADDED = ((0, 0), (0, 0))


def _sides(x, window, strides, padding):
    """How many rows come before and after those of x, and how many columns."""
    named = padding in ("SAME", "VALID")
    return tuple(map(tuple, lax.padtype_to_pads(x.shape[1:3], window, strides, padding) if named else padding))


def _pointwise(x, kernel, *, strides):
    x = x[:, :: strides[0], :: strides[1]]
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnames=("strides", "sides"))
def _spatial(x, kernel, strides, sides):
    if winograd.applies(x.shape, kernel.shape, strides, sides, x.dtype):
        return winograd.conv(x, kernel)
    return _direct(x, kernel, strides, sides)


def _spatial_forward(x, kernel, strides, sides):
    return _spatial(x, kernel, strides, sides), (x, kernel)


def _spatial_backward(strides, sides, residuals, grad):
    x, kernel = residuals
    if winograd.applies(grad.shape, kernel.shape, strides, sides, grad.dtype):
        d_x = winograd.conv(grad, kernel, turned=True)
    else:
        (d_x,) = jax.vjp(lambda x: _direct(x, kernel, strides, sides), x)[1](grad)
    if winograd.applies(x.shape, kernel.shape, strides, sides, x.dtype, fewest=winograd.FEWEST_OF_GRADIENT):
        return d_x, winograd.gradient_of_kernel(x, grad, kernel.shape[0])
    return d_x, jax.vjp(lambda kernel: _direct(x, kernel, strides, sides), kernel)[1](grad)[0]


_spatial.defvjp(_spatial_forward, _spatial_backward)


def _direct(x, kernel, strides, sides):
    """XLA's convolution, of several pixels at a time where there are few channels."""
    if any(side >= length for length, both in zip(kernel.shape, sides, strict=False) for side in both):
        # Padded beyond the kernel, the gradient of x reads memory that is not its own (jaxlib 0.10.2, Eigen's kernels).
        x, sides = jnp.pad(x, ((0, 0), *sides, (0, 0))), _UNPADDED
    *_, size, channels, filters = kernel.shape
    if strides == (1, 1) and size > 1 and (channels <= 3 or max(channels, filters) <= 8):
        return _by_blocks(x, kernel, sides, pixels=4 if channels == 1 else 2)
    return _convolve(x, kernel, strides, sides)


def _by_blocks(x, kernel, sides, pixels):
    """Neighbours in a row as one pixel of so many times the channels: more products, but no half-empty vectors."""
    images, _, width, channels = x.shape
    height, size, _, filters = kernel.shape
    top, (left, right) = sides
    columns = left + width + right - size + 1
    blocks, under = -(-columns // pixels), -(-(size + pixels - 1) // pixels)  # of results; of x for one of them
    padded = (blocks + under - 1) * pixels
    x = jnp.pad(x, ((0, 0), top, (left, padded - left - width), (0, 0)))
    x = x.reshape(images, x.shape[1], padded // pixels, pixels * channels)
    # [row, column under the block, channel, of which of its pixels, filter]: the kernel as it lies for each of them
    each = [jnp.pad(kernel, ((0, 0), (n, under * pixels - size - n), (0, 0), (0, 0))) for n in range(pixels)]
    kernel = jnp.stack(each, 3).reshape(height, under, pixels * channels, pixels * filters)
    y = _convolve(x, kernel, (1, 1), _UNPADDED)
    return y.reshape(images, y.shape[1], blocks * pixels, filters)[:, :, :columns]


def _convolve(x, kernel, strides, padding, groups=1):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dims, feature_group_count=groups)


def _by_columns(x, kernel, strides, sides):
    """A product of the kernel with the values under it, laid out for every pixel (im2col)."""
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    rows, columns = ((n - k) // stride + 1 for n, k, stride in zip(x.shape[1:3], kernel.shape, strides, strict=False))
    down, across = strides
    views = [
        x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across]
        for i, j in itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    ]
    values = jnp.concatenate(views, -1) if len(views) > 1 else views[0]
    product = values.reshape(-1, values.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return product.reshape(*values.shape[:-1], -1)


@jax.custom_vjp
def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise 3x3 convolution, stride 1, padding SAME: x [B, H, W, C], kernel [3, 3, 1, C] -> [B, H, W, C].

    XLA's CPU kernel is 10 to 60 times slower than the nine shifted multiply-adds used here.
    """
    return _by_platform(x, kernel, cpu=_shifted, default=_grouped)


def _grouped(x, kernel):
    return _convolve(x, kernel, (1, 1), "SAME", groups=x.shape[-1])


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
    return _by_platform(*residuals, grad, cpu=_backward_shifted, default=_backward_grouped)


def _backward_shifted(x, kernel, grad):
    images, height, width, channels = x.shape
    parts = math.gcd(images, 8)
    grads = jnp.split(grad, parts)
    ones = jnp.ones((1, images // parts * height), x.dtype)
    rows = []
    for view in _shifts(x):
        # Sums over all pixels of each channel: part upon part of the batch, which XLA fuses to one vectorised pass
        # over both arrays (2 to 3 times as fast as a sum of their product), and what is left by a product with ones.
        total = sum(some * grad_of_some for some, grad_of_some in zip(jnp.split(view, parts), grads, strict=True))
        rows.append(ones @ total.reshape(-1, width * channels))
    taps = jnp.stack(rows).reshape(3, 3, 1, width, channels).sum(3)
    return _shifted(grad, kernel[::-1, ::-1]), taps.astype(kernel.dtype)


def _backward_grouped(x, kernel, grad):
    return jax.vjp(_grouped, x, kernel)[1](grad)


depthwise_conv.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, padding: str | tuple[tuple[int, int], ...]) -> jax.Array:
    """Maxima of size x size windows of x [B, H, W, C]; padding SAME, VALID, or before and after rows and columns.

    XLA's gradient is a scatter: on a CPU a serial one, 5 to 15 times slower than the comparisons used here, on a GPU
    one that adds in any order, or not at all where `--xla_gpu_deterministic_ops` is set. So every platform trains by
    comparisons. As there, the first of equal maxima takes the whole gradient.
    """
    cpu = functools.partial(_pool_by_comparison, size=size, stride=stride, padding=padding)
    default = functools.partial(_pool_by_window, size=size, stride=stride, padding=padding)
    return lax.platform_dependent(x, cpu=lambda x: cpu(x)[0], default=default)


def _pool_forward(x, size, stride, padding):
    y, winner = _pool_by_comparison(x, size=size, stride=stride, padding=padding)
    return y, (x, winner)


def _pool_backward(size, stride, padding, residuals, grad):
    return (_unpool_by_winner(*residuals, grad, size=size, stride=stride, padding=padding),)


def _pool_by_window(x, *, size, stride, padding):
    *_, sides = _windows(x, size, stride, padding)
    sides = ((0, 0), *sides, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), sides)


def _pool_by_comparison(x, *, size, stride, padding):
    """The maxima, and which place of its window each one has.

    The places are kept, and not found again by comparing x with the maxima: XLA computes x anew where it is cheap
    to, the last bit may then differ, and the gradient of that window would be lost. (The gradient of `jnp.max` has
    this fault: jitted on a CPU after BatchNorm it was off by half.)
    """
    rows, columns, sides = _windows(x, size, stride, padding)
    padded = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)
    places = jnp.uint8 if size <= 16 else jnp.uint16
    best, winner = None, None
    for place, (i, j) in enumerate(itertools.product(range(size), repeat=2)):
        view = padded[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        if best is None:
            best, winner = view, jnp.zeros(view.shape, places)
        else:
            better = (view > best) | jnp.isnan(view)  # as XLA's: a network that diverged is to say so
            best, winner = jnp.where(better, view, best), jnp.where(better, places(place), winner)
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
    sides = _sides(x, (size, size), (stride, stride), padding)
    rows, columns = ((n + sum(side) - size) // stride + 1 for n, side in zip(x.shape[1:3], sides, strict=True))
    return rows, columns, sides


max_pool.defvjp(_pool_forward, _pool_backward)


def mean_pool(x: jax.Array) -> jax.Array:
    """Means of 2x2 windows, stride 2, of x [B, H, W, C]; zeros join the last ones where a side is odd.

    As sums of shifted views, which XLA's CPU compiler fuses with what is around them: up to 4 times as fast.
    """
    options = {"window_shape": (2, 2), "strides": (2, 2), "padding": "SAME"}
    return _by_platform(x, cpu=_mean_of_views, default=functools.partial(nn.avg_pool, **options))


def _mean_of_views(x):
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return sum(x[:, i::2, j::2] for i in range(2) for j in range(2)) / 4


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [..., C] normalised over all but the last axis (and the mesh axis), then scaled and shifted.

    Returns y of x's shape and type, and mean and (biased) variance [C]. No gradient flows through the last two.
    Ioffe & Szegedy 2015, algorithm 1. Written out, y and the gradient of x each cost one pass over memory, where
    autodiff keeps the normalised values as well: a tenth of mini_xception's step on a CPU.
    """
    return _batch_norm_forward(x, scale, bias, epsilon, axis_name)[0]


def _batch_norm_forward(x, scale, bias, epsilon, axis_name):
    wide = x.astype(scale.dtype)
    pixels = tuple(range(x.ndim - 1))
    mean, square = _mean_over(axis_name, wide.mean(pixels), (wide * wide).mean(pixels))
    variance = jnp.maximum(square - mean * mean, 0)
    inverse = lax.rsqrt(variance + epsilon)
    y = wide * (scale * inverse) + (bias - mean * scale * inverse)
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, axis_name, residuals, cotangents):
    x, scale, mean, inverse = residuals
    wide, grad = x.astype(scale.dtype), cotangents[0].astype(scale.dtype)
    pixels = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    d_bias = grad.sum(pixels)
    d_scale = ((grad * wide).sum(pixels) - mean * d_bias) * inverse
    mean_bias, mean_scale = _mean_over(axis_name, d_bias / count, d_scale / count)
    # scale * inverse * (grad - mean_bias - normalised x * mean_scale), as one line in grad and x
    slope = -scale * inverse * inverse * mean_scale
    d_x = (scale * inverse) * grad + slope * wide - (scale * inverse * mean_bias + slope * mean)
    return d_x.astype(x.dtype), d_scale, d_bias


def _mean_over(axis_name, *values):
    return lax.pmean(values, axis_name) if axis_name else values


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
