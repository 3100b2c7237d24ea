"""MUG (Aifanti et al. 2010): takes of posed emotions, from neutral to the apex and back."""

import itertools
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from fer_jax.data.datasets.base import Picture, PictureBuilder, emotion_of, missing
from fer_jax.data.detect import landmarks_beside, read_landmarks
from fer_jax.data.emotions import BASIC7
from fer_jax.data.subjects import divide, split_subjects
from fer_jax.errors import UserError
from fer_jax.files import entries, is_image

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4, 0.2)  # of the nine frames of a take, rising and falling
_NEAR = 0.1  # how far a frame may be from the level it is taken for
_LANDMARKS = (".pts", "_landmarks.txt")  # what else ends in .txt may be anything


class Take(NamedTuple):
    """One take."""

    subject: str
    emotion: str
    frames: tuple[Path, ...]  # in time


class Mug(PictureBuilder):
    """MUG: takes of seven posed emotions, 52 subjects to be had, split by subject, 80/10/10.

    Variants:
      classification: the frames of strong expression: of a take, the third around its apex; neutral takes wholly.
      intensity: nine frames a take, at 20, 40, 60, 80, 100, 80, 60, 40 and 20 % of the way to the apex, with that
        intensity; of neutral takes nine spread evenly, with intensity 0.

    THE DATA HAVE NO INTENSITIES; THESE ARE ESTIMATES. Where every frame of a take has 68 landmarks beside it
    (img_0001.pts or img_0001_landmarks.txt, 68 rows `x y`), a frame's intensity is the mean displacement of its
    landmarks from those of the take's first frame, which is taken as neutral, both freed of translation and scale,
    over the largest such displacement in the take; there is the apex. Rotation of the head counts as expression.
    Elsewhere it is the frame's position in the take, as if every take rose and fell evenly with its apex in the
    middle. The example's intensity is that of the frame, within 0.1 of the level; a level no frame is so near to is
    left out, so short takes give fewer than nine.

    Source: https://mug.ee.auth.gr/fed/; for non-commercial research, under a signed agreement.
    Layout: subject/emotion/take/frame.jpg, e.g. 001/happiness/take000/img_0001.jpg; of some subjects
      subject/session/emotion/take/frame.jpg, e.g. 001/session0/happiness/take000/img_0001.jpg.
    Expected: 52 subjects of the 86 recorded.
    """

    EMOTIONS = BASIC7
    VARIANTS = ("classification", "intensity")
    CITATION = "Aifanti, Papachristou & Delopoulos 2010, The MUG Facial Expression Database, WIAMIS"
    ORIGIN = (
        "Expected in --data_dir: subject/emotion/take/frame.jpg, e.g. 001/happiness/take000/img_0001.jpg. "
        "Ask for it at https://mug.ee.auth.gr/fed/"
    )
    EXPECTED: ClassVar = {"subjects": 52}

    def __init__(self, *, raw, variant="", **options):
        self.HAS_INTENSITY = variant == "intensity"
        super().__init__(raw=raw, variant=variant, **options)

    @classmethod
    def find_raw(cls, data_dir):
        frames = _frames(data_dir) if data_dir else []
        if not frames:
            raise missing("mug", data_dir, cls.ORIGIN)
        landmarks = [path for frame in frames if (path := landmarks_beside(frame, _LANDMARKS))]
        return (data_dir, *landmarks)  # the images are gigabytes: the folder stands for them

    def pictures(self):
        takes = read_takes(self.raw[0])
        self.note_unused([self.raw[0]], [*itertools.chain(*(take.frames for take in takes)), *self.raw[1:]])
        subjects = {take.subject for take in takes}
        self.compare({"subjects": len(subjects)})
        pictures, measured = [], 0
        for take in takes:
            if take.emotion == "neutral":
                frames = range(len(take.frames))
                if self.HAS_INTENSITY:
                    frames = dict.fromkeys(np.linspace(0, len(take.frames) - 1, len(LEVELS)).astype(int))
                levels = np.zeros(len(take.frames))
            else:
                levels = measured_levels(take.frames)
                measured += levels is not None
                levels = levels_by_position(len(take.frames)) if levels is None else levels
                frames = graded(levels) if self.HAS_INTENSITY else strong(levels)
            for i in frames:
                path, level = take.frames[i], float(levels[i]) if self.HAS_INTENSITY else None
                source = str(path.relative_to(self.raw[0]))
                pictures.append(Picture(path, take.emotion, source, take.subject, intensity=level))
        expressive = sum(take.emotion != "neutral" for take in takes)
        self.notes.append(
            f"the apex and the intensities are estimates: by landmarks in {measured:,} takes, by the position in the "
            f"take in {expressive - measured:,}"
        )
        return divide(pictures, lambda picture: picture.subject, split_subjects(subjects))


