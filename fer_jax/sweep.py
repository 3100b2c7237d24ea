"""Ablation sweeps: many runs of one config that differ in a few fields, and one table of their scores.

    python -m fer_jax.sweep --config=configs/ablations/stanford.py:fer2013 --data_dir=PATH --seeds=3
    python -m fer_jax.sweep --config=configs/mini_xception.py:fer2013 --set=optim.learning_rate=1e-3,3e-3 --seeds=5

The members are the overrides that `sweep()` of the config file returns, times the values of every --set, times the
seeds. Those of one structure are a group: they share data and compiled programs and, where that is faster, are trained
at once (`fer_jax.stack`). The plan is printed first; --plan prints it alone. With --quick the members are those of the
file's `quick()`, which are over in minutes on a CPU: to see that all is there, not for a table to publish. Each member
has an ordinary run directory: finished ones are not touched when the command is given again, one cut short is resumed,
and one that fails (a loss that is not finite) does not stop the others. --halving=3 stops two of three lines of the
table early, and two of three of those left later (Jamieson & Talwalkar 2016), by their validation scores so far, each
with all of its seeds and folds. --cluster=ray spreads the members over the machines of a Ray cluster
(`fer_jax.cluster`).
"""

import contextlib
import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from fer_jax import command_line, files, process, sweep_table
from fer_jax import config as config_lib
from fer_jax.errors import OutOfMemory, UserError
from fer_jax.scores import ACCURACY, RMSE, Measure, beside, selected_by_rmse, selection_score
from fer_jax.sweep_members import Member, check, declared, members, read_axis
from fer_jax.sweep_plan import Group, differing, plan, same_images, stops, unfinished


@dataclasses.dataclass(frozen=True)
class Stopped:
    """Of a member that successive halving did not let go on."""

    epoch: int
    score: float  # on the validation split, the best until then


@dataclasses.dataclass(frozen=True)
class Failed:
    """Of a member whose run ended in an error."""

    reason: str


Outcome = dict | Stopped | Failed  # results.json of a finished member


def run_group(
    group: Group, workdir: Path, *, data_dir: str | None = None, epochs: int | None = None
) -> dict[str, Failed]:
    """Trains a group's members to the end, or `epochs` of them; those that failed, by their names.

    Raises:
      UserError: the data or the config are wrong for all of them.
      train.Interrupted: stopped by one of `process.ENDING` after saving; the same call goes on.
    """
    from fer_jax import run, run_directory

    try:
        experiment = run.build(group.members[0].config, data_dir)
    except OutOfMemory as error:
        return {member.name: _failed(member, str(error)) for member in group.members}
    until = epochs and epochs * experiment.order.steps_per_epoch
    with run_directory.full_disk_explained(workdir):
        failed = _fit_stacks(experiment, group, workdir, until) if group.at_once > 1 else {}
        if until and group.at_once > 1:
            return failed  # the others stand at `until`
        for number, member in enumerate(group.members, 1):
            if member.name in failed:
                continue
            folder, sibling = workdir / member.name, experiment.sibling(member.config)
            if group.at_once == 1:
                print(f"[{number}/{len(group.members)}] {member.name}", file=sys.stderr, flush=True)
            try:
                if until:
                    run.fit(sibling, folder, started=time.perf_counter(), until=until)
                else:
                    run.complete(sibling, folder, started=time.perf_counter())
            except UserError as error:
                failed[member.name] = _failed(member, str(error))
    return failed


def _fit_stacks(experiment, group: Group, workdir: Path, until: int | None) -> dict[str, Failed]:
    """Trains the members `group.at_once` at a time, as stacks; those that failed, by their names."""
    import jax

    from fer_jax import stack
    from fer_jax.course import Course

    failed: dict[str, Failed] = {}
    for first in range(0, len(group.members), group.at_once):
        # A stack's members stand at one step; those cut short elsewhere form one of their own.
        standing: dict[int, list[tuple[Member, Course]]] = {}
        for member in group.members[first : first + group.at_once]:
            try:
                course = Course(experiment.sibling(member.config), workdir / member.name)
                # On the host until all are there: every device would have them whole, and of the stack only a part.
                course.start = jax.device_get(course.start)
            except UserError as error:
                failed[member.name] = _failed(member, str(error))
            else:
                standing.setdefault(course.step, []).append((member, course))
        for _, stacked in sorted(standing.items()):
            courses = [course for _, course in stacked]
            try:
                reasons = stack.fit(courses, group.form, started=time.perf_counter(), until=until)
            except OutOfMemory as error:
                reasons = dict.fromkeys(range(len(courses)), str(error))
            for k, reason in reasons.items():
                failed[stacked[k][0].name] = _failed(stacked[k][0], reason)
    return failed


