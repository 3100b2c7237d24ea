"""The report of a finished run, one HTML page without outside requests, and the comparison of several runs.

    python -m fer_jax.evaluate --workdir=RUN [--split=test]
    python -m fer_jax.report compare RUN RUN... [--split=test] [--format=markdown|csv|latex]

`ask` gets a run's answers on a split, `findings` scores them (metrics.json), `page` shows them (index.html);
`compare` sets several runs side by side.
"""

import argparse
import csv
import dataclasses
import io
import itertools
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from fer_jax import heads, logs, metrics, recognizer, statistics
from fer_jax.data import prepare
from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError
from fer_jax.report_page import page


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a run's network answers on a split; emotions in the data set's order, examples without a label left out."""

    workdir: Path
    config: dict
    results: dict  # results.json
    dataset: prepare.Dataset
    split: str
    index: np.ndarray  # int [n], of each example in the split
    image: np.ndarray  # uint8 [n, H, W, 1 or 3]
    label: np.ndarray  # int [n]
    target: np.ndarray  # float32 [n, E], the intensities of the data
    probabilities: np.ndarray  # float32 [n, C]
    intensities: np.ndarray  # float32 [n, E]
    parameters: int

    @property
    def predicted(self) -> np.ndarray:
        """int [n]."""
        return self.probabilities.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        """bool [n]."""
        return self.predicted == self.label


def ask(workdir: Path | str, *, split: str | None = None, data_dir: Path | str | None = None) -> Answers:
    """The answers of a finished run; without `split` on the one its results are given on.

    Raises:
      UserError: no finished run, no such split or one without images, other data or emotions than the run's, or
        outputs that are not finite.
    """
    workdir = Path(workdir)
    config, results = (_read(workdir / name) for name in ("config.json", "results.json"))
    split = split or results["split"]
    if not split:
        raise UserError(f"{workdir} was trained on data without a test or validation split: name one with --split")
    name, variant = config["data"]["name"], config["data"]["variant"] or None
    dataset = prepare.load(name, variant=variant, data_dir=data_dir)
    arrays = dataset.arrays(split)
    chosen = np.flatnonzero(arrays["label"] != heads.IGNORE)
    if not len(chosen):
        raise UserError(f"the {split} split of {name} has no images with a label: choose another --split")
    if split == results["split"] and dataset.splits[split] != results["examples"]:
        raise UserError(
            f"{workdir} was evaluated on {results['examples']:,} images of {name} {split}, the data at hand have "
            f"{dataset.splits[split]:,}: give the --data_dir that it was trained on"
        )
    loaded = recognizer.load(workdir)
    if set(loaded.emotions) != set(dataset.emotions):
        raise UserError(
            f"the network of {workdir} knows {', '.join(loaded.emotions)}, the data set {name} has "
            f"{', '.join(dataset.emotions)}: evaluate it on a data set with the same emotions"
        )
    image = arrays["image"][chosen]
    prediction = loaded.predict(image)
    if damaged := int((~np.isfinite(prediction.probabilities)).any(1).sum()):
        raise UserError(
            f"the network of {workdir} gives outputs that are not finite for {damaged:,} of {len(image):,} images: its "
            f"weights are damaged or its training diverged; train again, e.g. with a lower optim.learning_rate"
        )
    order = remap(dataset.emotions, loaded.emotions)
    intensity_order = remap(expressed(dataset.emotions), expressed(loaded.emotions))
    return Answers(
        workdir=workdir,
        config=config,
        results=results,
        dataset=dataset,
        split=split,
        index=chosen,
        image=image,
        label=arrays["label"][chosen],
        target=arrays["intensity"][chosen],
        probabilities=prediction.probabilities[:, order],
        intensities=prediction.intensities[:, intensity_order],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"])),
    )


def findings(answers: Answers) -> dict:
    """The content of metrics.json: plain numbers, None where undefined."""
    dataset, results, emotions = answers.dataset, answers.results, answers.dataset.emotions
    confusion = np.zeros((len(emotions), len(emotions)), int)
    np.add.at(confusion, (answers.label, answers.predicted), 1)
    scores = statistics.classification_scores(confusion)
    confidence = answers.probabilities.max(1)
    reliability = statistics.calibration(confidence, answers.correct, bins=metrics.CALIBRATION_BINS)
    per_class = [scores.pop(name) for name in ("precision", "recall", "f1", "support")]
    wrong = np.flatnonzero(~answers.correct)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    found = {
        "run": str(answers.workdir),
        "dataset": dataset.name,
        "variant": dataset.variant,
        "fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic,
        "split": answers.split,
        "examples": len(answers.label),
        "without_label": dataset.splits[answers.split] - len(answers.label),
        "selected_on": results["selected_on"],
        "step": results["step"],
        "model": results["model"],
        "head": answers.config["head"]["name"],
        "seed": answers.config["seed"],
        "exclude": answers.config["data"].get("exclude") or None,
        "parameters": answers.parameters,
        "megabytes": (answers.workdir / "weights.safetensors").stat().st_size / 1e6,
        **scores,
        "accuracy_interval_95": statistics.bootstrap_interval(answers.correct),
        "deduplicated": results.get("deduplicated") if answers.split == results["split"] else None,
        "classes": {
            emotion: dict(zip(("precision", "recall", "f1", "support"), values, strict=True))
            for emotion, *values in zip(emotions, *per_class, strict=True)
        },
        "class_counts": {
            split: dict(zip(emotions, counts, strict=True)) for split, counts in dataset.class_counts.items()
        },
        "confusion": confusion,
        "calibration": reliability,
        "mistakes": [
            {
                "index": int(answers.index[i]),
                "true": emotions[answers.label[i]],
                "predicted": emotions[answers.predicted[i]],
                "confidence": confidence[i],
            }
            for i in wrong
        ],
        "intensity": None,
    }
    if dataset.has_intensity:
        errors = statistics.intensity_scores(answers.intensities, answers.target)
        found["intensity"] = {
            emotion: {name: values[i] for name, values in errors.items()}
            for i, emotion in enumerate(expressed(emotions))
        }
    return _plain(found)


def write(answers: Answers, output: Path | None = None) -> dict:
    """Writes index.html and metrics.json to `output` (default: `report` in the run directory); returns the findings.

    Raises:
      UserError: they cannot be written there.
    """
    output = output or answers.workdir / "report"
    found = findings(answers)
    try:
        output.mkdir(parents=True, exist_ok=True)
        logs.write_json(output / "metrics.json", found)
        (output / "index.html").write_text(page(found, answers), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report to {output}: {error.strerror}; choose another --output") from error
    return found


def _plain(value):
    """The same with Python's own numbers, and None for NaN."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path.parent} is not a finished run: {path.name} is missing or cut short; finish it with "
            f"python -m fer_jax.main --config=... --workdir={path.parent}"
        ) from error


