"""The directory of a run: claimed for one config and one process at a time, and what its disk refuses."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from fer_jax import config as config_lib
from fer_jax import files, logs
from fer_jax.errors import UserError
from fer_jax.lock import alone


@contextlib.contextmanager
def occupied(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of the directory of a run or a sweep, though not out of those of a sweep's members.

    Raises:
      UserError: another one is there, or the directory cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with _unwritable_explained(workdir):
            refusal = (
                f"another process trains in {workdir}, or still saves: wait for its end, or choose another --workdir"
            )
            stack.enter_context(alone(workdir / ".lock", refusal=refusal))
        yield


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the run directory, or checks that the run which has begun there belongs to the same config.

    Raises:
      UserError: the directory cannot be written, or as `refuse_other_config`.
    """
    path = workdir / "config.json"
    with _unwritable_explained(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0 and not (_begun(workdir) and path.exists()):
            logs.write_json(path, config.to_dict())
        if not path.exists():
            raise UserError(f"{path} is not there for all processes: --workdir must lie on a disk that they share")
        refuse_other_config(workdir, config)


def refuse_other_config(workdir: Path, config: ConfigDict) -> None:
    """Raises a UserError if the run that has begun there is one of another config, with the differences."""
    if not _begun(workdir):
        return
    before = config_lib.completed(json.loads((workdir / "config.json").read_text()))
    if lines := config_lib.difference(before, json.loads(json.dumps(config.to_dict()))):
        changes = "\n  ".join(lines)
        raise UserError(
            f"{workdir} holds a run of another config:\n  {changes}\n"
            f"choose another --workdir, or go back to that config to resume it"
        )


def _begun(workdir: Path) -> bool:
    """Whether a run has left more than its config, as one that was refused has not."""
    kept = ("metrics.jsonl", "results.json")
    return any((workdir / name).exists() for name in kept) or any(workdir.glob("checkpoints/last/*"))


@contextlib.contextmanager
def _unwritable_explained(workdir: Path) -> Iterator[None]:
    """Turns what the disk refuses, but for want of space, into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL:
            raise
        raise UserError(
            f"cannot write to the run directory {workdir}: {error.strerror}; choose another --workdir"
        ) from error


@contextlib.contextmanager
def full_disk_explained(workdir: Path) -> Iterator[None]:
    """Turns a full disk met inside into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL:
            raise UserError(
                f"no space left while writing to {error.filename or workdir}: free some and run the same command "
                f"with --workdir={workdir}; it resumes from the last checkpoint"
            ) from error
        raise