def _failed(member: Member, reason: str) -> Failed:
    print(f"failed: {member.name}: {reason}", file=sys.stderr)
    return Failed(reason)


def run_members(
    planned: Sequence[Member],
    workdir: Path,
    *,
    form: str = "auto",
    halving: int = 0,
    data_dir: str | None = None,
    only_plan: bool = False,
) -> dict[str, Outcome]:
    """Trains what is not finished, and says before how; the outcome of each member by its name.

    Args:
      halving: 0, or the share of cells, one of so many, that successive halving lets go on at each of its stops. A
        cell has the mean score of its members (seeds and folds), and stops or goes on as one.
      only_plan: says how, and trains nothing; only what was finished before has an outcome.

    Raises:
      UserError: a mistake in the config, the data or the directories, before anything is trained.
      train.Interrupted: stopped by one of `process.ENDING` after saving; the same call goes on.
    """
    outcomes: dict[str, Outcome] = {}
    going = list(planned)
    for epochs, keep in stops(planned, halving):
        groups = plan(going, workdir, form=form, data_dir=data_dir, epochs=epochs, claim=not only_plan)
        told = f"up to epoch {epochs}" if epochs else "to the end"
        left = sum(len(group.members) for group in groups)
        print(f"{len(going)} members {told}, {left} to train, in {workdir}:", file=sys.stderr)
        for group in groups:
            print(f"  {group.describe()}", file=sys.stderr, flush=True)
        if only_plan:
            break
        for group in groups:
            outcomes |= run_group(group, workdir, data_dir=data_dir, epochs=epochs)
        going = [member for member in going if member.name not in outcomes]
        if epochs:
            scores = {member.name: best_until(workdir / member.name, member.config, epochs) for member in going}
            of_cells: dict[str, list[float]] = {}
            for member in going:
                of_cells.setdefault(member.cell, []).append(scores[member.name])
            # Those of which some failed come last: the others may be the easier folds and the luckier seeds.
            lacking = {each.cell for each in planned if isinstance(outcomes.get(each.name), Failed)}
            kept = sorted(of_cells, key=lambda cell: (cell in lacking, -statistics.fmean(of_cells[cell])))[:keep]
            outcomes |= {
                member.name: Stopped(epochs, scores[member.name]) for member in going if member.cell not in kept
            }
            going = [member for member in going if member.cell in kept]
    return outcomes | finished(planned, workdir)  # what stops here may have ended before, without halving


def finished(planned: Sequence[Member], workdir: Path) -> dict[str, Outcome]:
    """The results of the members that have any."""
    paths = {member.name: workdir / member.name / "results.json" for member in planned}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def run_members_on_cluster(
    planned: Sequence[Member],
    workdir: Path,
    *,
    form: str = "auto",
    halving: int = 0,
    data_dir: str | None = None,
    cpus: int = 0,
    only_plan: bool = False,
) -> dict[str, Outcome]:
    """As `run_members`, with the members spread over a Ray cluster; `halving` waits for none of them there.

    Args:
      cpus: see `cluster.share`.

    Raises:
      UserError: as `run_members`; repetitions with halving; no Ray, no cluster, one whose machines are too small.
      train.Interrupted: stopped by one of `process.ENDING` after saving; the same call goes on.
    """
    rungs = [epochs for epochs, _ in stops(planned, halving)[:-1]]
    if rungs and len({member.cell for member in planned}) < len(planned):
        raise UserError(
            "--halving on a cluster compares single members as they come, so it would choose lucky seeds and easy "
            "folds: choose with one seed and without folds, then repeat the best of them"
        )
    try:
        from fer_jax import cluster
    except ImportError as error:
        raise UserError(f"--cluster=ray needs Ray Tune: pip install 'fer_jax[cluster]' ({error})") from error
    groups = unfinished(planned, workdir, claim=not only_plan)
    told = "with asynchronous halving" if rungs else "to the end"
    print(f"{len(planned)} members {told}, {sum(map(len, groups))} unfinished, in {workdir}:", file=sys.stderr)
    failed, stopped = cluster.run_members(
        groups,
        workdir,
        form=form,
        halving=halving,
        rungs=rungs,
        data_dir=data_dir,
        cpus=cpus,
        only_plan=only_plan,
    )
    outcomes = {name: Failed(reason) for name, reason in failed.items()}
    outcomes |= {name: Stopped(*reached) for name, reached in stopped.items()}
    return outcomes | finished(planned, workdir)


