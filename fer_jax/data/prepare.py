"""Preparation: raw download -> TFDS builder -> ArrayRecord in the cache, done once for each content.

    python -m fer_jax.data.prepare fer2013 --data_dir=PATH

Prepared data lie in `$FER_JAX_CACHE/datasets` (default `~/.cache/fer_jax/datasets`), keyed by the content of
the raw files. A preparation that is cut short leaves nothing behind that could be taken for a data set.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax.config import cache_directory
from fer_jax.errors import UserError, unknown

log = logging.getLogger(__name__)

_RECORD = "prepared.json"
_READ_AT_ONCE = 1024  # examples


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set: what it is, and access to its splits."""

    name: str
    variant: str
    emotions: tuple[str, ...]
    image_shape: tuple[int, int, int]
    has_intensity: bool  # False: the intensities are the labels' one-hot vectors
    synthetic: bool
    directory: Path
    splits: dict[str, int]  # split -> number of examples
    class_counts: dict[str, tuple[int, ...]]  # split -> examples of each emotion
    fingerprint: str  # of the content: two data sets with the same one hold the same examples
    kept: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # split -> its examples, where not all

    def without(self, exclude: dict[str, np.ndarray]) -> "Dataset":
        """The data set without the examples int [n] of each split in `exclude`."""
        kept, counts = {}, dict(self.class_counts)
        for split, left_out in exclude.items():
            kept[split] = np.setdiff1d(np.arange(self.splits[split]), left_out)
            labels = self.arrays(split)["label"][kept[split]]
            counts[split] = tuple(np.bincount(labels, minlength=len(self.emotions)).tolist())
        digest = hashlib.sha256(b"".join(split.encode() + kept[split].tobytes() for split in sorted(kept)))
        return dataclasses.replace(
            self,
            kept=kept,
            splits=self.splits | {split: len(examples) for split, examples in kept.items()},
            class_counts=counts,
            fingerprint=f"{self.fingerprint}-{digest.hexdigest()[:8]}",
        )

    def require(self, split: str) -> None:
        """Raises a UserError unless there is such a split."""
        if split not in self.splits:
            raise UserError(
                f"{self.name} as prepared from the data at hand has no {split} split, only {', '.join(self.splits)}"
            )

    def source(self, split: str) -> Sequence[dict]:
        """Random access to decoded examples: image uint8 [H, W, C], label, intensity float32 [E] and extras."""
        self.require(split)
        import tensorflow_datasets as tfds

        source = tfds.builder_from_directory(str(self._builder_directory)).as_data_source(split=split)
        return _Part(source, self.kept[split]) if split in self.kept else source

    def arrays(self, split: str) -> dict[str, np.ndarray]:
        """A whole split: image uint8 [n, H, W, C], label int32 [n], intensity float32 [n, E].

        Decoded once and kept beside the records, so that a run starts at the speed of the disk.
        """
        self.require(split)
        folder = self.directory / "arrays"
        paths = {name: folder / f"{split}-{name}.npy" for name in ("image", "label", "intensity")}
        if not all(path.exists() for path in paths.values()):
            folder.mkdir(exist_ok=True)
            for name, array in self._decode(split).items():
                with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                    np.save(file, array)
                Path(file.name).replace(paths[name])
        arrays = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
        return {name: array[self.kept[split]] for name, array in arrays.items()} if split in self.kept else arrays

    def _decode(self, split: str) -> dict[str, np.ndarray]:
        source = dataclasses.replace(self, kept={}).source(split)
        count = len(source)
        emotions = self._intensity_size
        arrays = {
            "image": np.empty((count, *self.image_shape), np.uint8),
            "label": np.empty(count, np.int32),
            "intensity": np.empty((count, emotions), np.float32),
        }
        for start in range(0, count, _READ_AT_ONCE):
            indices = range(start, min(start + _READ_AT_ONCE, count))
            for index, example in zip(indices, source.__getitems__(list(indices)), strict=True):
                for name, array in arrays.items():
                    array[index] = example[name]
        return arrays

    @property
    def _intensity_size(self) -> int:
        return sum(emotion != "neutral" for emotion in self.emotions)

    @property
    def _builder_directory(self) -> Path:
        return next(path.parent for path in self.directory.glob("*/*/dataset_info.json"))


