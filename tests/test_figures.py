"""Figures: they are drawn for ordinary and for odd input, without a display."""

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from fer_jax import figures


@pytest.mark.parametrize(
    "confusion", [np.eye(3, dtype=int) * 5, np.zeros((3, 3), int), [[0, 0, 0], [1, 2, 3], [0, 9, 1]]]
)
def test_confusion_matrix(confusion, tmp_path):
    figures.confusion_matrix(confusion, ("happy", "sad", "neutral"), tmp_path / "c.png")
    image = cv2.imread(str(tmp_path / "c.png"))
    assert min(image.shape[:2]) > 200
    assert image.std() > 5


def test_a_row_of_the_confusion_matrix_is_of_what_is_shown_and_a_column_of_what_is_answered(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    counts = np.array([[5, 1, 0], [2, 7, 3], [0, 4, 6]])
    figures.confusion_matrix(counts, ("happy", "sad", "neutral"), tmp_path / "c.png")
    axes = drawn[0].axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    for row, column in np.ndindex(3, 3):
        assert str(counts[row, column]) in texts[column, row]  # matplotlib's x is the column
    assert [label.get_text() for label in axes.get_xticklabels()] == ["happy", "sad", "neutral"]


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
