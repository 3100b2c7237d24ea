"""Who is who over time, and each person's answers smoothed."""

import numpy as np
import pytest

from fer_jax.tracking import MEMORY, Tracker, intersection_over_union


def test_overlap_of_boxes():
    boxes = np.array([(0, 0, 10, 10), (5, 0, 10, 10), (50, 50, 4, 2), (2, 2, 5, 4)], float)
    overlaps = intersection_over_union(boxes, boxes)
    np.testing.assert_allclose(np.diag(overlaps), 1)
    np.testing.assert_allclose(overlaps[0], [1, 1 / 3, 0, 0.2])
    np.testing.assert_allclose(overlaps, overlaps.T)


def test_a_face_keeps_its_number_and_a_number_is_never_used_again():
    tracker, nothing = Tracker(), np.zeros((2, 1), np.float32)
    assert tracker.update([(0, 0, 50, 50), (200, 0, 50, 50)], nothing, 0.0)[0] == [1, 2]
    assert tracker.update([(190, 5, 52, 50), (8, 3, 50, 48)], nothing, 0.1)[0] == [2, 1]  # the order is the detector's
    assert tracker.update([], nothing[:0], 0.2)[0] == []
    assert tracker.update([(12, 3, 50, 50)], nothing[:1], 0.1 + MEMORY)[0] == [1]  # not seen for a while
    assert tracker.update([(200, 0, 50, 50)], nothing[:1], 0.3 + MEMORY)[0] == [3]  # its place, too late
    tracker.forget()
    assert tracker.update([(200, 0, 50, 50)], nothing[:1], 0.4 + MEMORY)[0] == [4]


def test_the_best_of_all_matches_is_taken_not_the_first():
    tracker = Tracker()
    tracker.update([(0, 0, 100, 100), (40, 0, 100, 100)], np.zeros((2, 1)), 0.0)
    # Both overlap the second most; only one can be it.
    assert tracker.update([(35, 0, 100, 100), (55, 0, 100, 100)], np.zeros((2, 1)), 0.1)[0] == [1, 2]


@pytest.mark.parametrize("rate", [5, 50])
def test_smoothing_is_by_the_clock_and_by_person(rate):
    tracker = Tracker(smoothing=0.4)
    boxes = [(0, 0, 50, 50), (200, 0, 50, 50)]
    tracker.update(boxes, np.array([[0.0], [5.0]]), 0.0)
    for i in range(1, 2 * rate + 1):
        _, smoothed = tracker.update(boxes, np.array([[1.0], [5.0]]), i / rate)
        # The step response of a first-order low pass, whatever the frame rate; the neighbour is not in it.
        np.testing.assert_allclose(smoothed, [[1 - np.exp(-i / rate / 0.4)], [5.0]], rtol=1e-5)


def test_no_smoothing():
    tracker = Tracker(smoothing=0)
    for time_, value in ((0.0, 0.2), (0.04, 0.9)):
        np.testing.assert_allclose(tracker.update([(0, 0, 9, 9)], np.array([[value]]), time_)[1], [[value]], rtol=1e-6)