@dataclasses.dataclass(frozen=True)
class _Part:
    """Some of the examples of a source."""

    source: Sequence[dict]
    kept: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> dict:
        return self.source[int(self.kept[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        return self.source.__getitems__([int(self.kept[index]) for index in indices])


def load(
    name: str,
    *,
    variant: str | None = None,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """The data set, prepared first if it is not in the cache.

    Args:
      name: a key of `datasets.DATASETS`.
      variant: of the data set; None is its default.
      data_dir: where the raw data lie. Without it the one prepared before is taken, if there is exactly one.
      cache_dir: default `$FER_JAX_CACHE`, else `~/.cache/fer_jax`.

    Raises:
      UserError: unknown name or variant, raw data missing or wrong (with file and line), no space.
    """
    from fer_jax.data.datasets import DATASETS

    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    builder_class = DATASETS[name]
    variant = builder_class.VARIANTS[0] if variant is None else variant
    if variant not in builder_class.VARIANTS:
        known = ", ".join(repr(known) for known in builder_class.VARIANTS)
        raise UserError(f"{name} has no variant {variant!r}; it has: {known}")
    cache = Path(cache_dir or cache_directory()) / "datasets"
    stem = _stem(name, variant)
    if data_dir is None and (before := _prepared_before(cache, stem, builder_class)):
        return _read(before)
    raw = builder_class.find_raw(Path(data_dir).expanduser() if data_dir is not None else None)
    directory = cache / f"{stem}-{_raw_key(builder_class, variant, raw)}"
    if not (directory / _RECORD).exists():
        try:
            _prepare(builder_class, variant, raw, directory)
        except PermissionError as error:
            raise UserError(
                f"cannot write to {directory}: set FER_JAX_CACHE to a folder that you can write to"
            ) from error
    return _read(directory)


def _stem(name: str, variant: str) -> str:
    return "-".join(part for part in (name, variant) if part)


def _prepared_before(cache: Path, stem: str, builder_class) -> Path | None:
    """What was prepared from raw data that are not named now."""
    if builder_class.SYNTHETIC:
        return None
    prepared = [
        path.parent for path in cache.glob(f"{stem}-*/{_RECORD}") if json.loads(path.read_text())["stem"] == stem
    ]
    return prepared[0] if len(prepared) == 1 else None


def _raw_key(builder_class, variant: str, raw: tuple[Path, ...]) -> str:
    """A digest of what decides on the prepared content: the raw files, the builder and, for drawn faces, OpenCV."""
    digest = hashlib.sha256(f"{builder_class.__name__} {builder_class.VERSION} {variant}".encode())
    if builder_class.SYNTHETIC:
        from fer_jax.data import facs, portrait, synthetic

        # Drawn by this code and this OpenCV: a change in either draws anew.
        digest.update(cv2.__version__.encode())
        for module in (facs, portrait, synthetic, sys.modules[builder_class.__module__]):
            digest.update(Path(module.__file__).read_bytes())
    for path in raw:
        if path.is_dir():
            digest.update(_listing(path))
            continue
        digest.update(path.parent.name.encode() + path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _listing(folder: Path) -> bytes:
    """The names and sizes of all files in a folder, hidden ones apart."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {path.stat().st_size}\n" for path in found]
    return "".join(lines).encode(errors="surrogateescape")


def _prepare(builder_class, variant: str, raw: tuple[Path, ...], directory: Path) -> None:
    """Writes the records into a temporary folder and renames it when all is there."""
    import tensorflow_datasets as tfds

    name = builder_class.__name__.lower()
    log.info("data: preparing %s %sinto %s", name, f"({variant}) " if variant else "", directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    tfds.disable_progress_bar()
    try:
        # TFDS announces on stdout what is announced above.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = builder_class(raw=raw, variant=variant, data_dir=str(temporary))
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=temporary))
        counts = {
            split: [counter[emotion] for emotion in builder.EMOTIONS] for split, counter in builder.class_counts.items()
        }
        for split, count in counts.items():
            if not sum(count):
                raise UserError(f"{name}: the {split} split is empty: none of its images can be used")
        record = {
            "stem": _stem(name, variant),
            "name": name,
            "variant": variant,
            "emotions": builder.EMOTIONS,
            "image_shape": builder.IMAGE_SHAPE,
            "has_intensity": builder.HAS_INTENSITY,
            "synthetic": builder.SYNTHETIC,
            "splits": {split: sum(count) for split, count in counts.items()},
            "class_counts": counts,
            "fingerprint": builder.fingerprint,
            "raw": [str(path) for path in raw[:3]],
            "opencv": cv2.__version__,
            "quarantined": sorted(builder.quarantined),
            "notes": builder.notes,
        }
        (temporary / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        temporary.chmod(0o755)
        try:
            temporary.rename(directory)
        except OSError:
            if not (directory / _RECORD).exists():  # else another process was faster: same content
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for note in builder.notes:
        log.info("data: %s", note)
    if builder.quarantined:
        log.warning("data: %d images cannot be used and are left out:", len(builder.quarantined))
        for path, reason in sorted(builder.quarantined):
            log.warning("data:   %s: %s", path, reason)


def _read(directory: Path) -> Dataset:
    record = json.loads((directory / _RECORD).read_text())
    if record["quarantined"]:
        log.info(
            "data: %d unusable images are left out (listed in %s)",
            len(record["quarantined"]),
            directory / _RECORD,
        )
    return Dataset(
        name=record["name"],
        variant=record["variant"],
        emotions=tuple(record["emotions"]),
        image_shape=tuple(record["image_shape"]),
        has_intensity=record["has_intensity"],
        synthetic=record["synthetic"],
        directory=directory,
        splits=record["splits"],
        class_counts={split: tuple(counts) for split, counts in record["class_counts"].items()},
        fingerprint=record["fingerprint"],
    )


def describe(dataset: Dataset) -> str:
    """The splits and classes as a table."""
    width = max(map(len, dataset.emotions))
    lines = [f"{dataset.name} {dataset.variant}".strip() + (" (SYNTHETIC)" if dataset.synthetic else "")]
    lines.append(" " * (width + 2) + "".join(f"{split:>12}" for split in dataset.splits))
    for i, emotion in enumerate(dataset.emotions):
        counts = "".join(f"{dataset.class_counts[split][i]:>12,}" for split in dataset.splits)
        lines.append(f"  {emotion:<{width}}{counts}")
    lines.append("  " + f"{'all':<{width}}" + "".join(f"{count:>12,}" for count in dataset.splits.values()))
    return "\n".join([*lines, f"prepared: {dataset.directory}"])


def preview(dataset: Dataset, path: Path, rows: int = 4) -> None:
    """Draws a few faces of each emotion, from all over the training split (or the first split there is)."""
    from fer_jax import figures

    split = "train" if "train" in dataset.splits else next(iter(dataset.splits))
    arrays = dataset.arrays(split)
    columns = {}
    for label, emotion in enumerate(dataset.emotions):
        members = np.flatnonzero(arrays["label"] == label)
        spread = np.linspace(0, len(members) - 1, min(rows, len(members))).astype(int)
        columns[emotion] = arrays["image"][members[spread]]
    figures.contact_sheet(columns, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    from fer_jax.data.datasets import DATASETS

    origins = "\n".join(f"{name}: {builder.ORIGIN}" for name, builder in DATASETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m fer_jax.data.prepare",
        description="Prepares a data set once; runs then find it in the cache.",
        epilog=origins,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("--data_dir", type=Path, help="where the raw data lie")
    parser.add_argument("--variant", help="of the data set, e.g. majority of ferplus")
    parser.add_argument("--preview", type=Path, metavar="FILE", help="draw some faces of each emotion")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        dataset = load(options.name, variant=options.variant, data_dir=options.data_dir)
        print(describe(dataset))
        if options.preview:
            preview(dataset, options.preview)
            print(f"preview: {options.preview}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
