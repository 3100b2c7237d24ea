"""The figures of a sweep as PNG: how the score depends on what was varied."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fer_jax import statistics
from fer_jax.figures import TRAIN, VALIDATION
from fer_jax.scores import Measure

_LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def factor_effects(effects: dict[str, list[tuple[object, list[np.ndarray]]]], path: Path, measure: Measure) -> None:
    """Draws a panel for each field: every run's score, and the mean of each value with Student's interval.

    Args:
      effects: field -> (value, the scores of the runs with it, of each combination of the other fields). What the
        others do is no part of the interval, which is over the repetitions; there is none without them.
    """
    figure = Figure(figsize=(max(4.5, 3.6 * len(effects)), 3.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (field, values) in zip(panels, effects.items(), strict=True):
        for place, (_, of_cells) in enumerate(values):
            of_cells = [measure.scale * scores for scores in of_cells]
            scores, half = np.concatenate(of_cells), statistics.mean_half_width(*of_cells)
            axes.plot(np.full(len(scores), place), scores, "o", color=TRAIN, alpha=0.6, markersize=4)
            half = None if np.isnan(half) else half
            axes.errorbar(place + 0.12, scores.mean(), half, fmt="D", color=VALIDATION, capsize=4, markersize=5)
        axes.set_xticks(range(len(values)), [_value(value) for value, _ in values], rotation=25, ha="right")
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_title(field, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.get_axes()[0].set_ylabel(measure.title + ("" if measure.higher_is_better else ", lower is better"))
    figure.suptitle(f"grey: runs; blue: mean and {statistics.LEVEL:.0%} interval", fontsize=8, color="#555555")
    figure.savefig(path)


def cell_scores(cells: dict[str, np.ndarray], path: Path, measure: Measure) -> None:
    """Draws a row for each cell, the first on top: every run's score, and the mean with Student's interval.

    Args:
      cells: name -> the scores of its runs.
    """
    labels = [textwrap.fill(name, 64) for name in cells]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(8.5, 1.0 + 0.2 * len(labels) + 0.16 * lines), dpi=130, layout="constrained")
    axes = figure.subplots()
    for row, scores in enumerate(cells.values()):
        scores = measure.scale * scores
        axes.plot(scores, np.full(len(scores), row), "o", color=TRAIN, alpha=0.6, markersize=5)
        if len(scores) > 1:
            half = statistics.mean_half_width(scores)
            axes.errorbar(scores.mean(), row + 0.18, xerr=half, fmt="D", color=VALIDATION, capsize=3, markersize=4)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="both", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel(measure.title + ("" if measure.higher_is_better else ", lower is better"))
    axes.set_title(f"grey: runs; blue: mean and {statistics.LEVEL:.0%} interval", fontsize=8, color="#555555")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path)


def parallel_coordinates(
    factors: dict[str, list], places: np.ndarray, scores: np.ndarray, path: Path, measure: Measure
) -> None:
    """Draws a line for each run through the values of its fields, to its score, the best on top.

    Args:
      factors: field -> its values, bottom to top.
      places: int [runs, fields], which value each run has.
      scores: float [runs].
    """
    figure = Figure(figsize=(1.9 * (len(factors) + 1) + 1.5, 4), dpi=130, layout="constrained")
    axes = figure.subplots()
    low, high = (scores.min(), scores.max()) if measure.higher_is_better else (scores.max(), scores.min())
    heights = places / np.maximum([len(values) - 1 for values in factors.values()], 1)
    ends = (scores - low) / (high - low) if high != low else np.full(len(scores), 0.5)
    rng = np.random.default_rng(0)  # runs of one cell, a seed each, lie beside each other
    for line, end, shift in zip(heights, ends, rng.uniform(-0.02, 0.02, len(scores)), strict=True):
        axes.plot([*(line + shift), end], color=colormaps["viridis"](end), alpha=0.8, linewidth=1.6)
    for place, values in enumerate(factors.values()):
        for i, value in enumerate(values):
            height = i / max(len(values) - 1, 1)
            axes.text(place + 0.04, height, _value(value), fontsize=8, va="center", bbox=_LABEL)
        axes.axvline(place, color="#bbbbbb", linewidth=1, zorder=0)
    for score, height in ((low, 0), (high, 1)) if high != low else ((low, 0.5),):
        axes.text(len(factors) + 0.04, height, measure.text(score), fontsize=8, va="center")
    axes.axvline(len(factors), color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_xticks(range(len(factors) + 1), [*factors, measure.title], fontsize=8)
    axes.set_xlim(-0.15, len(factors) + 0.3)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.savefig(path)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
