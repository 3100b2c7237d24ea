"""The table of a sweep: mean, deviation and interval of each cell, and what is significantly the best.

Files: table.md, table.csv, table.tex, table.json.
"""

import csv
import dataclasses
import json
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from fer_jax import files, scores, statistics, sweep_figures
from fer_jax.scores import ACCURACY, Measure
from fer_jax.sweep_members import REPEATS, cell_name
from fer_jax.tables import as_text


@dataclasses.dataclass(frozen=True)
class Cell:
    """A line of the table: the members that differ in `REPEATS` alone."""

    name: str
    scores: tuple[float, ...]  # of the finished members by the sweep's Measure; of the seeds of one fold their mean
    failed: int
    stopped: int = 0  # by successive halving
    lacks_folds: bool = False  # some that failed were of folds: the others' images are not those of all
    beside: tuple[float, ...] = ()  # the scores of the same members by `scores.beside` of the Measure

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
        return statistics.mean_half_width(np.array(self.scores))


def significantly_best(cells: Sequence[Cell], measure: Measure = ACCURACY) -> Cell | None:
    """The cell with the best mean, if by Welch's t-test it is better than every other one; None otherwise.

    The tests are corrected for their number (Holm 1979); a cell of one score cannot be compared. Nor is one the best of
    which members failed: the others may be its luckier seeds. If halving stopped any line, none is the best: the
    stopped ones have no final score to compare with.
    """
    sign = 1 if measure.higher_is_better else -1
    ranked = sorted((cell for cell in cells if cell.scores), key=lambda cell: -sign * cell.mean)
    if len(ranked) < 2 or any(len(cell.scores) < 2 for cell in ranked):
        return None
    best, *others = ranked
    if best.failed or any(cell.lacks_folds for cell in ranked) or any(cell.stopped for cell in cells):
        return None
    chances = sorted(_chance(sign * np.array(best.scores), sign * np.array(other.scores)) for other in others)
    return best if all(p < (1 - statistics.LEVEL) / (len(chances) - i) for i, p in enumerate(chances)) else None


def _chance(best: np.ndarray, other: np.ndarray) -> float:
    """The p-value of Welch's test that the scores have one mean.

    Two-sided, for which of them is the best was seen in the scores. Two or three that happen to be equal say nothing of
    how others would differ: 1 where both have no variance.
    """
    if np.ptp(best) == np.ptp(other) == 0:
        return 1.0
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of one whose scores are all equal
        return float(stats.ttest_ind(best, other, equal_var=False).pvalue)


