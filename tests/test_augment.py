"""Augmentation: identity at strength 0, eager == jit == vmap, definitions by numpy, and draws that devices share."""

import inspect

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import augment

IMAGE = np.random.default_rng(0).integers(0, 256, (13, 10, 3), dtype=np.uint8)
STRENGTHS = {"flip": 0.5, "shift": 0.3, "brightness": 0.4}


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_strength_zero_is_the_identity_bit_for_bit(name):
    for seed in range(5):
        out = augment.OPERATIONS[name](jax.random.key(seed), jnp.asarray(IMAGE), 0.0)
        np.testing.assert_array_equal(out, IMAGE)


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_eager_jit_and_vmap_agree(name):
    operation, strength = augment.OPERATIONS[name], STRENGTHS[name]
    keys = jax.random.split(jax.random.key(1), 8)
    eager = np.stack([operation(key, IMAGE, strength) for key in keys])
    jitted = jax.jit(operation)
    np.testing.assert_allclose([jitted(key, IMAGE, strength) for key in keys], eager, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(operation, (0, None, None))(keys, IMAGE, strength), eager, rtol=1e-6)
    assert len({image.tobytes() for image in eager}) > 1  # it does something
    assert eager.dtype == np.float32
    assert eager.min() >= 0
    assert eager.max() <= 255


def test_flip_mirrors_with_its_probability():
    always = augment.flip(jax.random.key(0), IMAGE, probability=1.0)
    np.testing.assert_array_equal(always, IMAGE[:, ::-1])
    keys = jax.random.split(jax.random.key(1), 2000)
    flipped = jax.vmap(lambda key: augment.flip(key, IMAGE, probability=0.3)[0, 0, 0] != IMAGE[0, 0, 0])(keys)
    assert float(flipped.mean()) == pytest.approx(0.3, abs=0.04)


def test_shift_is_a_crop_of_the_image_with_replicated_borders_and_reaches_its_limits():
    rows, columns = 3, 3  # 0.3 of 13 and of 10, whole pixels
    padded = np.pad(IMAGE, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    crops = {
        padded[r : r + 13, c : c + 10].tobytes(): (r - rows, c - columns)
        for r in range(2 * rows + 1)
        for c in range(2 * columns + 1)
    }
    keys = jax.random.split(jax.random.key(2), 600)
    images = np.asarray(jax.vmap(lambda key: augment.shift(key, IMAGE, fraction=0.3))(keys)).astype(np.uint8)
    offsets = {crops[image.tobytes()] for image in images}
    assert len(offsets) == 49


def test_brightness_scales_and_clips():
    for seed in range(5):
        out = np.asarray(augment.brightness(jax.random.key(seed), IMAGE, strength=0.4))
        inside = (out < 255) & (IMAGE > 0)
        factors = out[inside] / IMAGE[inside]
        np.testing.assert_allclose(factors, factors[0], rtol=1e-5)
        assert 0.6 <= factors[0] <= 1.4


def test_the_draws_depend_on_the_place_in_the_global_batch_alone():
    images = np.stack([IMAGE] * 8)
    whole = augment.augment_batch(jax.random.key(3), images, 0, STRENGTHS)
    parts = [augment.augment_batch(jax.random.key(3), images[i : i + 2], i, STRENGTHS) for i in (0, 2, 4, 6)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len({image.tobytes() for image in np.asarray(whole)}) == 8


def test_strengths_may_be_traced():
    jitted = jax.jit(augment.augment_batch)
    images = np.stack([IMAGE] * 4)
    for strength in (0.1, 0.2):
        jitted(jax.random.key(0), images, 0, dict.fromkeys(augment.OPERATIONS, jnp.float32(strength)))
    assert jitted._cache_size() == 1


@pytest.mark.parametrize("operation", [augment.flip, augment.shift, augment.brightness])
def test_the_key_comes_first_and_options_are_keyword_only(operation):
    first, second, *options = inspect.signature(operation).parameters.values()
    assert [first.name, second.name] == ["key", "image"]
    assert all(option.kind is inspect.Parameter.KEYWORD_ONLY for option in options)


def test_inputs_are_resized_as_opencv_does_and_grey_is_bt601():
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.uniform(0, 255, (24, 24, 1)).astype(np.float32), (0, 0), 1)[..., None]
    larger = np.asarray(augment.to_input(small[None], (48, 48, 1)))[0, ..., 0]
    np.testing.assert_allclose(larger, cv2.resize(small[..., 0], (48, 48)), atol=1e-3)
    grey = np.asarray(augment.to_input(IMAGE[None], (13, 10, 1)))[0, ..., 0]
    np.testing.assert_allclose(grey, cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY), atol=0.6)  # OpenCV rounds
    colour = augment.to_input(small[None], (24, 24, 3))
    np.testing.assert_array_equal(colour[..., 0], colour[..., 2])
    np.testing.assert_array_equal(colour[0, ..., :1], small)
