"""The examples of a split by their places in it: of decoded arrays in files, of records, picked from several splits.

They can be pickled, for worker processes.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fer_jax.data.emotions import expressed, relabel, remap

ARRAYS = {"image": np.uint8, "label": np.int32, "intensity": np.float32}
TEXTS = ("subject", "source")


class Rows(Protocol):
    """The examples of a split by their places in it."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Those at int [n]: image uint8 [n, H, W, C], label int32 [n], intensity float32 [n, E]."""


class KeptRows:
    """Rows of decoded arrays that lie in files: what was read once comes from the system's file cache."""

    def __init__(self, paths: dict[str, Path]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._arrays["label"])

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self._arrays.items()}

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return mapped(self._paths)

    def __getstate__(self) -> dict:
        return {"_paths": self._paths}  # a mapped array would be pickled with all that it maps


class RecordRows:
    """Rows read from records and decoded each time."""

    def __init__(self, source: Sequence[dict]):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        return stacked(self._source.__getitems__(index.tolist()), ARRAYS)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Brings rows [n] of one data set to the emotions and the image shape of another."""

    emotions: tuple[str, ...]
    target: tuple[str, ...]  # holds every emotion of the rows that are picked
    image_shape: tuple[int, int, int]  # of the result: RGB where either is
    source_shape: tuple[int, int, int]
    one_hot: bool  # the intensities of the result are its labels' one-hot vectors

    @property
    def is_identity(self) -> bool:
        return self.emotions == self.target and self.image_shape == self.source_shape and not self.one_hot

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.is_identity:
            return rows
        label = self.label(rows["label"])
        return {
            "image": self.image(rows["image"]),
            "label": label,
            "intensity": self.intensity(rows["intensity"], label),
        }

    def label(self, label: np.ndarray) -> np.ndarray:
        """Labels int [...] by name; those of an emotion that the target lacks become -1."""
        return relabel(label, self.emotions, self.target)

    def intensity(self, intensity: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Intensities float32 [..., E] in the columns of the same name; of emotions that the target lacks none."""
        if self.one_hot:
            names = remap(expressed(self.target), self.target)
            return (np.asarray(label)[..., None] == names).astype(np.float32)
        adapted = np.zeros((*intensity.shape[:-1], len(expressed(self.target))), np.float32)
        for column, name in enumerate(expressed(self.emotions)):
            if name in self.target:
                adapted[..., expressed(self.target).index(name)] = intensity[..., column]
        return adapted

    def image(self, image: np.ndarray) -> np.ndarray:
        """Images uint8 [..., H, W, C], enlarged bilinearly and grey repeated to RGB where the target asks for it."""
        if self.source_shape == self.image_shape:
            return image
        height, width, channels = self.image_shape
        flat = np.asarray(image).reshape(-1, *self.source_shape)
        adapted = np.empty((len(flat), *self.image_shape), np.uint8)
        for one, out in zip(flat, adapted, strict=True):
            out[:] = cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)
        return adapted.reshape(*image.shape[:-3], height, width, channels)


class TaughtRows:
    """Rows with other intensities, float32 [n, E]."""

    def __init__(self, rows: Rows, intensity: np.ndarray):
        self._rows = rows
        self._intensity = intensity

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        return self._rows.take(index) | {"intensity": self._intensity[index]}


class SelectedRows:
    """The picked rows of several splits, one after the other."""

    def __init__(self, rows: list[Rows], indices: list[np.ndarray], adapters: list[Adapter]):
        self._parts = list(zip(rows, indices, adapters, strict=True))
        self._ends = np.cumsum([len(index) for index in indices])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        parts = np.searchsorted(self._ends, index, side="right")
        taken = {}
        for number in np.unique(parts):
            rows, picked, adapt = self._parts[number]
            places = np.flatnonzero(parts == number)
            part = adapt(rows.take(picked[index[places] - (self._ends[number] - len(picked))]))
            if len(places) == len(index):
                return part
            for name, array in part.items():
                if name not in taken:
                    taken[name] = np.empty((len(index), *array.shape[1:]), array.dtype)
                taken[name][places] = array
        return taken


def mapped(paths: dict[str, Path]) -> dict[str, np.ndarray]:
    """The arrays of .npy files, read as they are used."""
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def stacked(examples: Sequence[dict], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of `ARRAYS`, of `TEXTS` str [n], and `digest` of the image uint64 [n], that are named, of records."""
    arrays = {
        name: np.stack([example[name] for example in examples]).astype(dtype, copy=False)
        for name, dtype in ARRAYS.items()
        if name in names
    }
    for name in TEXTS:
        if name in names:
            arrays[name] = np.array([_text(example[name]) for example in examples])
    if "digest" in names:
        arrays["digest"] = digests(example["image"] for example in examples)
    return arrays


def digests(images: Iterable[np.ndarray]) -> np.ndarray:
    """A number for each image, uint64 [n], the same where two are equal in every pixel."""
    return np.frombuffer(b"".join(hashlib.sha256(image.tobytes()).digest()[:8] for image in images), np.uint64)


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
