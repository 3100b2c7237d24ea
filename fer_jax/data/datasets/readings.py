"""What was read of picture files, kept until the data set is complete, so that a preparation cut short goes on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fer_jax import files


class StoredFace(NamedTuple):
    """A face as it is stored."""

    png: bytes
    digest: bytes  # of its pixels
    source: str  # where it is found in the raw data


class Reading(NamedTuple):
    """What came of one picture file."""

    faces: list[StoredFace]
    unusable: str = ""  # why there are none


class Readings:
    """The readings of the first pictures of each split, in files of some hundred; a file is there whole or not at all.

    Args:
      folder: of the files, for these raw data and this version of the code alone. It need not exist.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def load(self, split: str) -> Iterator[Reading]:
        """What `add` was given, in its order."""
        for number in range(self._count(split)):
            with np.load(self._path(split, number), allow_pickle=False) as arrays:
                png, ends = arrays["png"].tobytes(), np.cumsum(arrays["sizes"]).tolist()
                stored = [png[start:end] for start, end in zip([0, *ends], ends, strict=False)]
                digests = [digest.tobytes() for digest in arrays["digests"]]
                faces = map(StoredFace, stored, digests, arrays["sources"].tolist())
                for count, unusable in zip(arrays["counts"].tolist(), arrays["unusable"].tolist(), strict=True):
                    yield Reading([next(faces) for _ in range(count)], unusable)

    def add(self, split: str, readings: list[Reading]) -> None:
        """Keeps the readings that follow those kept already."""
        faces = [face for reading in readings for face in reading.faces]
        arrays = {
            "png": np.frombuffer(b"".join(face.png for face in faces), np.uint8),
            "sizes": np.array([len(face.png) for face in faces], np.int64),
            "digests": np.array([list(face.digest) for face in faces], np.uint8),
            "sources": np.array([face.source for face in faces], str),
            "counts": np.array([len(reading.faces) for reading in readings], np.int64),
            "unusable": np.array([reading.unusable for reading in readings], str),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.whole(self._path(split, self._count(split))) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())  # or the name could outlive a power cut and the content not

    def _count(self, split: str) -> int:
        return len(list(self._folder.glob(f"{split}-*.npz")))

    def _path(self, split: str, number: int) -> Path:
        return self._folder / f"{split}-{number:05}.npz"
