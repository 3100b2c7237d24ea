"""What a visitor of the page uploads, refused by its header before anything is decoded. Imports no JAX and no Gradio.

`read_photo` and `open_clip` take a file on the server, and the name that the visitor gave it, for messages only.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fer_jax.errors import UserError
from fer_jax.files import read_image
from fer_jax.video import MOST_FPS, Frame, Video

MAX_BYTES = 100 * 2**20
MAX_PIXELS = 40_000_000  # of a photo
MAX_FRAME_PIXELS = 3840 * 2160
MAX_SECONDS, MAX_FRAMES = 60, 3600
LONGEST_PHOTO, LONGEST_FRAME = 1600, 960  # pixels, to which larger ones are shrunk
FRAMES_A_SECOND = 10  # of a clip that are looked at
PHOTOS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")

# OpenCV's FFmpeg would look into playlists, which name other files and addresses: only these containers reach it. (It
# opens no address of itself, as long as nobody sets OPENCV_FFMPEG_CAPTURE_OPTIONS.)
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # the first of an MP4 or MOV
_PICTURES = (b"ftypjp2 ", b"ftypjpx ", b"ftypjxl ")


def read_photo(path: Path, name: str) -> np.ndarray:
    """A photo as uint8 [H, W, 3], RGB, its longer side at most LONGEST_PHOTO.

    Raises:
      UserError: it is empty, no photo, damaged, or larger than MAX_PIXELS.
    """
    _require_content(path, name)
    too_large = UserError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels: make it smaller")
    try:
        with Image.open(path, formats=PHOTOS) as header:
            width, height = header.size
    except Image.DecompressionBombError:
        raise too_large from None
    except (OSError, SyntaxError, ValueError):  # what Pillow says of unknown and of broken headers
        raise UserError(f"{name} is no photo that can be read: give a {', '.join(PHOTOS)} file") from None
    if width * height > MAX_PIXELS:
        raise too_large
    image = read_image(path)
    if image is None:
        raise UserError(f"{name} is damaged: its header is that of a photo, but it cannot be decoded")
    return shrink(image, LONGEST_PHOTO)


@dataclasses.dataclass
class Clip:
    """A video that may be looked at; iterate over its frames once, about FRAMES_A_SECOND, shrunk to LONGEST_FRAME."""

    video: Video
    seconds: float | None  # None: the file does not say
    cut: bool = False  # whether frames beyond the limits were left out; known after the last

    @property
    def fps(self) -> float:
        """Of the frames given, on average."""
        return min(self.video.fps, FRAMES_A_SECOND)

    def __iter__(self) -> Iterator[Frame]:
        """The frames, shrunk.

        Raises:
          UserError: not one frame can be read.
        """
        frames, given = iter(self.video), 0
        try:
            for frame in frames:
                # The header was checked, but it may lie, or not say.
                self.cut = frame.time > MAX_SECONDS or frame.number >= MAX_FRAMES
                if self.cut:
                    break
                if frame.time * FRAMES_A_SECOND >= given - 0.25:  # by time: the rate may vary
                    given = max(given + 1, round(frame.time * FRAMES_A_SECOND))
                    yield frame._replace(image=shrink(frame.image, LONGEST_FRAME))
        finally:
            frames.close()  # releases the file


def open_clip(path: Path, name: str) -> Clip:
    """The video, once its header has been checked.

    Raises:
      UserError: it is empty, of another container than MP4, MOV, WebM, MKV and AVI, damaged, or above the limits.
    """
    _require_content(path, name)
    with path.open("rb") as file:
        head = file.read(12)
    avi = head[:4] == b"RIFF" and head[8:] == b"AVI "
    # A box of no size, or of a picture, leaves FFmpeg in doubt, which then tries what else it could be.
    iso = head[4:8] in _ISO_BOXES and not 2 <= int.from_bytes(head[:4]) < 8 and head[4:] not in _PICTURES
    if not (avi or iso or head[:4] == b"\x1aE\xdf\xa3"):
        raise UserError(f"{name} is no video that can be read: give MP4, MOV, WebM, MKV or AVI")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    properties = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)
    width, height, frames, fps = (capture.get(each) for each in properties)
    capture.release()
    if width * height > MAX_FRAME_PIXELS:
        raise UserError(f"{name} is {width:.0f} x {height:.0f} pixels large: at most 3840 x 2160, please")
    seconds = frames / fps if frames > 0 and fps > 0 else None
    told = fps <= MOST_FPS  # else the rate is a guess of OpenCV's, and the number of frames with it
    if seconds is not None and (seconds > MAX_SECONDS + 0.5 or (told and frames > MAX_FRAMES)):
        raise UserError(
            f"{name} takes {seconds:.0f} s in {frames:,.0f} frames: at most {MAX_SECONDS} s and {MAX_FRAMES:,} frames, "
            "please; cut it"
        )
    return Clip(Video(str(path), name), seconds)


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """The image uint8 [H, W, 3] with a longer side of at most `longest` pixels, contiguous."""
    scale = longest / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def _require_content(path: Path, name: str) -> None:
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{name} is empty")
    if size > MAX_BYTES:
        raise UserError(f"{name} has {size / 2**20:.0f} MB: at most {MAX_BYTES // 2**20} MB, please")
