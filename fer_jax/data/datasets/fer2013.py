"""FER2013 (Goodfellow et al. 2013): Kaggle's CSV, packed or not, or a folder tree of its images."""

import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import tensorflow_datasets as tfds

from fer_jax import files
from fer_jax.data.datasets.base import SPLIT_FOLDERS, FaceBuilder, emotion_of, missing, shown, split_folders, split_of
from fer_jax.data.emotions import BASIC7
from fer_jax.errors import UserError

SIDE = 48
USAGES = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
# Kaggle's codes 0..6 happen to be the canonical order; written out, since position is never trusted.
CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# Of each class, in the order of CODES.
OFFICIAL = {
    "Training": (3_995, 436, 4_097, 7_215, 4_830, 3_171, 4_965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}
_CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
_PACKINGS = ("", ".gz", ".xz", ".zip")


class Row(NamedTuple):
    """One row of the CSV."""

    line: int  # of the file, the header being line 1
    usage: str
    emotion: str
    image: np.ndarray  # uint8 [48, 48, 1]


class Fer2013(FaceBuilder):
    """FER2013: 35,887 grey faces of 48x48 pixels from web searches, one of seven emotions each.

    Source: Kaggle's competition, see ORIGIN, under its rules; the photographs come from web searches.
    Layout: fer2013.csv with the columns emotion (0..6), pixels (2,304 grey levels) and Usage (Training, PublicTest,
      PrivateTest), packed or not; or images in train/angry and so on.
    Expected: 28,709 rows of Training, 3,589 of PublicTest, 3,589 of PrivateTest; of each class see OFFICIAL.
    """

    EMOTIONS = BASIC7
    IMAGE_SHAPE = (SIDE, SIDE, 1)
    CITATION = "Goodfellow et al. 2013, Challenges in Representation Learning (arXiv:1307.0414)"
    ORIGIN = (
        "Expected in --data_dir: fer2013.csv or icml_face_data.csv (also .gz, .xz, .zip), or a folder tree "
        "train/angry/*.jpg, test/angry/*.jpg. Get it from https://www.kaggle.com/c/challenges-in-representation-"
        "learning-facial-expression-recognition-challenge/data"
    )

    @classmethod
    def find_raw(cls, data_dir):
        if data_dir and (path := find_csv(data_dir)):
            return (path,)
        if data_dir and data_dir.is_dir() and (images := _tree_images(data_dir)):
            return tuple(images)
        raise missing("fer2013", data_dir, cls.ORIGIN)

    def extra_features(self):
        return {"source": tfds.features.Text()}  # file and line, or path, of the raw image

    def examples(self):
        if files.is_image(self.raw[0]):
            return self._tree_examples()
        path = self.raw[0]
        rows = list(read_csv(path))
        check_counts(rows, self.notes)
        splits = {}
        for usage, split in USAGES.items():
            chosen = [row for row in rows if row.usage == usage]
            if chosen:
                splits[split] = lambda chosen=chosen: (
                    self.example(row.image, row.emotion, source=f"{path.name}:{row.line}") for row in chosen
                )
        return splits

    def _tree_examples(self):
        by_split = {}
        self.note_unused({path.parents[1] for path in self.raw}, self.raw)
        for path in self.raw:
            split = split_of(path.parent.parent.name)
            by_split.setdefault(split, []).append((path, _emotion_of(path)))
        return {
            split: lambda labelled=by_split[split]: self._read_images(labelled)
            for split in SPLIT_FOLDERS
            if split in by_split
        }

    def _read_images(self, labelled):
        for path, emotion in labelled:
            image = files.read_image(path, grey=True)
            if image is None:
                self.quarantine(path, "not a readable image", len(self.raw))
            elif image.shape != (SIDE, SIDE, 1):
                reason = f"{image.shape[1]}x{image.shape[0]} pixels instead of {SIDE}x{SIDE}"
                self.quarantine(path, reason, len(self.raw))
            else:
                yield self.example(image, emotion, source=shown("/".join(path.parts[-3:])))


def find_csv(data_dir: Path) -> Path | None:
    """The CSV, packed or not: `data_dir` itself, in it, or in its folder `fer2013`."""
    names = [name + packing for packing in _PACKINGS for name in _CSV_NAMES]
    if data_dir.is_file():
        return data_dir if data_dir.name in names or data_dir.suffix == ".zip" else None
    for folder in (data_dir, data_dir / "fer2013"):
        for name in names:
            if (folder / name).is_file():
                return folder / name
        for archive in sorted(folder.glob("*.zip")):
            with contextlib.suppress(zipfile.BadZipFile):
                if _member(archive):
                    return archive
    return None


def read_csv(path: Path) -> Iterator[Row]:
    """The rows in the file's order.

    Raises:
      UserError: wrong header, or a row that is not an emotion, 2,304 grey levels and a usage; names file and line.
    """
    try:
        with open_text(path) as file, files.csv_rows(file, path) as reader:
            header = [name.strip() for name in next(reader, [])]
            if not {"emotion", "pixels", "Usage"} <= set(header):
                raise UserError(
                    f"{path}: the header must name the columns emotion, pixels and Usage; it has {header or 'no line'}"
                )
            columns = [header.index(name) for name in ("emotion", "pixels", "Usage")]
            empty = True
            for fields in reader:
                if not fields:
                    continue
                empty = False
                yield _parse(fields, columns, path, reader.line_num)
    except RuntimeError as error:  # zipfile's, of an archive that wants a password or is packed in another way
        raise UserError(f"{path} cannot be unpacked here ({error}): unpack it, and give the folder") from error
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error
    if empty:
        raise UserError(f"{path} has a header and no rows: download it again")


def _parse(fields: list[str], columns: list[int], path: Path, line: int) -> Row:
    where = f"{path}, line {line}"
    if len(fields) <= max(columns):
        raise UserError(f"{where}: {len(fields)} columns instead of {max(columns) + 1}; was the file cut short?")
    code, text, usage = (fields[column].strip() for column in columns)
    if not code.isdecimal() or int(code) >= len(CODES):
        raise UserError(f"{where}: unknown emotion {code!r}; FER2013 has the codes 0..6 ({', '.join(CODES)})")
    if usage not in USAGES:
        raise UserError(f"{where}: unknown Usage {usage!r}; expected one of {', '.join(USAGES)}")
    try:
        pixels = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: the pixels are not whole numbers separated by blanks") from None
    if pixels.size != SIDE * SIDE:
        raise UserError(f"{where}: {pixels.size} pixels instead of {SIDE * SIDE} (48x48)")
    if pixels.min() < 0 or pixels.max() > 255:
        wrong = pixels[(pixels < 0) | (pixels > 255)][0]
        raise UserError(f"{where}: pixel value {wrong}; grey levels are 0..255")
    return Row(line, usage, CODES[int(code)], pixels.astype(np.uint8).reshape(SIDE, SIDE, 1))


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, unpacked by its ending."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            member = _member(path)
            if member is None:
                raise UserError(f"{path} holds no {' or '.join(_CSV_NAMES)}: unpack it and give the folder")
            with archive.open(member) as file:
                yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    else:
        opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file


def _member(archive: Path) -> str | None:
    with zipfile.ZipFile(archive) as file:
        return next((name for name in file.namelist() if Path(name).name in _CSV_NAMES), None)


def check_counts(rows: list[Row], notes: list[str]) -> None:
    """Notes what differs from the official file; a part of it is as welcome."""
    found = Counter((row.usage, row.emotion) for row in rows)
    for usage, official in OFFICIAL.items():
        counts = [found[usage, emotion] for emotion in CODES]
        if sum(counts) not in (0, sum(official)):
            notes.append(f"{sum(counts):,} rows of Usage {usage}; the official file has {sum(official):,}")
        elif sum(counts):
            notes.extend(
                f"{count:,} rows of Usage {usage} are {emotion}; the official file has {right:,}"
                for emotion, count, right in zip(CODES, counts, official, strict=True)
                if count != right
            )


def _emotion_of(path: Path) -> str:
    emotion = emotion_of(path.parent)
    if emotion not in BASIC7:
        raise UserError(f"{path.parent}: FER2013 has no emotion {emotion!r}, only {', '.join(BASIC7)}")
    return emotion


def _tree_images(root: Path) -> list[Path]:
    """The images of train/angry/*.jpg and the like, sorted, so that the order is the same on every file system.

    Raises:
      UserError: a split's folder has no image, a folder is no emotion, or one beside the splits is none.
    """
    images = []
    for folder in split_folders(root, files.IMAGES):
        found = [path for path in files.entries(folder, 2) if files.is_image(path)]
        if not found:
            raise UserError(f"{folder} is an empty split: expected images in {folder}/angry and so on")
        images += found
    for image in {path.parent: path for path in images}.values():
        _emotion_of(image)
    return images
