"""Files: written whole or not at all, found below a folder, read as images and CSV, and what a disk refuses. No JAX."""

import contextlib
import csv
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from fer_jax.errors import UserError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
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
    reader = csv.reader(file, **options)
    try:
        yield reader
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; is a quote left open?") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason}): save it as one; is it packed?") from None


def visible(folder: Path) -> Iterator[Path]:
    """All files below a folder, in no order, but for hidden ones and those of hidden folders."""
    for path in folder.rglob("[!.]*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
