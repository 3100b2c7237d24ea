"""Data of one's own: a CSV file of images and emotions, or a folder for each emotion with images and videos."""

import errno
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from fer_jax.data.datasets.base import (
    Picture,
    PictureBuilder,
    Unusable,
    emotion_of,
    missing,
    of_one_colour,
    split_folders,
    split_of,
)
from fer_jax.data.emotions import CANONICAL, canonical
from fer_jax.data.subjects import SPLITS, divide, shared, split_stratified, split_subjects
from fer_jax.errors import UserError
from fer_jax.files import IMAGES, csv_rows, entries, opencv_address, user_path

COLUMNS = ("path", "emotion", "intensity", "subject", "split")  # the first two are needed
EVERY = 5  # of how many frames of a video one is taken
_VIDEOS = (".mp4", ".avi")


class Row(NamedTuple):
    """One row of the CSV; empty where there is no such column."""

    source: str  # the path as it is written
    path: Path
    emotion: str
    intensity: float | None
    subject: str
    split: str


class Csv(PictureBuilder):
    """Images listed in a CSV file of one's own, in RGB; the emotions are those that occur, in the canonical order.

    So collections of emotion intensities in the wild are read: a row an image, its emotion and its intensity.

    Splits: those of the column `split`; else by subject, 80/10/10, where there is a column `subject`; else 80/10/10
    of each emotion, which is only right when no one is in two pictures. The whole centre of a picture is taken.

    Source: one's own.
    Layout: --data_dir=FILE.csv, or a folder with one CSV file in it. The first line names the columns path, emotion
      and, if wanted, intensity (0..1, of the named emotion; may be blank for neutral), subject and split (train,
      validation or test); other columns are not used. Paths are relative to the CSV file.
    """

    ORIGIN = (
        "Expected as --data_dir: a CSV file, or a folder with one in it, whose first line is path,emotion (also "
        "intensity, subject, split); paths relative to it."
    )

    def __init__(self, *, raw, variant="", **options):
        self.rows, self.unused = read_csv(raw[0])
        self.EMOTIONS = in_order((row.emotion for row in self.rows), raw[0])
        self.HAS_INTENSITY = self.rows[0].intensity is not None
        super().__init__(raw=raw, variant=variant, **options)

    @classmethod
    def find_raw(cls, data_dir):
        files = [data_dir] if data_dir and data_dir.is_file() else []
        if data_dir and data_dir.is_dir():
            files = [path for path in entries(data_dir) if path.suffix.lower() == ".csv"]
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise UserError(f"csv: which of the files in {data_dir}? --data_dir=FILE.csv with one of {names}")
        if not files:
            raise missing("csv", data_dir, cls.ORIGIN)
        rows, _ = read_csv(files[0])
        return (files[0], *(row.path for row in rows))

    def pictures(self):
        if self.unused:
            self.notes.append(f"columns that are not used: {', '.join(self.unused)}")
        pictures = [
            Picture(row.path, row.emotion, row.source, row.subject, intensity=row.intensity) for row in self.rows
        ]
        if self.rows[0].split:
            splits = {split: {row.source for row in self.rows if row.split == split} for split in SPLITS}
            self._warn_of_shared_subjects()
            return divide(pictures, lambda picture: picture.source, splits)
        if self.rows[0].subject:
            subjects = split_subjects(row.subject for row in self.rows)
            return divide(pictures, lambda picture: picture.subject, subjects)
        self.notes.append("no subjects are given: split 80/10/10 by picture, as if no one were in two of them")
        emotions = {row.source: row.emotion for row in self.rows}
        return divide(pictures, lambda picture: picture.source, split_stratified(emotions))

    def _warn_of_shared_subjects(self):
        if twice := list(shared({split: [row.subject for row in self.rows if row.split == split] for split in SPLITS})):
            shown = ", ".join(twice[:8])
            self.warnings.append(f"{len(twice)} subjects are in two splits, scores will be too high: {shown}")


def read_csv(path: Path) -> tuple[list[Row], list[str]]:
    """The rows in the file's order, and the names of the columns that are not used. A column is filled or absent.

    Raises:
      UserError: wrong header, or a wrong row; names file and line.
    """
    with path.open(newline="", encoding="utf-8-sig") as file, csv_rows(file, path, skipinitialspace=True) as reader:
        header = [name.strip().lower() for name in next(reader, [])]
        if not set(COLUMNS[:2]) <= set(header) or len(set(header)) < len(header):
            raise UserError(f"{path}: the header must be path,emotion[,intensity][,subject][,split]; it is {header}")
        lines = []
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(fields)} columns instead of {len(header)}; a path with "
                    'a comma must be in "quotes"'
                )
            values = dict(zip(header, (field.strip() for field in fields), strict=True))
            lines.append((reader.line_num, values))
    if not lines:
        raise UserError(f"{path} has no rows")
    filled = {column for column in COLUMNS[2:] if any(values.get(column) for _, values in lines)}
    rows, seen = [], {}
    for line, values in lines:
        row = _parse(path, line, values, filled)
        if (first := seen.setdefault(row.path.resolve(), line)) != line:
            raise UserError(f"{path}, line {line}: {row.source} is in line {first} already; an image has one row")
        rows.append(row)
    return rows, [name for name in header if name and name not in COLUMNS]