Table = tuple[list[str], list[list[str]]]  # header, rows


def compare(runs: Sequence[Answers]) -> list[Table]:
    """Three tables: the runs; mean and standard deviation over the seeds of a config; every two runs on their examples.

    The p-values are of single tests: with many pairs some are small by chance.

    Raises:
      UserError: the runs do not answer the same examples.
    """
    for run in runs:
        if (run.dataset.fingerprint, run.split) != (runs[0].dataset.fingerprint, runs[0].split):
            raise UserError(
                f"{run.workdir} answers {run.dataset.name} {run.split}, {runs[0].workdir} {runs[0].dataset.name} "
                f"{runs[0].split}: compare runs on the same examples (the same data and --split)"
            )
    found = [findings(run) for run in runs]
    single = (["run", "model", "data", "split", "images", "selected on", "seed", "accuracy", "95 %", "macro-F1"], [])
    for each in found:
        low, high = each["accuracy_interval_95"]
        data = f"{each['dataset']} {each['variant']}".strip() + (" (SYNTHETIC)" if each["synthetic"] else "")
        selected = f"{each['selected_on'] or 'nothing'}" + (" (optimistic)" * (each["selected_on"] == each["split"]))
        row = [each["run"], each["model"], data, each["split"], each["examples"], selected, each["seed"]]
        row += [f"{each['accuracy']:.2%}", f"{low:.2%} to {high:.2%}", f"{each['macro_f1']:.3f}"]
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


def _over_seeds(runs: Sequence[Answers], found: list[dict]) -> list[list[str]]:
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


def as_text(table: Table, form: str) -> str:
    """A table as `markdown`, `csv` or `latex` (for booktabs)."""
    rows = [table[0], *table[1]]
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()
    if form == "markdown":
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"
    special = {each: f"\\{each}" for each in "%&_#$"} | {"±": r"$\pm$", "\\": r"\textbackslash{}"}
    lines = [" & ".join("".join(special.get(c, c) for c in cell) for cell in row) + r" \\" for row in rows]
    begin = rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m fer_jax.report", description="Compares runs.")
    command = parser.add_subparsers(required=True).add_parser("compare", help="several runs on the same examples")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of finished runs")
    command.add_argument("--split", choices=("test", "validation", "train"), help="default: the one of results.json")
    command.add_argument("--data_dir", type=Path, help="where the raw data lie")
    command.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        if len(options.runs) < 2:
            raise UserError("compare wants two runs or more; for one there is python -m fer_jax.evaluate")
        runs = [ask(run, split=options.split, data_dir=options.data_dir) for run in options.runs]
        print("\n".join(as_text(table, options.format) for table in compare(runs)), end="")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
