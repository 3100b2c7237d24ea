"""Synthetic faces: deterministic, subjects kept apart, landmarks where the features are drawn."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_jax.data import facs, portrait, prepare, synthetic
from fer_jax.data.emotions import BASIC7, CANONICAL, expressed


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return prepare.load("synthetic", variant="small", cache_dir=tmp_path_factory.mktemp("cache"))


def test_splits_share_no_subject(small):
    subjects = {split: {int(example["subject"]) for example in small.source(split)} for split in small.splits}
    assert {split: len(found) for split, found in subjects.items()} == {"train": 40, "validation": 8, "test": 8}
    assert not subjects["train"] & subjects["test"]
    assert not subjects["train"] & subjects["validation"]
    assert not subjects["validation"] & subjects["test"]


def test_each_example_has_its_label_intensity_landmarks_and_subject(small):
    assert (small.image_shape, small.has_intensity, small.synthetic) == ((128, 128, 3), True, True)
    assert small.emotions == BASIC7
    for example in small.source("validation"):
        emotion, intensity = BASIC7[example["label"]], example["intensity"]
        shown = dict(zip(expressed(BASIC7), intensity, strict=True))
        if emotion == "neutral":
            assert not intensity.any()
        else:
            assert 0.4 <= shown[emotion] <= 1
            assert np.count_nonzero(intensity) == 1
        assert example["landmarks"].shape == (68, 2)
        assert (example["landmarks"][17:] > -5).all()
        assert (example["landmarks"][17:] < 133).all()


def test_every_emotion_is_as_frequent_as_the_others(small):
    for counts in small.class_counts.values():
        assert max(counts) - min(counts) <= 2


def test_the_same_seed_draws_the_same_faces_in_another_process():
    code = (
        "from fer_jax.data import synthetic; import hashlib;"
        "print(hashlib.sha256(b''.join(synthetic.example(3, s, 1).image.tobytes() for s in range(4))).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(digests) == 1
    assert (synthetic.example(3, 0, 1).image != synthetic.example(4, 0, 1).image).any()


def test_landmarks_lie_where_the_features_are():
    """The pupils are the darkest spots of the eyes, and the lips are redder than the cheeks."""
    hits = 0
    for number in range(20):
        rng = synthetic._generator(7, number)
        image, landmarks = synthetic.draw(synthetic.make_subject(1, number), "surprise", 1.0, rng)
        image = cv2.GaussianBlur(image, (0, 0), 1).astype(float)

        def at(point, image=image):
            x, y = np.clip(np.round(point).astype(int), 0, 127)
            return image[y, x]

        eye, cheek = landmarks[36:42].mean(0), landmarks[[2, 31]].mean(0)
        lip = landmarks[[57, 66]].mean(0)
        hits += at(eye).mean() < at(cheek).mean() and at(lip)[1] / at(lip)[0] < at(cheek)[1] / at(cheek)[0]
    assert hits >= 18  # an occluder may hide one


@pytest.mark.parametrize("point", [8, 30, 36, 54])
def test_landmarks_are_exact_to_a_fraction_of_a_pixel(point, monkeypatch):
    """A disc painted upon a landmark of the canvas has its centre of mass at that landmark of the small image."""

    def disc(face):
        canvas = np.zeros((portrait.CANVAS, portrait.CANVAS, 3), np.uint8)
        cv2.circle(canvas, np.rint(face.landmarks[point] * 256).astype(int), 8 * 256, (255,) * 3, -1, cv2.LINE_AA, 8)
        return canvas

    monkeypatch.setattr(portrait.Face, "paint", disc)
    monkeypatch.setattr(synthetic, "_photograph", lambda image, rng: image)
    image, landmarks = synthetic.draw(synthetic.make_subject(0, 0), "happy", 1.0, np.random.default_rng(0))
    weight = image[..., 0].astype(float)
    rows, columns = np.mgrid[:128, :128]
    centre = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    np.testing.assert_allclose(landmarks[point], centre, atol=0.05)


def test_landmarks_are_in_the_order_of_ibug():
    face = facs.neutral_face()
    x, y = face.T
    assert (np.diff(x[:17]) > 0).all()  # the jaw from left to right, the chin lowest
    assert y[8] == y.max()
    assert (np.diff(x[17:27]) > 0).all()  # brows
    assert (np.diff(y[27:31]) > 0).all()  # the bridge downwards
    assert x[36] < x[39] < x[42] < x[45]  # eye corners
    assert y[37] < y[41]
    assert y[43] < y[47]
    assert x[48] < x[60] < x[64] < x[54]  # mouth corners, outer and inner
    assert y[51] < y[62] <= y[66] < y[57]
    np.testing.assert_allclose(face[facs.MIRROR] * (-1, 1), face, atol=1e-12)
    assert np.linalg.norm(face[36:42].mean(0) - face[42:48].mean(0)) == pytest.approx(1, abs=0.02)


def test_action_units_move_what_they_are_named_for():
    face = facs.neutral_face()

    def moved(unit):
        return facs.move(face, {unit: 1.0}) - face

    assert moved(1)[21, 1] < -0.1  # inner brow up
    assert moved(2)[17, 1] < -0.1  # outer brow up
    assert moved(4)[[21, 22], 1].min() > 0.1  # brows down
    assert moved(4)[21, 0] > 0 > moved(4)[22, 0]  # and together
    assert moved(5)[37, 1] < 0  # upper lid up
    assert moved(12)[48, 0] < 0 < moved(12)[54, 0]  # lip corners out
    assert moved(12)[48, 1] < -0.1  # and up
    assert moved(15)[48, 1] > 0.1  # lip corners down
    assert moved(26)[8, 1] > 0.1  # jaw down
    assert not moved(26)[17:48].any()


def test_intensity_scales_the_expression_and_zero_is_neutral():
    face = facs.neutral_face()
    for emotion, prototype in facs.PROTOTYPES.items():
        assert emotion in CANONICAL
        half, full = (facs.move(face, {u: s * level for u, s in prototype.items()}) - face for level in (0.5, 1.0))
        np.testing.assert_allclose(2 * half, full)
    np.testing.assert_array_equal(facs.move(face, {}), face)
