"""A prepared data set, and selections from one or more that are read as one.

A selection writes nothing: it names examples of prepared data, brought to its emotions and image shape as they are
read. So a run without copies, a fold of the subjects and several data sets joined cost no second preparation.
"""

import dataclasses
import functools
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax.data.emotions import expressed
from fer_jax.errors import UserError

_READ_AT_ONCE = 1024  # examples
_ARRAYS = ("image", "label", "intensity")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set: what it is, and access to its splits."""

    name: str
    variant: str
    emotions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    has_intensity: bool  # False: the intensities are the labels' one-hot vectors
    synthetic: bool
    directory: Path | None  # of the records; None where they come from several data sets
    splits: dict[str, int]  # split -> number of examples
    class_counts: dict[str, tuple[int, ...]]  # split -> examples of each emotion
    fingerprint: str  # of the content: two data sets with the same one hold the same examples

    def require(self, split: str) -> None:
        """Raises a UserError unless there is such a split."""
        if split not in self.splits:
            raise UserError(
                f"{self.name} as prepared from the data at hand has no {split} split, only {', '.join(self.splits)}"
            )

    def source(self, split: str) -> Sequence[dict]:
        """Random access to decoded examples: image uint8 [H, W, C], label, intensity float32 [E] and extras."""
        self.require(split)
        return self._builder.as_data_source(split=split)

    def arrays(self, split: str) -> dict[str, np.ndarray]:
        """A whole split: image uint8 [n, H, W, C], label int32 [n], intensity float32 [n, E].

        Decoded once and kept beside the records, so that a run starts at the speed of the disk.
        """
        return self._kept(split, _ARRAYS)

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, int32 [n], without reading its images."""
        return self._kept(split, ("label",))["label"]

    def subjects(self, split: str) -> np.ndarray:
        """Who is shown: a name for each example of a split, str [n]; empty where the data do not tell."""
        self.require(split)
        if "subject" not in self._builder.info.features:
            return np.zeros(self.splits[split], str)
        return self._kept(split, ("subject",))["subject"]

    def without(self, exclude: dict[str, np.ndarray]) -> "Selection":
        """The data set without the examples int [n] of each split in `exclude`."""
        kept = {split: np.setdiff1d(np.arange(self.splits[split]), left_out) for split, left_out in exclude.items()}
        digest = hashlib.sha256(b"".join(split.encode() + kept[split].tobytes() for split in sorted(kept)))
        picks = {split: (Pick(self, split, kept.get(split)),) for split in self.splits}
        return select(self, picks, fingerprint=f"{self.fingerprint}-{digest.hexdigest()[:8]}")

    def _kept(self, split: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        self.require(split)
        folder = self.directory / "arrays"
        paths = {name: folder / f"{split}-{name}.npy" for name in names}
        if not all(path.exists() for path in paths.values()):
            folder.mkdir(exist_ok=True)
            for name, array in self._decode(split, names).items():
                with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                    np.save(file, array)
                Path(file.name).replace(paths[name])
        return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}

    def _decode(self, split: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        import tensorflow_datasets as tfds

        decoders = None if "image" in names else {"image": tfds.decode.SkipDecoding()}
        source = self._builder.as_data_source(split=split, decoders=decoders)
        count = len(source)
        arrays = {
            "image": lambda: np.empty((count, *self.image_shape), np.uint8),
            "label": lambda: np.empty(count, np.int32),
            "intensity": lambda: np.empty((count, len(expressed(self.emotions))), np.float32),
            "subject": lambda: np.empty(count, object),
        }
        arrays = {name: arrays[name]() for name in names}
        for start in range(0, count, _READ_AT_ONCE):
            indices = range(start, min(start + _READ_AT_ONCE, count))
            for index, example in zip(indices, source.__getitems__(list(indices)), strict=True):
                for name, array in arrays.items():
                    array[index] = _text(example[name]) if name == "subject" else example[name]
        if "subject" in arrays:
            arrays["subject"] = arrays["subject"].astype(str)
        return arrays

    @functools.cached_property
    def _builder(self):
        import tensorflow_datasets as tfds

        folder = next(path.parent for path in self.directory.glob("*/*/dataset_info.json"))
        return tfds.builder_from_directory(str(folder))


def _text(subject: bytes | int) -> str:
    return subject.decode() if isinstance(subject, bytes) else str(subject)


@dataclasses.dataclass(frozen=True)
class Pick:
    """Some examples of a split, or all of it."""

    dataset: Dataset
    split: str
    index: np.ndarray | None = None  # int [n]; None: all
    prefix: str = ""  # of its subjects' names, where those of several data sets come together

    @property
    def size(self) -> int:
        return self.dataset.splits[self.split] if self.index is None else len(self.index)

    @property
    def labels(self) -> np.ndarray:
        """Int32 [n], by the emotions of its data set."""
        return self.of(self.dataset.labels(self.split))

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of a split's array that is picked."""
        return array if self.index is None else array[self.index]


@dataclasses.dataclass(frozen=True)
class Selection(Dataset):
    """Splits put together of picks, in their order."""

    picks: dict[str, tuple[Pick, ...]] = dataclasses.field(kw_only=True)

    def source(self, split):
        self.require(split)
        return _Joined(
            [pick.dataset.source(pick.split) for pick in self.picks[split]],
            [pick.index if pick.index is not None else np.arange(pick.size) for pick in self.picks[split]],
            [self._adapter(pick.dataset) for pick in self.picks[split]],
        )

    def arrays(self, split):
        self.require(split)
        first, *more = self.picks[split]
        if not more and first.index is None and self._adapter(first.dataset).is_identity:
            return first.dataset.arrays(first.split)
        whole, start = None, 0
        for pick in self.picks[split]:
            adapt = self._adapter(pick.dataset)
            part = adapt({name: pick.of(array) for name, array in pick.dataset.arrays(pick.split).items()})
            if whole is None:
                shapes = {name: (self.splits[split], *array.shape[1:]) for name, array in part.items()}
                whole = {name: np.empty(shape, part[name].dtype) for name, shape in shapes.items()}
            for name, array in part.items():
                whole[name][start : start + pick.size] = array
            start += pick.size
        return whole

    def labels(self, split):
        self.require(split)
        return np.concatenate([self._adapter(pick.dataset).label(pick.labels) for pick in self.picks[split]])

    def subjects(self, split):
        self.require(split)
        named = [(pick.prefix, pick.of(pick.dataset.subjects(pick.split)).tolist()) for pick in self.picks[split]]
        return np.array([prefix + name if name else "" for prefix, names in named for name in names], str)

    def _adapter(self, dataset: Dataset) -> "Adapter":
        one_hot = dataset.has_intensity and not self.has_intensity
        return Adapter(dataset.emotions, self.emotions, self.image_shape, dataset.image_shape, one_hot)


def select(dataset: Dataset, picks: dict[str, tuple[Pick, ...]], *, fingerprint: str, **changes) -> Selection:
    """A selection that is like `dataset` but for its splits, its fingerprint and the given `changes` of fields."""
    fields = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(Dataset)} | changes
    counts = {}
    for split, members in picks.items():
        total = np.zeros(len(fields["emotions"]), int)
        for pick in members:
            of_pick = pick.dataset.class_counts[pick.split]
            if pick.index is not None:
                of_pick = np.bincount(pick.labels, minlength=len(pick.dataset.emotions))
            for name, count in zip(pick.dataset.emotions, of_pick, strict=True):
                if count:
                    total[fields["emotions"].index(name)] += count
        counts[split] = tuple(total.tolist())
    sizes = {split: sum(pick.size for pick in members) for split, members in picks.items()}
    return Selection(
        **fields | {"splits": sizes, "class_counts": counts, "fingerprint": fingerprint},
        picks=picks,
    )


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Brings examples of one data set to the emotions and the image shape of another: one example, or [n] at once."""

    emotions: tuple[str, ...]
    target: tuple[str, ...]  # holds every emotion that occurs
    image_shape: tuple[int, int, int]  # of the result: RGB where either is
    source_shape: tuple[int, int, int]
    one_hot: bool  # the result has no intensities, so they are the labels' one-hot vectors

    @property
    def is_identity(self) -> bool:
        return self.emotions == self.target and self.image_shape == self.source_shape and not self.one_hot

    def __call__(self, example: dict) -> dict:
        if self.is_identity:
            return example
        label = self.label(example["label"])
        adapted = {"image": self.image(example["image"]), "label": label}
        return example | adapted | {"intensity": self.intensity(example["intensity"], label)}

    def label(self, label: np.ndarray) -> np.ndarray:
        """Labels int [...] by name; those of an emotion that the target lacks become -1."""
        known = [self.target.index(name) if name in self.target else -1 for name in self.emotions]
        return np.array(known, np.int32)[label]

    def intensity(self, intensity: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Intensities float32 [..., E] in the columns of the same name; of emotions that the target lacks none."""
        if self.one_hot:
            names = np.array([self.target.index(name) for name in expressed(self.target)])
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


class _Joined(Sequence):
    """The picked examples of several sources, one after the other."""

    def __init__(self, sources: list[Sequence[dict]], indices: list[np.ndarray], adapters: list[Adapter]):
        self._parts = list(zip(sources, indices, adapters, strict=True))
        self._ends = np.cumsum([len(index) for index in indices])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        indices = np.asarray(indices)
        parts = np.searchsorted(self._ends, indices, side="right")
        examples = [None] * len(indices)
        for number in np.unique(parts):
            source, index, adapt = self._parts[number]
            places = np.flatnonzero(parts == number)
            chosen = index[indices[places] - (self._ends[number] - len(index))]
            for place, example in zip(places, source.__getitems__(chosen.tolist()), strict=True):
                examples[place] = adapt(example)
        return examples
