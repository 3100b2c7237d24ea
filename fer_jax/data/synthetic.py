"""The embedded data set: parametric faces, from the 68 landmarks of `facs.py`, painted by `portrait.py`.

A subject (face shape, skin, hair, brows, glasses, beard) is a function of (seed, subject); an example of it
(emotion, intensity, pose, light, blur, background, occluder) of (seed, subject, number). So the data set is the
same on every machine with the same OpenCV, and its subjects can be divided among splits. It exists to try the
code without a download: results on it say nothing about people.
"""

import dataclasses
import functools

import cv2
import numpy as np

from fer_jax.data import facs
from fer_jax.data.emotions import BASIC7, expressed
from fer_jax.data.portrait import CANVAS, Face, Subject

SIZE = 128  # pixels: painted twice as large (portrait.CANVAS), then averaged down
_WEAKEST = 0.4  # the intensity below which an expression is no longer labelled as one

_SKINS = [(255, 224, 196), (241, 194, 156), (224, 172, 125), (198, 134, 92), (141, 91, 60), (92, 58, 40)]
_HAIRS = [
    (25, 20, 18),
    (60, 40, 28),
    (105, 68, 38),
    (176, 128, 72),
    (222, 188, 122),
    (140, 52, 28),
    (150, 150, 150),
]
_IRISES = [(70, 45, 25), (95, 70, 35), (70, 100, 60), (75, 105, 145), (110, 125, 135)]


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture and all that is known of it."""

    image: np.ndarray  # uint8 [128, 128, 3], RGB
    emotion: str
    intensity: np.ndarray  # float32 [6], of the expressed emotions, in 0..1
    landmarks: np.ndarray  # float32 [68, 2], x and y in pixels, pixel centres at whole numbers
    subject: int


@functools.lru_cache(maxsize=16)
def make_subject(seed: int, subject: int) -> Subject:
    """The person number `subject`."""
    rng = _generator(seed, subject, 0)
    shape = facs.neutral_face(rng.uniform(1.04, 1.18), rng.uniform(0.68, 0.92))
    shape[:17, 1] *= rng.uniform(0.95, 1.06)
    shape[17:27, 1] = shape[17:27, 1] * rng.uniform(0.95, 1.1) + rng.uniform(-0.03, 0.02)
    shape[27:36] *= rng.uniform([0.85, 0.95], [1.2, 1.05])
    eyes = rng.uniform([0.92, 0.9], [1.08, 1.25])
    for centre, points in ((shape[36:42].mean(0), shape[36:42]), (shape[42:48].mean(0), shape[42:48])):
        points[:] = centre + (points - centre) * eyes
    mouth = np.array([0, 1.19])
    shape[48:68] = mouth + (shape[48:68] - mouth) * rng.uniform([0.9, 0.85], [1.12, 1.2])
    skin = np.array(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.93, 1.03) + rng.uniform(-6, 6, 3)
    lips = skin * (0.86, 0.6, 0.6) + (14, 0, 4) + rng.uniform(-8, 8, 3)
    beard = int(rng.choice(4, p=[0.65, 0.13, 0.11, 0.11]))
    return Subject(
        shape=shape,
        skin=np.clip(skin, 20, 255),
        lips=np.clip(lips, 10, 255),
        hair=np.clip(np.array(_HAIRS[rng.integers(len(_HAIRS))]) + rng.uniform(-10, 10, 3), 5, 245),
        iris=np.array(_IRISES[rng.integers(len(_IRISES))]),
        hair_style=int(rng.choice(5, p=[0.1, 0.3, 0.2, 0.2, 0.2])),
        brow_width=rng.uniform(0.055, 0.1),
        glasses=bool(rng.random() < 0.2),
        beard=beard,
        wrinkles=rng.uniform(0.5, 1.0),
    )


def draw(subject: Subject, emotion: str, intensity: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One picture of a subject: (image uint8 [128, 128, 3] RGB, landmarks float64 [68, 2] in pixels).

    Args:
      emotion: one of BASIC7; `neutral` ignores the intensity.
      intensity: 0 (neutral) .. 1 (full expression).
      rng: draws the rest: the exact activations, pose, light, blur, background, occluder.
    """
    prototype = facs.PROTOTYPES.get(emotion, {})
    activations = {unit: share * intensity * rng.uniform(0.88, 1.12) for unit, share in prototype.items()}
    left, right = 1 + rng.uniform(-0.1, 0.1, 2)
    face = Face(subject, activations, facs.move(subject.shape, activations, left=left, right=right), rng)
    canvas = face.paint()
    image = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image = _photograph(image, rng)
    # A pixel of the small image is the mean of 2x2 of the canvas, whose centre lies between them.
    return image, (face.landmarks + 0.5) * (SIZE / CANVAS) - 0.5


def example(seed: int, subject: int, number: int) -> Example:
    """Picture `number` of a subject; the emotions take turns, so that every class is equally frequent."""
    rng = _generator(seed, subject, number + 1)
    emotion = BASIC7[(subject + number) % len(BASIC7)]
    level = 0.0 if emotion == "neutral" else rng.uniform(_WEAKEST, 1.0)
    image, landmarks = draw(make_subject(seed, subject), emotion, level, rng)
    intensity = np.array([level if name == emotion else 0.0 for name in expressed(BASIC7)], np.float32)
    return Example(image, emotion, intensity, landmarks.astype(np.float32), subject)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side, exposure, blur and sensor noise on uint8 [128, 128, 3]."""
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.3)
    light = rng.uniform(0.72, 1.05) * (1 + slope * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]))
    tint = 1 + rng.uniform(-0.06, 0.06, 3).astype(np.float32)
    image = image.astype(np.float32) * light[..., None] * tint
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    noise = rng.standard_normal((SIZE, SIZE), np.float32) * rng.uniform(0, 6)
    return np.clip(image + noise[..., None], 0, 255).astype(np.uint8)
