"""Finding the faces of successive images for less: the whole image now and then, the places of known faces always.

Imports no JAX.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fer_jax.data.detect import Box, Detector, Face
from fer_jax.errors import UserError
from fer_jax.tracking import match

EVERY = 5  # images; at 25 a second a new face is found within a fifth of one
MARGIN = 1 / 3  # of a face's sides, searched all around it
SIZES = 0.8, 1.25  # of a face's sides, searched for: the least and the most
# Pixels of a whole image that Haar searches in the time that it takes for one known face (a seventh of 640x480).
PIXELS_OF_A_FACE = 45_000


class _Known(NamedTuple):
    """A face that was found before."""

    box: Box  # where it was found last
    missing: int = 0  # in how many images since


class _Place(NamedTuple):
    """A part of the image, and the sides of the faces to search for in it; all in pixels."""

    left: int
    top: int
    right: int
    bottom: int
    smallest: float
    largest: float


class Follower:
    """Finds the faces of successive images by a detector.

    The whole of an image is searched where no face is known, where one that the image before showed isn't found again
    (it left, or all changed), and in any case of every n-th one, for those who enter. The others are searched around
    known faces only, for faces of about their size. Faces that were missed are looked for at their old places too, n
    images long. Where so many faces are known that to search around each takes longer than the whole image, the whole
    image is searched.

    What is found depends on the images alone, never on the clock.
    """

    def __init__(self, detector: Detector, *, every: int = EVERY):
        """Args:
        detector: one that takes `sizes`, as `make_detector` gives.
        every: the n above; 1: the whole of every image is searched, and the detector is all there is.

        Raises:
          UserError: every < 1.
        """
        if every < 1:
            raise UserError(f"every {every}-th image cannot be searched: --detect_every must be at least 1")
        self._detector, self._every = detector, every
        self.forget()

    def forget(self) -> None:
        """The next image shows something else."""
        self._known: list[_Known] = []
        self._partly = 0  # images since the last one that was searched whole
        self._shape: tuple[int, ...] = ()

    def __call__(self, image: np.ndarray) -> list[Face]:
        """The faces of an image uint8 [H, W, 3], RGB."""
        if self._every == 1:
            return self._detector(image)
        if image.shape != self._shape:  # a stream may change its size
            self.forget()
            self._shape = image.shape
        faces = self._around_known(image)
        if faces is None:
            faces, self._partly = self._detector(image), 0
        else:
            self._partly += 1
        self._remember(faces)
        return faces

    def _around_known(self, image: np.ndarray) -> list[Face] | None:
        """The faces near those known; None where the whole image must be searched."""
        height, width = image.shape[:2]
        crowd = len(self._known) * PIXELS_OF_A_FACE > height * width
        if not self._known or crowd or self._partly >= self._every - 1:
            return None
        faces = []
        for place in places([known.box for known in self._known], width, height):
            part = image[place.top : place.bottom, place.left : place.right]
            found = self._detector(part, sizes=(place.smallest, place.largest))
            faces += [face.moved(place.left, place.top) for face in found]
        found_again = {i for i, _ in self._matches(faces)}
        lost = any(not known.missing and i not in found_again for i, known in enumerate(self._known))
        return None if lost else faces

    def _remember(self, faces: Sequence[Face]) -> None:
        found_again = {i for i, _ in self._matches(faces)}
        missed = [known for i, known in enumerate(self._known) if i not in found_again]
        missed = [_Known(known.box, known.missing + 1) for known in missed if known.missing + 1 < self._every]
        self._known = [_Known(face.box) for face in faces] + missed

    def _matches(self, faces: Sequence[Face]) -> list[tuple[int, int]]:
        return match([known.box for known in self._known], [face.box for face in faces])


def places(boxes: Sequence[Box], width: int, height: int) -> list[_Place]:
    """Where to search for the faces of these boxes in an image: parts of it that don't overlap.

    So no face is found twice.
    """
    found: list[_Place] = []
    for x, y, box_width, box_height in boxes:
        across, down = MARGIN * box_width, MARGIN * box_height
        place = _Place(
            max(0, int(x - across)),
            max(0, int(y - down)),
            min(width, int(x + box_width + across) + 1),
            min(height, int(y + box_height + down) + 1),
            SIZES[0] * min(box_width, box_height),
            SIZES[1] * max(box_width, box_height),
        )
        while common := [other for other in found if _overlap(place, other)]:
            found = [other for other in found if other not in common]
            together = list(zip(place, *common, strict=True))
            place = _Place(*map(min, together[:2]), *map(max, together[2:4]), min(together[4]), max(together[5]))
        if place.left < place.right and place.top < place.bottom:
            found.append(place)
    return found


def _overlap(one: _Place, other: _Place) -> bool:
    across = one.left < other.right and other.left < one.right
    return across and one.top < other.bottom and other.top < one.bottom
