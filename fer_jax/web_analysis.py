"""What the page asks of its networks: the faces of a photo, of a clip, of a camera, and Grad-CAM of one. No Gradio.

One lock guards all networks: a machine has one accelerator, and what `explain` traces must not be traced elsewhere
meanwhile.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import cv2
import jax.numpy as jnp
import numpy as np

from fer_jax import explain, ops
from fer_jax.data import normalization
from fer_jax.data.detect import Detector
from fer_jax.data.emotions import expressed, remap
from fer_jax.heads import IntensityHead
from fer_jax.live import Analyzer, crop, picture
from fer_jax.recognizer import Recognizer
from fer_jax.recording import TrackedFace
from fer_jax.report_figures import emotion_model
from fer_jax.video import Frame

VIEW = 192  # pixels: the side of a face that is shown
SMOOTHING = 0.5  # seconds, of what a camera and a clip show
PEOPLE = 8  # of a clip whose curves are kept, those seen longest


@dataclasses.dataclass(frozen=True, eq=False)  # Gradio hashes what a session keeps
class Seen:
    """One face and what a network sees in it."""

    view: np.ndarray  # uint8 [VIEW, VIEW, 3], RGB: the part of the image that the network sees
    input: np.ndarray  # uint8 [side, side, 3], what it is given
    probabilities: np.ndarray  # float32 [C]
    intensities: np.ndarray  # float32 [E] in 0..1
    emotions: tuple[str, ...]
    network: str
    title: str = ""

    @property
    def emotion(self) -> int:
        """The most probable emotion."""
        return int(self.probabilities.argmax())


@dataclasses.dataclass
class Person:
    """Somebody in a clip, over the time that they are followed."""

    times: list[float] = dataclasses.field(default_factory=list)  # seconds
    answers: list[np.ndarray] = dataclasses.field(default_factory=list)  # smoothed probabilities, float32 [C] each
    strongest: tuple[float, Seen] | None = None  # probability of the strongest emotion but neutral


class Networks:
    """The networks by the names that the page offers."""

    def __init__(self, networks: Mapping[str, Recognizer], make_detector: Callable[[], Detector], *, align: str):
        """Args:
        make_detector: a detector serves one thread at a time, so each session gets its own.
        align: how faces are cut out, see `live.Analyzer`.
        """
        self._networks, self._make_detector, self._align = dict(networks), make_detector, align
        self._cams = {name: _cam(network) for name, network in self._networks.items()}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._networks)

    def rates_intensity(self, name: str) -> bool:
        """Whether the network was trained for intensities; else its probabilities take their place."""
        return isinstance(self._networks[name].head, IntensityHead)

    def session(self, name: str, *, smoothing: float = SMOOTHING) -> "Session":
        """One that follows the faces of successive images with the network of that name."""
        return Session(name, self._networks[name], self._make_detector(), self._lock, self._align, smoothing)

    def warm_up(self) -> None:
        """Compiles each network for one face, which else the first visitor would wait for."""
        for name in self._networks:
            self.session(name).warm_up()

    def grad_cam(self, seen: Seen, emotion: int) -> np.ndarray:
        """Where the last maps before the scores speak for an emotion: float32 [VIEW, VIEW] in 0..1.

        Args:
          emotion: its place in `seen.emotions`.
        """
        with self._lock:
            network = self._networks[seen.network]
            heat = self._cams[seen.network](network.variables, seen.input[None], jnp.array([emotion]))[0]
        heat = cv2.resize(np.asarray(heat), (VIEW, VIEW), interpolation=cv2.INTER_LINEAR)
        return heat / max(float(heat.max()), 1e-12)


class Session:
    """Follows the faces of successive images."""

    def __init__(
        self,
        name: str,
        network: Recognizer,
        detector: Detector,
        lock: threading.Lock,
        align: str,
        smoothing: float,
    ):
        self.name, self.emotions = name, network.emotions
        self.image: np.ndarray | None = None  # the last one
        self.tracked: list[TrackedFace] = []  # the faces in it
        self._lock, self._align = lock, align
        self._analyzer = Analyzer(network, detector, align=align, smoothing=smoothing)

    @property
    def unaligned(self) -> int:
        """Faces so far that were left out for want of usable landmarks."""
        return self._analyzer.unaligned

    def warm_up(self) -> None:
        """Compiles the program of an image with one face."""
        with self._lock:
            self._analyzer.warm_up(1)

    def look(self, image: np.ndarray, time: float) -> list[TrackedFace]:
        """The faces of an image uint8 [H, W, 3], RGB, `time` seconds after the start."""
        with self._lock:
            tracked = self._analyzer.faces(image, time)  # may raise: what was seen before stays, all of it
            self.tracked, self.image = tracked, image
            return self.tracked

    def examine(self) -> list[Seen]:
        """The faces of the last image, from left to right; another thread may be looking at the next one."""
        with self._lock:
            faces = sorted(self.tracked, key=lambda face: face.box[0])
            return [self.seen(face, f"Face {number}") for number, face in enumerate(faces, 1)]

    def drawn(self) -> np.ndarray:
        """The last image with its faces labelled: uint8 [H, W, 3]."""
        with self._lock:
            image, tracked = self.image, self.tracked
        return picture(image, tracked, self.emotions)

    def seen(self, tracked: TrackedFace, title: str = "") -> Seen:
        """A face of the last image, with the answer to this image alone."""
        sides = VIEW, self._analyzer.side
        view, given = (crop(self.image, tracked.face, side=side, align=self._align) for side in sides)
        answers = tracked.probabilities, tracked.intensities
        return Seen(view, given, *answers, self.emotions, self.name, title)


def _cam(network: Recognizer) -> Callable:
    """Grad-CAM of (variables, images uint8 [n, H, W, C], emotions int [n]), compiled when it is first called."""

    def cam(variables, images, targets):
        inputs = normalization.apply(network.to_input(images), variables["normalizer"])
        return explain.grad_cam(emotion_model(network), variables, inputs, targets)

    return ops.jit(cam)


def follow(session: Session, frames: Iterable[Frame], people: dict[int, Person]) -> Iterator[Frame]:
    """Looks at the frames of a clip in turn, gives each one, and fills in the people by their numbers."""
    shown = remap(expressed(session.emotions), session.emotions)
    for frame in frames:
        for face in session.look(frame.image, frame.time):
            person = people.setdefault(face.id, Person())
            person.times.append(frame.time)
            person.answers.append(face.smoothed_probabilities)
            strength = float(face.probabilities[shown].max())
            if person.strongest is None or strength > person.strongest[0]:
                person.strongest = strength, session.seen(face, f"at {frame.time:.1f} s")
        yield frame


def longest_seen(people: Mapping[int, Person]) -> dict[int, Person]:
    """The PEOPLE who were seen in most frames, by number."""
    chosen = sorted(people, key=lambda number: -len(people[number].times))[:PEOPLE]
    return {number: people[number] for number in sorted(chosen)}


def strongest(people: Mapping[int, Person]) -> list[Seen]:
    """Each person at the moment of the strongest expression."""
    moments = {number: person.strongest[1] for number, person in people.items()}
    return [dataclasses.replace(seen, title=f"Person {number} {seen.title}") for number, seen in moments.items()]


def veil(view: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A view uint8 [H, W, 3] under the colours of heat float [H, W] in 0..1; where there is none it shows through."""
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    share = 0.65 * heat[..., None] ** 0.7
    return (view * (1 - share) + colours * share).astype(np.uint8)


def short_names(sources: Sequence[str]) -> list[str]:
    """Short names of run directories and files, the last parts of their paths that tell them apart."""
    parts = [[part for part in source.rstrip("/").split("/") if part] or [source] for source in sources]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)