def _parse(path: Path, line: int, values: dict[str, str], filled: set[str]) -> Row:
    where = f"{path}, line {line}"
    try:
        emotion = canonical(values["emotion"])
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    image = path.parent / user_path(values["path"])
    if not values["path"] or not _is_file(image):
        raise UserError(f"{where}: there is no file {values['path']!r} in {path.parent}")
    intensity = None
    if "intensity" in filled:
        text = "0" if emotion == "neutral" else values["intensity"]
        try:
            intensity = float(text)
        except ValueError:
            raise UserError(f"{where}: the intensity {text!r} is not a number") from None
        if not 0 <= intensity <= 1:
            raise UserError(f"{where}: the intensity {text} must lie in 0..1")
    subject = values.get("subject", "")
    if "subject" in filled and not subject:
        raise UserError(f"{where}: no subject; either every row names one, or none does")
    split = split_of(values.get("split", "")) or ""
    if "split" in filled and not split:
        raise UserError(f"{where}: unknown split {values['split']!r}; use {', '.join(SPLITS)}")
    return Row(values["path"], image, emotion, intensity, subject, split)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


class Folder(PictureBuilder):
    """Images and videos in a folder for each emotion, in RGB; the emotions are those that occur, in canonical order.

    Splits: the folders train, validation and test around those of the emotions, or else 80/10/10 of each emotion,
    which is only right when no one is in two files. Of a video every fifth frame is taken, but for those of one colour,
    and all of a video are in one split. The whole centre of a picture is taken.

    Source: one's own.
    Layout: [split/]emotion/*.jpg, png, bmp, tif, ppm, pgm, webp, mp4 or avi. Other files are counted in a note.
    """

    VERSION = tfds.core.Version("1.3.0")  # 1.1.0 took frames of one colour, too; 1.2.0 as of PictureBuilder's 1.1.0
    LISTED = False  # whatever else comes to lie in it: runs, or the cache
    ORIGIN = (
        "Expected in --data_dir: a folder for each emotion (angry, happy, ...) with images (.jpg, .png, .bmp, .tif, "
        ".webp) or videos (.mp4, .avi), if wanted within the folders train, validation and test."
    )

    def __init__(self, *, raw, variant="", **options):
        self.EMOTIONS = in_order((emotion_of(path.parent) for path in raw[1:]), raw[0])
        super().__init__(raw=raw, variant=variant, **options)

    @classmethod
    def find_raw(cls, data_dir):
        files = _find_files(data_dir) if data_dir and data_dir.is_dir() else []
        if not files:
            raise missing("folder", data_dir, cls.ORIGIN)
        return (data_dir, *files)  # the folder for the names of folders, the files for their content

    def pictures(self):
        root, *files = self.raw
        self.note_unused([root], files)
        pictures = [Picture(path, emotion_of(path.parent), path.relative_to(root).as_posix()) for path in files]
        if files[0].parent.parent != root:
            splits = {split: set() for split in SPLITS}
            for picture in pictures:
                splits[split_of(picture.path.parent.parent.name)].add(picture.source)
        else:
            self.notes.append("no splits are given: split 80/10/10 by file, as if no one were in two of them")
            splits = split_stratified({picture.source: picture.emotion for picture in pictures})
        return divide(pictures, lambda picture: picture.source, splits)

    @classmethod
    def images(cls, picture):
        if picture.path.suffix.lower() not in _VIDEOS:
            yield from super().images(picture)
            return
        seen = taken = 0
        for number, frame in read_video(picture.path):
            seen += 1
            if not of_one_colour(frame):  # as before the first scene
                taken += 1
                yield frame, f"{picture.source}#{number}"
        if not taken:
            raise Unusable("one colour all over" if seen else "not a readable video")


def read_video(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Every fifth frame with its number: uint8 [H, W, 3], RGB; none where the file is no video.

    Raises:
      Unusable: OpenCV does not take a file of that name.
    """
    try:
        video = cv2.VideoCapture(opencv_address(path))
    except UserError as error:
        raise Unusable(str(error)) from None
    try:
        number = 0
        while video.grab():
            if number % EVERY == 0:
                read, frame = video.retrieve()
                if read:
                    yield number, frame[..., ::-1]
            number += 1
    finally:
        video.release()


def in_order(emotions: Iterable[str], where: Path) -> tuple[str, ...]:
    """The emotions that occur, in the canonical order.

    Raises:
      UserError: there is only one.
    """
    found = set(emotions)
    if len(found) < 2:
        raise UserError(f"{where}: only {', '.join(found)} occurs; at least two emotions are needed")
    return tuple(name for name in CANONICAL if name in found)


def _find_files(root: Path) -> list[Path]:
    """The images and videos of root/[split/]emotion, sorted.

    Raises:
      UserError: a folder with such files that is no emotion, or one beside splits that is none.
    """
    splits = split_folders(root, IMAGES + _VIDEOS)
    files = []
    for split in splits or [root]:
        found = [path for folder in _folders(split) for path in _media(folder)]
        if splits and not found:
            raise UserError(f"{split} is an empty split: expected images in {split / 'angry'} and so on")
        files += found
    for folder in {path.parent: None for path in files}:
        emotion_of(folder)
    return files


def _folders(root: Path) -> Sequence[Path]:
    return [path for path in entries(root) if path.is_dir()]


def _media(folder: Path) -> Sequence[Path]:
    return [path for path in entries(folder) if path.suffix.lower() in IMAGES + _VIDEOS]
