"""Augmentation on the device, inside the training step, and the way from stored images to a network's input.

Every operation is `f(key, image, *, ...)` on one image: uint8 or float [H, W, C] on 0..255 in, float32 on 0..255
out, jit- and vmap-able, each strength a number that may be traced. Strength 0 is the identity, bit for bit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Number = jax.Array | float


def flip(key: jax.Array, image: jax.Array, *, probability: Number) -> jax.Array:
    """Mirrors left and right with the given probability."""
    image = jnp.asarray(image, jnp.float32)
    return jnp.where(jax.random.uniform(key) < probability, image[:, ::-1], image)


def shift(key: jax.Array, image: jax.Array, *, fraction: Number) -> jax.Array:
    """Moves by whole pixels, at most `fraction` of each side, borders replicated: a random crop after padding."""
    image = jnp.asarray(image, jnp.float32)
    sides = jnp.array(image.shape[:2])
    limit = jnp.floor(fraction * sides)
    offset = jnp.floor(jax.random.uniform(key, (2,)) * (2 * limit + 1) - limit).astype(jnp.int32)
    rows = jnp.clip(jnp.arange(image.shape[0]) + offset[0], 0, image.shape[0] - 1)
    columns = jnp.clip(jnp.arange(image.shape[1]) + offset[1], 0, image.shape[1] - 1)
    return image[rows][:, columns]


def brightness(key: jax.Array, image: jax.Array, *, strength: Number) -> jax.Array:
    """Multiplies by a factor from 1 - strength .. 1 + strength, clipped to 0..255."""
    image = jnp.asarray(image, jnp.float32)
    factor = 1 + strength * jax.random.uniform(key, minval=-1.0, maxval=1.0)
    return jnp.clip(image * factor, 0, 255)


# Option -> operation, in the order of application. The place in the table is also the operation's own key:
# append, so that the draws of the others stay what they were.
OPERATIONS: dict[str, Callable] = {
    "flip": lambda key, image, value: flip(key, image, probability=value),
    "shift": lambda key, image, value: shift(key, image, fraction=value),
    "brightness": lambda key, image, value: brightness(key, image, strength=value),
}


def augment(key: jax.Array, image: jax.Array, options: dict[str, Number]) -> jax.Array:
    """The chain on one image [H, W, C]; `options` gives each operation of OPERATIONS its strength."""
    image = jnp.asarray(image, jnp.float32)
    for place, (name, operation) in enumerate(OPERATIONS.items()):
        image = operation(jax.random.fold_in(key, place), image, options[name])
    return image


def augment_batch(key: jax.Array, images: jax.Array, first: jax.Array | int, options: dict[str, Number]) -> jax.Array:
    """The chain on images [B, H, W, C], of which the first is number `first` of the global batch.

    The draws depend on that number alone, so one device and eight augment alike.
    """
    places = first + jnp.arange(images.shape[0])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return jax.vmap(augment, (0, 0, None))(keys, images, options)


def to_input(images: jax.Array, input_shape: tuple[int, int, int]) -> jax.Array:
    """Images [B, H, W, C] as a network wants them, [B, h, w, c] float32 on the same scale.

    Bilinear with half-pixel centres, as `cv2.resize`, antialiased when shrinking; colour to grey by BT.601,
    grey to colour by repetition.
    """
    images = images.astype(jnp.float32)
    height, width, channels = input_shape
    if images.shape[-1] == 3 and channels == 1:
        images = images @ jnp.array([[0.299], [0.587], [0.114]])
    if images.shape[1:3] != (height, width):
        images = jax.image.resize(images, (*images.shape[:1], height, width, images.shape[-1]), "bilinear")
    return jnp.broadcast_to(images, (*images.shape[:3], channels))
