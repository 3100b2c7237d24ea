"""Normalisation: (image - mean) * scale, with the numbers computed from the training split alone.

The numbers are variables of the network: they are saved with every checkpoint and used unchanged wherever
the network is. A network whose images are standardised one by one has a third, `least_deviation`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.pipeline import EvalOrder, Split
from fer_jax.imaging import to_input

STATISTICS_BATCH = 256

# The deviation, in grey levels, up to which a channel is flat: float32 sums, and resizing, leave up to 0.2 of one.
FLAT = 1.0

# What `per_image` gives an image, in grey levels: 0 and 255 then lie 2.5 deviations from the mean.
MEAN, DEVIATION = 127.5, 51.0
# The noise of a face without contrast is enlarged no further than this deviation would be.
LEAST_DEVIATION = 8.0


def compute(kind: str, split: Split, input_shape: tuple[int, int, int], *, devices: int) -> dict[str, np.ndarray]:
    """The normaliser of a training split: {'mean', 'scale'}, float32, broadcastable to [h, w, c] of the input.

    Args:
      kind: `unit` (0..1), `symmetric` (-1..1), `per_channel` (mean 0, deviation 1 a channel), `mean_image`
        (the mean image subtracted, then 0..1 units, as Alizadeh & Fazel, section 4) or `per_image` (mean 0,
        deviation 1 an image, as Tang 2013 begins, section 3.1; it also has `least_deviation`).
      split: the training split, on the scale 0..255.
      devices: of the mesh, which must divide the batch.
    """
    if kind == "unit":
        return _constants(0.0, 1 / 255)
    if kind == "symmetric":
        return _constants(127.5, 1 / 127.5)
    if kind == "per_image":
        return _constants(MEAN, 1 / DEVIATION) | {"least_deviation": np.full(1, LEAST_DEVIATION, np.float32)}
    order = EvalOrder(split.length, STATISTICS_BATCH * devices)
    total, squares, count = 0.0, 0.0, 0
    for batch in split.batches(order, 0, order.steps):
        sums = _sums(batch["image"], batch["mask"], input_shape)
        image_sum, channel_squares, n = (np.asarray(value, np.float64) for value in jax.device_get(sums))
        total, squares, count = total + image_sum, squares + channel_squares, count + int(n)
    mean_image = total / count
    if kind == "mean_image":
        return {"mean": mean_image.astype(np.float32), "scale": np.full(1, 1 / 255, np.float32)}
    height, width, _ = input_shape
    mean = mean_image.mean(axis=(0, 1))
    deviation = np.sqrt(np.maximum(squares / (count * height * width) - mean**2, 0))
    # A channel that never varies (one flat colour) is left at its own scale instead of divided by next to zero.
    scale = 1 / np.where(deviation > FLAT, deviation, 255)
    return {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}


def apply(images: jax.Array, normalizer: dict[str, jax.Array]) -> jax.Array:
    """Images [B, h, w, c] on 0..255, normalised: float32, same shape."""
    if "least_deviation" in normalizer:
        axes = (-3, -2, -1)
        centred = images - images.mean(axes, keepdims=True)
        variance = jnp.maximum((centred**2).mean(axes, keepdims=True), normalizer["least_deviation"] ** 2)
        images = MEAN + DEVIATION * centred / jnp.sqrt(variance)
    return of_levels(images, normalizer)


def of_levels(levels: jax.Array | float, normalizer: dict[str, jax.Array]) -> jax.Array:
    """What grey levels on 0..255 are to the network; of `per_image`, those of a standardised image."""
    return (levels - normalizer["mean"]) * normalizer["scale"]


def _constants(mean: float, scale: float) -> dict[str, np.ndarray]:
    return {"mean": np.full(1, mean, np.float32), "scale": np.full(1, scale, np.float32)}


@functools.partial(jax.jit, static_argnums=2)
def _sums(images: jax.Array, mask: jax.Array, input_shape: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
    images = to_input(images.astype(jnp.float32), input_shape) * mask[:, None, None, None]
    return images.sum(axis=0), (images**2).sum(axis=(0, 1, 2)), mask.sum()
