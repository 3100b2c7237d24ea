"""What the builders share: the schema, PNG encoding, quarantine of unreadable images, and the books.

A builder without TensorFlow: TFDS writes ArrayRecord, images are handed over as PNG bytes, and reading goes
through `as_data_source`. Examples keep the order of the raw data; shuffling is the pipeline's.
"""

import abc
import collections
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.emotions import expressed
from fer_jax.errors import UserError

# More unreadable images than this share (and than QUARANTINE_FEW) mean that something else is wrong.
QUARANTINE_SHARE = 0.01
QUARANTINE_FEW = 10

Example = dict[str, Any]


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of single faces; a subclass says where the raw data lie and yields the examples."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "see ORIGIN"

    EMOTIONS: ClassVar[tuple[str, ...]]
    IMAGE_SHAPE: ClassVar[tuple[int, int, int]]
    VARIANTS: ClassVar[tuple[str, ...]] = ("",)  # the first is the default
    HAS_INTENSITY: ClassVar[bool] = False  # False: intensity is the label's one-hot vector
    SYNTHETIC: ClassVar[bool] = False
    CITATION: ClassVar[str] = ""
    ORIGIN: ClassVar[str]  # where to get the raw data, and the layout expected in --data_dir

    def __init__(self, *, raw: tuple[Path, ...], variant: str = "", **options):
        self.raw = raw
        self.variant = variant
        self.quarantined: list[tuple[str, str]] = []  # (path, reason)
        self.notes: list[str] = []  # for the person who prepares: what was kept, what is unusual
        self.class_counts: dict[str, collections.Counter] = {}
        self._hash = hashlib.sha256()
        super().__init__(file_format="array_record", **options)

    @classmethod
    @abc.abstractmethod
    def find_raw(cls, data_dir: Path | None) -> tuple[Path, ...]:
        """The raw files under `data_dir` that this data set is made from, to fingerprint and to read.

        Raises:
          UserError: they are not there; says where to get them, what is expected and what was found.
        """

    @abc.abstractmethod
    def examples(self) -> dict[str, Callable[[], Iterator[Example]]]:
        """For each split that the raw data have, how to iterate over its examples (made by `example`)."""

    def extra_features(self) -> dict:
        """Features beyond image, label and intensity."""
        return {}

    def example(self, image: np.ndarray, emotion: str, intensity: np.ndarray | None = None, **extra) -> Example:
        """One example: image uint8 [H, W, 1] or RGB [H, W, 3], intensity float32 [E] where the source has one."""
        if intensity is None:
            intensity = np.array([name == emotion for name in expressed(self.EMOTIONS)], np.float32)
        channels = image[..., ::-1] if image.shape[-1] == 3 else image
        _, png = cv2.imencode(".png", channels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        self._hash.update(emotion.encode() + image.tobytes() + intensity.tobytes())
        return {"image": io.BytesIO(png.tobytes()), "label": emotion, "intensity": intensity, **extra}

    @property
    def fingerprint(self) -> str:
        """Of what the examples hold, whatever file format they came in."""
        return self._hash.hexdigest()[:16]

    def quarantine(self, path: Path, reason: str, total: int) -> None:
        """Sets an unreadable image aside.

        Raises:
          UserError: there are too many of them among `total`.
        """
        self.quarantined.append((str(path), reason))
        if len(self.quarantined) > max(QUARANTINE_FEW, QUARANTINE_SHARE * total):
            first = "\n  ".join(f"{path}: {reason}" for path, reason in self.quarantined[:5])
            raise UserError(
                f"{len(self.quarantined)} of {total} images cannot be used, more than {QUARANTINE_SHARE:.0%}: "
                f"unpack or download them again. The first:\n  {first}"
            )

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self.IMAGE_SHAPE, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=self.EMOTIONS),
            "intensity": tfds.features.Tensor(
                shape=(len(expressed(self.EMOTIONS)),), dtype=np.float32, encoding="bytes"
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features | self.extra_features()),
            citation=self.CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, _download_manager) -> dict[str, Iterator[tuple[int, Example]]]:
        return {split: self._generate_examples(split, make) for split, make in self.examples().items()}

    def _generate_examples(self, split: str, make: Callable[[], Iterator[Example]]) -> Iterator[tuple[int, Example]]:
        counts = self.class_counts[split] = collections.Counter()
        self._hash.update(split.encode())
        for number, example in enumerate(make()):
            counts[example["label"]] += 1
            yield number, example


def missing(name: str, data_dir: Path | None, origin: str) -> UserError:
    """The error of raw data that are not there: what was looked at, what is expected, where to get it."""
    if data_dir is None:
        return UserError(f"{name} needs --data_dir=PATH. {origin}")
    if not data_dir.exists():
        return UserError(f"{name}: {data_dir} does not exist. {origin}")
    if not data_dir.is_dir():
        return UserError(f"{name}: {data_dir} is none of the files expected. {origin}")
    found = sorted(path.name + "/" * path.is_dir() for path in data_dir.iterdir())
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return UserError(f"{name}: nothing usable in {data_dir} (found: {shown or 'nothing'}). {origin}")
