"""A prepared data set, and selections from one or more that are read as one.

A split is read whole, as arrays that are decoded once and kept in files beside the records, or by the row, which then
costs next to nothing; only where these files find no place rows are decoded from the records each time.

A selection writes nothing: it names examples of prepared data, brought to its emotions and image shape as they are
read. So a run without copies, a fold of the subjects and several data sets joined cost no second preparation.
"""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fer_jax import files
from fer_jax.data.emotions import relabel
from fer_jax.data.rows import ARRAYS, TEXTS, Adapter, KeptRows, RecordRows, Rows, SelectedRows, mapped, stacked
from fer_jax.errors import UserError
from fer_jax.lock import alone

log = logging.getLogger(__name__)

# The share of the free disk that decoded images may take.
DISK_SHARE = 0.5

_READ_AT_ONCE = 1024  # examples
_FRAME = re.compile(r"#\d+$")  # of a source: the number of the frame


class CannotKeep(UserError):
    """Decoded arrays find no place beside their records."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set: what it is, and access to its splits."""

    name: str
    variant: str
    emotions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    has_intensity: bool  # to score by; False: the intensities of held-out examples are the labels' one-hot vectors
    synthetic: bool
    directory: Path | None  # of the records; None where they come from several data sets
    splits: dict[str, int]  # split -> number of examples
    class_counts: dict[str, tuple[int, ...]]  # split -> examples of each emotion
    fingerprint: str  # of the content: two data sets with the same one hold the same examples

    @property
    def reported_split(self) -> str | None:
        """The split that results are given on: test where there is one, else validation, else none."""
        return next((name for name in ("test", "validation") if name in self.splits), None)

    def require(self, split: str) -> None:
        """Raises a UserError unless there is such a split."""
        if split not in self.splits:
            raise UserError(
                f"{self.name} as prepared from the data at hand has no {split} split, only {', '.join(self.splits)}"
            )

    def source(self, split: str) -> Sequence[dict]:
        """The records, decoded one by one: image uint8 [H, W, C], label, intensity float32 [E] and extras."""
        self.require(split)
        return self._builder.as_data_source(split=split)

    def rows(self, split: str) -> Rows:
        """A split to be read by the row: from the decoded arrays, or from the records where these cannot be kept."""
        try:
            return KeptRows(self._kept(split, ARRAYS, disk_share=DISK_SHARE))
        except CannotKeep as error:
            log.info("data: the records of %s are decoded as they are read, which takes time: %s", self.name, error)
            return RecordRows(self.source(split))

    def arrays(self, split: str) -> dict[str, np.ndarray]:
        """A whole split: image uint8 [n, H, W, C], label int32 [n], intensity float32 [n, E].

        Decoded once and kept beside the records, so that a run starts at the speed of the disk.

        Raises:
          CannotKeep: they cannot be written, as when the disk is full.
        """
        return mapped(self._kept(split, ARRAYS))

    def showing(
        self, split: str, emotions: Sequence[str], *, most: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """The images of a split that show one of the emotions; of more than `most` so many from all over the split.

        Returns:
          (images uint8 [n, H, W, C], labels int32 [n] of `emotions`, what they are, for titles)

        Raises:
          UserError: there is no such split, or it shows none of them.
        """
        arrays = self.arrays(split)
        labels = relabel(arrays["label"], self.emotions, emotions)
        chosen = np.flatnonzero(labels >= 0)
        if not len(chosen):
            raise UserError(f"the {split} split of {self.name} shows none of {', '.join(emotions)}")
        if most and most < len(chosen):
            chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(int)]
        source = f"{self.name}, {split} split, {len(chosen):,} images" + " (SYNTHETIC faces)" * self.synthetic
        return arrays["image"][chosen], labels[chosen], source

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, int32 [n], without reading its images."""
        return mapped(self._kept(split, ["label"]))["label"]

    def intensities(self, split: str) -> np.ndarray:
        """The intensities of a split, float32 [n, E], without reading its images."""
        return mapped(self._kept(split, ["intensity"]))["intensity"]

    def subjects(self, split: str) -> np.ndarray:
        """Who is shown: a name for each example of a split, str [n]; empty where the data do not tell."""
        self.require(split)
        if "subject" not in self._builder.info.features:
            return np.zeros(self.splits[split], str)
        return mapped(self._kept(split, ["subject"]))["subject"]

    def sources(self, split: str) -> np.ndarray:
        """Where each example of a split is found in the raw data, str [n], a file and line or frame; empty if drawn."""
        self.require(split)
        if "source" not in self._builder.info.features:
            return np.zeros(self.splits[split], str)
        return mapped(self._kept(split, ["source"]))["source"]

    def videos(self, split: str) -> np.ndarray:
        """Which images are of one video: a number for each example of a split, int64 [n], the same for its frames."""
        sources = self.sources(split)
        if not sources.any():
            return np.arange(self.splits[split])
        return np.unique([_FRAME.sub("", source) for source in sources.tolist()], return_inverse=True)[1]

    def digests(self, split: str) -> np.ndarray:
        """A number for each image of a split, uint64 [n], the same where two are equal in every pixel."""
        return mapped(self._kept(split, ["digest"]))["digest"]

    def without(self, exclude: dict[str, np.ndarray]) -> "Selection":
        """The data set without the examples int [n] of each split in `exclude`."""
        kept = {split: np.setdiff1d(np.arange(self.splits[split]), left_out) for split, left_out in exclude.items()}
        picks = {split: (Pick(self, split, kept.get(split)),) for split in self.splits}
        return select(self, picks)

    def _paths(self, split: str, names: Iterable[str]) -> dict[str, Path]:
        return {name: self.directory / "arrays" / f"{split}-{name}.npy" for name in names}

    def _kept(self, split: str, names: Iterable[str], *, disk_share: float = 1.0) -> dict[str, Path]:
        """The files of these arrays, written first where one is missing: each is whole or not there.

        Raises:
          CannotKeep: they take more than this share of the free disk, or cannot be written.
        """
        self.require(split)
        paths, folder = self._paths(split, names), self.directory / "arrays"
        if all(path.exists() for path in paths.values()):
            return paths
        size = self.splits[split] * int(np.prod(self.image_shape)) if "image" in names else 0
        what = f"the {', '.join(names)} of the {split} split of {self.name}, {size / 1e6:,.1f} MB,"
        remedy = "free some space, or set FER_JAX_CACHE to a folder with enough"
        if size:
            remedy += ", or train with data.residence = 'stream', which can do without"
        try:
            folder.mkdir(exist_ok=True)
            with alone(folder / f"{split}.lock") as held:
                if held:  # so what is there of others was left by processes that were killed
                    for left in folder.glob(f"{split}.*.partial"):
                        shutil.rmtree(left, ignore_errors=True)
                if all(path.exists() for path in paths.values()):  # somebody wrote them in the meantime
                    return paths
                if size > disk_share * shutil.disk_usage(folder).free:
                    free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB"
                    raise CannotKeep(
                        f"{what} take more than {disk_share:.0%} of the {free} that are free in {folder}: {remedy}"
                    )
                if size or "digest" in names:
                    log.info("data: decoding %s into %s", what, folder)
                with tempfile.TemporaryDirectory(dir=folder, prefix=f"{split}.", suffix=".partial") as partial:
                    self._write(split, paths, Path(partial))
                    for path in paths.values():
                        (Path(partial) / path.name).replace(path)
        except OSError as error:
            if not (reason := files.refusal(error)):
                raise
            raise CannotKeep(f"{what} cannot be written to {folder} ({reason}): {remedy}") from error
        return paths

    def _write(self, split: str, paths: dict[str, Path], folder: Path) -> None:
        """Writes arrays under the names of their paths into a folder, a part at a time."""
        parts = self._read(split, list(paths))
        if set(paths) <= set(TEXTS):  # as wide as the longest
            parts = list(parts)
            for name, path in paths.items():
                np.save(folder / path.name, np.concatenate([part[name] for part in parts]))
            return
        with contextlib.ExitStack() as stack:
            opened = {name: stack.enter_context((folder / path.name).open("wb")) for name, path in paths.items()}
            for part in parts:
                for name, array in part.items():
                    if not opened[name].tell():
                        header = np.lib.format.header_data_from_array_1_0(array)
                        header["shape"] = (self.splits[split], *array.shape[1:])
                        np.lib.format.write_array_header_1_0(opened[name], header)
                    opened[name].write(array)

    def _read(self, split: str, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The records in order, some at a time, decoded in threads."""
        import tensorflow_datasets as tfds

        decoders = None if {"image", "digest"} & set(names) else {"image": tfds.decode.SkipDecoding()}
        source = self._builder.as_data_source(split=split, decoders=decoders)

        def read(index: np.ndarray) -> dict[str, np.ndarray]:
            return stacked(source.__getitems__(index.tolist()), names)

        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(source), _READ_AT_ONCE):
                some = np.arange(start, min(start + _READ_AT_ONCE, len(source)))
                yield from pool.map(read, np.array_split(some, min(threads, len(some))))

    @functools.cached_property
    def _builder(self):
        import tensorflow_datasets as tfds

        folder = next(path.parent for path in self.directory.glob("*/*/dataset_info.json"))
        return tfds.builder_from_directory(str(folder))


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

    @property
    def digests(self) -> np.ndarray:
        """Uint64 [n], see `Dataset.digests`."""
        return self.of(self.dataset.digests(self.split))

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of a split's array that is picked."""
        return array if self.index is None else array[self.index]

    def slices(self, size: int) -> Iterator[slice | np.ndarray]:
        """What picks the same from a split's array, so many at a time."""
        for start in range(0, self.size, size):
            some = slice(start, start + size)
            yield some if self.index is None else self.index[some]


