"""One process at a time: prepared data are written by one, and the others wait for it."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Holds a lock file until the process leaves or ends, however it does; waits for another that has it.

    Yields whether it is held: some disks have no locks.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            held = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("data: another process is preparing the same data: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    raise
                log.warning("data: %s has no file locks: do not prepare the same data twice at once", lock.parent)
                held = False
            if os.fstat(file.fileno()).st_nlink:  # else whoever had it has removed it since it was opened
                try:
                    yield held
                finally:
                    lock.unlink(missing_ok=True)
                return
