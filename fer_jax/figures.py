"""Figures as PNG: confusion matrix and learning curves of a run, effects of a sweep, contact sheets of a data set."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

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
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", TRAIN), ("validation", VALIDATION)):
            points = [(row["epoch"], row[name]) for row in rows if row["split"] == split and row.get(name) is not None]
            if not points:
                continue
            epochs, values = zip(*points, strict=True)
            marker = "o" if split == "validation" and len(points) <= 40 else None
            label = "train (augmented, running)" if split == "train" else split
            axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3, linewidth=1.4)
        axes.set_xlabel("epoch")
        axes.set_title(name, fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.set_xlim(left=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if name == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def contact_sheet(images: dict[str, np.ndarray], path: Path) -> None:
    """Draws a column of images for each name, under the name.

    Args:
      images: name -> uint8 [n, H, W, 1] grey or [n, H, W, 3] RGB; columns may differ in n.
    """
    rows = max(map(len, images.values()))
    figure = Figure(figsize=(1.25 * len(images), 1.25 * rows + 0.25), dpi=102, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    grid = figure.subplots(rows, len(images), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for column, (name, shown) in enumerate(images.items()):
        grid[0, column].set_title(name, fontsize=10)
        for row, image in enumerate(shown):
            grid[row, column].imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
    figure.savefig(path)


def _figure(width: float, height: float):
    # Without pyplot: no global state, no display, usable from any thread.
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def factor_effects(effects: dict[str, list[tuple[object, np.ndarray]]], level: float, path: Path) -> None:
    """Draws a panel for each field: every run's score, and the mean of each value with Student's interval.

    Args:
      effects: field -> (value, scores in 0..1 of the runs with it); None is the value that the config has.
    """
    figure = Figure(figsize=(max(4.5, 3.6 * len(effects)), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (field, values) in zip(panels, effects.items(), strict=True):
        for place, (_, scores) in enumerate(values):
            percent = 100 * scores
            axes.plot(np.full(len(percent), place), percent, "o", color=TRAIN, alpha=0.6, markersize=4)
            if len(percent) > 1:
                half = stats.t.ppf((1 + level) / 2, len(percent) - 1) * percent.std(ddof=1) / len(percent) ** 0.5
                axes.errorbar(place + 0.12, percent.mean(), half, fmt="D", color=VALIDATION, capsize=4, markersize=5)
        axes.set_xticks(range(len(values)), [_value(value) for value, _ in values], rotation=25, ha="right")
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_title(field, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.get_axes()[0].set_ylabel("accuracy (%)")
    figure.suptitle(f"grey: runs; blue: mean and {level:.0%} interval", fontsize=8, color="#555555")
    figure.savefig(path)


def parallel_coordinates(factors: dict[str, list], places: np.ndarray, scores: np.ndarray, path: Path) -> None:
    """Draws a line for each run through the values of its fields, to its score.

    Args:
      factors: field -> its values, bottom to top.
      places: int [runs, fields], which value each run has.
      scores: float [runs] in 0..1.
    """
    figure = Figure(figsize=(1.9 * (len(factors) + 1) + 1.5, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = scores.min(), scores.max()
    heights = places / np.maximum([len(values) - 1 for values in factors.values()], 1)
    ends = (scores - low) / (high - low) if high > low else np.full(len(scores), 0.5)
    rng = np.random.default_rng(0)  # runs of one cell, a seed each, lie beside each other
    for line, end, shift in zip(heights, ends, rng.uniform(-0.02, 0.02, len(scores)), strict=True):
        axes.plot([*(line + shift), end], color=colormaps["viridis"](end), alpha=0.8, linewidth=1.6)
    for place, values in enumerate(factors.values()):
        for i, value in enumerate(values):
            height = i / max(len(values) - 1, 1)
            axes.text(place + 0.04, height, _value(value), fontsize=8, va="center", bbox=_LABEL)
        axes.axvline(place, color="#bbbbbb", linewidth=1, zorder=0)
    for score, height in ((low, 0), (high, 1)) if high > low else ((low, 0.5),):
        axes.text(len(factors) + 0.04, height, f"{score:.1%}", fontsize=8, va="center")
    axes.axvline(len(factors), color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_xticks(range(len(factors) + 1), [*factors, "accuracy"], fontsize=8)
    axes.set_xlim(-0.15, len(factors) + 0.3)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.savefig(path)


_LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def _value(value: object) -> str:
    return "as in the config" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
