"""Files: written whole or not at all, found below a folder, and what a disk refuses. Imports no JAX."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNWRITABLE = FULL | {errno.EACCES, errno.EPERM, errno.EROFS}  # full, or not the user's to write


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


def visible(folder: Path) -> Iterator[Path]:
    """All files below a folder, in no order, but for hidden ones and those of hidden folders."""
    for path in folder.rglob("[!.]*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
