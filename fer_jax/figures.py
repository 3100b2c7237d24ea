"""Figures as PNG: confusion matrix and learning curves of a run, contact sheets of a data set."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fer_jax.errors import UserError

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
    # Without pyplot, here as everywhere: no global state, no display, usable from any thread.
    figure = Figure(figsize=(side, side - 0.5), dpi=130, layout="constrained")
    axes = figure.subplots()
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
    axes.spines[:].set_visible(False)
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
        axes.spines[["top", "right"]].set_visible(False)
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
