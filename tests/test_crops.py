"""The crop of a face: what it shows, exactly, for faces turned, mirrored, large and at the border."""

import cv2
import numpy as np
import pytest

from fer_jax.data import crops
from fer_jax.data.detect import Face
from tests.faces import photograph

SIZE = 128
# The landmark of a mirrored face that lies where landmark i of the face did (iBUG order).
MIRRORED = [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1), 45, 44, 43, 42, 47, 46]
MIRRORED += [39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]


def moved(face, **options):
    """The landmarks in the crop."""
    transform = crops.crop_transform(face, size=SIZE, **options)
    return Face.from_landmarks(face.landmarks @ transform[:, :2].T + transform[:, 2])


@pytest.mark.parametrize("degrees", [-40, -25, -5, 0, 12, 33, 40])
def test_the_crop_is_what_the_paper_describes(degrees):
    for number in range(6):
        face = Face.from_landmarks(photograph(number, degrees)[1])
        aligned = moved(face)
        assert abs(crops.roll(aligned)) < 0.5
        assert aligned.eyes[:, 1].mean() == pytest.approx(SIZE / 3, abs=1)
        assert aligned.landmarks[0, 0] == pytest.approx(0, abs=1)
        assert aligned.landmarks[16, 0] == pytest.approx(SIZE - 1, abs=1)
        assert aligned.landmarks[8, 1] == pytest.approx(SIZE - 1, abs=1)


def test_the_pixels_go_where_the_landmarks_go():
    """Dots painted on the landmarks of a turned face are found at the landmarks of its crop."""
    for number, degrees in ((0, -40), (1, 15), (2, 38)):
        image, landmarks = photograph(number, degrees, scale=1.2)
        transform = crops.crop_transform(Face.from_landmarks(landmarks), size=SIZE)
        expected = landmarks @ transform[:, :2].T + transform[:, 2]
        for point in (30, 36, 45, 57):
            dot = np.zeros(image.shape[:2], np.float32)
            cv2.circle(dot, tuple((landmarks[point] * 16).round().astype(int)), 3 * 16, 255, -1, cv2.LINE_AA, 4)
            crop = crops.warp(dot.astype(np.uint8)[..., None], transform, size=SIZE)[..., 0].astype(float)
            rows, columns = np.mgrid[:SIZE, :SIZE]
            found = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
            np.testing.assert_allclose(found, expected[point], atol=0.2)


def test_a_face_turned_either_way_gives_the_same_crop():
    for number in range(4):
        level, *others = [
            crops.align(image, Face.from_landmarks(landmarks)).astype(float)
            for image, landmarks in (photograph(number, degrees) for degrees in (0, -30, 30))
        ]
        for turned in others:
            assert np.abs(turned - level)[8:-8, 8:-8].mean() < 4


@pytest.mark.parametrize("method", crops.METHODS)
def test_a_mirrored_face_gives_the_mirrored_crop(method):
    image, landmarks = photograph(3, 20)
    mirrored = landmarks[MIRRORED] * (-1, 1) + (image.shape[1] - 1, 0)
    crop = crops.align(image, Face.from_landmarks(landmarks), method=method).astype(int)
    other = crops.align(image[:, ::-1].copy(), Face.from_landmarks(mirrored), method=method).astype(int)
    # OpenCV rounds places to a 32nd of a pixel.
    assert np.abs(crop[:, ::-1] - other).mean() < 1


def test_rotation_levels_the_eyes_about_the_box_and_none_leaves_them():
    face = Face.from_landmarks(photograph(0, 30)[1])
    level, as_it_is = moved(face, method="rotation"), moved(face, method="none")
    assert abs(crops.roll(level)) < 1e-6
    assert abs(crops.roll(as_it_is)) > 10
    x, y, width, height = face.box
    centre = np.array([[x + width / 2 - 0.5, y + height / 2 - 0.5]])  # where pixel centres lie at whole numbers
    for method in ("rotation", "none"):
        transform = crops.crop_transform(face, method=method)
        middle = centre @ transform[:, :2].T + transform[:, 2]
        np.testing.assert_allclose(middle, [[63.5, 63.5]], atol=1e-6)


def test_a_box_of_the_size_of_the_crop_is_a_slice_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (200, 220, 3), dtype=np.uint8)
    crop = crops.align(image, Face((30.0, 40.0, 128.0, 128.0)), method="none")
    np.testing.assert_array_equal(crop, image[40:168, 30:158])


def test_a_large_face_is_averaged_and_not_sampled():
    """A fine chessboard is grey from afar; taken at single points it would be black and white."""
    board = (np.indices((1024, 1024)).sum(0) % 2 * 255).astype(np.uint8)
    face = Face((0, 0, 1024, 1024))
    crop = crops.align(np.repeat(board[..., None], 3, 2), face, method="none")
    assert 120 <= crop.min() <= crop.max() <= 135
    ramp = np.tile(np.linspace(0, 255, 1024, dtype=np.float32), (1024, 1)).round().astype(np.uint8)[..., None]
    reference = cv2.resize(ramp, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(crops.align(ramp, face, method="none")[..., 0].astype(int), reference, atol=1)


def test_borders_are_replicated():
    image = np.full((40, 40, 1), 77, np.uint8)
    assert (crops.align(image, Face((-30, -30, 100, 100)), method="none") == 77).all()


@pytest.mark.parametrize(
    ("face", "method", "message"),
    [
        (Face((0, 0, 9, 9)), "landmarks", "gives no eyes"),
        (Face((0, 0, 9, 9)), "rotation", "gives no eyes"),
        (Face((0, 0, 9, 9), eyes=np.array([[2.0, 3], [7, 3]])), "landmarks", "gives no landmarks"),
        (Face.from_landmarks(np.ones((68, 2))), "landmarks", "span no rectangle"),
    ],
)
def test_what_a_detector_does_not_give_is_named(face, method, message):
    with pytest.raises(crops.NoCrop, match=message):
        crops.crop_transform(face, method=method)


@pytest.mark.parametrize("left", [0, 16_000, 32_800])
def test_a_face_in_a_panorama_is_cut_out(left):
    """OpenCV's warp takes no image of more than 32,766 pixels a side."""
    part = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    wide = np.zeros((150, 33_000, 3), np.uint8)
    wide[:, left : left + 200] = part
    beyond = [(140.0, 90.0, 90.0, 90.0)] if left == 32_800 else []  # the lower right corner of both
    for x, y, width, height in [(30.0, 20.0, 100.0, 100.0), *beyond]:
        expected = crops.align(part, Face((x, y, width, height)), size=64, method="none")
        crop = crops.align(wide, Face((x + left, y, width, height)), size=64, method="none")
        np.testing.assert_allclose(crop.astype(int), expected.astype(int), atol=1)
