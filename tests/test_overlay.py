"""Drawing on frames: what is where, and that it fits."""

import numpy as np
import pytest

from fer_jax import overlay
from fer_jax.data.emotions import BASIC7


def test_drawing_leaves_the_frame_alone_and_fits_any_box():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    before, strengths = image.copy(), np.linspace(0, 1, 7)
    boxes = [(-30, -20, 90, 90), (150, 110, 60, 60), (80, 50, 4, 4), (0, 0, 160, 120), (200, 300, 20, 20)]
    for box in boxes:
        drawn = overlay.draw(image, [overlay.Label(box, strengths, 6)], BASIC7, "12 fps")
        assert drawn.shape == image.shape
        assert drawn.dtype == np.uint8
        assert (drawn != image).any()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(overlay.draw(image, [], BASIC7), image)


def test_the_tag_is_on_the_upper_left_corner_and_a_bar_as_long_as_its_emotion_is_strong():
    image, box = np.zeros((480, 640, 3), np.uint8), (200, 150, 160, 160)
    strengths = np.array([0.0, 0.0, 0.5, 0.9, 1.0, 0.0, 0.0])
    drawn = overlay.draw(image, [overlay.Label(box, strengths, BASIC7.index("happy"))], BASIC7)

    def pixels(emotion):
        return (drawn == overlay.COLOURS[emotion]).all(-1)

    tag = pixels("happy")[:148]  # above the box
    rows, columns = np.nonzero(tag)
    assert rows.max() > 140
    assert 190 < columns.min() <= 200
    assert pixels("angry").sum() == 0
    half, whole = pixels("fear").sum(), pixels("sad").sum()
    assert half == pytest.approx(whole / 2, rel=0.1)
    # A face as wide as the picture: the bars are below it, or above.
    for top in (60, 300):
        drawn = overlay.draw(
            np.zeros((500, 150, 3), np.uint8), [overlay.Label((5, top, 140, 140), strengths, 3)], BASIC7
        )
        assert not drawn[top + 6 : top + 134, 11:139].any()
        assert (drawn == overlay.COLOURS["sad"]).all(-1).any()
    # Two faces side by side: the bars cover neither.
    labels = [overlay.Label(box, strengths, 3), overlay.Label((361, 150, 160, 160), strengths, 3)]
    drawn = overlay.draw(image, labels, BASIC7)
    inside = np.concatenate([drawn[160:300, 206:354], drawn[160:300, 367:515]], 1)
    assert not inside.any()
