"""Image operations without chance, on the device: to a network's input, blurs, affine sampling.

All but `to_input` take and return one image float32 [H, W, C] on 0..255; tests/test_imaging.py holds them to OpenCV.
"""

import jax
import jax.numpy as jnp
from jax import lax


def to_input(images: jax.Array, input_shape: tuple[int, int, int]) -> jax.Array:
    """Images [B, H, W, C] as a network wants them, [B, h, w, c] float32 on the same scale.

    Bilinear with half-pixel centres, as `cv2.resize`, antialiased when shrinking; colour to grey by BT.601,
    grey to colour by repetition.
    """
    images = images.astype(jnp.float32)
    height, width, channels = input_shape
    if images.shape[-1] == 3 and channels == 1:
        # Not as a product of matrices, which a GPU may take in TF32.
        images = 0.299 * images[..., :1] + 0.587 * images[..., 1:2] + 0.114 * images[..., 2:]
    if images.shape[1:3] != (height, width):
        images = jax.image.resize(images, (*images.shape[:1], height, width, images.shape[-1]), "bilinear")
    return jnp.broadcast_to(images, (*images.shape[:3], channels))


def gaussian_blur(image: jax.Array) -> jax.Array:
    """3x3 Gaussian (1/4, 1/2, 1/4), as `cv2.GaussianBlur(image, (3, 3), 0)`; borders replicated."""
    taps = (1, 2, 1)
    views = (taps[i] * taps[j] * view for (i, j), view in _neighbours(image).items())
    return (sum(views) / 16).reshape(image.shape)


def average_blur(image: jax.Array) -> jax.Array:
    """3x3 mean, as `cv2.blur(image, (3, 3))`; borders replicated."""
    return (sum(_neighbours(image).values()) / 9).reshape(image.shape)


def _neighbours(image):
    """The image shifted by -1..1 rows and columns, borders replicated, by (row, column) of the 3x3 window.

    Each as [H, W * C]: with one or three values in the last axis a CPU's vector lanes would lie idle.
    """
    height, width, channels = image.shape
    rows = image.reshape(height, -1)
    rows = jnp.concatenate([rows[:1], rows, rows[-1:]])
    padded = jnp.concatenate([rows[:, :channels], rows, rows[:, -channels:]], 1)
    # Written once: fused into its nine readers, what comes before would be computed nine times. (On a CPU XLA drops the
    # barrier before it fuses; there it is the concatenation that stays apart.)
    padded = lax.optimization_barrier(padded)
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return {(i, j): padded[i : i + height, j * channels : (j + width) * channels] for i, j in shifts}


# Exchanges that bring the median of nine values to place 4 (Smith 1996, "Implementing median filters in XC4000E
# FPGAs"): after each pair (i, j) the smaller value is at i.
_MEDIAN_OF_NINE = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)


def median_blur(image: jax.Array) -> jax.Array:
    """3x3 median, as `cv2.medianBlur(image, 3)`; borders replicated."""
    values = list(_neighbours(image).values())
    for i, j in _MEDIAN_OF_NINE:
        values[i], values[j] = jnp.minimum(values[i], values[j]), jnp.maximum(values[i], values[j])
    return values[4].reshape(image.shape)


def sample_affine(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Samples image [H, W, C] bilinearly at matrix [2, 3] @ (x, y, 1), both from its centre; borders replicated.

    As `cv2.warpAffine(flags=INTER_LINEAR | WARP_INVERSE_MAP, borderMode=BORDER_REPLICATE)`, without its rounding of
    places to a 32nd of a pixel.
    """
    height, width, channels = image.shape
    centre = jnp.array([(width - 1) / 2, (height - 1) / 2])
    across, down = jnp.meshgrid(jnp.arange(width) - centre[0], jnp.arange(height) - centre[1])
    offset = centre + matrix[:, 2]
    columns = jnp.clip(matrix[0, 0] * across + matrix[0, 1] * down + offset[0], 0, width - 1)
    rows = jnp.clip(matrix[1, 0] * across + matrix[1, 1] * down + offset[1], 0, height - 1)
    left = jnp.clip(jnp.floor(columns), 0, max(width - 2, 0))
    top = jnp.clip(jnp.floor(rows), 0, max(height - 2, 0))
    right, low = (columns - left)[..., None], (rows - top)[..., None]
    pixels, first = image.reshape(-1, channels), (top * width + left).astype(jnp.int32)
    above = pixels[first] * (1 - right) + pixels[first + 1] * right
    below = pixels[first + width] * (1 - right) + pixels[first + width + 1] * right
    return above * (1 - low) + below * low
