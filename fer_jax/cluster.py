"""A sweep past one machine: its members as trials of Ray Tune, `--cluster=ray` of `fer_jax.sweep` (extra `cluster`).

A trial is a process with a GPU of its own where the cluster has any. It plans and trains its members as
`fer_jax.sweep` does, in the same run directories, which must lie where every machine finds them. What is known of a
sweep is in those alone: a trial whose process dies begins again, on another machine if need be, and goes on from their
checkpoints, and so does the whole command. Tune's own files are in WORKDIR/.ray, with a log of each trial; nothing is
read back from them but the decisions of ASHA.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from fer_jax import files
from fer_jax.cluster_work import FOLDER, Work, counted, cut, describe, share
from fer_jax.data.runners import joined_ray
from fer_jax.sweep_members import Member

RETRIES = 3  # of a trial whose process dies

_TELL_SECONDS = 15.0  # between two lines on a trial's progress, as of a progress bar in a log file


class Trial(tune.Trainable):
    """`Work` in a process that Ray starts."""

    def setup(self, config: dict) -> None:
        """`config`: {"part": as `describe` makes it}."""
        self._work = Work(config["part"])

    def step(self) -> dict:
        return self._work.step()


class Halving(ASHAScheduler):
    """ASHA (Li et al. 2020) as Tune has it: at a rung a member goes on if it is among the best 1/N that came so far.

    The rungs are those of `sweep_plan.stops`, but no member waits for another, so that more go on than would if all
    did. Every decision is a row of a file, and what the file holds is decided already: Tune itself would forget.
    """

    def __init__(self, factor: int, rungs: Sequence[int], path: Path):
        """`rungs`: after how many epochs. They are `factor` times one another but for rounding; Tune counts exactly."""
        super().__init__(
            time_attr="rung", metric="score", mode="max", reduction_factor=factor, max_t=factor ** len(rungs)
        )
        self._path = path
        self._rungs = [(factor**k, epochs) for k, epochs in enumerate(rungs)]
        rows = json.loads(path.read_text()) if path.exists() else []
        self._rows = {(row["member"], row["rung"]): row for row in rows if (row["rung"], row["epoch"]) in self._rungs}
        for name in {name for name, _ in self._rows}:
            super().on_trial_add(None, SimpleNamespace(trial_id=name))
        for (name, _), row in self._rows.items():
            super().on_trial_result(None, SimpleNamespace(trial_id=name), row)

    def left(self, name: str) -> list[tuple[int, int]]:
        """(rung, epochs) at which a member is still to be judged."""
        return [(rung, epochs) for rung, epochs in self._rungs if (name, rung) not in self._rows]

    @property
    def stopped(self) -> dict[str, tuple[int, float]]:
        """(epochs, score) of the members that do not go on."""
        return {name: (row["epoch"], row["score"]) for (name, _), row in self._rows.items() if not row["goes_on"]}

    def on_trial_result(self, tune_controller, trial, result: dict) -> str:
        """Tune's decision on a trial's member, CONTINUE or STOP."""
        action = super().on_trial_result(tune_controller, trial, result)
        part = trial.config["part"]
        name = part["members"][0]["name"]
        if "rung" in result and (name, result["rung"]) not in self._rows:
            row = {"member": name, **{key: result[key] for key in ("rung", "epoch", "score")}}
            row["goes_on"] = action != TrialScheduler.STOP
            self._rows[name, result["rung"]] = row
            files.write_json(self._path, list(self._rows.values()))
            decided = "goes on" if row["goes_on"] else "stopped"
            _say(part, f"{name}: scores {row['score']:.4f} at epoch {row['epoch']}: {decided}")
        return action


class Reporter(tune.Callback):
    """What the command says while the trials run, and which members failed."""

    def __init__(self, parts: Sequence[dict], workdir: Path):
        self.failed: dict[str, str] = {}
        self._parts, self._workdir = parts, workdir
        self._told = time.monotonic()
        self._sizes = {member["name"]: self._size(member["name"]) for part in parts for member in part["members"]}
        self._ends = dict.fromkeys((part["number"] for part in parts), 0)

    def on_trial_start(self, iteration, trials, trial, **info) -> None:
        part = trial.config["part"]
        _say(part, "begins again" if self._ends[part["number"]] else "begins")

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        for name, reason in result["failed"].items():
            if not self._finished(name):
                self._fail(name, reason)

    def on_trial_recover(self, iteration, trials, trial, **info) -> None:
        part = trial.config["part"]
        self._ends[part["number"]] += 1
        _say(part, f"broke off, see {part['log']}: goes on from its checkpoints")

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        _say(trial.config["part"], f"broke off {RETRIES + 1} times: given up")

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        self.tell()

    def on_step_end(self, iteration, trials, **info) -> None:
        if time.monotonic() - self._told > _TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """A line for each trial whose members have new scores."""
        self._told = time.monotonic()
        for part in self._parts:
            sizes = {member["name"]: self._size(member["name"]) for member in part["members"]}
            changed = [name for name, size in sizes.items() if size > self._sizes[name]]
            self._sizes |= sizes
            if changed:
                _say(part, self._progress(part, changed))

    def conclude(self, stopped: dict) -> None:
        """Marks as failed the members that no trial finished and that were not stopped."""
        for part in self._parts:
            for member in part["members"]:
                name = member["name"]
                if not self._finished(name) and name not in self.failed and name not in stopped:
                    self._fail(name, f"its trial ended without it, see {part['log']}")

    def _progress(self, part: dict, changed: Sequence[str]) -> str:
        """Of the member that is being trained, among those with new rows."""
        done = sum(self._finished(member["name"]) for member in part["members"])
        name = next((name for name in changed if not self._finished(name)), changed[-1])
        rows = files.read_rows(self._workdir / name / "metrics.jsonl")
        scores = [row["accuracy"] for row in rows if row["split"] == "validation"]
        shown = f", validation accuracy {scores[-1]:.1%}" if scores else ""
        epochs = part["members"][0]["config"]["train"]["epochs"]
        epoch = rows[-1]["epoch"] if rows else 0  # of a row that is only half there
        return f"{name}: epoch {epoch:.3g} of {epochs}{shown} ({done} of {len(part['members'])} finished)"

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        print(f"failed: {name}: {reason}", file=sys.stderr, flush=True)

    def _finished(self, name: str) -> bool:
        return (self._workdir / name / "results.json").exists()

    def _size(self, name: str) -> int:
        path = self._workdir / name / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0


class _StopAll(tune.Stopper):
    """Ends the experiment at a signal: no more trials begin, and those that run save and end."""

    def __init__(self, interruption, path: Path):
        self._interruption, self._path = interruption, path

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._interruption.signum and not self._path.exists():
            self._path.touch()
            print("the trials save what they have ...", file=sys.stderr, flush=True)
        return bool(self._interruption.signum)


def run_members(
    groups: Sequence[Sequence[Member]],
    workdir: Path,
    *,
    form: str = "auto",
    halving: int = 0,
    rungs: Sequence[int] = (),
    data_dir: str | None = None,
    cpus: int = 0,
    only_plan: bool = False,
) -> tuple[dict[str, str], dict[str, tuple[int, float]]]:
    """Trains members on the cluster that `RAY_ADDRESS` names, else on this machine alone, and says before how.

    Args:
      groups: unfinished members of one structure each, in directories that are claimed.
      halving: with `rungs`, the epochs after which members are compared, ASHA lets about one of so many go on at each.
      cpus: that a trial takes; 0: see `share`.
      only_plan: says how, and trains nothing.

    Returns:
      Why members failed, and after how many epochs and with what score members were stopped, by their names.

    Raises:
      UserError: no such cluster, or its machines are too small.
      train.Interrupted: stopped by one of `process.ENDING` after saving; the same call goes on.
    """
    from fer_jax import train

    folder = workdir.resolve() / FOLDER
    scheduler = Halving(halving, rungs, folder / f"halving-{halving}.json") if rungs else FIFOScheduler()
    stopped = scheduler.stopped if rungs else {}
    groups = [[member for member in members if member.name not in stopped] for members in groups]
    groups = [members for members in groups if members]
    if not groups:
        return {}, stopped
    with joined_ray():
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        taken = share(machines, cpus)
        parts = cut([[member] for members in groups for member in members] if rungs else groups, taken.at_once)
        parts = [
            describe(
                number,
                members,
                workdir,
                form=form,
                data_dir=data_dir,
                rungs=scheduler.left(members[0].name) if rungs else [],
            )
            for number, members in enumerate(parts, 1)
        ]
        print(
            f"  {counted(len(parts), 'trial')} on {counted(len(machines), 'machine')} of Ray, {taken.describe()}:",
            file=sys.stderr,
        )
        for part in parts:
            print(f"  [trial {part['number']}] {_summary(part)}", file=sys.stderr, flush=True)
        if only_plan:
            return {}, stopped
        folder.mkdir(parents=True, exist_ok=True)
        stop = folder / "stop"
        stop.unlink(missing_ok=True)  # of a command that was killed
        reporter = Reporter(parts, workdir)
        with train.Interruption() as interruption, _quiet():
            tuner = tune.Tuner(
                tune.with_resources(Trial, {"cpu": taken.cpus, "gpu": taken.gpus}),
                param_space={"part": tune.grid_search(parts)},
                tune_config=tune.TuneConfig(scheduler=scheduler, trial_dirname_creator=_folder_name),
                run_config=tune.RunConfig(
                    name=time.strftime("%Y%m%d-%H%M%S"),
                    storage_path=str(folder),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=[reporter],
                    stop=_StopAll(interruption, stop),
                    verbose=0,
                ),
            )
            tuner.fit()
    if interruption.signum:
        stop.unlink(missing_ok=True)
        raise train.Interrupted(interruption.signum, ": the trials saved and ended")
    stopped = scheduler.stopped if rungs else {}
    reporter.conclude(stopped)
    return reporter.failed, stopped


def _say(part: dict, text: str) -> None:
    print(f"[trial {part['number']}] {text}", file=sys.stderr, flush=True)


def _summary(part: dict) -> str:
    names = [member["name"] for member in part["members"]]
    return names[0] if len(names) == 1 else f"{len(names)} members of one structure, {names[0]} ... {names[-1]}"


def _folder_name(trial) -> str:
    """Of a trial in Tune's storage; its default holds all of the config."""
    return f"trial-{trial.config['part']['number']}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves signals and lines on the terminal to this command, while Tune runs."""
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",  # which with verbose=0 is silent
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard of each trial: members have their own
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a member that has ended has no score to be judged by
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the trials' logs
    }
    # Of Tune's messages only what is no consequence of these settings, or told by the reporter.
    levels = {"ray.tune": logging.ERROR, "ray.tune.tune": logging.CRITICAL}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
