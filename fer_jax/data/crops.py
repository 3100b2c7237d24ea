"""The aligned crop of a face, whose landmarks or eyes are known, from a photograph: geometry and resampling. No JAX.

Xu et al., section "Face Alignment": the face is turned about the centres of the eyes until they are level; in the
turned frame landmarks 1, 17 and 9 are its left, right and lower boundary, and the upper one lies where the distance
from it to the eyes is a third of the height; the crop is resized. `rotation` (level the eyes, keep the detector's
box) and `none` (the box alone) are what the paper compares it with.
"""

import cv2
import numpy as np

from fer_jax.data.detect import Face

METHODS = ("landmarks", "rotation", "none")
VERSION = 2  # of how faces are found and cut out: another one prepares aligned data sets anew
_LEFT, _BOTTOM, _RIGHT = 0, 8, 16  # landmarks 1, 9 and 17 of the paper
_LARGEST = 2**15 - 2  # pixels, the side of an image that cv2.warpAffine takes


class NoCrop(Exception):
    """Why a face has no aligned crop."""


def roll(face: Face) -> float:
    """The angle of the line between the eyes, degrees, clockwise in the image; nan where the eyes are not known."""
    if face.eyes is None:
        return float("nan")
    across, down = face.eyes[1] - face.eyes[0]
    return float(np.degrees(np.arctan2(down, across)))


def crop_transform(face: Face, *, size: int = 128, method: str = "landmarks") -> np.ndarray:
    """The affine map from the image to the aligned crop: float64 [2, 3], pixel centres at whole numbers.

    Args:
      face: with landmarks for `landmarks`, with eyes for `rotation`.
      size: side of the crop in pixels.
      method: one of METHODS.

    Raises:
      NoCrop: the face lacks them, or they span no rectangle; says which.
    """
    turn = np.eye(2)
    if method != "none":
        if face.eyes is None:
            raise NoCrop("the detector gives no eyes: install the extra align or use --method=none")
        angle = np.radians(roll(face))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x, y, width, height = face.box
    x, y = x - 0.5, y - 0.5  # its edges where pixel centres lie at whole numbers
    centre = np.array([x + width / 2, y + height / 2]) if face.eyes is None else face.eyes.mean(0)
    if method == "landmarks":
        if face.landmarks is None:
            raise NoCrop("the detector gives no landmarks: install the extra align or use another --method")
        turned = (face.landmarks - centre) @ turn.T
        left, right, bottom = turned[_LEFT, 0], turned[_RIGHT, 0], turned[_BOTTOM, 1]
        top = -bottom / 2  # the eyes are at 0: a third of the height above them, two thirds below
    else:
        # The box, about its centre in the turned frame.
        middle = turn @ (np.array([x + width / 2, y + height / 2]) - centre)
        (left, top), (right, bottom) = middle - (width / 2, height / 2), middle + (width / 2, height / 2)
    if right - left < 2 or bottom - top < 2:
        raise NoCrop("the landmarks span no rectangle: is the face in profile, or the file of another image?")
    scale = np.diag([size / (right - left), size / (bottom - top)])
    # The boundaries are the outer edges of the outer pixels, half a pixel from their centres.
    offset = -scale @ (turn @ centre + (left, top)) - 0.5
    return np.hstack([scale @ turn, offset[:, None]])


def warp(image: np.ndarray, transform: np.ndarray, *, size: int = 128) -> np.ndarray:
    """The crop uint8 [size, size, C] of an image uint8 [H, W, C]: one bilinear resampling, borders replicated.

    Where the crop is less than half as large as what it shows, whole blocks of pixels are averaged before, so that
    no detail turns into noise.
    """
    block = int(1 / max(np.hypot(*transform[:, 0]), np.hypot(*transform[:, 1]), 1e-6))
    if block >= 2:
        height, width = (max(side // block, 1) for side in image.shape[:2])
        image = cv2.resize(image[: height * block, : width * block], (width, height), interpolation=cv2.INTER_AREA)
        # Pixel i of the smaller image has its centre at block * i + (block - 1) / 2.
        transform = np.hstack([transform[:, :2] * block, transform @ [[(block - 1) / 2], [(block - 1) / 2], [1]]])
    if max(image.shape[:2]) > _LARGEST:
        image, transform = _around(image, transform, size)
    crop = cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return crop.reshape(size, size, -1)


def _around(image: np.ndarray, transform: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of an image that a crop shows, at least one row and column even outside, and the map from it."""
    corners = np.array([(x, y) for x in (-1, size) for y in (-1, size)])
    shown = np.linalg.solve(transform[:, :2], (corners - transform[:, 2]).T)
    most = np.array(image.shape[1::-1])
    low = np.clip(np.floor(shown.min(1)).astype(int) - 1, 0, most - 1)
    high = np.clip(np.ceil(shown.max(1)).astype(int) + 2, low + 1, most)
    moved = np.hstack([transform[:, :2], transform @ [[low[0]], [low[1]], [1]]])
    return image[low[1] : high[1], low[0] : high[0]], moved


def align(image: np.ndarray, face: Face, *, size: int = 128, method: str = "landmarks") -> np.ndarray:
    """The aligned crop uint8 [size, size, C] of one face in an image uint8 [H, W, C]; see `crop_transform`."""
    return warp(image, crop_transform(face, size=size, method=method), size=size)
