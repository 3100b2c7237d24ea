"""Following faces from frame to frame: which box is whose, and each person's answers smoothed over time.

Times are in seconds, and what fades does so in seconds: the frame rate makes no difference. Imports no JAX.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_jax.data.detect import Box

OVERLAP = 0.2  # the least intersection over union of one face in successive frames
MEMORY = 1.0  # seconds after which a face that was not found again is forgotten, if there was a frame in between
PAUSE = 10.0  # seconds between two frames after which nobody is known any more


@dataclasses.dataclass
class _Track:
    """What is known of a face since it was last seen."""

    id: int
    box: Box
    time: float
    answer: np.ndarray  # smoothed


class Tracker:
    """Numbers the faces of successive frames, and smooths what is measured on each.

    Boxes are matched with those last seen (`match`); what matches none is somebody else, and gets a number that was
    never used.
    """

    def __init__(self, *, smoothing: float = 0.5):
        """Args:
        smoothing: time constant in seconds of the exponential average; 0: none.
        """
        self._smoothing = smoothing
        self._numbers = itertools.count(1)
        self._tracks: list[_Track] = []
        self._before = 0.0  # the time of the last frame

    def forget(self) -> None:
        """The next frame shows something else: nobody in it was seen before."""
        self._tracks = []

    def update(self, boxes: Sequence[Box], answers: np.ndarray, time: float) -> tuple[list[int], np.ndarray]:
        """The faces of one frame: (their numbers, their smoothed answers float32 [n, K]).

        Args:
          boxes: of the n faces.
          answers: float32 [n, K], what is measured on each.
          time: in seconds, not before that of the last frame.
        """
        # Who was in the last frame may be in this one, though it was seconds ago, as of a time-lapse.
        memory = max(MEMORY, min(time - self._before, PAUSE))
        self._tracks, self._before = [track for track in self._tracks if time - track.time <= memory], time
        known = dict(match(boxes, [track.box for track in self._tracks]))
        tracks = []
        for i, (box, answer) in enumerate(zip(boxes, answers, strict=True)):
            track = self._tracks[known[i]] if i in known else None
            if track is None:
                track = _Track(next(self._numbers), box, time, answer)
                self._tracks.append(track)
            else:
                track.answer = track.answer + self._weight(time - track.time) * (answer - track.answer)
                track.box, track.time = box, time
            tracks.append(track)
        smoothed = np.array([track.answer for track in tracks], np.float32).reshape(answers.shape)
        return [track.id for track in tracks], smoothed

    def _weight(self, elapsed: float) -> float:
        """Of the newest answer in the average, `elapsed` seconds after the last one."""
        return 1 - math.exp(-elapsed / self._smoothing) if self._smoothing > 0 else 1.0


def match(first: Sequence[Box], second: Sequence[Box]) -> list[tuple[int, int]]:
    """Which boxes are of the same face: pairs of places in the two lists, none of them twice.

    Boxes that overlap by less than OVERLAP are of different faces; of the others the sum of their intersections over
    unions is the greatest possible (Kuhn's Hungarian method).
    """
    # One by one, not as arrays: a frame has few faces, and after a detection, which leaves nothing in the caches, a
    # dozen calls of NumPy for two boxes take longer than a twentieth of the face's recognition.
    overlaps = {
        (i, j): overlap
        for i, box in enumerate(first)
        for j, other in enumerate(second)
        if (overlap := intersection_over_union(box, other)) >= OVERLAP
    }
    if all(len({pair[side] for pair in overlaps}) == len(overlaps) for side in (0, 1)):
        return list(overlaps)  # no box has a choice
    dense = np.zeros((len(first), len(second)))
    for pair, overlap in overlaps.items():
        dense[pair] = overlap
    pairs = zip(*linear_sum_assignment(dense, maximize=True), strict=True)
    return [pair for i, j in pairs if (pair := (int(i), int(j))) in overlaps]


def intersection_over_union(box: Box, other: Box) -> float:
    """What two boxes have in common, as a share of what they cover together: 0..1."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (box[2] * box[3] + other[2] * other[3] - common)