def read_takes(root: Path) -> list[Take]:
    """All takes under subject/emotion/take or subject/session/emotion/take, sorted.

    Raises:
      UserError: a folder that is no emotion.
    """
    by_take: dict[Path, list[Path]] = {}
    for frame in _frames(root):
        by_take.setdefault(frame.parent, []).append(frame)
    return [
        Take(take.relative_to(root).parts[0], _emotion(take.parent), tuple(frames)) for take, frames in by_take.items()
    ]


def measured_levels(frames: tuple[Path, ...]) -> np.ndarray | None:
    """The intensity of each frame by its landmarks, None where a frame has none or nothing moves."""
    files = [landmarks_beside(frame, _LANDMARKS) for frame in frames]
    return levels_by_landmarks(np.stack([read_landmarks(path) for path in files])) if all(files) else None


def levels_by_landmarks(landmarks: np.ndarray) -> np.ndarray | None:
    """The intensity of each frame, float [n] in 0..1, by the landmarks [n, 68, 2] of a take that begins neutral.

    It is the mean displacement from the first frame, after removing translation and scale, over the largest one;
    None where nothing moves.
    """
    centred = landmarks - landmarks.mean(1, keepdims=True)
    shapes = centred / np.sqrt((centred**2).sum((1, 2), keepdims=True))
    moved = np.linalg.norm(shapes - shapes[0], axis=2).mean(1)
    return moved / moved.max() if moved.max() > 1e-6 else None


def levels_by_position(count: int) -> np.ndarray:
    """The intensity of each frame, float [count] in 0..1, as if it rose and fell evenly about the take's middle."""
    apex = (count - 1) // 2
    return np.interp(np.arange(count), [0, apex, count - 1], [0, 1, 0]) if count > 2 else np.ones(count)


def strong(levels: np.ndarray) -> range:
    """The third of a take's frames around its apex, one at least."""
    length = max(len(levels) // 3, 1)
    start = min(max(int(levels.argmax()) - length // 2, 0), len(levels) - length)
    return range(start, start + length)


def graded(levels: np.ndarray) -> list[int]:
    """The frames nearest to each of LEVELS, before and after the apex; none twice, none further off than 0.1."""
    apex = int(levels.argmax())
    chosen = []
    for i, level in enumerate(LEVELS):
        rising = i <= LEVELS.index(1.0)
        distance = np.abs(levels - level)
        distance[slice(apex + 1, None) if rising else slice(0, apex)] = np.inf
        if distance.min() <= _NEAR:
            chosen.append(int(distance.argmin()))
    return list(dict.fromkeys(chosen))


def _frames(root: Path) -> list[Path]:
    sessions = [folder for folder in entries(root, 2) if folder.name.startswith("session")]
    found = itertools.chain(entries(root, 4), *(entries(session, 3) for session in sessions))
    return sorted(path for path in found if is_image(path))


def _emotion(folder: Path) -> str:
    emotion = emotion_of(folder)
    if emotion not in BASIC7:
        raise UserError(f"{folder}: MUG has no emotion {emotion!r}, only {', '.join(BASIC7)}; move it elsewhere")
    return emotion
