"""Convolutions by fewer multiplications, for CPUs: Winograd's minimal filtering.

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (CVPR), section 4.1: two by two values of the
result at a time, from a tile of (r + 1)^2 values, in as many products where the plain sum takes (2 r)^2: 16 for 36 of
kernels 3x3, 36 for 100 of kernels 5x5. The products of all tiles are one matrix product for each place in the tile.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Of Toom-Cook; with larger ones, or more values at a time, the result loses digits.
_POINTS = {3: (0.0, 1.0, -1.0), 5: (0.0, 1.0, -1.0, 2.0, -0.5)}
FEWEST = 48  # channels; below, the transformations cost what the products save
FEWEST_OF_GRADIENT = 128  # likewise, for the gradient of a kernel
_FEWEST_TILES = 512  # for them to outweigh the transformation of the kernel


def applies(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple,
    sides: tuple,
    dtype: jnp.dtype,
    *,
    fewest: int = FEWEST,
) -> bool:
    """Whether it is faster than XLA's convolution on a CPU, for images and a kernel of these shapes.

    Kernels 3x3 are as exact as there (relative errors of 5e-7), those of 5x5 lose about a digit (2e-6).
    """
    size = kernel[0]
    if kernel[0] != kernel[1] or size not in _POINTS or strides != (1, 1) or sides != ((size // 2, size // 2),) * 2:
        return False
    if dtype != jnp.float32 or min(kernel[2:]) < fewest or not isinstance(shape[0], int):  # or symbolic
        return False
    return shape[0] * -(-shape[1] // 2) * -(-shape[2] // 2) >= _FEWEST_TILES


def conv(x: jax.Array, kernel: jax.Array, *, turned: bool = False) -> jax.Array:
    """Convolution with stride 1 and padding SAME: x [B, H, W, C], kernel [r, r, C, F], r = 3 or 5 -> [B, H, W, F].

    `turned`: with the kernel [r, r, F, C] turned half around and its channels exchanged, which is the gradient of the
    input where x is that of the result. (A kernel with its channels exchanged beforehand takes twice as long.)
    """
    images, height, width, _ = x.shape
    size, filters = kernel.shape[0], kernel.shape[2 if turned else 3]
    of_kernel, _, of_products = _matrices(_POINTS[size])
    along = slice(None, None, -1 if turned else 1)
    # Written out as well: the same as an einsum, a product with one side of three or five, takes 10 times as long.
    kernels = [_combine(of_kernel, list(row)[along]) for row in _combine(of_kernel, list(kernel)[along])]
    products = [
        [value @ (each.T if turned else each) for value, each in zip(values, some, strict=True)]
        for values, some in zip(_tiles(x, size), kernels, strict=True)
    ]
    down, across = -(-height // 2), -(-width // 2)
    places = _twice(of_products, products)  # [tiles, filters] for each place (row, column) of the two by two
    together = jnp.stack([jnp.stack(row, 1) for row in places], 1)  # [B * down * across, 2, 2, F]
    together = together.reshape(images, down, across, 2, 2, filters).swapaxes(2, 3)
    return together.reshape(images, 2 * down, 2 * across, filters)[:, :height, :width]


def gradient_of_kernel(x: jax.Array, grad: jax.Array, size: int) -> jax.Array:
    """The gradient of conv's kernel: x [B, H, W, C], grad [B, H, W, F] of the result -> [r, r, C, F], r = `size`."""
    _, height, width, filters = grad.shape
    of_kernel, _, of_products = _matrices(_POINTS[size])
    grad = jnp.pad(grad, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    rows = [[grad[:, i::2, j::2].reshape(-1, filters) for j in range(2)] for i in range(2)]
    products = [
        [value.T @ each for value, each in zip(values, some, strict=True)]
        for values, some in zip(_tiles(x, size), _twice(of_products.T, rows), strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _twice(of_kernel.T, products)])


def _tiles(x: jax.Array, size: int) -> list[list[jax.Array]]:
    """B^T d B of each tile d of x: for each place (row, column) in the tile the values of all, [tiles, C]."""
    _, height, width, channels = x.shape
    _, of_tile, _ = _matrices(_POINTS[size])
    down, across, half = -(-height // 2), -(-width // 2), size // 2
    x = jnp.pad(x, ((0, 0), (half, half + height % 2), (half, half + width % 2), (0, 0)))
    rows = _combine(of_tile, [x[:, i : i + 2 * down - 1 : 2] for i in range(size + 1)])
    columns = [[row[:, :, j : j + 2 * across - 1 : 2] for j in range(size + 1)] for row in rows]
    return [[value.reshape(-1, channels) for value in _combine(of_tile, some)] for some in columns]


def _matrices(points: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """G, B^T and A^T of the paper's equation 8, from the points at which polynomials are evaluated, and infinity."""
    count, size = len(points) + 1, len(points)
    of_kernel, of_tile, of_products = np.zeros((count, size)), np.zeros((count, count)), np.zeros((2, count))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        of_kernel[i] = point ** np.arange(size) / np.prod([point - other for other in others])
        of_tile[i, :size] = np.poly(others)[::-1]
        of_products[:, i] = point ** np.arange(2)
    of_kernel[-1, -1] = of_products[-1, -1] = 1
    of_tile[-1] = np.poly(points)[::-1]
    return tuple(matrix.astype(np.float32) for matrix in (of_kernel, of_tile, of_products))


def _combine(matrix: np.ndarray, arrays: list[jax.Array]) -> list[jax.Array]:
    """matrix @ arrays, written out, for most of its entries are 0 or 1."""
    combined = []
    for row in matrix:
        terms = [array if weight == 1 else weight * array for weight, array in zip(row, arrays, strict=True) if weight]
        combined.append(sum(terms[1:], terms[0]))
    return combined


def _twice(matrix: np.ndarray, arrays: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """matrix @ arrays @ matrix.T, written out."""
    columns = [_combine(matrix, list(column)) for column in zip(*arrays, strict=True)]
    return [_combine(matrix, list(row)) for row in zip(*columns, strict=True)]
