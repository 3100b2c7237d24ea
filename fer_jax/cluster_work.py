"""What a cluster does for a sweep: the members in parts, and how a process trains one part. Imports no Ray, no JAX."""

import _thread
import contextlib
import dataclasses
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from fer_jax import files, process
from fer_jax.errors import UserError
from fer_jax.sweep_members import Member

FOLDER = ".ray"  # in the sweep's, for what is not a member's
CPUS = 4  # of a trial without a GPU, where a machine has so many

_LOOK_SECONDS = 1.0  # between two looks for the file that tells trials to stop


@dataclasses.dataclass(frozen=True)
class Share:
    """What a trial takes of the cluster."""

    cpus: int
    gpus: int
    at_once: int  # trials that the cluster holds

    def describe(self) -> str:
        """For the plan."""
        gpu = "a GPU and " if self.gpus else ""
        return f"{self.at_once} at once, each with {gpu}{counted(self.cpus, 'CPU')}"


def share(machines: Sequence[dict[str, float]], cpus: int = 0) -> Share:
    """What a trial takes of machines with such resources: a GPU where there are any.

    Args:
      machines: of each the resources as Ray names them, e.g. {"CPU": 16.0, "GPU": 2.0}.
      cpus: of a trial; 0: one beside a GPU, else `CPUS` or all of the smallest machine.

    Raises:
      UserError: no machine has so many, or they have TPUs.
    """
    gpus = int(any(machine.get("GPU", 0) >= 1 for machine in machines))
    if not gpus and any(machine.get("TPU") for machine in machines):
        # One process takes all of a machine's; trials beside it would train on the CPU, in another precision.
        raise UserError("--cluster=ray knows GPUs and CPUs, these machines have TPUs: run the sweep without --cluster")
    able = [machine for machine in machines if machine.get("GPU", 0) >= gpus and machine.get("CPU", 0) >= 1]
    counts = [int(machine["CPU"]) for machine in able]
    cpus = cpus or (1 if gpus else min([CPUS, *counts]))
    at_once = sum(
        min(count // cpus, int(machine["GPU"]) if gpus else count) for machine, count in zip(able, counts, strict=True)
    )
    if not at_once:
        where = " with a GPU" if gpus else ""
        raise UserError(
            f"--cluster_cpus={cpus}: no machine{where} has so many, the largest has {max(counts, default=0)}"
        )
    return Share(cpus, gpus, at_once)


def cut(groups: Sequence[Sequence[Member]], at_once: int) -> list[list[Member]]:
    """Groups of one structure each in as few parts as make use of a cluster that holds so many trials.

    Fewer, since the members of a part share data, programs and stacks; the largest first. How many of a part are
    trained at once is found where it runs.
    """
    most = -(-sum(map(len, groups)) // at_once)
    parts = []
    for members in groups:
        count = -(-len(members) // most)
        bounds = [len(members) * k // count for k in range(count + 1)]
        parts += [list(members[first:last]) for first, last in itertools.pairwise(bounds)]
    return sorted(parts, key=len, reverse=True)


def describe(
    number: int, members: Sequence[Member], workdir: Path, *, form: str, data_dir: str | None, rungs: list
) -> dict:
    """A trial's part of the sweep, as plain data."""
    cache = os.environ.get("FER_JAX_CACHE")
    return {
        "number": number,
        "members": [
            {"name": each.name, "overrides": each.overrides, "config": each.config.to_dict()} for each in members
        ],
        "workdir": str(workdir.resolve()),
        "log": str(workdir.resolve() / FOLDER / f"trial-{number}.log"),
        "data_dir": data_dir and str(files.user_path(data_dir).resolve()),
        "form": form,
        "rungs": rungs,
        "cwd": str(Path.cwd()),
        "environment": {"FER_JAX_CACHE": str(Path(cache).resolve())} if cache else {},
    }


class Work:
    """Some members of one structure, trained in a process of its own.

    Without halving a step trains all to the end. With it there is one member, and a step takes it to the next rung.
    """

    def __init__(self, part: dict):
        """`part`: as `describe` makes it. What can go wrong is left to the first step, which can tell."""
        self._part = part
        self._rungs = list(part["rungs"])
        self._groups = None

    def step(self) -> dict:
        """What Tune is told: members that failed and why, done or not, of a rung the score."""
        try:
            if self._groups is None:
                self._begin()
            return self._go_on()
        except UserError as error:
            traceback.print_exc()
            return {"failed": {member["name"]: str(error) for member in self._part["members"]}, "done": True}
        except BaseException:
            traceback.print_exc()  # to the trial's log
            raise

    def _begin(self) -> None:
        part, folder = self._part, Path(self._part["workdir"])
        if not (folder / FOLDER).is_dir():
            raise UserError(
                f"{folder} is not there on {socket.gethostname()}: with --cluster the --workdir must lie on a file "
                f"system that all machines share"
            )
        if Path(part["cwd"]).is_dir():
            os.chdir(part["cwd"])  # which Tune has changed, while configs may hold relative paths
        os.environ |= part["environment"]
        sys.stdout = sys.stderr = Path(part["log"]).open("a", buffering=1)  # noqa: SIM115 - open while the process is
        process.set_up()
        print(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()}")
        from fer_jax import sweep_members, sweep_plan  # here, since JAX reads its environment

        members = [
            sweep_members.Member(member["overrides"], ConfigDict(member["config"]).lock()) for member in part["members"]
        ]
        self._groups = sweep_plan.plan(members, folder, form=part["form"], data_dir=part["data_dir"])
        for group in self._groups:
            print(group.describe())

    def _go_on(self) -> dict:
        from fer_jax import sweep, train

        part, folder = self._part, Path(self._part["workdir"])
        rung, epochs = self._rungs.pop(0) if self._rungs else (None, None)
        failed = {}
        stop = folder / FOLDER / "stop"
        try:
            with _interrupted_by(stop):
                for group in self._groups:
                    failed |= sweep.run_group(group, folder, data_dir=part["data_dir"], epochs=epochs)
        except train.Interrupted:
            if not stop.exists():  # the machine is being taken away: Tune finds another
                raise
            return {"failed": {}, "done": True}
        if rung is None or failed or not self._groups:
            return {"failed": {name: each.reason for name, each in failed.items()}, "done": True}
        member = self._groups[0].members[0]
        score = sweep.best_until(folder / member.name, member.config, epochs)
        return {"failed": {}, "done": False, "rung": rung, "epoch": epochs, "score": score}


@contextlib.contextmanager
def _interrupted_by(path: Path) -> Iterator[None]:
    """While inside, a file that appears is a SIGTERM to this process: whatever is being trained saves and ends."""
    over = threading.Event()

    def look() -> None:
        # Again and again, for between two members nobody listens.
        while not over.wait(_LOOK_SECONDS):
            if path.exists():
                _thread.interrupt_main(signal.SIGTERM)

    # Not SIG_IGN, which would be left so by who listens, as nohup's.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
