"""The directory of a run: claimed for one config and one process at a time, what its disk refuses, what it tells."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from fer_jax import checkpoint, files
from fer_jax import config as config_lib
from fer_jax.data import combine, prepare
from fer_jax.errors import OutOfMemory, UserError, out_of_memory
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
      UserError: the directory cannot be written, has a name by which no checkpoint is found, or as
        `refuse_other_config`.
    """
    # Orbax looks for its files by a pattern, in which it does not escape the name, and TensorStore wants UTF-8.
    if re.search(r"\[.*\]|[\\\udc80-\udcff]", str(workdir.absolute())):
        raise UserError(
            f"no checkpoint could be read in {str(workdir.absolute())!r}: choose a --workdir without [...], without "
            f"backslashes and in UTF-8"
        )
    path = workdir / "config.json"
    with _unwritable_explained(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0 and not (_begun(workdir) and path.exists()):
            files.write_json(path, config.to_dict())
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


@contextlib.contextmanager
def full_memory_explained(
    advice: str = "lower train.batch_size, or eval.batch_size if it was evaluated, or set data.residence = 'stream'",
) -> Iterator[None]:
    """Turns what XLA says of a device's memory that does not suffice into an `OutOfMemory`, with what to do."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"the device's memory does not hold the network, its data and a batch: {advice} "
            f"({str(error).splitlines()[0]})"
        ) from error


def read_finished(workdir: Path) -> tuple[dict, dict]:
    """The config, with all of its fields, and the results of a finished run.

    Raises:
      UserError: it is none; says what is missing.
    """
    return config_lib.completed(_read(workdir / "config.json")), _read(workdir / "results.json")


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        if checkpoint.weights_file(path.parent).is_file() and not path.parent.is_dir():
            raise UserError(
                f"{path.parent} is a network without its data: give the directory of a run, which python -m "
                f"fer_jax.main makes"
            ) from error
        raise UserError(
            f"{path.parent} is not a finished run: {path.name} is missing or cut short; finish it with "
            f"python -m fer_jax.main --config=... --workdir={path.parent}"
        ) from error


def fingerprint(config: Mapping, results: Mapping) -> str:
    """The fingerprint of all the data of a finished run, by its config.json and results.json; empty in old results."""
    recorded = results.get("fingerprint", "")
    # Data without what a file lists have a fingerprint of their own, after that of the whole (`Dataset.without`).
    return recorded.rpartition("-")[0] if config["data"]["exclude"] else recorded


def dataset(workdir: Path, data_dir: str | Path | None = None) -> prepare.Dataset:
    """The data set that a run was trained on, or is; `data_dir` as of `combine.load`.

    Raises:
      UserError: it is no run directory, the data at hand are others than those of a finished run, or as `combine.load`.
    """
    config = config_lib.completed(_read(workdir / "config.json"))
    wanted = fingerprint(config, _read(workdir / "results.json")) if (workdir / "results.json").exists() else ""
    data = combine.load(config["data"], data_dir, fingerprint=wanted)
    if wanted and data.fingerprint != wanted:
        remedy = "give the --data_dir that it was trained on"
        if data.synthetic:
            remedy = "the faces are drawn otherwise by this fer_jax and OpenCV; train it again"
        raise UserError(
            f"{workdir} was trained on {data.name} with the fingerprint {wanted}, the data at hand have "
            f"{data.fingerprint}: {remedy}"
        )
    return data