def best_until(folder: Path, config: ConfigDict, epochs: int) -> float:
    """The best validation score of a run in its first epochs."""
    rows = [row for row in files.read_rows(folder / "metrics.jsonl") if row["split"] == "validation"]
    return max(selection_score(config, row) for row in rows if row["epoch"] <= epochs)


def compared_by(planned: Sequence[Member], outcomes: dict[str, Outcome]) -> Measure:
    """By what the members are compared: what all their runs were selected by if it is the RMSE, else the accuracy."""
    scored = [(member.config, outcomes[member.name]) for member in planned if member.name in outcomes]
    scored = [(config, outcome["metrics"]) for config, outcome in scored if isinstance(outcome, dict)]
    return RMSE if all(selected_by_rmse(config, metrics) for config, metrics in scored) else ACCURACY


def tabulate(planned: Sequence[Member], outcomes: dict[str, Outcome], by: Measure) -> list[sweep_table.Cell]:
    """The cells in the order of the plan, with the `scores` of their members."""
    cells: dict[str, list[Member]] = {}
    for member in planned:
        cells.setdefault(member.cell, []).append(member)

    def values(some: Sequence[Member], measure: Measure) -> tuple[float, ...]:
        return tuple(score for _, score in scores(some, outcomes, measure))

    return [
        sweep_table.Cell(
            name,
            values(some, by),
            failed=sum(isinstance(outcomes[member.name], Failed) for member in some),
            stopped=sum(isinstance(outcomes[member.name], Stopped) for member in some),
            lacks_folds=any("data.fold" in m.overrides and isinstance(outcomes[m.name], Failed) for m in some),
            beside=values(some, beside(by)),
        )
        for name, some in cells.items()
    ]


def scores(planned: Sequence[Member], outcomes: dict[str, Outcome], by: Measure) -> list[tuple[dict, float]]:
    """The overrides and the score of each finished member.

    Seeds of one fold share its images: they are one score, their mean, or the intervals would be far too narrow.
    """
    found: dict[str, tuple[dict, list[float]]] = {}
    for member in planned:
        if isinstance(outcome := outcomes.get(member.name), dict):
            one = member.overrides
            if "data.fold" in one:
                one = {field: value for field, value in one.items() if field != "seed"}
            found.setdefault(json.dumps(one), (one, []))[1].append(outcome["metrics"][by.metric])
    return [(overrides, statistics.fmean(values)) for overrides, values in found.values()]


def _without_those_not_finite(name: str, outcome: Outcome) -> Outcome:
    """A run that was selected by finite scores may answer other images otherwise."""
    if isinstance(outcome, dict) and outcome["split"] and outcome["metrics"]["loss"] is None:
        reason = f"its loss on {outcome['split']} is not finite"
        print(f"failed: {name}: {reason}", file=sys.stderr)
        return Failed(reason)
    return outcome


