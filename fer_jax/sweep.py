"""Ablation sweeps: many runs of one config that differ in a few fields, and one table of their scores.

    python -m fer_jax.sweep --config=configs/ablations/stanford.py:fer2013 --data_dir=PATH --seeds=3
    python -m fer_jax.sweep --config=configs/mini_xception.py:fer2013 --set=optim.learning_rate=1e-3,3e-3 --seeds=5

The members are the overrides that `sweep()` of the config file returns, times the values of every --set, times the
seeds. They run one after another, each in an ordinary run directory; finished ones are not touched when the command is
given again, one cut short is resumed, and one that fails (a loss that is not finite) does not stop the others.
"""

import ast
import csv
import dataclasses
import importlib.util
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from scipy import stats

from fer_jax import config as config_lib
from fer_jax import main as command
from fer_jax import process
from fer_jax.errors import UserError

LEVEL = 0.95  # of the intervals, and 1 - LEVEL is where a difference counts as significant


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    overrides: dict
    config: ConfigDict

    @property
    def name(self) -> str:
        """Of its run directory: the overrides, made fit for a file system."""
        parts = (f"{field}={value}" for field, value in self.overrides.items())
        name = ",".join(parts).replace("/", "_").replace(" ", "").replace("'", "") or "base"
        return name[:200]

    @property
    def cell(self) -> str:
        """The line of the table that it belongs to: the overrides apart from the seed."""
        parts = (f"{field}={value}" for field, value in self.overrides.items() if field != "seed")
        return ", ".join(parts) or "base"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A line of the table: the members that differ in their seed alone."""

    name: str
    scores: tuple[float, ...]  # of the finished members
    failed: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores)) if self.scores else float("nan")

    @property
    def deviation(self) -> float:
        """The sample standard deviation, nan for fewer than two."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else float("nan")

    @property
    def half_width(self) -> float:
        """Of the interval of the mean by Student's t, nan for fewer than two scores."""
        n = len(self.scores)
        return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * self.deviation / n**0.5) if n > 1 else float("nan")


def members(config: ConfigDict, axes: Sequence[Sequence[dict]]) -> list[Member]:
    """Every combination of one set of overrides from each axis.

    Raises:
      UserError: a field that the config lacks, two members alike.
    """
    found = []
    for choice in itertools.product(*axes):
        overrides = {field: value for part in choice for field, value in part.items()}
        member = Member(overrides, config_lib.overridden(config, overrides))
        config_lib.validate(member.config)
        found.append(member)
    names = [member.name for member in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two members of the sweep are alike: {sorted(twice)[0]}")
    return found


def read_axis(text: str) -> list[dict]:
    """The overrides of `--set=field=value,value`.

    Raises:
      UserError: no field or no values.
    """
    field, _, values = text.partition("=")
    if not field or not values:
        raise UserError(f"--set={text}: expected field=value,value, e.g. --set=optim.learning_rate=1e-3,3e-3")
    try:
        parsed = ast.literal_eval(f"({values},)")
    except (ValueError, SyntaxError):
        parsed = tuple(values.split(","))  # names, e.g. --set=model.name=shallow,deep
    return [{field: value} for value in parsed]


def declared(path: Path) -> list[dict]:
    """What `sweep()` of a config file returns; [{}], the config as it is, for a file without one."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.sweep()) if hasattr(module, "sweep") else [{}]


def run_members(planned: Sequence[Member], workdir: Path, *, data_dir: str | None = None) -> dict[str, dict | str]:
    """Runs what is not finished; the results of each member by its name, or the message of why it failed.

    Raises:
      UserError: the first member fails before any has finished: the mistake is most likely in all of them.
      train.Interrupted: stopped by SIGTERM or Ctrl-C after saving; the same call goes on.
    """
    from fer_jax import run

    outcomes: dict[str, dict | str] = {}
    for number, member in enumerate(planned, 1):
        folder = workdir / member.name
        print(f"[{number}/{len(planned)}] {member.name}", file=sys.stderr, flush=True)
        try:
            run.claim_workdir(folder, member.config)
            finished = folder / "results.json"
            outcomes[member.name] = (
                json.loads(finished.read_text())
                if finished.exists()
                else run.run(member.config, folder, data_dir=data_dir)
            )
        except UserError as error:
            if not any(isinstance(outcome, dict) for outcome in outcomes.values()) and number == 1:
                raise
            outcomes[member.name] = str(error)
            print(f"failed: {error}", file=sys.stderr)
    return outcomes


def tabulate(planned: Sequence[Member], outcomes: dict[str, dict | str]) -> list[Cell]:
    """The cells in the order of the plan, by accuracy."""
    cells = {}
    for member in planned:
        cells.setdefault(member.cell, []).append(outcomes[member.name])
    return [
        Cell(
            name,
            tuple(found["metrics"]["accuracy"] for found in outcomes if isinstance(found, dict)),
            sum(isinstance(found, str) for found in outcomes),
        )
        for name, outcomes in cells.items()
    ]


def significantly_best(cells: Sequence[Cell]) -> Cell | None:
    """The cell with the highest mean, if by Welch's t-test it is above every other one; None otherwise.

    The tests are corrected for their number (Holm 1979); a cell of one score cannot be compared.
    """
    ranked = sorted((cell for cell in cells if cell.scores), key=lambda cell: -cell.mean)
    if len(ranked) < 2 or any(len(cell.scores) < 2 for cell in ranked):
        return None
    best, *others = ranked
    chances = sorted(_chance(best, other) for other in others)
    return best if all(p < (1 - LEVEL) / (len(chances) - i) for i, p in enumerate(chances)) else None


def _chance(best: Cell, other: Cell) -> float:
    """The one-sided p-value of Welch's test that `best` has no higher mean."""
    if best.deviation == other.deviation == 0:
        return 0.0 if best.mean > other.mean else 1.0
    return float(stats.ttest_ind(best.scores, other.scores, equal_var=False, alternative="greater").pvalue)


def write_tables(cells: Sequence[Cell], split: str, folder: Path) -> str:
    """Writes table.md, .csv, .tex and .json; returns the Markdown."""
    best = significantly_best(cells)
    rows = [
        {
            "cell": cell.name,
            "n": len(cell.scores),
            "mean": cell.mean,
            "std": cell.deviation,
            "half_width": cell.half_width,
            "failed": cell.failed,
            "significantly_best": cell is best,
        }
        for cell in cells
    ]
    plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]  # nan
    (folder / "table.json").write_text(json.dumps({"split": split, "rows": plain}, indent=2, allow_nan=False) + "\n")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(plain)
    head = ["", "n", f"accuracy, {split} (%)", "mean, 95 % interval"]
    markdown = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    latex = [r"\begin{tabular}{lrrr}", " & ".join(head).replace("%", r"\%") + r" \\ \hline"]
    for row in rows:
        score, interval = _score(row), _interval(row)
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        bold = row["significantly_best"]
        count = f"{row['n']}{failed}"
        markdown.append(f"| {row['cell']} | {count} | {f'**{score}**' if bold else score} | {interval} |")
        name = row["cell"].replace("_", r"\_")
        score = (rf"\textbf{{{score}}}" if bold else score).replace("±", r"$\pm$")
        latex.append(f"{name} & {count} & {score} & {interval} " + r"\\")
    text = "\n".join(markdown) + "\n"
    (folder / "table.md").write_text(text)
    (folder / "table.tex").write_text("\n".join([*latex, r"\end{tabular}"]) + "\n")
    return text


