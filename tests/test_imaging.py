"""Image operations on the device against OpenCV, within one grey level."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import imaging

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((13, 10, 3), (48, 48, 1), (17, 31, 3))]


def same(ours, reference):
    np.testing.assert_allclose(ours, np.asarray(reference, float).reshape(ours.shape), atol=1)


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.shape))
@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (imaging.gaussian_blur, lambda image: cv2.GaussianBlur(image, (3, 3), 0, borderType=cv2.BORDER_REPLICATE)),
        (imaging.average_blur, lambda image: cv2.blur(image, (3, 3), borderType=cv2.BORDER_REPLICATE)),
        (imaging.median_blur, lambda image: cv2.medianBlur(image, 3)),
    ],
    ids=["gaussian", "average", "median"],
)
def test_blurs_equal_opencv(image, ours, reference):
    same(jax.jit(ours)(image.astype(np.float32)), reference(image))


def test_the_median_is_exact():
    image = IMAGES[2]
    np.testing.assert_array_equal(imaging.median_blur(image.astype(np.float32)), cv2.medianBlur(image, 3))


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.shape))
@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0], [0, 1, 0]],
        [[0.9, 0.2, 0], [-0.2, 0.9, 0]],
        [[1.3, 0, 2.5], [0, 0.7, -1.25]],
        [[-1, 0, 0], [0, 1, 0]],
    ],
)
def test_affine_sampling_equals_opencv(image, matrix):
    # OpenCV rounds places to a 32nd of a pixel: on a smooth image that is less than a grey level.
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 4).reshape(image.shape)
    matrix = np.array(matrix, float)
    height, width = image.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    move = centre - matrix[:, :2] @ centre + matrix[:, 2]
    reference = cv2.warpAffine(
        smooth,
        np.hstack([matrix[:, :2], move[:, None]]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    same(jax.jit(imaging.sample_affine)(smooth, jnp.array(matrix, jnp.float32)), reference)


def test_sampling_at_whole_pixels_takes_them_as_they_are():
    image = IMAGES[2].astype(np.float32)
    np.testing.assert_array_equal(imaging.sample_affine(image, jnp.eye(2, 3)), image)
    np.testing.assert_array_equal(imaging.sample_affine(image, jnp.array([[-1.0, 0, 0], [0, 1, 0]])), image[:, ::-1])
    moved = imaging.sample_affine(image, jnp.array([[1.0, 0, 2], [0, 1, 0]]))
    np.testing.assert_array_equal(moved[:, :-2], image[:, 2:])
    np.testing.assert_array_equal(moved[:, -2:], image[:, [-1, -1]])


def test_inputs_are_resized_as_opencv_does_and_grey_is_bt601():
    small = cv2.GaussianBlur(RNG.uniform(0, 255, (24, 24, 1)).astype(np.float32), (0, 0), 1)[..., None]
    larger = np.asarray(imaging.to_input(small[None], (48, 48, 1)))[0, ..., 0]
    np.testing.assert_allclose(larger, cv2.resize(small[..., 0], (48, 48)), atol=1e-3)
    grey = np.asarray(imaging.to_input(IMAGES[0][None], (13, 10, 1)))[0, ..., 0]
    np.testing.assert_allclose(grey, cv2.cvtColor(IMAGES[0], cv2.COLOR_RGB2GRAY), atol=0.6)  # OpenCV rounds
    colour = imaging.to_input(small[None], (24, 24, 3))
    np.testing.assert_array_equal(colour[..., 0], colour[..., 2])
    np.testing.assert_array_equal(colour[0, ..., :1], small)


@pytest.mark.parametrize(("before", "after"), [((48, 48), (24, 24)), ((49, 37), (30, 20)), ((37, 50), (48, 33))])
def test_inputs_that_shrink_are_averaged_as_torch_does(before, after):
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    images = np.random.default_rng(0).integers(0, 256, (2, *before, 3), dtype=np.uint8)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2).float(), size=after, mode="bilinear", antialias=True
    ).permute(0, 2, 3, 1)
    np.testing.assert_allclose(imaging.to_input(images, (*after, 3)), theirs, atol=1e-3)
