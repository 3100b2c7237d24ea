"""What becomes of the frames: a video, drawn pictures, a window, and a table of the faces. Imports no JAX.

Each has `write(scene, picture)` for the frames in their order, and `close()`, which leaves a file that opens, whatever
ended the frames. `picture` is the frame as drawn, uint8 [H, W, 3], RGB.
"""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from fer_jax.data.detect import Box, Face
from fer_jax.data.emotions import expressed
from fer_jax.errors import UserError
from fer_jax.files import IMAGES, opencv_address, user_path, whole
from fer_jax.video import Frame, Pictures, Source

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
GREY_ONLY = ".pgm"  # what is drawn has colours
TABLES = (".csv", ".jsonl")


class TrackedFace(NamedTuple):
    """A face in a frame; the smoothed values are averages over the time that it has been seen."""

    id: int  # of the person, as long as the face is followed; never used again
    face: Face
    probabilities: np.ndarray  # float32 [C], of this frame alone
    intensities: np.ndarray  # float32 [E] in 0..1, of `expressed(emotions)`
    smoothed_probabilities: np.ndarray  # float32 [C]
    smoothed_intensities: np.ndarray  # float32 [E]

    @property
    def box(self) -> Box:
        return self.face.box


class Scene(NamedTuple):
    """A frame and who is in it."""

    frame: Frame
    faces: list[TrackedFace]


class Output(Protocol):
    """Takes the frames in turn."""

    draws: bool  # whether `write` needs the picture

    def write(self, scene: Scene, picture: np.ndarray | None) -> None: ...

    def close(self) -> None: ...


class VideoFile:
    """A video at the rate of its source that keeps time: a picture stays until the next one, whenever that comes."""

    draws = True

    def __init__(self, path: Path, *, fps: float):
        # OpenCV tells FFmpeg the rate in thousandths, of which MPEG-4 takes 65,535.
        self.path, self._fps = path, fps if fps < 65 else round(fps, 2)
        self._writer: cv2.VideoWriter | None = None  # opened by the first picture, which has the size
        self._frames = 0  # in the file
        self._last: np.ndarray | None = None  # the picture to be shown from frame number `_frames` on

    def write(self, scene, picture):
        if self._writer is None:
            self._size = picture.shape[1::-1]
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(opencv_address(self.path), codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise UserError(f"--output={self.path} cannot be written as video: is there room, and the right to?")
        if picture.shape[1::-1] != self._size:  # a stream may change its size, a file may not
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._show_last(round(scene.frame.time * self._fps))
        self._last = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)

    def _show_last(self, until: int) -> None:
        """Writes the last picture as the frames up to number `until`."""
        while self._last is not None and self._frames < until:
            self._writer.write(self._last)
            self._frames += 1

    def close(self):
        """Writes the last picture and closes the file.

        Raises:
          UserError: the file does not hold what was written, as when the disk is full.
        """
        if self._writer is None:
            return
        self._show_last(self._frames + 1)
        self._writer.release()
        written = cv2.VideoCapture(opencv_address(self.path))
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
        written.release()
        if count < self._frames:
            raise UserError(f"--output={self.path} holds {count} of {self._frames} frames: is the disk full?")


class PictureFiles:
    """Drawn pictures under their own names in a folder, or one of them as a file; a.pgm has no colours: a.pgm.png."""

    draws = True

    def __init__(self, path: Path, *, single: bool):
        self._path, self._single = path, single
        if not single:
            path.mkdir(parents=True, exist_ok=True)

    def of(self, name: str) -> Path:
        """Where the picture of that name is written."""
        if self._single:
            return self._path
        return self._path / (name + ".png" if name.lower().endswith(GREY_ONLY) else name)

    def write(self, scene, picture):
        path = self.of(scene.frame.name)
        good, data = cv2.imencode(path.suffix, picture[..., ::-1])
        if not good:
            raise UserError(f"{path} cannot be written as a picture: OpenCV knows no {path.suffix}")
        with whole(path) as temporary:
            temporary.write_bytes(data.tobytes())

    def close(self):
        pass


