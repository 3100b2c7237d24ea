"""The report of a finished run, one HTML page without outside requests, and the comparison of several runs.

    python -m fer_jax.evaluate --workdir=RUN [--split=test]
    python -m fer_jax.report compare RUN RUN... [--split=test] [--format=markdown|csv|latex] [--figure=FILE.png]

`report_answers.ask` gets a run's answers on a split, `findings` scores them (metrics.json), `report_page.page` shows
them (index.html); `report_compare.compare` sets several runs side by side.
"""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fer_jax import files, heads, process, report_compare, report_cost, report_figures, statistics
from fer_jax.data.crops import METHODS
from fer_jax.data.emotions import expressed, relabel
from fer_jax.errors import UserError, exits_with_message
from fer_jax.files import user_path
from fer_jax.report_answers import Answers, ask
from fer_jax.report_page import page
from fer_jax.scores import classification_scores
from fer_jax.tables import as_text

_FACES = 1000  # that the embedding shows, and that those explained are chosen from


def folder(answers: Answers, variant: str | None) -> str:
    """The name of a report's folder: one of another data set, variant, alignment or split does not replace it."""
    parts, usual = ["report"], answers.results["split"]
    if answers.transfer:
        aligned = answers.align if answers.align != answers.config["data"]["align"] else ""
        parts += [answers.dataset.name, *filter(None, (variant, aligned))]
        usual = answers.dataset.reported_split
    return "_".join(parts if answers.split == usual else [*parts, answers.split])


def findings(answers: Answers) -> dict:
    """The content of metrics.json but for the speed: plain numbers, None where undefined."""
    dataset, results, emotions = answers.dataset, answers.results, answers.emotions
    confidence = answers.probabilities.max(1)
    scores = _scores(answers.probabilities, answers.label)
    per_class = [scores.pop(name) for name in ("precision", "recall", "f1", "support")]
    wrong = np.flatnonzero(~answers.correct)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    weights = answers.workdir / "weights.safetensors"
    found = {
        "run": str(answers.workdir),
        "dataset": dataset.name,
        "variant": dataset.variant,
        "fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic,
        "split": answers.split,
        "examples": len(answers.label),
        "align": answers.align,
        "trained_on": {"dataset": results["dataset"], "variant": results["variant"]},
        "transfer": answers.transfer,
        "unknown_emotions": answers.unknown,
        "absent_emotions": [emotion for emotion in emotions if emotion not in dataset.emotions],
        "selected_on": results["selected_on"],
        "step": results["step"],
        "model": results["model"],
        "head": answers.config["head"]["name"],
        "seed": answers.config["seed"],
        "exclude": answers.config["data"]["exclude"] or None,
        "pretrained": answers.config["model"]["pretrained"] or None,
        "pretrained_doubts": (results.get("began_with") or {}).get("doubts"),
        "teachers": results.get("teachers", []),
        "size": report_cost.size(answers.net, weights),
        **scores,
        "accuracy_interval_95": statistics.accuracy_interval(answers.correct),
        "deduplicated": None if answers.transfer or answers.split != results["split"] else results.get("deduplicated"),
        "copies": _copies(answers),
        "alternatives": [_alternative(answers, name) for name in answers.alternatives],
        "classes": {
            emotion: dict(zip(("precision", "recall", "f1", "support"), values, strict=True))
            for emotion, *values in zip(emotions, *per_class, strict=True)
        },
        "class_counts": {
            split: dict(zip(dataset.emotions, counts, strict=True)) for split, counts in dataset.class_counts.items()
        },
        "confusion": _confusion(answers.predicted, answers.label, len(emotions)),
        "calibration": statistics.calibration(confidence, answers.correct),
        "mistakes": [
            {
                "index": int(answers.index[i]),
                "true": emotions[answers.label[i]],
                "predicted": emotions[answers.predicted[i]],
                "confidence": confidence[i],
            }
            for i in wrong
        ],
        "subjects": _subjects(answers),
        "intensity": _intensity(answers) if dataset.has_intensity and answers.target.shape[1] else None,
    }
    return _plain(found)


def _confusion(predicted: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (label, predicted), 1)
    return confusion


def _scores(probabilities: np.ndarray, label: np.ndarray) -> dict:
    return classification_scores(_confusion(probabilities.argmax(1), label, probabilities.shape[1]))


def _copies(answers: Answers) -> dict | None:
    """The score without the images that trained or selected the network."""
    if answers.copied is None:
        return None
    others = answers.correct[~answers.copied]
    return {
        "images": int(answers.copied.sum()),
        "examples_without": len(others),
        "accuracy_without": others.mean() if len(others) else None,
        "accuracy_without_interval_95": statistics.accuracy_interval(others) if len(others) else None,
    }


