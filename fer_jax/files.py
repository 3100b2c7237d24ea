"""Files: written whole or not at all, found in folders, read as images, CSV, JSON; what a disk refuses. No JAX."""

import contextlib
import csv
import errno
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from fer_jax.errors import UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp")  # endings, in any case
# Full, not the user's to write, or a file where a folder is to be.
UNWRITABLE = FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; what is there takes the name `path` if the block ends well. So none is seen half-written.

    A kill may leave NAME.PID.tmp behind.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict | list) -> None:
    """Writes JSON, readable and all or nothing."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=list) + "\n")


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file; a last line cut short by a kill is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def user_path(path: str | Path) -> Path:
    """A path that a user gives, `~` being a home: in --output=~/x no shell puts it there. Nobody's is a name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its ending, one of IMAGES."""
    return path.suffix.lower() in IMAGES


def read_image(path: Path, *, grey: bool = False) -> np.ndarray | None:
    """An image file as uint8 [H, W, 3], RGB, or [H, W, 1]; None where it is absent or unreadable."""
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    try:
        data = path.read_bytes()  # cv2.imread dies of a name that is not UTF-8
    except OSError:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    except cv2.error:  # as of a header that says 70,000 x 70,000
        image = None
    if image is None:
        return None
    return image[..., None] if grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def refusal(error: Exception) -> str | None:
    """Why the disk does not take what is written, if that is what the error says: see UNWRITABLE."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in UNWRITABLE else None
    # ArrayRecord's are RuntimeErrors that cite it.
    return next((reason for reason in map(os.strerror, sorted(UNWRITABLE)) if reason in str(error)), None)


@contextlib.contextmanager
def csv_rows(file: TextIO, path: Path, **options) -> Iterator:
    """A `csv.reader` of an open file, the one at `path`.

    Raises:
      UserError: what is read inside is no CSV, or no text; names file and line.
    """
    reader = csv.reader(file, strict=True, **options)  # else the rows after a quote left open are one cell
    try:
        yield reader
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; is a quote left open?") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason}): save it as one; is it packed?") from None


def entries(folder: Path, depth: int = 1) -> list[Path]:
    """What lies in a folder, or so many folders deep in it, by name, but for what is hidden; nothing in a file.

    Raises:
      UserError: a folder that may not be read, for which `Path.glob` would be an empty one.
    """
    found = [folder]
    for _ in range(depth):
        found = [path for each in found if each.is_dir() for path in _inside(each)]
    return found


def visible(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """All files below a folder, by name, but for hidden ones and those of hidden folders. Links are followed.

    Args:
      above: the folders (device and inode) that this one lies in, which a link may lead back to.

    Raises:
      UserError: as `entries`.
    """
    status = folder.stat()
    place = status.st_dev, status.st_ino
    if place in above:
        return
    for path in entries(folder):
        if path.is_dir():
            yield from visible(path, above | {place})
        elif path.is_file():
            yield path


def _inside(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if paths:
            paths[0].lstat()  # a folder may be listed, and yet let nobody in
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): make it readable, or move it away") from error
    return sorted(paths)


def of_other_kinds(paths: Iterable[Path]) -> str:
    """How many files of each ending there are, for a message, the most first: '3 .heic, 1 .txt'."""
    counts = Counter(path.suffix.lower() or path.name for path in sorted(paths))
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())


def opencv_address(path: Path) -> str:
    """A video's path as OpenCV takes it.

    Raises:
      UserError: its name is not UTF-8, of which OpenCV's videos end the process.
    """
    address = str(path.absolute())  # FFmpeg takes 10:30.mp4 for a protocol
    try:
        address.encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(path)!r}: OpenCV takes videos of names in UTF-8 only; rename it") from None
    return address
