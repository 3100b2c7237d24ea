"""Live recognition: the faces of a camera, a stream, a video, a folder of pictures or a photo, named and followed.

    python -m fer_jax.live --source=0
    python -m fer_jax.live --source=video.mp4 --output=out.mp4 --table=out.csv

Frames are read, recognised and drawn at the same time, by three threads. All faces of a frame are one batch, padded to
sizes that were compiled before the first frame. Of most frames only the surroundings of the faces that the last one
showed are searched (`following`, --detect_every). A live source drops the frames that nobody has time for; of a file
each one is recognised. Without --output and --table a window shows them, where there is a display.

--align must be as in the network's training: box for FER2013, FER+ and AffectNet, which were cut out by such a
detector, and for photographs prepared with data.align=none; landmarks or rotation for those prepared with that
data.align, or aligned by fer_jax.data.align with that --method. Photographs that were not aligned show more than a
face: a network for live use is better trained on aligned ones.

In a program of your own `Analyzer` takes images and returns faces, and `picture` draws them.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import cv2
import jax
import numpy as np

from fer_jax import checkpoint, overlay, process, recognizer
from fer_jax.data import crops
from fer_jax.data.datasets import DATASETS
from fer_jax.data.datasets.base import square
from fer_jax.data.detect import DETECTORS, Detector, Face, ShapePredictor, make_detector
from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError, exits_with_message
from fer_jax.files import user_path
from fer_jax.following import EVERY, Follower
from fer_jax.recognizer import Recognizer
from fer_jax.recording import Closed, Output, Scene, TrackedFace, Window, has_display, open_output, open_table
from fer_jax.tracking import Tracker
from fer_jax.video import Ahead, Source, open_source

log = logging.getLogger(__name__)

ALIGNMENTS = ("box", "rotation", "landmarks")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)  # to which `Recognizer.predict` pads the faces of a frame
BATCH = BATCH_SIZES[-1]  # the faces of a larger crowd are several batches
SMALLEST_FACE = 40  # pixels: FER2013's faces have 48, and Haar's time goes into the small ones
FPS_SECONDS = 1.0  # time constant of the frame rate that is shown


class Analyzer:
    """Finds, recognises and follows the faces of successive images.

    analyzer = Analyzer(recognizer.load("mini_xception_fer2013"), make_detector("haar", landmarks=False))
    faces = analyzer.faces(image, time)
    """

    def __init__(
        self,
        network: Recognizer,
        detector: Detector,
        *,
        align: str = "box",
        smoothing: float = 0.5,
        detect_every: int = 1,
    ):
        """Args:
        align: how a face is cut out, as in the network's training data: `box`, the square around the detector's box
          (FER2013, FER+, AffectNet, and what was aligned by `none`); `rotation`, the eyes levelled before; `landmarks`,
          by 68 landmarks (Xu et al.). The last two need a detector that finds these.
        smoothing: time constant in seconds of the average over a person's answers; 0: none.
        detect_every: n, see `Follower`: of every n-th image the whole is searched, of the others what must be.
        """
        self.network = network
        self.unaligned = 0  # faces whose landmarks could not be used; they are left out
        self._find, self._align = Follower(detector, every=detect_every), align
        self._tracker = Tracker(smoothing=smoothing)
        # The side of the crops: that of the pictures it was trained on; the network resizes them to its input.
        trained_on = DATASETS.get(network.dataset)
        self.side = trained_on.IMAGE_SHAPE[0] if trained_on else network.input_shape[0]

    def faces(self, image: np.ndarray, time: float) -> list[TrackedFace]:
        """The faces of an image uint8 [H, W, 3], RGB, `time` seconds after the start.

        Raises:
          UserError: the network's outputs are not finite.
        """
        faces, cut_out = [], []
        for face in self._find(image):
            try:
                cut_out.append(crop(image, face, side=self.side, align=self._align))
                faces.append(face)
            except crops.NoCrop:  # landmarks that span no rectangle, as of a face in profile
                self.unaligned += 1
        answer = self.network.predict(cut_out, batch_size=BATCH)
        answer.require_finite("the network")
        measured = np.concatenate([answer.probabilities, answer.intensities], 1)
        numbers, smoothed = self._tracker.update([face.box for face in faces], measured, time)
        classes = len(self.network.emotions)
        return [
            TrackedFace(number, face, each[:classes], each[classes:], mean[:classes], mean[classes:])
            for number, face, each, mean in zip(numbers, faces, measured, smoothed, strict=True)
        ]

    def forget(self) -> None:
        """The next image shows something else: nobody in it was seen before."""
        self._find.forget()
        self._tracker.forget()

    def warm_up(self, faces: int) -> None:
        """Compiles the program of a frame of so many faces; that of BATCH_SIZES are all."""
        nobody = np.zeros((faces, self.side, self.side, 3), np.uint8)
        self.network.predict(nobody, batch_size=BATCH).require_finite("the network")


def crop(image: np.ndarray, face: Face, *, side: int, align: str) -> np.ndarray:
    """A face as the training data show it: uint8 [side, side, 3] of an image uint8 [H, W, 3]; see `Analyzer`.

    Raises:
      NoCrop: the face lacks the landmarks or eyes that the alignment needs, or they span no rectangle.
    """
    if align == "box":
        return square(image, side, face.box)
    return crops.align(image, face, size=side, method=align)


def picture(image: np.ndarray, faces: Sequence[TrackedFace], emotions: Sequence[str], note: str = "") -> np.ndarray:
    """The image with its faces labelled by their smoothed answers: uint8 [H, W, 3], RGB; `image` stays as it is.

    A face is named after its most probable emotion. The strengths shown are intensities; neutral's, which has none,
    is its probability.
    """
    shown = remap(expressed(emotions), emotions)
    labels = []
    for face in faces:
        strengths = face.smoothed_probabilities.copy()
        strengths[shown] = face.smoothed_intensities
        labels.append(overlay.Label(face.box, strengths, int(face.smoothed_probabilities.argmax())))
    return overlay.draw(image, labels, emotions, note)


@dataclasses.dataclass
class Tally:
    """What became of the frames of a source."""

    frames: int = 0  # recognised
    dropped: int = 0
    without_face: int = 0
    faces: int = 0
    unaligned: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = f", {self.frames / self.seconds:.1f} frames/s" if self.seconds > 0 else ""
        unaligned = f", {self.unaligned:,} faces without usable landmarks left out" if self.unaligned else ""
        return (
            f"{self.frames:,} frames recognised, {self.dropped:,} dropped, {self.without_face:,} without a face; "
            f"{self.faces:,} faces{unaligned}{rate}"
        )


def run(source: Source, analyzer: Analyzer, outputs: Sequence[Output] = (), *, tally: Tally | None = None) -> Tally:
    """Recognises the frames of a source, draws them, and gives them to the outputs, which it closes in any case.

    What it will need is compiled first, while a live source is read already: frames that wait in its buffers would be
    old. Times count from the first frame that is recognised.

    Args:
      tally: is counted in, and so is known too when this raises.

    Raises:
      UserError: what the source or an output raises, after the frames before it.
    """
    tally = tally or Tally()
    emotions, draws = analyzer.network.emotions, any(output.draws for output in outputs)
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.callback(output.close)
        frames = Ahead(source, depth=1 if source.live else 4, newest=source.live)
        stack.callback(frames.close)
        for size in () if source.stills else BATCH_SIZES:
            with undisturbed():
                analyzer.warm_up(size)
        rate, started = FrameRate(), time.perf_counter()
        scenes = Ahead(_scenes(frames, analyzer, stills=source.stills), depth=1)
        # The first thread's end comes first: the second may be waiting for it.
        stack.callback(scenes.close)
        stack.callback(frames.close)
        try:
            for scene in scenes:
                tally.frames += 1
                tally.faces += len(scene.faces)
                tally.without_face += not scene.faces
                note = "" if source.stills else f"{rate.tick():.0f} fps"
                drawn = picture(scene.frame.image, scene.faces, emotions, note) if draws else None
                for output in outputs:
                    output.write(scene, drawn)
        except Closed:
            pass
        finally:
            tally.dropped, tally.unaligned = frames.dropped, analyzer.unaligned
            tally.seconds = time.perf_counter() - started
    return tally


def _scenes(frames: Ahead, analyzer: Analyzer, *, stills: bool) -> Iterator[Scene]:
    start = None
    for frame in frames:
        if stills:
            analyzer.forget()
        start = frame.time if start is None else start
        frame = frame._replace(time=frame.time - start)
        yield Scene(frame, analyzer.faces(frame.image, frame.time))


class FrameRate:
    """Frames a second, averaged over the last second or so."""

    def __init__(self):
        self._last = time.perf_counter()
        self._interval: float | None = None

    def tick(self) -> float:
        """A frame was done; returns the rate."""
        now = time.perf_counter()
        elapsed, self._last = max(now - self._last, 1e-6), now
        if self._interval is None:
            self._interval = elapsed
        self._interval += (1 - np.exp(-elapsed / FPS_SECONDS)) * (elapsed - self._interval)
        return 1 / self._interval


class Stopped(BaseException):
    """One of `process.ENDING`, as an exception, so that the outputs are closed."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """`process.ending_signals` raise `Stopped`; a second Ctrl-C interrupts as usual, others of a kind are ignored."""
    usual = {}

    def stop(signum, _frame):
        signal.signal(signum, usual[signum] if signum == signal.SIGINT else signal.SIG_IGN)
        raise Stopped(signum)

    with _handled(stop, usual):
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Puts signals off until the end: an exception out of the blue in XLA's compiler ends the process, some
    time later, in a segmentation fault (JAX 0.10)."""
    pending = []
    with _handled(lambda signum, _frame: pending.append(signum), {}):
        yield
    if pending:
        os.kill(os.getpid(), pending[0])


