"""The table of a sweep: mean, deviation and interval of each cell, and what is significantly the best.

Files: table.md, table.csv, table.tex, table.json.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from fer_jax import figures

REPEATS = ("seed", "data.fold")  # fields whose values are repetitions of one cell
LEVEL = 0.95  # of the intervals, and 1 - LEVEL is where a difference counts as significant


@dataclasses.dataclass(frozen=True)
class Cell:
    """A line of the table: the members that differ in `REPEATS` alone."""

    name: str
    scores: tuple[float, ...]  # of the finished members
    failed: int
    stopped: int = 0  # by successive halving

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
            "stopped": cell.stopped,
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
        lost = ", ".join(f"{row[why]} {why}" for why in ("failed", "stopped") if row[why])
        bold = row["significantly_best"]
        count = f"{row['n']}" + (f" ({lost})" if lost else "")
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


def draw(runs: Sequence[tuple[dict, float]], folder: Path) -> list[str]:
    """Draws how the score of finished runs depends on what was varied; returns the names of the files in `folder`.

    effects.png: for each field the mean over all runs with a value, and its interval over them. parallel.png, where
    two fields or more vary: a line for each run through its values, coloured by its score.

    Args:
      runs: the overrides of each run and its accuracy in 0..1.
    """
    factors = _factors([overrides for overrides, _ in runs])
    if not factors:
        return []
    scores = np.array([score for _, score in runs])
    figures.factor_effects(
        {
            field: [(value, scores[[overrides.get(field) == value for overrides, _ in runs]]) for value in values]
            for field, values in factors.items()
        },
        LEVEL,
        folder / "effects.png",
    )
    if len(factors) < 2:
        return ["effects.png"]
    places = [[values.index(overrides.get(field)) for field, values in factors.items()] for overrides, _ in runs]
    figures.parallel_coordinates(factors, np.array(places), scores, folder / "parallel.png")
    return ["effects.png", "parallel.png"]


def _factors(overrides: Sequence[dict]) -> dict[str, list]:
    """The fields but REPEATS of which runs have several values, and these, sorted; None = not overridden."""
    fields = dict.fromkeys(field for each in overrides for field in each if field not in REPEATS)
    values = {}
    for field in fields:
        found = []
        for each in overrides:
            if each.get(field) not in found:
                found.append(each.get(field))
        if all(isinstance(value, int | float) for value in found):
            found.sort()
        values[field] = found
    return {field: found for field, found in values.items() if len(found) > 1}
