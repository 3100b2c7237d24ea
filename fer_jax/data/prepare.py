"""Preparation: raw download -> TFDS builder -> ArrayRecord in the cache, done once for each content.

    python -m fer_jax.data.prepare fer2013 --data_dir=PATH

Prepared data lie in `$FER_JAX_CACHE/datasets` (default `~/.cache/fer_jax/datasets`), keyed by the content of
the raw files. A preparation that is cut short leaves nothing behind that could be taken for a data set; where the
data are image files (but FER2013's, which take no time), the same command goes on where it was.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from fer_jax import files, process
from fer_jax.config import cache_directory
from fer_jax.data import align_dataset, crops
from fer_jax.data.crops import METHODS
from fer_jax.data.dataset import Dataset
from fer_jax.data.detect import LANDMARK_SUFFIXES, landmarks_beside
from fer_jax.errors import UserError, exits_with_message, unknown
from fer_jax.lock import alone

log = logging.getLogger("fer_jax.data.prepare")  # also where this module is `__main__`

_RECORD = "prepared.json"


def load(
    name: str,
    *,
    variant: str | None = None,
    align: str = "",
    data_dir: str | Path | None = None,
    fingerprint: str = "",
    cache_dir: str | Path | None = None,
    runner: str = "threads",
    workers: int | None = None,
) -> Dataset:
    """The data set, prepared first if it is not in the cache.

    Args:
      name: a key of `datasets.DATASETS`.
      variant: of the data set; None is its default.
      align: a method of `crops.METHODS` by which its photographs are aligned first, or '' for photographs as they are.
        One without a face stays as it is, and is listed.
      data_dir: where the raw data lie. Without it the one prepared before is taken, if there is exactly one.
      fingerprint: of the data set, or of a selection from it: without `data_dir`, which of several it is.
      cache_dir: default `$FER_JAX_CACHE`, else `~/.cache/fer_jax`.
      runner: what reads picture files, see `runners.each`.
      workers: how many threads or Ray actors; None: one a core.

    Raises:
      UserError: unknown name, variant or method, raw data missing or wrong (with file and line), no space.
    """
    from fer_jax.data.datasets import DATASETS

    photographs = of_photographs(name)
    builder_class = DATASETS[name]
    variant = builder_class.VARIANTS[0] if variant is None else variant
    if variant not in builder_class.VARIANTS:
        known = ", ".join(repr(known) for known in builder_class.VARIANTS)
        raise UserError(f"{name} has no variant {variant!r}; it has: {known}")
    if align and align not in METHODS:
        raise unknown("method of alignment", align, METHODS)
    if align and not photographs:
        raise UserError(
            f"{name} cannot be aligned: its images are crops of faces already, not photographs. Set data.align = '', "
            f"or use one of {', '.join(filter(of_photographs, DATASETS))}"
        )
    cache = Path(cache_dir or cache_directory()) / "datasets"
    stem = _stem(name, variant, align)
    if data_dir is None and (before := _prepared_before(cache, stem, builder_class, align, fingerprint)):
        return _read(before)
    try:
        # Absolute, since Ray's actors work in another folder.
        raw = builder_class.find_raw(files.user_path(data_dir).absolute() if data_dir is not None else None)
        directory = cache / f"{stem}-{_raw_key(builder_class, variant, raw, align)}"
        if not (directory / _RECORD).exists():
            _prepare(builder_class, variant, raw, directory, align=align, runner=runner, workers=workers)
    except (OSError, RuntimeError) as error:
        if not (reason := files.refusal(error)):
            raise
        where = Path(getattr(error, "filename", None) or cache)
        of_cache = where.is_relative_to(cache.parent) or cache.is_relative_to(where)  # which may have to be made first
        if isinstance(error, PermissionError) and not of_cache:
            raise UserError(f"{where} cannot be read ({reason}): make it readable, or move it away") from error
        raise UserError(
            f"cannot write to {where} ({reason}): make room, or set FER_JAX_CACHE to a folder that has "
            f"it and that you can write to"
        ) from error
    return _read(directory)


def refuse_unread(data_dir: str | Path | None, names: Collection[str], *, such_as: str = "fer2013") -> None:
    """Raises a UserError where raw data are given and all data sets are of drawn faces, which would be taken instead.

    Args:
      such_as: how another data set is named.
    """
    if data_dir and set(names) == {"synthetic"}:
        raise UserError(
            f"synthetic faces are drawn, so nothing would be read in --data_dir={data_dir}: leave it out, or name the "
            f"data set that lies there, e.g. {such_as}"
        )


def of_photographs(name: str) -> bool:
    """Whether the images of a data set are photographs, which can be aligned, not crops of faces already.

    Raises:
      UserError: unknown name.
    """
    from fer_jax.data.datasets import DATASETS
    from fer_jax.data.datasets.base import PictureBuilder

    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return issubclass(DATASETS[name], PictureBuilder)


def _stem(name: str, variant: str, align: str) -> str:
    return "-".join(part for part in (name, variant, align and f"align_{align}") if part)


def _version(builder_class, align: str) -> str:
    """Of what makes the examples of the raw files."""
    return f"{builder_class.VERSION}" + (f", aligned {crops.VERSION}" if align else "")


def _prepared_before(cache: Path, stem: str, builder_class, align: str, fingerprint: str = "") -> Path | None:
    """What was prepared, by this version of the builder, from raw data that are not named now.

    Raises:
      UserError: from several that differ, none of which has the fingerprint.
    """
    if builder_class.SYNTHETIC:
        return None
    version, prepared = _version(builder_class, align), {}
    for path in sorted(cache.glob(f"{stem}-*/{_RECORD}")):
        record = json.loads(path.read_text())
        if record["stem"] == stem and record.get("version") == version:
            prepared[path.parent] = record
    # That of a selection is after that of the whole and a dash.
    if wanted := [folder for folder, record in prepared.items() if record["fingerprint"] == fingerprint.split("-")[0]]:
        return wanted[0]
    if len({record["fingerprint"] for record in prepared.values()}) > 1:
        listed = "".join(f"\n  {folder}, of {record['raw'][0]}" for folder, record in prepared.items())
        raise UserError(f"{stem} was prepared more than once: say of which raw data with --data_dir=PATH{listed}")
    return next(iter(prepared), None)


def _raw_key(builder_class, variant: str, raw: tuple[Path, ...], align: str) -> str:
    """A digest of what decides on the prepared content: the raw files, the builder and, for drawn faces, OpenCV.

    Aligned pictures are decided on by the landmarks beside them too.

    Raises:
      UserError: a raw file cannot be read.
    """
    digest = hashlib.sha256(f"{builder_class.__name__} {_version(builder_class, align)} {variant}{align}".encode())
    if builder_class.SYNTHETIC:
        from fer_jax.data import facs, portrait, synthetic

        # Drawn by this code and this OpenCV: a change in either draws anew.
        digest.update(cv2.__version__.encode())
        for module in (facs, portrait, synthetic, sys.modules[builder_class.__module__]):
            digest.update(Path(module.__file__).read_bytes())
    used = (*raw, *(_landmarks(raw) if align else ()))
    used = [path.absolute() for path in used]
    # Folders are names of splits and emotions. The one that all is in may be one too, unless it is itself named.
    above = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in used])) if used else Path()
    above = above if above in used else above.parent
    for path in used:
        if path.is_dir():
            if builder_class.LISTED:
                digest.update(_listing(path))
            continue
        digest.update(os.fsencode(path.relative_to(above)) + b"\0")
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:12]


def _landmarks(raw: tuple[Path, ...]) -> list[Path]:
    """The files of landmarks beside the pictures among the raw files, or in folders that stand for pictures."""
    found = set()
    for path in raw:
        if path.is_dir():
            found.update(file for file in files.visible(path) if file.name.endswith(LANDMARK_SUFFIXES))
        elif files.is_image(path) and (file := landmarks_beside(path)):
            found.add(file)
    return sorted(found)


def _listing(folder: Path) -> bytes:
    """The names and sizes of all files in a folder, hidden ones apart."""
    lines = [f"{path.relative_to(folder)} {path.stat().st_size}\n" for path in sorted(files.visible(folder))]
    return "".join(lines).encode(errors="surrogateescape")


def _prepare(
    builder_class,
    variant: str,
    raw: tuple[Path, ...],
    directory: Path,
    *,
    align: str,
    runner: str,
    workers: int | None,
) -> None:
    """Writes the records into a folder beside `directory`, which it becomes when all is there.

    What was read of picture files stays in that folder when the preparation is cut short, and the next one goes on from
    there; nothing stays of what the user has to mend.
    """
    import tensorflow_datasets as tfds

    from fer_jax.data.datasets.base import PictureBuilder
    from fer_jax.data.datasets.readings import Readings

    name = builder_class.__name__.lower()
    # Crops are OpenCV's: what another version has read is not gone on from.
    partial = directory.with_name(f".{directory.name}-opencv-{cv2.__version__}.partial")
    records, readings, options = partial / "records", partial / "readings", {}
    unaligned: list[tuple[str, str]] = []
    if issubclass(builder_class, PictureBuilder):
        options = {"readings": Readings(readings), "runner": runner, "workers": workers}
    elif runner == "ray":
        raise UserError(f"{name} is read in one go, not file by file by a cluster: leave --runner out")
    tfds.disable_progress_bar()
    with alone(directory.with_name(f".{directory.name}.lock")):  # of whichever OpenCV
        if (directory / _RECORD).exists():  # another process was faster
            return
        begun = "going on with" if readings.exists() else "preparing"
        log.info("data: %s %s %sinto %s", begun, name, f"({variant}) " if variant else "", directory)
        shutil.rmtree(records, ignore_errors=True)
        records.mkdir(parents=True)
        try:
            # TFDS announces on stdout what is announced above.
            with contextlib.redirect_stdout(io.StringIO()):
                builder = builder_class(raw=raw, variant=variant, data_dir=str(records), **options)
                if align:
                    unaligned = _align(builder, align, directory.parents[1] / "aligned", runner=runner, workers=workers)
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=records))
            (records / _RECORD).write_text(
                json.dumps(_record(builder, name, variant, raw, align, unaligned), indent=2) + "\n"
            )
            records.rename(directory)
        except BaseException as error:
            go_on = readings.exists() and not isinstance(error, UserError)
            shutil.rmtree(records if go_on else partial)
            raise
        shutil.rmtree(partial)
    for note in builder.notes:
        log.info("data: %s", note)
    for path, reason in unaligned[:8]:
        log.warning("data: not aligned: %s: %s", path, reason)
    if builder.quarantined:
        log.warning("data: %d images cannot be used and are left out:", len(builder.quarantined))
        for path, reason in sorted(builder.quarantined):
            log.warning("data:   %s: %s", path, reason)


def _align(builder, method: str, folder: Path, *, runner: str, workers: int | None) -> list[tuple[str, str]]:
    """Puts aligned crops in the places of a builder's photographs; (path, reason) of those that stay as they are.

    Crops and detections are kept in `folder`: one cut short goes on, and another method detects no face again.

    Raises:
      UserError: videos, or no detector.
    """
    by_split = builder.pictures()
    pictures = [picture for of_split in by_split.values() for picture in of_split]
    if not pictures:
        return []
    # The folders are resolved, not the pictures: landmarks lie beside a link, and it has the ending.
    root = Path(os.path.commonpath([picture.path.parent.resolve() for picture in pictures]))
    folder /= f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    landmarks = align_dataset.have_landmarks(pictures)
    where = {"landmarks": landmarks, "runner": "ray" if runner == "ray" else "processes", "workers": workers}
    with alone(folder / ".lock"):
        aligned, reasons = align_dataset.align_pictures(pictures, root, folder, method, **where)
    of_picture = iter(aligned)
    builder.aligned = {split: list(itertools.islice(of_picture, len(each))) for split, each in by_split.items()}
    crops = len(pictures) - len(reasons)
    by = "the landmarks beside them" if landmarks else "dlib"
    builder.notes.append(f"align={method}: {crops:,} of {len(pictures):,} photographs, by {by}; crops are in {folder}")
    return reasons


def _record(
    builder, name: str, variant: str, raw: tuple[Path, ...], align: str, unaligned: Sequence[tuple[str, str]]
) -> dict:
    """What is known of a prepared data set."""
    counts = {
        split: [counter[emotion] for emotion in builder.EMOTIONS] for split, counter in builder.class_counts.items()
    }
    return {
        "stem": _stem(name, variant, align),
        "version": _version(builder, align),
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
        "warnings": builder.warnings,
        "unaligned": unaligned,
    }


def _read(directory: Path) -> Dataset:
    record = json.loads((directory / _RECORD).read_text())
    if record["quarantined"]:
        log.info(
            "data: %d unusable images are left out (listed in %s)",
            len(record["quarantined"]),
            directory / _RECORD,
        )
    for warning in record.get("warnings", ()):
        log.warning("data: %s: %s", record["name"], warning)
    if unaligned := record.get("unaligned"):
        log.info("data: %d photographs stay unaligned (listed in %s)", len(unaligned), directory / _RECORD)
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
    return "\n".join([*lines, f"prepared: {dataset.directory}"] if dataset.directory else lines)


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


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    from fer_jax.data.datasets import DATASETS

    origins = "\n".join(f"{name}: {builder.ORIGIN}" for name, builder in DATASETS.items())
    parser = process.argument_parser("fer_jax.data.prepare", f"{__doc__}\n{origins}")
    parser.add_argument("name", help=", ".join(DATASETS))
    parser.add_argument("--data_dir", type=files.user_path, help="where the raw data lie")
    parser.add_argument("--variant", help="of the data set, e.g. majority of ferplus")
    parser.add_argument("--align", default="", choices=("", *METHODS), help="align the photographs first")
    parser.add_argument("--runner", choices=("threads", "ray"), default="threads", help="ray: on a cluster")
    parser.add_argument("--workers", type=int, help="threads, or Ray actors (default: one a core)")
    parser.add_argument("--preview", type=files.user_path, metavar="FILE", help="draw some faces of each emotion")
    options = parser.parse_args(arguments)
    process.set_up_logging()
    refuse_unread(options.data_dir, [options.name])
    dataset = load(
        options.name,
        variant=options.variant,
        align=options.align,
        data_dir=options.data_dir,
        runner=options.runner,
        workers=options.workers,
    )
    print(describe(dataset))
    if options.preview:
        preview(dataset, options.preview)
        print(f"preview: {options.preview}")


if __name__ == "__main__":
    main()
