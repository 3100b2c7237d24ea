"""What a sweep will train, in which order and for how long: groups of one structure, and the stops of halving."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import OutOfMemory, UserError
from fer_jax.sweep_members import Member

# Fields that decide which images a member is scored on.
_SAME_IMAGES = tuple(f"data.{name}" for name in ("name", "variant", "emotions", "folds", "fold_by"))


@dataclasses.dataclass(frozen=True)
class Group:
    """Members of one structure, and how they are trained."""

    members: tuple[Member, ...]
    form: str  # one of stack_cost.FORMS
    at_once: int
    seconds: float  # expected, of all that is left to do
    megabytes: float  # of device memory per member; NaN, like the seconds, where not even one fits

    def describe(self) -> str:
        """A line of the plan."""
        names = self.members[0].cell + (" ..." if len({member.cell for member in self.members}) > 1 else "")
        if math.isnan(self.megabytes):
            return f"{len(self.members)} x {names}: more than the device's memory holds, as it seems; tried at its turn"
        how = "one after another" if self.at_once == 1 else f"{self.at_once} at once ({self.form} convolutions)"
        return (
            f"{len(self.members)} x {names}: {how}, {self.megabytes:,.0f} MB a member, about {_duration(self.seconds)}"
        )


def unfinished(planned: Sequence[Member], workdir: Path, *, claim: bool = True) -> list[list[Member]]:
    """The unfinished members, those of one structure together.

    Args:
      claim: their run directories; else those that are there are only looked at.

    Raises:
      UserError: a member's directory holds a run of another config.
    """
    from fer_jax import run_directory, stack

    kinds: dict[str, list[Member]] = {}
    for member in planned:
        if claim:
            run_directory.claim_workdir(workdir / member.name, member.config)
        elif (workdir / member.name / "config.json").exists():
            run_directory.refuse_other_config(workdir / member.name, member.config)
        if not (workdir / member.name / "results.json").exists():
            kinds.setdefault(stack.structure(member.config), []).append(member)
    return list(kinds.values())


def plan(
    planned: Sequence[Member],
    workdir: Path,
    *,
    form: str = "auto",
    data_dir: str | None = None,
    epochs: int | None = None,
    claim: bool = True,
) -> list[Group]:
    """The unfinished members in groups of one structure, each with the form that a measurement found the fastest.

    Args:
      form: one of `stack_cost.FORMS`, or `auto`: what is fastest; on a CPU that is one after another.
      epochs: up to which they are trained; None: to the end.
      claim: see `unfinished`.

    Raises:
      UserError: a member's directory holds a run of another config, or the data are wrong.
    """

    def of(alike: Sequence[Member]) -> Group:  # a call for each group: its data leave the memory with it
        from fer_jax import run, run_directory, stack_cost

        try:
            with run_directory.full_memory_explained():
                experiment = run.build(alike[0].config, data_dir)
                cost = stack_cost.choose(experiment, len(alike), form)
                megabytes = stack_cost.bytes_a_member(experiment) / 1e6
        except OutOfMemory:  # of one member of many, which is no reason not to train the others
            return Group(tuple(alike), stack_cost.SEQUENTIAL, 1, math.nan, math.nan)
        until = epochs * experiment.order.steps_per_epoch if epochs else experiment.total_steps
        left = sum(max(until - _steps_taken(workdir / member.name), 0) for member in alike)
        return Group(tuple(alike), cost.form, cost.at_once, cost.seconds / len(alike) * left, megabytes)

    return [of(alike) for alike in unfinished(planned, workdir, claim=claim)]


def _steps_taken(folder: Path) -> int:
    """Of a run, by its checkpoints."""
    return max((int(path.name) for path in folder.glob("checkpoints/last/*") if path.name.isdecimal()), default=0)


def same_images(planned: Sequence[Member]) -> tuple[str, ...]:
    """The fields that decide which images a member is scored on; of folds the limit too, which is set before."""
    folded = any(member.config.data.folds for member in planned)
    return (*_SAME_IMAGES, "data.limit") if folded else _SAME_IMAGES


def differing(planned: Sequence[Member], fields: Sequence[str]) -> str | None:
    """The first of these fields of which the members have several values."""
    for field in fields:
        section, name = field.split(".")
        if len({str(member.config[section][name]) for member in planned}) > 1:
            return field
    return None


def stops(planned: Sequence[Member], halving: int) -> list[tuple[int | None, int]]:
    """(after how many epochs, how many cells go on) for each stop of successive halving; at last (None, ...).

    One of `halving` goes on at each stop, and those that do have `halving` times the epochs at the next: Jamieson &
    Talwalkar 2016, figure 1, with rungs as in Li et al. 2020 (ASHA), all members waiting for one another.

    Raises:
      UserError: the members differ in their epochs, in how many of them go to smaller images, in their head or in what
        they are validated on.
    """
    count = len({member.cell for member in planned})
    last = (None, count)
    if not halving:
        return [last]
    if halving < 2:
        raise UserError(f"--halving={halving} stops nobody: of so many members one goes on, e.g. 3; 0 lets all go on")
    if len({member.config.train.epochs for member in planned}) > 1:
        raise UserError("--halving compares members after the same epochs: train.epochs must not differ")
    # The scores are on images of the full size, for which smaller ones are only a preparation.
    if len({str(member.config.train.smaller_first) for member in planned}) > 1:
        raise UserError("--halving compares members on the same images: train.smaller_first must not differ")
    if field := differing(planned, ("head.name", *same_images(planned), "data.validation")):
        raise UserError(f"--halving compares members by one score on the same images: {field} must not differ")
    found, epochs = [], planned[0].config.train.epochs
    rungs = []
    while (epochs := epochs // halving) >= 1 and halving ** (len(rungs) + 1) <= count:
        rungs.append(epochs)
    for epochs in reversed(rungs):
        count = -(-count // halving)
        found.append((epochs, count))
    return [*found, last]


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
