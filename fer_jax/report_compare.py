"""Several runs on the same examples: tables with paired tests, and a figure."""

import itertools
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fer_jax import files, statistics
from fer_jax.errors import UserError
from fer_jax.report_answers import Answers
from fer_jax.report_page import seen_elsewhere
from fer_jax.tables import Table

# Okabe & Ito 2008: neighbours differ without colour vision too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7078")


def compare(runs: Sequence[Answers], found: Sequence[dict]) -> list[Table]:
    """Three tables: the runs; mean and standard deviation over the seeds of a config; every two runs on their examples.

    The p-values are of single tests: with many pairs some are small by chance.

    Args:
      found: the findings of each run.

    Raises:
      UserError: the runs do not answer the same examples.
    """
    first = runs[0]
    for run in runs:
        if not all(map(np.array_equal, _examples(run), _examples(first))):
            raise UserError(
                f"{run.workdir} answers {len(run.index):,} images of {run.dataset.name} {run.split}, {first.workdir} "
                f"{len(first.index):,} of {first.dataset.name} {first.split}: compare runs on the same examples (the "
                f"same data, --align, --split and emotions)"
            )
    header = ["run", "model", "parameters", "data", "split", "images", "selected on", "seed", "accuracy", "95 %"]
    single = ([*header, "balanced accuracy", "macro-F1", "ECE"], [])
    for each in found:
        low, high = each["accuracy_interval_95"]
        data = f"{each['dataset']} {each['variant']}".strip() + (" (SYNTHETIC)" if each["synthetic"] else "")
        if each["transfer"]:
            trained = f"{each['trained_on']['dataset']} {each['trained_on']['variant']}".strip()
            data += f" (trained on {trained})"
        selected = f"{each['selected_on'] or 'nothing'}{_remark(each)}"
        if each["pretrained"]:
            doubts = [] if each["transfer"] else each["pretrained_doubts"] or []
            selected += f" (began with {'; '.join([each['pretrained'], *doubts])})"
        for teacher in each["teachers"]:
            doubts = [] if each["transfer"] else teacher["doubts"]
            selected += f" (taught by {'; '.join([teacher['name'], *doubts])})"
        row = [each["run"], each["model"], f"{each['size']['parameters']:,}", data, each["split"], each["examples"]]
        row += [selected, each["seed"], f"{each['accuracy']:.2%}", f"{low:.2%} to {high:.2%}"]
        row += [f"{each['balanced_accuracy']:.2%}", f"{each['macro_f1']:.3f}", f"{each['calibration']['ece']:.3f}"]
        single[1].append([str(cell) for cell in row])
    tables = [single]
    if seeds := _over_seeds(runs, found):
        tables.append((["runs", "seeds", "accuracy", "balanced accuracy", "macro-F1"], seeds))
    pairs = []
    for a, b in itertools.combinations(runs, 2):
        drawn, test = (f(a.correct, b.correct) for f in (statistics.paired_bootstrap, statistics.mcnemar))
        row = [str(a.workdir), str(b.workdir), f"{drawn['difference']:+.2%}"]
        row += [f"{drawn['low']:+.2%} to {drawn['high']:+.2%}", f"{drawn['p']:.2g}"]
        pairs.append([*row, str(test["only_a"]), str(test["only_b"]), f"{test['p']:.2g}"])
    header = ["a", "b", "a - b", "95 %", "p (paired bootstrap)", "only a right", "only b right", "p (McNemar, exact)"]
    return [*tables, (header, pairs)]


def _examples(run: Answers) -> tuple[np.ndarray, np.ndarray]:
    """The images, as digests, and the names of their labels, whatever the data set has besides."""
    return run.dataset.digests(run.split)[run.index], np.array(run.emotions)[run.label]


def _remark(found: dict) -> str:
    """Whether the score is one of images that the network has seen."""
    if found["transfer"] and found["copies"] is None:
        return " (copies not known)"
    seen = seen_elsewhere(found) if found["transfer"] else found["split"] in ("train", found["selected_on"])
    return " (optimistic)" if seen else ""


