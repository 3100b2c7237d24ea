"""CK+, the extended Cohn-Kanade data (Lucey et al. 2010): posed sequences from neutral to the peak of an emotion."""

from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from fer_jax.data.datasets.base import SIDE, Picture, PictureBuilder, missing
from fer_jax.data.detect import Box, read_landmarks
from fer_jax.data.emotions import CANONICAL, canonical
from fer_jax.data.subjects import divide, split_subjects
from fer_jax.errors import UserError
from fer_jax.files import entries

IMAGES, LABELS, LANDMARKS = "cohn-kanade-images", "Emotion", "Landmarks"
# By the number in the file; position is never trusted.
CODES = {
    number: canonical(name)
    for number, name in enumerate(("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"), 1)
}
PEAK = 3  # frames at the end of a sequence that show the emotion
_MARGIN = 0.2  # around the landmarks, which end at the brows, as a fraction of their extent


class Sequence(NamedTuple):
    """One labelled sequence."""

    emotion: str
    frames: tuple[Path, ...]  # in time


class Ckplus(PictureBuilder):
    """CK+: eight emotions from posed sequences of 123 subjects, the labelled ones only, in grey.

    The last three frames of a sequence show its emotion, the first is neutral, as in the papers. The face is cut out
    by its landmarks where they are there, else the frame's centre is taken. Split by subject, 80/10/10.

    Source: https://www.jeffcohn.net/Resources/; for non-commercial research, under a signed agreement.
    Layout: cohn-kanade-images/S005/001/S005_001_00000011.png, Emotion/S005/001/S005_001_00000011_emotion.txt and,
      if wanted, Landmarks/S005/001/S005_001_00000011_landmarks.txt.
    Expected: 327 labelled sequences: 45 anger, 18 contempt, 59 disgust, 25 fear, 69 happy, 28 sadness, 83 surprise.
    """

    EMOTIONS = CANONICAL
    IMAGE_SHAPE = (SIDE, SIDE, 1)
    CITATION = "Lucey et al. 2010, The Extended Cohn-Kanade Dataset (CK+), CVPR Workshops"
    ORIGIN = (
        f"Expected in --data_dir: the folders {IMAGES} and {LABELS} (S005/001/S005_001_00000011_emotion.txt), and "
        f"{LANDMARKS} if wanted. Ask for it at https://www.jeffcohn.net/Resources/"
    )
    EXPECTED: ClassVar = {
        "labelled sequences": 327,
        "sequences of angry": 45,
        "sequences of contempt": 18,
        "sequences of disgust": 59,
        "sequences of fear": 25,
        "sequences of happy": 69,
        "sequences of sad": 28,
        "sequences of surprise": 83,
    }

    @classmethod
    def find_raw(cls, data_dir):
        labels = entries(data_dir / LABELS, 3) if data_dir else []
        labels = [path for path in labels if path.name.endswith("_emotion.txt")]
        if not labels or not (data_dir / IMAGES).is_dir():
            raise missing("ckplus", data_dir, cls.ORIGIN)
        frames = [frame for label in labels for frame in _chosen(read_sequence(label))]
        landmarks = [path for frame in frames if (path := _landmarks_of(frame)).is_file()]
        return (*labels, *frames, *landmarks)

    def pictures(self):
        labels = [path for path in self.raw if path.name.endswith("_emotion.txt")]
        sequences = [read_sequence(label) for label in labels]
        counts = Counter(sequence.emotion for sequence in sequences)
        self.compare({"labelled sequences": len(sequences)})
        self.compare({f"sequences of {emotion}": counts[emotion] for emotion in CODES.values()})
        pictures = [_picture(frame, emotion) for sequence in sequences for frame, emotion in _chosen(sequence).items()]
        subjects = split_subjects(picture.subject for picture in pictures)
        return divide(pictures, lambda picture: picture.subject, subjects)


def read_sequence(label: Path) -> Sequence:
    """The labelled sequence of Emotion/S005/001/S005_001_00000011_emotion.txt.

    Raises:
      UserError: no known emotion in the file, or no frames for it.
    """
    text = label.read_text(encoding="utf-8-sig", errors="replace").strip()
    try:
        emotion = CODES[float(text)]
    except (ValueError, KeyError):
        known = ", ".join(f"{code} {name}" for code, name in CODES.items())
        raise UserError(f"{label}, line 1: unknown emotion {text[:40]!r}; CK+ has the codes {known}") from None
    folder = label.parents[3] / IMAGES / label.parent.relative_to(label.parents[2])
    frames = tuple(path for path in entries(folder) if path.suffix == ".png")
    if len(frames) <= PEAK:
        raise UserError(f"{folder} has {len(frames)} frames (*.png), {label} is of a whole sequence: unpack it again")
    return Sequence(emotion, frames)


def face_box(landmarks: np.ndarray) -> Box:
    """The box of a face, x, y, width and height, by its landmarks [68, 2]: theirs with a margin."""
    extent = np.ptp(landmarks, axis=0)
    x, y = landmarks.min(0) - _MARGIN * extent
    width, height = (1 + 2 * _MARGIN) * extent
    return float(x), float(y), float(width), float(height)


def _chosen(sequence: Sequence) -> dict[Path, str]:
    """The frames that are used, with what they show."""
    return {sequence.frames[0]: "neutral"} | dict.fromkeys(sequence.frames[-PEAK:], sequence.emotion)


def _picture(frame: Path, emotion: str) -> Picture:
    landmarks = _landmarks_of(frame)
    box = face_box(read_landmarks(landmarks)) if landmarks.is_file() else None
    return Picture(frame, emotion, "/".join(frame.parts[-3:]), frame.parents[1].name, box)


def _landmarks_of(frame: Path) -> Path:
    root, place = frame.parents[3], frame.parent.relative_to(frame.parents[2])
    return root / LANDMARKS / place / f"{frame.stem}_landmarks.txt"