@contextlib.contextmanager
def _handled(handler: Callable, usual: dict) -> Iterator[None]:
    """`process.ending_signals` call the handler; what they did is put into `usual`, and back at the end."""
    try:
        with contextlib.suppress(ValueError):  # not in the main thread: signals are left alone
            for signum in process.ending_signals():
                usual[signum] = signal.signal(signum, handler)
        yield
    finally:
        for signum, before in usual.items():
            signal.signal(signum, before)


def load(weights: str) -> Recognizer:
    """The network of `recognizer.load`, and JAX, which must not have computed anything yet, prepared for it.

    On a CPU a small network's program runs in the thread that asks for it and in no other: for a face or two it takes
    longer to hand the parts over to other threads than to compute them, most of all where OpenCV's threads, and those
    that read and draw, are about (mini_xception's time for one face: 20 % less, and a quarter on a busy machine).

    Raises:
      UserError: see `recognizer.load`.
    """
    variables, metadata = checkpoint.load_weights(weights)
    if recognizer.is_small(variables):
        call_directly()
    return recognizer.assemble(variables, metadata, weights)


def call_directly() -> None:
    """Before JAX starts: what it computes on CPUs is computed at once, by the thread that asks for it."""
    os.environ.setdefault("PJRT_NPROC", "1")  # threads of XLA's CPU client
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def check(align: str, *, detector: str, smallest: int) -> None:
    """Refuses how faces are to be found and cut out where that makes no sense or cannot be had.

    Args:
      align: one of ALIGNMENTS.
      detector: one of `detect.DETECTORS`.
      smallest: side of the smallest face, in pixels.

    Raises:
      UserError: no pixels, or landmarks without what finds them.
    """
    if smallest < 1:
        raise UserError(f"--min_face={smallest} must be at least 1")
    needs = {"box": False, "rotation": detector != "yunet", "landmarks": True}[align]
    if needs and not ShapePredictor.available():
        raise UserError(f"--align={align} needs landmarks: pip install 'fer_jax[align]', or use --align=box")