def _score(row: dict) -> str:
    if not row["n"]:
        return "none finished"
    return f"{100 * row['mean']:.2f}" + (f" ± {100 * row['std']:.2f}" if row["n"] > 1 else "")


def _interval(row: dict) -> str:
    if row["n"] < 2:
        return "one run"
    low, high = (100 * (row["mean"] + side * row["half_width"]) for side in (-1, 1))
    return f"{low:.2f} to {high:.2f}"


def main(_argv: Sequence[str]) -> None:
    """Runs the sweep and prints its table; exit codes as of `fer_jax.main`."""
    process.set_up()
    from fer_jax import train

    path, _, _ = flags.FLAGS["config"].config_filename.partition(":")
    axes = [declared(Path(path)), *map(read_axis, _SET.value)]
    if _SEEDS.value:
        axes.append(config_lib.seeds(_SEEDS.value))
    planned = members(flags.FLAGS.config, axes)
    workdir = Path(flags.FLAGS.workdir or Path("runs") / f"sweep-{Path(path).stem}")
    print(f"{len(planned)} members, one after another, in {workdir}:", file=sys.stderr)
    for member in planned:
        print(f"  {member.name}", file=sys.stderr)
    try:
        outcomes = run_members(planned, workdir, data_dir=flags.FLAGS.data_dir)
    except train.Interrupted as interrupted:
        print(f"{interrupted}; the same command with --workdir={workdir} goes on", file=sys.stderr)
        sys.exit(128 + interrupted.signum)
    splits = {outcome["split"] for outcome in outcomes.values() if isinstance(outcome, dict)}
    if splits <= {None}:
        raise UserError("no member has a score: all failed, or the data set has no split to evaluate on")
    print(write_tables(tabulate(planned, outcomes), "/".join(sorted(filter(None, splits))), workdir))
    print(f"tables: {workdir.resolve()}/table.md, .csv, .tex, .json")


if __name__ == "__main__":
    _SET = flags.DEFINE_multi_string("set", [], "field=value,value: one more axis of the sweep; may be repeated")
    _SEEDS = flags.DEFINE_integer("seeds", 0, "how often each member is run, with seeds 0, 1, ...", lower_bound=0)
    command.entry(main, command.parse_flags)
