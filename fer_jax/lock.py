"""One process at a time: what is written by one, others wait for or keep away from."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from fer_jax.errors import UserError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(lock: Path, *, refusal: str | None = None) -> Iterator[bool]:
    """Holds a lock file until the process leaves or ends, however it does; waits for another that has it.

    Yields whether it is held: some disks have no locks.

    Raises:
      UserError: there is a `refusal`, and another process has the lock: that.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            held = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if refusal:
                    raise UserError(refusal) from None
                log.info("another process is writing the same into %s: waiting for it", lock.parent)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                    raise
                log.warning("%s has no file locks: do not write the same twice at once", lock.parent)
                held = False
            if os.fstat(file.fileno()).st_nlink:  # else whoever had it has removed it since it was opened
                try:
                    yield held
                finally:
                    lock.unlink(missing_ok=True)
                return