def _alternative(answers: Answers, name: str) -> dict:
    """The scores of an ensemble or of several views, and how they differ from the network's own on the same images."""
    probabilities = answers.alternatives[name]
    scores, correct = _scores(probabilities, answers.label), probabilities.argmax(1) == answers.label
    reliability = statistics.calibration(probabilities.max(1), correct)
    return {
        "name": name,
        **{key: scores[key] for key in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")},
        "accuracy_interval_95": statistics.accuracy_interval(correct),
        "ece": reliability["ece"],
        "difference": statistics.paired_bootstrap(correct, answers.correct),
        "mcnemar": statistics.mcnemar(correct, answers.correct),
        "optimistic": answers.optimistic.get(name),
    }


def _subjects(answers: Answers) -> dict | None:
    """The accuracy on each subject's images, and its interval over subjects."""
    if answers.subjects is None:
        return None
    known = answers.subjects != ""
    correct, names = answers.correct[known], answers.subjects[known]
    right, examples = Counter(names[correct].tolist()), Counter(names.tolist())
    return {
        "without_subject": int((~known).sum()),
        "accuracy_interval_95": statistics.cluster_interval(correct, names),
        "each": {name: {"examples": examples[name], "accuracy": right[name] / examples[name]} for name in examples},
    }


def _intensity(answers: Answers) -> dict:
    """The errors of the intensities that the data have, and the accuracy of the category that they imply."""
    shown = expressed(answers.emotions)[: answers.target.shape[1]]
    predicted = answers.intensities[:, : len(shown)]
    errors = statistics.intensity_scores(predicted, answers.target)
    strongest = heads.complete(jnp.asarray(answers.intensities), answers.emotions, lambda each: 1 - each.max(-1))
    correct = np.asarray(strongest).argmax(1) == answers.label
    return {
        "rmse": np.sqrt((errors["rmse"] ** 2).mean()),
        "mae": errors["mae"].mean(),
        "accuracy": correct.mean(),
        "accuracy_interval_95": statistics.accuracy_interval(correct),
        "emotions": {
            emotion: {name: values[i] for name, values in errors.items()}
            | {"levels": statistics.intensity_levels(predicted[:, i], answers.target[:, i])}
            for i, emotion in enumerate(shown)
        },
    }


def write(answers: Answers, output: Path) -> dict:
    """Writes index.html and metrics.json to `output`.

    Returns:
      The content of metrics.json: the findings, and `speed`, which is measured here.

    Raises:
      UserError: they cannot be written there.
    """
    found = findings(answers) | {"speed": report_cost.speed(answers.net, answers.image)}
    try:
        output.mkdir(parents=True, exist_ok=True)
        files.write_json(output / "metrics.json", found)
        # Paths may be no UTF-8.
        text = page(found, answers, pictures(answers))
        (output / "index.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write the report to {output}: {error.strerror}; choose another --output") from error
    return found


def pictures(answers: Answers) -> dict[str, bytes | str]:
    """Title -> what the network looks at, as JPEG, or the reason why there is no such picture."""
    net = answers.net
    some = np.linspace(0, len(answers.label) - 1, min(_FACES, len(answers.label))).astype(int)
    labels = relabel(answers.label[some], answers.emotions, net.emotions)
    source = f"{answers.dataset.name}, {answers.split} split" + " (SYNTHETIC faces)" * answers.dataset.synthetic
    faces = report_figures.Faces.of_images(net, answers.image[some], labels, source)
    draw = {
        "What speaks for each emotion": lambda: report_figures.explanations(net, faces),
        "Activation maps": lambda: report_figures.activations(net, faces),
        "First layer": lambda: report_figures.filters(net),
    }
    if len(some) >= 3:
        draw["Features"] = lambda: report_figures.embedding(net, faces)
    drawn = {}
    for title, figure in draw.items():
        try:
            file = io.BytesIO()
            figure().savefig(file, format="jpeg", dpi=100, pil_kwargs={"quality": 82})
            drawn[title] = file.getvalue()
        except UserError as error:  # a network without maps or convolutions
            drawn[title] = str(error)
    return drawn


def _plain(value):
    """The same with Python's own numbers, and None for NaN."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.report", __doc__)
    command = parser.add_subparsers(required=True).add_parser(
        "compare",
        help="several runs on the same examples",
        description="Sets runs side by side on the same examples, with McNemar's test for each pair of them.",
    )
    command.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="directories of finished runs")
    command.add_argument("--split", choices=("test", "validation", "train"), help="default: the one of results.json")
    command.add_argument("--dataset", help="another data set than the runs' own")
    command.add_argument("--variant", help="of that data set")
    command.add_argument("--align", choices=("", *METHODS), help="of its photographs; default: as in training")
    command.add_argument("--data_dir", type=user_path, help="where the raw data lie")
    command.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown")
    command.add_argument("--figure", type=user_path, metavar="FILE", help="draws accuracies and learning curves there")
    options = parser.parse_args(arguments)
    process.set_up()
    if len(options.runs) < 2:
        raise UserError("compare wants two runs or more; for one there is python -m fer_jax.evaluate")
    where = {name: getattr(options, name) for name in ("dataset", "variant", "align", "data_dir")}
    runs = [ask(run, split=options.split, **where) for run in options.runs]
    found = [findings(run) for run in runs]
    tables = report_compare.compare(runs, found)
    print("\n".join(as_text(table, options.format) for table in tables), end="")
    if options.figure:
        report_compare.draw(runs, found, options.figure)


if __name__ == "__main__":
    main()