class Table:
    """A row for each face of each frame, as CSV or JSONL; complete up to the last frame at any time.

    A table that is there stays until the first frame has come.
    """

    draws = False

    def __init__(self, path: Path, emotions: Sequence[str]):
        probabilities, intensities = tuple(emotions), expressed(emotions)
        self.columns = ("frame", "time", "file", "face", "x", "y", "width", "height", "emotion")
        for what, names in (("probability", probabilities), ("intensity", intensities)):
            self.columns += tuple(f"{what}_{name}" for name in names)
            self.columns += tuple(f"smoothed_{what}_{name}" for name in names)
        self._emotions = probabilities
        self._file = path.open("a", newline="", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._csv = csv.writer(self._file) if path.suffix.lower() == ".csv" else None
        self._begun = False

    def _begin(self) -> None:
        if self._file.seekable():  # a pipe is not
            self._file.truncate(0)
        if self._csv:
            self._csv.writerow(self.columns)
        self._begun = True

    def write(self, scene, picture):
        if not self._begun:
            self._begin()
        frame = scene.frame
        for face in scene.faces:
            emotion = self._emotions[int(face.smoothed_probabilities.argmax())]
            measured = np.concatenate(
                [
                    face.probabilities,
                    face.smoothed_probabilities,
                    face.intensities,
                    face.smoothed_intensities,
                ]
            )
            row = [frame.number, round(frame.time, 4), frame.name, face.id]
            row += [round(float(value), 1) for value in face.box] + [emotion]
            row += [round(float(value), 6) for value in measured]
            if self._csv:
                self._csv.writerow(row)
            else:
                self._file.write(json.dumps(dict(zip(self.columns, row, strict=True))) + "\n")

    def close(self):
        self._file.close()


class Closed(Exception):
    """The window was closed: its person has seen enough."""


class Window:
    """A window on the screen; `q`, Escape or closing it raises `Closed`. A still stays until a key is pressed."""

    draws = True
    TITLE = "fer_jax"

    def __init__(self, *, stills: bool):
        """`stills`: a picture stays until a key is pressed.

        Raises:
          UserError: there is no display, or this OpenCV has no windows.
        """
        self._stills = stills
        if not has_display():
            raise UserError("there is no display for --show: use --output or --table")
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise UserError("this OpenCV shows no windows (opencv-python-headless): use --output or --table") from error

    def write(self, scene, picture):
        cv2.imshow(self.TITLE, picture[..., ::-1])
        while True:
            key = cv2.waitKey(50 if self._stills else 1)  # not without end: no signal is heeded meanwhile
            if key & 0xFF in (ord("q"), 27) or cv2.getWindowProperty(self.TITLE, cv2.WND_PROP_VISIBLE) < 1:
                raise Closed
            if key >= 0 or not self._stills:
                return

    def close(self):
        cv2.destroyAllWindows()


def has_display() -> bool:
    """Whether windows can be shown; Qt ends the whole process where they cannot."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_output(path: Path, source: Source) -> VideoFile | PictureFiles:
    """The output of that name for what the source gives: a video for frames, a folder or a file for pictures.

    Raises:
      UserError: it is of the wrong kind, or the source itself, or cannot be made.
    """
    suffix, original = path.suffix.lower(), user_path(source.name)
    if path.exists() and original.exists() and path.samefile(original):
        raise UserError(f"--output={path} is the source: it would be written over")
    try:
        if not isinstance(source, Pictures):
            if suffix not in CODECS:
                raise UserError(f"--output={path}: frames are written as video; name it *{', *'.join(CODECS)}")
            opencv_address(path)  # raises where it is none
            path.parent.mkdir(parents=True, exist_ok=True)
            return VideoFile(path, fps=source.fps)
        if suffix in CODECS:
            raise UserError(f"--output={path}: pictures are written to a folder, not as video")
        if suffix and suffix not in IMAGES and not path.is_dir():
            raise UserError(
                f"--output={path}: {suffix} is no kind of picture ({', '.join(IMAGES)}); a folder of that name has "
                f"to be there already"
            )
        single = suffix in IMAGES and not path.is_dir()
        if single and len(source.paths) > 1:
            raise UserError(f"--output={path}: {len(source.paths)} pictures need a folder")
        if single and suffix == GREY_ONLY:
            raise UserError(f"--output={path}: what is drawn has colours; name it *.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        files, originals = PictureFiles(path, single=single), {original.resolve() for original in source.paths}
        targets = Counter(files.of(original.name) for original in source.paths)
        for target, count in targets.items():
            if target.resolve() in originals:
                raise UserError(f"--output={path}: {target}, a picture of the source, would be written over")
            if count > 1:
                raise UserError(f"--output={path}: two pictures of the source would be written as {target.name}")
        return files
    except OSError as error:
        raise _unwritable("output", path, error) from error


def open_table(path: Path, emotions: Sequence[str]) -> Table:
    """The table at `path`, by its ending.

    Raises:
      UserError: it is neither CSV nor JSONL, or cannot be written.
    """
    if path.suffix.lower() not in TABLES:
        raise UserError(f"--table={path}: name it *{' or *'.join(TABLES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Table(path, emotions)
    except OSError as error:
        raise _unwritable("table", path, error) from error


def _unwritable(option: str, path: Path, error: OSError) -> UserError:
    return UserError(f"--{option}={path} cannot be written: {error.strerror or error}; choose another")
