"""Figures as PNG: confusion matrix and learning curves of a run, effects of a sweep, contact sheets of a data set."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fer_jax import statistics
from fer_jax.errors import UserError

if TYPE_CHECKING:
    from fer_jax.sweep_table import Measure

TRAIN, VALIDATION = "#8a8f98", "#1f5fbf"


def confusion_matrix(confusion: np.ndarray, emotions: tuple[str, ...], path: Path) -> None:
    """Draws counts and row percentages; rows are the true emotion.

    Args:
      confusion: int [C, C], rows true, columns predicted.
    """
    counts = np.asarray(confusion)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 1.5 + 0.75 * len(emotions)
    figure, axes = _figure(side, side - 0.5)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{share:.0%}\n{count:,}" if totals[row, 0] else "-"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 0.55 else "#222222",
        )
    labels = [f"{emotion}\nn = {int(total):,}" for emotion, total in zip(emotions, totals[:, 0], strict=True)]
    axes.set_xticks(range(len(emotions)), emotions, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(emotions)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    total = int(counts.sum())
    accuracy = f"{counts.trace() / total:.2%}" if total else "undefined"
    axes.set_title(f"accuracy {accuracy} of {total:,} images", fontsize=10)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(path)


def learning_curves(rows: list[dict], path: Path) -> None:
    """Draws loss and accuracy over the epochs, from the rows of metrics.jsonl."""
    figure = Figure(figsize=(9, 3.6), dpi=130, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", TRAIN), ("validation", VALIDATION)):
            points = [(row["epoch"], row[name]) for row in rows if row["split"] == split and row.get(name) is not None]
            if not points:
                continue
            epochs, values = zip(*points, strict=True)
            marker = "o" if len(points) == 1 or (split == "validation" and len(points) <= 40) else None
            label = "train (augmented, running)" if split == "train" else split
            axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3, linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.set_title(name, fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.set_xlim(left=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if name == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def contact_sheet(images: dict[str, np.ndarray], path: Path) -> None:
    """Draws a column of images for each name, under the name.

    Args:
      images: name -> uint8 [n, H, W, 1] grey or [n, H, W, 3] RGB; columns may differ in n.

    Raises:
      UserError: the file cannot be written, or is of a kind that Matplotlib does not know.
    """
    rows = max(map(len, images.values()))
    figure = Figure(figsize=(1.25 * len(images), 1.25 * rows + 0.25), dpi=102, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    grid = figure.subplots(rows, len(images), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for column, (name, shown) in enumerate(images.items()):
        grid[0, column].set_title(name, fontsize=10)
        for row, image in enumerate(shown):
            grid[row, column].imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be drawn: {error}; name a *.png in a folder that is there") from error


def _figure(width: float, height: float):
    # Without pyplot: no global state, no display, usable from any thread.
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, figure.add_subplot()


def factor_effects(
    effects: dict[str, list[tuple[object, np.ndarray]]], level: float, path: Path, measure: "Measure"
) -> None:
    """Draws a panel for each field: every run's score, and the mean of each value with Student's interval.

    Args:
      effects: field -> (value, scores of the runs with it).
    """
    figure = Figure(figsize=(max(4.5, 3.6 * len(effects)), 3.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (field, values) in zip(panels, effects.items(), strict=True):
        for place, (_, scores) in enumerate(values):
            scores = measure.scale * scores
            axes.plot(np.full(len(scores), place), scores, "o", color=TRAIN, alpha=0.6, markersize=4)
            if len(scores) > 1:
                half = statistics.mean_half_width(scores, level)
                axes.errorbar(place + 0.12, scores.mean(), half, fmt="D", color=VALIDATION, capsize=4, markersize=5)
        axes.set_xticks(range(len(values)), [_value(value) for value, _ in values], rotation=25, ha="right")
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_title(field, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.get_axes()[0].set_ylabel(measure.title + ("" if measure.higher_is_better else ", lower is better"))
    figure.suptitle(f"grey: runs; blue: mean and {level:.0%} interval", fontsize=8, color="#555555")
    figure.savefig(path)


def cell_scores(cells: dict[str, np.ndarray], level: float, path: Path, measure: "Measure") -> None:
    """Draws a row for each cell, the first on top: every run's score, and the mean with Student's interval.

    Args:
      cells: name -> the scores of its runs.
    """
    labels = [textwrap.fill(name, 64) for name in cells]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure, axes = _figure(8.5, 1.0 + 0.2 * len(labels) + 0.16 * lines)
    for row, scores in enumerate(cells.values()):
        scores = measure.scale * scores
        axes.plot(scores, np.full(len(scores), row), "o", color=TRAIN, alpha=0.6, markersize=5)
        if len(scores) > 1:
            half = statistics.mean_half_width(scores, level)
            axes.errorbar(scores.mean(), row + 0.18, xerr=half, fmt="D", color=VALIDATION, capsize=3, markersize=4)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="both", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel(measure.title + ("" if measure.higher_is_better else ", lower is better"))
    axes.set_title(f"grey: runs; blue: mean and {level:.0%} interval", fontsize=8, color="#555555")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path)


def parallel_coordinates(
    factors: dict[str, list], places: np.ndarray, scores: np.ndarray, path: Path, measure: "Measure"
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


_LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