def write_tables(
    cells: Sequence[Cell],
    split: str,
    folder: Path,
    measure: Measure = ACCURACY,
    *,
    unlike: str | None = None,
    optimistic: bool = False,
    doubts: Sequence[str] = (),
) -> str:
    """Writes table.md, .csv, .tex and .json; returns the Markdown.

    Args:
      unlike: a field by which the cells differ in the images that they are scored on: then none is the best.
      optimistic: whether these images have selected the weights of some.
      doubts: why networks that they learnt from may have known these images, see `seen.doubts`.
    """
    best, beside = None if unlike else significantly_best(cells, measure), scores.beside(measure)
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
            beside.metric: float(np.mean(cell.beside)) if cell.beside else None,
        }
        for cell in cells
    ]
    plain = [{name: None if value != value else value for name, value in row.items()} for row in rows]  # nan
    content = {
        "split": split,
        "measure": measure.metric,
        "unlike": unlike,
        "optimistic": optimistic,
        "doubts": doubts,
        "rows": plain,
    }
    with files.whole(folder / "table.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    with files.whole(folder / "table.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(plain)
    title = dataclasses.replace(measure, heading=f"{measure.heading}, {split}").title
    head = ["", "n", title, "mean, 95 % interval", beside.title]
    body = []
    for row in rows:
        lost = ", ".join(f"{row[why]} {why}" for why in ("failed", "stopped") if row[why])
        count = f"{row['n']}" + (f" ({lost})" if lost else "")
        second = "" if row[beside.metric] is None else beside.text(row[beside.metric])
        body.append([row["cell"], count, _score(row, measure), _interval(row, measure), second])
    bold = {(i, 2) for i, row in enumerate(rows) if row["significantly_best"]}
    text, latex = (as_text((head, body), form, bold=bold) for form in ("markdown", "latex"))
    notes = [f"The lines are scored on different images ({unlike}), so none is compared with another."] * bool(unlike)
    if optimistic:
        notes.append("Optimistic on validation: the epoch of a run was chosen on the images that it is scored on.")
    notes += [f"Scores may be too high: {doubt}." for doubt in doubts]
    for note in notes:
        text, latex = f"{text}\n{note}\n", f"% {note}\n{latex}"
    (folder / "table.md").write_text(text)
    (folder / "table.tex").write_text(latex)
    return text


def _score(row: dict, measure: Measure) -> str:
    if not row["n"]:
        return "none finished"
    return measure.text(row["mean"]) + (f" ± {measure.text(row['std'])}" if row["n"] > 1 else "")


def _interval(row: dict, measure: Measure) -> str:
    if row["n"] < 2:
        return "one run" if row["n"] else ""
    low, high = (measure.text(row["mean"] + side * row["half_width"]) for side in (-1, 1))
    return f"{low} to {high}"


def draw(runs: Sequence[tuple[dict, float]], folder: Path, measure: Measure = ACCURACY) -> list[str]:
    """Draws how the score of finished runs depends on what was varied; returns the names of the files in `folder`.

    Where every combination of the fields' values has as many runs: effects.png, for each field the mean over all runs
    with a value, and its interval over the repetitions of each combination, and where two fields or more vary
    parallel.png, a line for each run through its values, coloured by its score. Otherwise, where these means would
    compare unlike runs: cells.png, the scores of each cell.

    Pictures of an earlier call are deleted.

    Args:
      runs: the overrides of each run and its score.
    """
    for name in ("effects.png", "parallel.png", "cells.png"):
        (folder / name).unlink(missing_ok=True)
    scores = np.array([score for _, score in runs])
    alike = len({frozenset(overrides) for overrides, _ in runs}) == 1
    factors = _factors([overrides for overrides, _ in runs]) if alike else {}
    crossed = Counter(tuple(map(str, map(overrides.get, factors))) for overrides, _ in runs)
    complete = len(crossed) == math.prod(map(len, factors.values())) and len(set(crossed.values())) == 1
    if not alike or not complete:
        names = [cell_name(overrides) for overrides, _ in runs]
        of_cells = {name: scores[[other == name for other in names]] for name in dict.fromkeys(names)}
        sweep_figures.cell_scores(of_cells, folder / "cells.png", measure)
        return ["cells.png"]
    if not factors:
        return []
    names = np.array([cell_name(overrides) for overrides, _ in runs])

    def of_cells(field, value):
        chosen = np.array([overrides[field] == value for overrides, _ in runs])
        return [scores[chosen & (names == name)] for name in dict.fromkeys(names[chosen].tolist())]

    sweep_figures.factor_effects(
        {field: [(value, of_cells(field, value)) for value in values] for field, values in factors.items()},
        folder / "effects.png",
        measure,
    )
    if len(factors) < 2:
        return ["effects.png"]
    places = [[values.index(overrides[field]) for field, values in factors.items()] for overrides, _ in runs]
    sweep_figures.parallel_coordinates(factors, np.array(places), scores, folder / "parallel.png", measure)
    return ["effects.png", "parallel.png"]


def _factors(overrides: Sequence[dict]) -> dict[str, list]:
    """The fields but REPEATS of which runs, which all override the same, have several values, and these, sorted."""
    values = {}
    for field in overrides[0]:
        found = []
        for each in overrides:
            if each[field] not in found:
                found.append(each[field])
        if all(isinstance(value, int | float) for value in found):
            found.sort()
        if len(found) > 1 and field not in REPEATS:
            values[field] = found
    return values
