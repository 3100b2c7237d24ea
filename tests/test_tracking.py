"""Who is who over time, and each person's answers smoothed."""

import itertools

import numpy as np
import pytest

from fer_jax.tracking import MEMORY, OVERLAP, PAUSE, Tracker, intersection_over_union, match


def test_overlap_of_boxes():
    boxes = [(0, 0, 10, 10), (5, 0, 10, 10), (50, 50, 4, 2), (2, 2, 5, 4), (10, 0, 5, 5), (0, 0, 0, 0)]
    overlaps = np.array([[intersection_over_union(box, other) for other in boxes] for box in boxes])
    np.testing.assert_allclose(np.diag(overlaps), [1, 1, 1, 1, 1, 0])  # the last one is no box
    np.testing.assert_allclose(overlaps[0], [1, 1 / 3, 0, 0.2, 0, 0])
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


def test_who_was_in_the_last_frame_is_known_however_long_ago_it_was():
    """As of a time-lapse, or of a camera with a frame every two seconds."""
    tracker, nothing = Tracker(), np.zeros((1, 1), np.float32)
    assert [tracker.update([(0, 0, 50, 50)], nothing, 3 * MEMORY * i)[0] for i in range(4)] == [[1]] * 4
    assert tracker.update([(0, 0, 50, 50)], nothing, 9 * MEMORY + PAUSE + 1)[0] == [2]  # a camera that stood still
    tracker = Tracker()
    tracker.update([(0, 0, 50, 50)], nothing, 9 * MEMORY)
    tracker.update([], nothing[:0], 12 * MEMORY)
    assert tracker.update([(0, 0, 50, 50)], nothing, 15 * MEMORY)[0] == [2]


def test_the_best_of_all_matches_is_taken_not_the_first():
    tracker = Tracker()
    tracker.update([(0, 0, 100, 100), (40, 0, 100, 100)], np.zeros((2, 1)), 0.0)
    # Both overlap the second most; only one can be it.
    assert tracker.update([(35, 0, 100, 100), (55, 0, 100, 100)], np.zeros((2, 1)), 0.1)[0] == [1, 2]


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_matches_are_the_best_of_all_that_overlap_enough(count):
    random = np.random.default_rng(count)
    for _ in range(20):
        first, second = (
            [tuple(box) for box in np.concatenate([random.uniform(0, 60, (n, 2)), random.uniform(20, 50, (n, 2))], 1)]
            for n in (count, max(1, count - 1))
        )
        overlaps = np.array([[intersection_over_union(box, other) for other in second] for box in first])
        overlaps[overlaps < OVERLAP] = 0
        orders = itertools.permutations(range(len(first)), len(second))
        best = max(sum(overlaps[i, j] for j, i in enumerate(order)) for order in orders)
        pairs = match(first, second)
        assert all(len({pair[side] for pair in pairs}) == len(pairs) for side in (0, 1))
        assert all(overlaps[pair] for pair in pairs)
        assert sum(overlaps[pair] for pair in pairs) == pytest.approx(best)


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