def main(_argv: Sequence[str]) -> None:
    """Runs the sweep and prints its table; exit codes as of `fer_jax.main`."""
    process.set_up()
    if _CLUSTER_CPUS.value and not _CLUSTER.value:
        raise UserError("--cluster_cpus is for --cluster=ray")
    path, _, _ = flags.FLAGS["config"].config_filename.partition(":")
    smaller, declared_members = declared(Path(path), quick=_QUICK.value)
    given = flags.FLAGS["config"].override_values  # on the command line, which has the last word
    config = config_lib.overridden(
        command_line.CONFIG.value, {field: value for field, value in smaller.items() if field not in given}
    )
    axes = [declared_members, *map(read_axis, _SET.value)]
    if _SEEDS.value:
        axes.append(config_lib.seeds(_SEEDS.value))
    planned = members(config, axes)
    command_line.refuse_unread_data_dir(member.config for member in planned)
    import jax  # only now: a mistake in the sweep is told without waiting for JAX

    from fer_jax import run_directory, seen, train

    if _CLUSTER.value:
        jax.config.update("jax_platforms", "cpu")  # this machine's accelerator, if any, is for a trial
    name = f"sweep-{Path(path).stem}{'-quick' if _QUICK.value else ''}"
    workdir = files.user_path(command_line.WORKDIR.value or Path("runs") / name)
    done = finished(planned, workdir)
    check(planned, command_line.DATA_DIR.value, halving=_HALVING.value, done=done)
    train_all = functools.partial(run_members_on_cluster, cpus=_CLUSTER_CPUS.value) if _CLUSTER.value else run_members
    try:
        with (
            run_directory.full_disk_explained(workdir),
            contextlib.nullcontext() if _PLAN.value else run_directory.occupied(workdir),
        ):
            outcomes = train_all(
                planned,
                workdir,
                form=_FORM.value,
                halving=_HALVING.value,
                data_dir=command_line.DATA_DIR.value,
                only_plan=_PLAN.value,
            )
    except train.Interrupted as interrupted:
        print(f"{interrupted}; the same command with --workdir={workdir} goes on", file=sys.stderr)
        sys.exit(128 + interrupted.signum)
    if _PLAN.value:
        return
    outcomes = {name: _without_those_not_finite(name, outcome) for name, outcome in outcomes.items()}
    results = [outcome for outcome in outcomes.values() if isinstance(outcome, dict)]
    types = {outcome.get("dtype") for outcome in results} - {None}
    if len(types) > 1 and not differing(planned, ("model.dtype",)):
        told = " and ".join(sorted(types))
        print(f"warning: members computed in {told}, as their devices do: set model.dtype", file=sys.stderr)
    splits = {outcome["split"] for outcome in results}
    if splits <= {None}:
        raise UserError("no member has a score: all failed, or the data set has no split to evaluate on")
    by = compared_by(planned, outcomes)
    cells = tabulate(planned, outcomes, by)
    joined = [f"data.{split}" for split in ("test", "validation") if split in splits]
    unlike = differing(planned, (*same_images(planned), *joined))
    optimistic = any(each["selected_on"] == each["split"] for each in results)
    doubts = sorted({doubt for each in results for known in seen.learnt_from(each) for doubt in known["doubts"]})
    split = "/".join(sorted(filter(None, splits)))
    print(sweep_table.write_tables(cells, split, workdir, by, unlike=unlike, optimistic=optimistic, doubts=doubts))
    pictures = sweep_table.draw(scores(planned, outcomes, by), workdir, by)
    print(f"tables: {workdir.resolve()}/table.md, .csv, .tex, .json; pictures: {', '.join(pictures) or 'none'}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(command_line)  # --help shows them too
    _SET = flags.DEFINE_multi_string("set", [], "field=value,value: one more axis of the sweep; may be repeated")
    _SEEDS = flags.DEFINE_integer("seeds", 0, "how many seeds to run each member with: 0, 1, ...", lower_bound=0)
    _FORM = flags.DEFINE_enum(
        "stack",
        "auto",
        ("auto", "sequential", "grouped", "columns"),
        "how members of one structure are trained: one after another (sequential), or stacked, with grouped "
        "convolutions or with products of columns instead; auto: what is measured to be fastest (on a CPU sequential)",
    )
    _HALVING = flags.DEFINE_integer(
        "halving", 0, "successive halving: keep one in this many rows at each stop; 0 = off", lower_bound=0
    )
    _QUICK = flags.DEFINE_bool("quick", False, "the members of quick() of the config file: minutes on a CPU")
    _CLUSTER = flags.DEFINE_enum(
        "cluster",
        None,
        ("ray",),
        "spread the members over the Ray cluster of RAY_ADDRESS, else this machine; all of its machines must find "
        "--workdir and --data_dir at the same place",
    )
    _CLUSTER_CPUS = flags.DEFINE_integer(
        "cluster_cpus", 0, "CPUs per trial on a cluster; 0 = one with a GPU, else up to four", lower_bound=0
    )
    _PLAN = flags.DEFINE_bool("plan", False, "print the plan, train nothing")
    command_line.entry(main)