def warn_of_alignment(network: Recognizer, name: str, align: str) -> None:
    """Warns where a network was trained on faces that were cut out otherwise than by `align`, one of ALIGNMENTS."""
    trained = {"none": "box"}.get(network.align, network.align)
    if trained in ALIGNMENTS and trained != align:
        log.warning("%s was trained on faces aligned by %s: --align=%s cuts them out so", name, network.align, trained)


def open_outputs(options: argparse.Namespace, source: Source, emotions: Sequence[str]) -> list[Output]:
    """What the options ask for; the window comes last.

    Raises:
      UserError: an output that cannot be had, or none at all.
    """
    outputs: list[Output] = []
    written = options.output or options.table
    # Before the others, which write over what is there.
    window = Window(stills=source.stills) if options.show or (not written and has_display()) else None
    if options.output:
        outputs.append(open_output(options.output, source))
    if options.table:
        outputs.append(open_table(options.table, emotions))
    if window:
        outputs.append(window)
    if not outputs:
        raise UserError("there is no display: say where the results go, by --output or --table")
    return outputs


def set_up() -> None:
    """What live recognition, here and as a page, wants of a process that has not used JAX, FFmpeg or OpenCV yet."""
    process.set_up()
    process.share_gpu()
    # A program of 0.1 s is worth keeping here.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what goes wrong we say ourselves
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """How faces are found and cut out."""
    parser.add_argument("--detector", choices=DETECTORS, default="haar", help="default: haar")
    parser.add_argument("--model", type=user_path, help="of yunet: face_detection_yunet_*.onnx (OpenCV model zoo)")
    parser.add_argument("--min_face", type=int, default=SMALLEST_FACE, help="pixels, for haar (default: %(default)s)")
    parser.add_argument("--align", choices=ALIGNMENTS, default="box", help="how faces are cut out (default: box)")


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend, 128 + signal when interrupted."""
    parser = process.argument_parser("fer_jax.live", __doc__)
    parser.add_argument(
        "--weights",
        default="mini_xception_fer2013",
        help="a run directory, a weights file or a network of the package (default: %(default)s)",
    )
    parser.add_argument("--source", default="0", help="camera number (default 0), URL, video, photo or folder of them")
    parser.add_argument(
        "--output", type=user_path, help="annotated frames: a video; for pictures a folder, for a photo a file"
    )
    parser.add_argument("--table", type=user_path, help="one row per face and frame: .csv or .jsonl")
    parser.add_argument("--show", action="store_true", help="show a window (default if nothing is written)")
    add_face_options(parser)
    parser.add_argument(
        "--detect_every",
        type=int,
        metavar="N",
        help="search every N-th frame in full, those between only around known faces, unless one is "
        f"lost; 1: every frame in full (default: {EVERY}; with yunet 1)",
    )
    parser.add_argument("--smoothing", type=float, default=0.5, help="seconds (default: %(default)s), 0: none")
    options = parser.parse_args(arguments)
    set_up()
    tally = Tally()
    try:
        with stoppable():
            if options.smoothing < 0:
                raise UserError(f"--smoothing={options.smoothing:g} must not be negative")
            check(options.align, detector=options.detector, smallest=options.min_face)
            network = load(options.weights)
            warn_of_alignment(network, options.weights, options.align)
            aligned = options.align != "box"
            detector = make_detector(
                options.detector, options.model, landmarks=aligned, smallest=options.min_face, equalize=False
            )
            every = options.detect_every
            if every is None:  # tried with the others only: YuNet's network prepares itself for each size of image
                every = 1 if options.detector == "yunet" else EVERY
            analyzer = Analyzer(network, detector, align=options.align, smoothing=options.smoothing, detect_every=every)
            source = open_source(options.source)
            outputs = open_outputs(options, source, network.emotions)
            run(source, analyzer, outputs, tally=tally)
        print(tally)
        for written in filter(None, (options.output, options.table)):
            print(f"written: {written}")
    except Stopped as stopped:
        print(tally)
        sys.exit(128 + stopped.signum)
    except UserError:
        if tally.frames:
            print(tally)
        raise
    except OSError as error:
        where = error.filename or "the results"
        raise UserError(f"{where} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    main()
