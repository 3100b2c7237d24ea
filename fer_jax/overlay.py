"""Drawing what was recognised onto a frame: each face's box, its emotion and intensity, bars for the others; fps.

Pure: `draw` returns a new picture. Everything scales with the face and the frame. Imports no JAX.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer_jax.data.detect import Box

# Colours RGB, apart from each other in hue and of like lightness, so that dark text is legible on all of them.
COLOURS = {
    "angry": (255, 107, 94),
    "disgust": (160, 205, 90),
    "fear": (190, 150, 255),
    "happy": (255, 205, 70),
    "sad": (105, 170, 255),
    "surprise": (255, 155, 60),
    "neutral": (205, 210, 218),
    "contempt": (95, 210, 200),
}
DARK, TRACK, LIGHT = (18, 20, 24), (72, 76, 84), (240, 242, 245)
SHADE = 0.55  # how dark the ground of the bars is: 0 not at all, 1 black
ROOM_FOR_BARS = 1.3  # a face this many times as high as its bars gets them; a smaller one is labelled only


class Label(NamedTuple):
    """What is drawn for one face."""

    box: Box
    strengths: np.ndarray  # float [C] in 0..1, of each emotion
    strongest: int  # the emotion to name


def draw(image: np.ndarray, labels: Sequence[Label], emotions: Sequence[str], note: str = "") -> np.ndarray:
    """The picture with its faces labelled: uint8 [H, W, 3], RGB, as `image`, which stays as it is.

    Args:
      emotions: canonical names, in the order of the strengths.
      note: a line for the lower left corner of the frame.
    """
    picture = image.copy()
    # Far faces first, so that the label of a near one is on top.
    for label in sorted(labels, key=lambda label: label.box[2] * label.box[3]):
        _draw_face(picture, label, emotions, [other.box for other in labels if other is not label])
    if note:
        size = _between(11, 0.026 * image.shape[0], 40)
        text = _text(note, size, bold=False)
        height, width = text.shape
        left, top, pad = size // 2, image.shape[0] - height - size, size // 2
        _shade(picture, left, top - pad // 2, width + 2 * pad, height + pad)
        _write(picture, text, left + pad, top, LIGHT)
    return picture


def _draw_face(picture: np.ndarray, label: Label, emotions: Sequence[str], neighbours: Sequence[Box]) -> None:
    frame_height, frame_width = picture.shape[:2]
    x, y, width, height = (round(value) for value in label.box)
    colour = COLOURS[emotions[label.strongest]]
    stroke = max(1, round(frame_height / 400))
    cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), DARK, stroke + 2, cv2.LINE_AA)
    cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), colour, stroke, cv2.LINE_AA)

    size = _between(11, 0.1 * width, 0.045 * frame_height)
    pad = max(2, size // 3)
    name = _text(f"{emotions[label.strongest]} {label.strengths[label.strongest]:.0%}", size, bold=True)
    tag_width, tag_height = name.shape[1] + 2 * pad, name.shape[0] + pad
    # The tag sits on the upper left corner; inside the box where the frame has no room above it.
    left = _between(0, x - stroke, frame_width - tag_width)
    top = y - tag_height if y >= tag_height else max(y, 0)
    _fill(picture, left, top, tag_width, tag_height, colour)
    _write(picture, name, left + pad, top + pad // 2, DARK)

    others = [i for i in range(len(emotions)) if i != label.strongest]
    small = _between(9, 0.66 * size, 0.026 * frame_height)
    row = round(1.35 * small)
    if height < ROOM_FOR_BARS * row * len(others):
        return
    names = [_text(emotions[i], small, bold=False) for i in others]
    length, name_width = 3 * small, max(text.shape[1] for text in names)
    panel_width, panel_height = name_width + length + 3 * pad, row * len(others) + pad
    inside = max(x, 0), max(top + tag_height, y)  # in the upper left corner of the face, where nothing else is free
    around = [
        (x + width + stroke, max(y, 0)),
        (x - stroke - panel_width, max(y, 0)),
        (max(x, 0), y + height + stroke),
        (max(x, 0), top - panel_height),
    ]
    places = [place for place in around if _free(*place, panel_width, panel_height, neighbours, picture)]
    left, top = (places or [inside])[0]
    _shade(picture, left, top, panel_width, panel_height)
    for number, (i, text) in enumerate(zip(others, names, strict=True)):
        middle = top + pad // 2 + number * row
        _write(picture, text, left + pad, middle + (row - text.shape[0]) // 2, LIGHT)
        bar_left, bar_top, thick = left + name_width + 2 * pad, middle + row // 3, max(2, row // 3)
        _fill(picture, bar_left, bar_top, length, thick, TRACK)
        _fill(picture, bar_left, bar_top, round(length * float(label.strengths[i])), thick, COLOURS[emotions[i]])


def _free(left: int, top: int, width: int, height: int, boxes: Sequence[Box], picture: np.ndarray) -> bool:
    """Whether the rectangle lies within the picture and covers none of the boxes."""
    covered = any(
        left < x + box_width and x < left + width and top < y + box_height and y < top + height
        for x, y, box_width, box_height in boxes
    )
    frame_height, frame_width = picture.shape[:2]
    return left >= 0 and left + width <= frame_width and top >= 0 and top + height <= frame_height and not covered


def _between(least: float, value: float, most: float) -> int:
    """The value within the bounds, of which the least is the stronger, as a whole number."""
    return round(max(least, min(value, most)))


def _region(picture: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A view of the part of the rectangle that lies in the picture."""
    return picture[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]


def _fill(picture: np.ndarray, left: int, top: int, width: int, height: int, colour: tuple) -> None:
    _region(picture, left, top, width, height)[:] = colour


def _shade(picture: np.ndarray, left: int, top: int, width: int, height: int) -> None:
    region = _region(picture, left, top, width, height)
    if region.size:
        region[:] = cv2.convertScaleAbs(region, alpha=1 - SHADE)


def _write(picture: np.ndarray, text: np.ndarray, left: int, top: int, colour: tuple) -> None:
    """Blends a text's coverage into the picture."""
    height, width = text.shape
    region = _region(picture, left, top, width, height)
    start = max(-top, 0), max(-left, 0)
    part = text[start[0] : start[0] + region.shape[0], start[1] : start[1] + region.shape[1], None]
    region[:] = region + part / np.float32(255) * (np.array(colour, np.float32) - region)


@functools.lru_cache(maxsize=512)  # some MB at most; a percentage seldom comes back at the same size
def _text(text: str, size: int, *, bold: bool) -> np.ndarray:
    """How far each pixel is covered by the text: uint8 [height, width], 255: wholly; its height is that of any text."""
    font = _font(size, bold=bold)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(1, round(font.getlength(text)) + 1), ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image)


@functools.cache
def _font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / name, size)
