"""Histograms of oriented gradients, jitted and batched on the device.

Dalal & Triggs 2005, as `skimage.feature.hog` computes them (block norm L2-Hys), to which they are equal within
1e-4. Alizadeh & Fazel 2017, section 3, join them to the features of the last convolution.
"""

import jax
import jax.numpy as jnp

_EPSILON = 1e-5  # scikit-image's


def hog(images: jax.Array, *, orientations: int = 8, cell: int = 8, block: int = 2) -> jax.Array:
    """The descriptors of images [B, H, W, C]: float32 [B, n].

    Args:
      images: any scale and offset; of several channels each pixel takes the one with the strongest gradient.
      orientations: bins over 0..180 degrees.
      cell: side of a cell in pixels; rows and columns that fill no cell are left out.
      block: side in cells of the overlapping blocks in which histograms are normalised.
    """
    images = images.astype(jnp.float32)
    inner_rows = jnp.pad(images[:, 2:] - images[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    inner_columns = jnp.pad(images[:, :, 2:] - images[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
    squared = inner_rows**2 + inner_columns**2
    strongest = squared.argmax(-1, keepdims=True)
    gradient = (inner_rows, inner_columns, squared)
    down, across, squared = (jnp.take_along_axis(part, strongest, -1)[..., 0] for part in gradient)
    # The gradient of sqrt at 0 is infinite; flat pixels get magnitude 0 and gradient 0 instead.
    magnitude = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    degrees = jnp.rad2deg(jnp.arctan2(down, across)) % 180
    bins = jnp.floor(degrees * (orientations / 180)) % orientations
    votes = jnp.where(bins[..., None] == jnp.arange(orientations), magnitude[..., None], 0)  # (B, H, W, bins)
    batch, height, width = magnitude.shape
    rows, columns = height // cell, width // cell
    votes = votes[:, : rows * cell, : columns * cell].reshape(batch, rows, cell, columns, cell, orientations)
    cells = votes.sum((2, 4)) / cell**2  # (B, rows, columns, bins)
    down, across = rows - block + 1, columns - block + 1
    shifted = [cells[:, i : i + down, j : j + across] for i in range(block) for j in range(block)]
    blocks = jnp.stack(shifted, 3).reshape(batch, down, across, -1)
    blocks = jnp.minimum(_normalize(blocks), 0.2)
    return _normalize(blocks).reshape(batch, -1)


def _normalize(blocks: jax.Array) -> jax.Array:
    return blocks / jnp.sqrt((blocks**2).sum(-1, keepdims=True) + _EPSILON**2)
