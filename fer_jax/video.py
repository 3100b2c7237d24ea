"""Where frames come from - a camera, a stream, a video, a folder of pictures, a photo - and reading them ahead.

Imports no JAX.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

import cv2
import numpy as np

from fer_jax.errors import UserError
from fer_jax.files import IMAGES, entries, is_image, of_other_kinds, opencv_address, read_image, user_path

log = logging.getLogger(__name__)

T = TypeVar("T")
USUAL_FPS = 25.0  # of what does not say its own
# What a file may say of itself: of a browser's recordings, which say nothing, OpenCV makes 1000.
MOST_FPS = 240.0
LOOKED_AT = 60  # frames, to find the rate of such a file
JUMP = 3600.0  # seconds between two frames of a file, above which its clock was set anew; in a time-lapse are minutes
SILENCE = 10_000  # milliseconds after which a stream that says nothing is given up; OpenCV waits for 30 s
CLOSING = 5.0  # seconds that a thread gets to end; one that waits for a dead network may take longer


class Frame(NamedTuple):
    """One picture of a source."""

    number: int  # in the source, from 0; frames that were dropped leave gaps
    time: float  # seconds since the first frame
    image: np.ndarray  # uint8 [H, W, 3], RGB
    name: str = ""  # of its file, where each frame has one


class Video:
    """A video file (every frame; times as in the file), a camera or a stream (live; times by the clock).

    A file may lie at a URL: what says how many frames it has is no stream.
    """

    stills = False

    def __init__(self, address: int | str, name: str):
        """Args:
          address: the number of a camera, the URL of a stream or the path of a file.
          name: what it is called in messages.

        Raises:
          UserError: it cannot be opened.
        """
        self.name = name
        camera = isinstance(address, int)
        elsewhere = not camera and "://" in address
        if not camera and not elsewhere:
            address = opencv_address(Path(address))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, SILENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, SILENCE]
        self._capture = cv2.VideoCapture(address, cv2.CAP_ANY, limits) if elsewhere else cv2.VideoCapture(address)
        if not self._capture.isOpened():
            reason = (
                "is it there, and used by no other program?"
                if camera or elsewhere
                else "no video, cut short before its index was written, or of an unknown codec"
            )
            raise UserError(f"{name} cannot be opened: {reason}")
        stated, count = (self._capture.get(each) for each in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.live = camera or (elsewhere and not count > 0)
        if not 0 < stated <= MOST_FPS:
            stated = None
        # Of Matroska both numbers are a guess of OpenCV's, bad where the rate varies.
        measured = None if camera or elsewhere else _measured_fps(address)
        doubted = measured is not None and (stated is None or abs(measured - stated) > 0.1 * stated)
        # A rate that is too high repeats pictures where they are written, one too low would lose some.
        self.fps = max(filter(None, (stated, measured if doubted else None)), default=USUAL_FPS)
        self._expected = 0 if self.live or doubted else int(count)

    def __iter__(self) -> Iterator[Frame]:
        """The frames.

        Raises:
          UserError: not one can be read, or a live source ended.
        """
        number, now, first = 0, 0.0, 0.0
        try:
            while True:
                good, image = self._capture.read()
                if not good or image is None:
                    break
                clock = time.monotonic() if self.live else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if number == 0:
                    first = clock
                elif not self.live and clock - first - now > JUMP:
                    jump = clock - first - now
                    log.warning("%s: its times jump by %.0f s at frame %d, and are taken back", self.name, jump, number)
                    first = clock - now - 1 / self.fps
                if number:  # not every container has times
                    now = clock - first if clock - first > now else now + 1 / self.fps
                yield Frame(number, now, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                number += 1
        except cv2.error as error:
            log.warning("%s: %s", self.name, error)
        finally:
            self._capture.release()
        if number == 0:
            raise UserError(f"{self.name} opens, but no frame can be read from it")
        if self.live:
            raise UserError(f"{self.name} gave no more frames after {number:,}: unplugged, or the stream ended")
        # How many frames there are may be a guess by the length, too many where there are pauses.
        if number < self._expected and now + 2 / self.fps < self._expected / self.fps:
            log.warning("%s: %d of its %d frames could be read; it is damaged", self.name, number, self._expected)


def _measured_fps(path: str) -> float | None:
    """The frame rate of a video file by the times of its first frames; None where they have none."""
    capture, times = cv2.VideoCapture(path), []
    while len(times) < LOOKED_AT and capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    seconds = times[-1] - times[0] if times else 0.0
    return min((len(times) - 1) / seconds, MOST_FPS) if seconds > 0 else None


class Pictures:
    """Image files, each of its own: they show nobody that another one showed."""

    live, stills, fps = False, True, 0.0

    def __init__(self, paths: list[Path], name: str):
        self.paths, self.name = paths, name

    def __iter__(self) -> Iterator[Frame]:
        """The pictures; one that cannot be read is reported and left out.

        Raises:
          UserError: not one can be read.
        """
        unreadable = 0
        for number, path in enumerate(self.paths):
            image = read_image(path)
            if image is None:
                unreadable += 1
                log.warning("%s: not an image, or damaged; left out", path)
            else:
                yield Frame(number, 0.0, image, path.name)
        if unreadable == len(self.paths):
            raise UserError(f"{self.name}: {unreadable} image files, none of them readable")


Source = Video | Pictures


def open_source(text: str) -> Source:
    """The source of that name: a camera's number, a URL, a video, an image, or a folder of images (in name order).

    Raises:
      UserError: there is no such thing, or it cannot be opened.
    """
    if text.isdecimal():
        return Video(int(text), f"camera {text}")
    if text.startswith("file://"):
        text = unquote(text.removeprefix("file://").removeprefix("localhost"))
    path = user_path(text)
    if "://" in text:
        return Video(text, text)
    if path.is_dir():
        found = [file for file in entries(path) if not file.is_dir()]
        images = [file for file in found if is_image(file)]
        if not images:
            raise UserError(f"{path} has no images in it ({', '.join(IMAGES)})")
        if others := of_other_kinds(set(found).difference(images)):
            log.warning("%s: left out, by their names no images: %s", path, others)
        return Pictures(images, text)
    if not path.is_file():
        raise UserError(f"{text} is not there: give a camera's number, a URL, a video, an image or a folder of images")
    return Pictures([path], text) if is_image(path) else Video(str(path), text)


class Ahead(Iterator[T]):
    """Iterates over `items` in a thread of its own, a few ahead of whoever takes them.

    What the thread raises is raised where the items are taken, after those before it. With `newest` nobody is waited
    for: an item that is not taken before the next ones are there gives way to them, and counts as dropped.
    """

    def __init__(self, items: Iterable[T], *, depth: int, newest: bool = False):
        self.dropped = 0
        self._items, self._depth, self._newest = items, depth, newest
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        items = iter(self._items)
        try:
            for item in items:
                if not self._put(item):
                    break
            if isinstance(items, Generator):
                items.close()  # releases what it reads from
        except BaseException as error:  # handed over to the thread that takes the items
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        """Waits for room, or makes it; False once nobody takes any more."""
        with self._changed:
            if self._newest and len(self._ready) == self._depth:
                self._ready.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            if not self._closed:
                self._ready.append(item)
                self._changed.notify_all()
            return not self._closed

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._finished or self._closed)
            if self._ready and not self._closed:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
        if self._error is not None and not self._closed:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """Ends the thread, and whoever waits for an item."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING)