@dataclasses.dataclass(frozen=True)
class Selection(Dataset):
    """Splits put together of picks, in their order."""

    picks: dict[str, tuple[Pick, ...]] = dataclasses.field(kw_only=True)

    def source(self, split):
        raise UserError(f"{self.name} is put together of other data and has no records of its own: name one of those")

    def rows(self, split):
        self.require(split)
        return SelectedRows(
            [pick.dataset.rows(pick.split) for pick in self.picks[split]],
            [pick.index if pick.index is not None else np.arange(pick.size) for pick in self.picks[split]],
            [self._adapter(pick, split) for pick in self.picks[split]],
        )

    def arrays(self, split):
        self.require(split)
        first, *more = self.picks[split]
        if not more and first.index is None and self._adapter(first, split).is_identity:
            return first.dataset.arrays(first.split)
        whole, start = None, 0
        for pick in self.picks[split]:
            adapt, arrays = self._adapter(pick, split), pick.dataset.arrays(pick.split)
            for some in pick.slices(_READ_AT_ONCE):  # not the whole of it once more in memory
                part = adapt({name: array[some] for name, array in arrays.items()})
                if whole is None:
                    shapes = {name: (self.splits[split], *array.shape[1:]) for name, array in part.items()}
                    whole = {name: np.empty(shape, part[name].dtype) for name, shape in shapes.items()}
                stop = start + len(part["label"])
                for name, array in part.items():
                    whole[name][start:stop] = array
                start = stop
        return whole

    def labels(self, split):
        self.require(split)
        return np.concatenate([self._adapter(pick, split).label(pick.labels) for pick in self.picks[split]])

    def intensities(self, split):
        self.require(split)
        parts = []
        for pick in self.picks[split]:
            adapt, own = self._adapter(pick, split), pick.of(pick.dataset.intensities(pick.split))
            parts.append(adapt.intensity(own, adapt.label(pick.labels)))
        return np.concatenate(parts)

    def subjects(self, split):
        self.require(split)
        named = [(pick.prefix, pick.of(pick.dataset.subjects(pick.split)).tolist()) for pick in self.picks[split]]
        return np.array([prefix + name if name else "" for prefix, names in named for name in names], str)

    def sources(self, split):
        self.require(split)
        return np.concatenate([pick.of(pick.dataset.sources(pick.split)) for pick in self.picks[split]])

    def videos(self, split):
        self.require(split)
        numbers, start = [], 0
        for pick in self.picks[split]:
            numbers.append(pick.of(pick.dataset.videos(pick.split)) + start)
            start = numbers[-1].max(initial=start - 1) + 1
        return np.concatenate(numbers)

    def digests(self, split):
        self.require(split)
        return np.concatenate([pick.digests for pick in self.picks[split]])

    def _adapter(self, pick: Pick, split: str) -> Adapter:
        dataset = pick.dataset
        # A data set not scored by intensities may have some to train on (ferplus, variant fer2013): training images
        # that a fold holds out get the one-hot vectors of their labels instead.
        held_out = pick.split == "train" and split != "train"
        one_hot = not self.has_intensity and (held_out or self._some_have_intensity)
        return Adapter(dataset.emotions, self.emotions, self.image_shape, dataset.image_shape, one_hot)

    @functools.cached_property
    def _some_have_intensity(self) -> bool:
        return any(pick.dataset.has_intensity for members in self.picks.values() for pick in members)


def select(dataset: Dataset, picks: dict[str, tuple[Pick, ...]], **changes) -> Selection:
    """A selection that is like `dataset` but for its splits, its fingerprint and the given `changes` of fields.

    The fingerprint is that of `dataset`, a dash, and one of what is picked and of the emotions.
    """
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
    digest = hashlib.sha256(" ".join(fields["emotions"]).encode())
    for split, members in picks.items():
        for pick in members:
            digest.update(f"\n{split} {pick.dataset.fingerprint} {pick.split} ".encode())
            digest.update(b"all" if pick.index is None else pick.index.astype(np.int64).tobytes())
    fingerprint = f"{dataset.fingerprint}-{digest.hexdigest()[:8]}"
    return Selection(
        **fields | {"splits": sizes, "class_counts": counts, "fingerprint": fingerprint},
        picks=picks,
    )
