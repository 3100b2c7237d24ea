"""Small inputs for the tests: arrays of noise, FER2013 files with a pattern that can be learnt, a photograph."""

from pathlib import Path

import cv2
import numpy as np

from fer_jax.data import synthetic


def noise_arrays(count: int, shape: tuple[int, int, int] = (48, 48, 1)) -> dict:
    """A split in memory: uint8 noise, labels of every class, intensity one-hot of the expressed emotion."""
    rng = np.random.default_rng(0)
    label = (np.arange(count) % 7).astype(np.int32)
    return {
        "image": rng.integers(0, 256, (count, *shape), dtype=np.uint8),
        "label": label,
        "intensity": np.eye(7, dtype=np.float32)[label][:, :-1],
    }


def write_fer2013(path: Path, *, train: int = 70, validation: int = 21, test: int = 21, seed: int = 0) -> Path:
    """A CSV in Kaggle's layout whose classes differ by where a bright square lies; returns its folder."""
    rng = np.random.default_rng(seed)
    lines = ["emotion,pixels,Usage"]
    for usage, count in (("Training", train), ("PublicTest", validation), ("PrivateTest", test)):
        for i in range(count):
            emotion = i % 7
            image = rng.integers(0, 90, (48, 48))
            row, column = divmod(emotion, 3)
            image[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] += 150
            lines.append(f"{emotion},{' '.join(map(str, image.ravel()))},{usage}")
    path.mkdir(parents=True, exist_ok=True)
    (path / "fer2013.csv").write_text("\n".join(lines) + "\n")
    return path


def photograph(number, degrees, scale=1.5, side=320):
    """A synthetic face turned and enlarged somewhere in a larger picture: (image, its 68 landmarks there)."""
    drawn = synthetic.example(0, number, number)
    turn = cv2.getRotationMatrix2D((64, 64), degrees, scale)
    turn[:, 2] += (side / 2 - 64 + 7.3, side / 2 - 64 - 4.6)
    image = cv2.warpAffine(drawn.image, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return image, drawn.landmarks @ turn[:, :2].T + turn[:, 2]
