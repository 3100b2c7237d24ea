"""Figures: they are drawn for ordinary and for odd input, without a display."""

import cv2
import numpy as np
import pytest

from fer_jax import figures


@pytest.mark.parametrize(
    "confusion", [np.eye(3, dtype=int) * 5, np.zeros((3, 3), int), [[0, 0, 0], [1, 2, 3], [0, 9, 1]]]
)
def test_confusion_matrix(confusion, tmp_path):
    figures.confusion_matrix(confusion, ("happy", "sad", "neutral"), tmp_path / "c.png")
    image = cv2.imread(str(tmp_path / "c.png"))
    assert min(image.shape[:2]) > 200
    assert image.std() > 5


@pytest.mark.parametrize("rows", [[], [{"split": "train", "epoch": 0.5, "loss": 2.0, "accuracy": 0.2}]])
def test_learning_curves_of_little(rows, tmp_path):
    figures.learning_curves(rows, tmp_path / "l.png")
    assert cv2.imread(str(tmp_path / "l.png")) is not None


def test_learning_curves(tmp_path):
    rows = [
        {"split": s, "epoch": e, "loss": 2 / (e + 1), "accuracy": None if e == 3 else 0.1 * e}
        for s in ("train", "validation")
        for e in range(6)
    ]
    figures.learning_curves(rows, tmp_path / "l.png")
    assert cv2.imread(str(tmp_path / "l.png")).shape[1] > 800
