"""Following faces from frame to frame: which box is whose, and each person's answers smoothed over time.

Times are in seconds, and what fades does so in seconds: the frame rate makes no difference. Imports no JAX.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

Box = tuple[float, float, float, float]  # x, y, width, height in pixels

OVERLAP = 0.2  # the least intersection over union of one face in successive frames
MEMORY = 1.0  # seconds without a detection after which a face is forgotten


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
        self._tracks = [track for track in self._tracks if time - track.time <= MEMORY]
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

    The sum of their intersections over unions is the greatest possible (Kuhn's Hungarian method); boxes that overlap
    by less than OVERLAP are of different faces.
    """
    if not first or not second:
        return []
    overlaps = intersection_over_union(np.array(first), np.array(second))
    pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    return [(int(i), int(j)) for i, j in pairs if overlaps[i, j] >= OVERLAP]


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of every box in float [n, 4] with every one in float [m, 4] (x, y, width, height): float [n, m] in 0..1."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    sides = np.maximum(opposite - corner, 0)
    common = sides[..., 0] * sides[..., 1]
    union = (first[:, 2] * first[:, 3])[:, None] + (second[:, 2] * second[:, 3])[None] - common
    return common / np.maximum(union, 1e-9)