def _over_seeds(runs: Sequence[Answers], found: Sequence[dict]) -> list[list[str]]:
    """A row for each config that was run with several seeds."""
    groups: dict[str, dict[int, dict]] = {}
    for run, each in zip(runs, found, strict=True):
        config = json.dumps(run.config | {"seed": None}, sort_keys=True)
        groups.setdefault(config, {}).setdefault(each["seed"], each)  # a seed named twice counts once
    rows = []
    for group in groups.values():
        if len(group) < 2:
            continue
        row = [", ".join(each["run"] for each in group.values()), f"n = {len(group)}"]
        for name, form in (("accuracy", ".2%"), ("balanced_accuracy", ".2%"), ("macro_f1", ".3f")):
            values = [each[name] for each in group.values()]
            row.append(f"{np.mean(values):{form}} ± {np.std(values, ddof=1):{form}}")
        rows.append(row)
    return rows


def labels(workdirs: Sequence[Path], *, width: int = 30) -> list[str]:
    """What tells runs apart, in lines: their folders' names without what all of a sweep's members override alike."""
    names = [path.name or str(path) for path in workdirs]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.name}" for path in workdirs]
    if len(set(names)) < len(names):
        names = [str(path) for path in workdirs]
    parts = [re.split(r",(?=[\w.]+=)", name) for name in names]  # not at the commas of hidden=(128,256)
    shared = set.intersection(*map(set, parts)) if len(set(names)) > 1 else set()
    short = [[part for part in each if part not in shared] or each for each in parts]
    return ["\n".join(line for part in each for line in textwrap.wrap(part, width)) for each in short]


def draw(runs: Sequence[Answers], found: Sequence[dict], path: Path) -> None:
    """Draws accuracies with their intervals, recalls by emotion, and the accuracies on validation over the epochs.

    Raises:
      UserError: the file cannot be written.
    """
    # Without pyplot: no global state, no display.
    names = labels([run.workdir for run in runs])
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(11, max(2.7 + 0.25 * len(runs), 1.2 + 0.16 * lines)), dpi=130, layout="constrained")
    scores, recalls, curves = figure.subplots(1, 3, width_ratios=(1, 1.35, 1.1))
    emotions = list(found[0]["classes"])
    for place, (run, each) in enumerate(zip(runs, found, strict=True)):
        colour = _COLOURS[place % len(_COLOURS)]
        low, high = each["accuracy_interval_95"]
        beside = [[each["accuracy"] - low], [high - each["accuracy"]]]
        scores.errorbar(each["accuracy"], place, xerr=beside, fmt="o", color=colour, capsize=3)
        scores.annotate(
            f"{each['accuracy']:.2%}",
            (each["accuracy"], place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=colour,
        )
        known = [each["classes"].get(emotion, {"recall": None})["recall"] for emotion in emotions]
        width = 0.8 / len(runs)
        at = np.arange(len(emotions)) - 0.4 + width * (place + 0.5)
        recalls.bar(at, [np.nan if value is None else value for value in known], width, color=colour)
        rows = [row for row in _rows(run.workdir) if row["split"] == "validation" and row.get("accuracy") is not None]
        if rows:
            curves.plot(
                [row["epoch"] for row in rows],
                [row["accuracy"] for row in rows],
                color=colour,
                linewidth=1.4,
                marker="o" if len(rows) <= 40 else None,
                markersize=3,
            )
    scores.set_yticks(range(len(runs)), names)
    scores.set_ylim(len(runs) - 0.4, -0.6)
    recalls.set_xticks(range(len(emotions)), emotions, rotation=35, ha="right", rotation_mode="anchor")
    curves.set_xlabel("epoch", fontsize=8)
    data = f"{found[0]['dataset']} {found[0]['variant']}".strip() + " (SYNTHETIC)" * found[0]["synthetic"]
    figure.suptitle(f"{data}, {found[0]['split']} split, {found[0]['examples']:,} images", fontsize=10)
    titles = "accuracy with 95 % interval", "recall by emotion", "accuracy on validation, by epoch"
    for axes, title in zip((scores, recalls, curves), titles, strict=True):
        axes.set_title(title, fontsize=8.5, loc="left")
        axes.grid(alpha=0.25, axis="x" if axes is scores else "y")
        axes.tick_params(labelsize=8)
        (axes.xaxis if axes is scores else axes.yaxis).set_major_formatter(lambda value, _: f"{100 * value:g}%")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for place, label in enumerate(scores.get_yticklabels()):
        label.set_color(_COLOURS[place % len(_COLOURS)])  # the legend of all three
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # no such folder, no such format
        raise UserError(f"cannot draw {path}: {error}; choose another --figure") from error


def _rows(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    return files.read_rows(path) if path.exists() else []
