"""The report of a run for people: a summary in a few lines, and one HTML page without outside requests.

`found` is what `report.write` returns, `answers` the `report_answers.Answers` that it is about.
"""

import html
from pathlib import Path

import cv2
import numpy as np

from fer_jax import charts, html_page
from fer_jax.report_answers import Answers
from fer_jax.scores import CALIBRATION_BINS

_CONFUSIONS, _PICTURES, _MISTAKES, _SUBJECTS = 6, 6, 18, 8  # shown


def summary(found: dict) -> str:
    """The findings in two lines, and a third where the protocol flatters."""
    low, high = found["accuracy_interval_95"]
    lines = [
        f"{_title(found)}, {found['split']} split, {found['examples']:,} images",
        f"  accuracy {found['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})   balanced "
        f"{found['balanced_accuracy']:.2%}   macro-F1 {found['macro_f1']:.3f}   ECE {found['calibration']['ece']:.3f}",
    ]
    for each in found["alternatives"]:
        low, high = each["accuracy_interval_95"]
        lines.append(f"  accuracy {each['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})   {each['name']}")
    return "\n".join([*lines, *(f"  {line}" for line in [*_left_out(found), *_warnings(found)])])


def _title(found: dict) -> str:
    trained = f" trained on {_data(found['trained_on'])}," if found["transfer"] else ""
    return f"{found['model']}{trained} on {_data(found)}" + (" (SYNTHETIC)" if found["synthetic"] else "")


def _data(record: dict) -> str:
    return f"{record['dataset']} {record['variant']}".strip()


def _warnings(found: dict) -> list[str]:
    """What makes the scores say less than they seem to."""
    warnings = []
    if found["synthetic"]:
        warnings.append("SYNTHETIC faces, drawn by a program: these results say nothing about people.")
    if found["split"] == "train" and not found["transfer"]:
        warnings.append("Training images: the network has seen them, these scores do not measure generalisation.")
    if found["split"] == found["selected_on"] and not found["transfer"]:
        warnings.append(f"Optimistic: the {found['split']} split selected the checkpoint and also reports on it.")
    if seen_elsewhere(found):
        seen = f"{found['copies']['images']:,} of {found['examples']:,} images"
        warnings.append(f"{seen} also trained or selected the network: this is no score on new images.")
    return warnings


def seen_elsewhere(found: dict) -> bool:
    """Whether more than one in 100 images of another data set than the network's also trained or selected it."""
    copies = found["copies"]
    return found["transfer"] and copies is not None and copies["images"] > found["examples"] / 100


def _left_out(found: dict) -> list[str]:
    """What the rule for emotions that only one side knows did."""
    lines = []
    if unknown := found["unknown_emotions"]:
        counts = ", ".join(f"{count:,} of {emotion}" for emotion, count in unknown.items())
        lines.append(f"left out, since the network does not know the emotion: {counts}")
    if absent := found["absent_emotions"]:
        lines.append(f"not in the data, but possible answers of the network: {', '.join(absent)}")
    return lines


_STYLE = """
.gap { color: #8a5a00; }
.warning { margin: 10px 0; border: 1px solid #c0392b; border-radius: 6px; background: #fdf3f2; color: #a5281b;
  font-weight: 600; padding: 6px 10px; }
.facts td { text-align: left; vertical-align: top; }
.facts td:first-child { color: #5a626c; }
.matrix { font-size: 12px; }
.matrix th, .matrix td { padding: 6px 5px; text-align: center; min-width: 34px; border: 1px solid #fff; }
.matrix td:first-child { text-align: left; color: #5a626c; padding-left: 0; }
@media (max-width: 480px) {
  .matrix { font-size: 11px; }
  .matrix th { font-size: 10px; }
  .matrix th, .matrix td { padding: 6px 2px; min-width: 30px; }
}
.scores > div { min-width: 104px; }
.scores b { display: block; font-size: 22px; line-height: 1.3; font-weight: 600; }
.scores span { display: block; font-size: 13px; color: #5a626c; }
details { margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; margin-bottom: 4px; }
.look { width: 100%; height: auto; }
.named td, .named th { white-space: nowrap; }
.named td:first-child { white-space: normal; min-width: 150px; }
.curves { width: 100%; min-width: 640px; max-width: 940px; height: auto; }
"""


def page(found: dict, answers: Answers, pictures: dict[str, bytes | str]) -> str:
    """The findings as one HTML page that asks for nothing from outside.

    Args:
      pictures: title -> what the network looks at, as JPEG, or the reason why there is no picture.
    """
    title = _title(found)
    images = dict(zip(answers.index.tolist(), answers.image, strict=True))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p class=note>{found['examples']:,} images of the {html.escape(found['split'])} split; "
        f"run {html.escape(found['run'])}</p>",
        *(f"<p class=warning>{html.escape(warning)}</p>" for warning in _warnings(found)),
        _headline(found),
        *_alternatives(found),
        "<h2>Protocol</h2>",
        _protocol(found),
        "<h2>Classes</h2>",
        _classes(found),
        "<h2>Confusion</h2><p>Rows are the true emotion, columns the predicted one.</p>",
        html_page.row([_matrix(found, shares=False), _matrix(found, shares=True)]),
        "<h2>Most frequent confusions</h2><p>Each with its most confident examples.</p>",
        _confusions(found, images),
        "<h2>Most confident mistakes</h2>",
        html_page.row((_figure(m, images) for m in found["mistakes"][:_MISTAKES]), "row pictures")
        if found["mistakes"]
        else "<p>None: every image is classified rightly.</p>",
        "<h2>Calibration</h2>",
        f"<p>The expected calibration error is {found['calibration']['ece']:.3f}: how far confidence and accuracy are "
        f"apart, on average over the images, in {CALIBRATION_BINS} bins (Guo et al. 2017). Bars below the "
        "diagonal are overconfident; the grey ones show how many images a bin has.</p>",
        charts.reliability(found["calibration"]),
        *_intensity(found, answers),
        *_subjects(found),
        *_looks(pictures),
        "<h2>Learning curves</h2>",
        f"<p>Of the training on {html.escape(_data(found['trained_on']))}.</p>",
        _curves(answers.workdir / "learning_curves.png"),
        "<h2>Class distribution</h2>",
        f"<p>Of {html.escape(_data(found))}.</p>",
        html_page.row(charts.bars(split, counts) for split, counts in found["class_counts"].items()),
        "<h2>Cost</h2>",
        _cost(found),
    ]
    return html_page.document(f"{title}: report", parts, _STYLE)


def _headline(found: dict) -> str:
    low, high = found["accuracy_interval_95"]
    shown = [
        (f"{found['accuracy']:.2%}", "accuracy", f"95 % interval {low:.2%} to {high:.2%}"),
        (f"{found['balanced_accuracy']:.2%}", "balanced accuracy", "mean recall of the classes present"),
        (f"{found['macro_f1']:.3f}", "macro-F1", "every class alike"),
        (f"{found['weighted_f1']:.3f}", "weighted F1", "by number of images"),
        (f"{found['calibration']['ece']:.3f}", "ECE", "calibration error"),
    ]
    cells = (f"<div><b>{value}</b>{name}<span>{note}</span></div>" for value, name, note in shown)
    return html_page.row(cells, "row scores")


def _alternatives(found: dict) -> list[str]:
    """Ensembles and test-time augmentation beside the plain score."""
    if not found["alternatives"]:
        return []

    def row(name: str, scores: dict, beside: list[str]) -> list[str]:
        low, high = scores["accuracy_interval_95"]
        accuracy = [f"{scores['accuracy']:.2%}", f"{low:.2%} to {high:.2%}", f"{scores['balanced_accuracy']:.2%}"]
        return [name, *accuracy, f"{scores['macro_f1']:.3f}", f"{scores['ece']:.3f}", *beside]

    rows = [row("the network, one view of each image", found | {"ece": found["calibration"]["ece"]}, ["", "", ""])]
    for each in found["alternatives"]:
        change, name = each["difference"], each["name"]
        name += f" - optimistic: {each['optimistic']}" if each["optimistic"] else ""
        beside = [f"{change['difference']:+.2%}", f"{change['low']:+.2%} to {change['high']:+.2%}"]
        rows.append(row(name, each, [*beside, f"{each['mcnemar']['p']:.2g}"]))
    header = ["", "accuracy", "95 %", "balanced", "macro-F1", "ECE", "change", "95 %", "p (McNemar)"]
    note = (
        "The first row is the score of this report; the others ask more of the machine. Changes are on the same images."
    )
    return ["<h2>With more views or networks</h2>", f"<p>{note}</p>", html_page.table(header, rows, "named")]


def _protocol(found: dict) -> str:
    trained = f"train of {_data(found['trained_on'])}" if found["transfer"] else "train"
    selected = found["selected_on"]
    rows = [
        ["data set", _data(found) + ", SYNTHETIC" * found["synthetic"]],
        ["fingerprint", found["fingerprint"]],
        ["evaluated on", f"{found['split']}, {found['examples']:,} images"],
    ]
    if found["transfer"]:
        rule = ["matched by name", *_left_out(found)]
        rows.append(["emotions", "; ".join(rule)])
    if method := found["align"]:
        rows.append(["photographs", f"aligned by the method {method}"])
    rows.append(["trained on", trained + f" without what {found['exclude']} lists" * bool(found["exclude"])])
    if began := found["pretrained"]:
        doubts = found["pretrained_doubts"]
        if doubts is None or found["transfer"]:
            doubts = ["how many of these images that was trained on is not known"]
        rows.append(["began with", "; ".join([began, *doubts])])
    if teachers := found["teachers"]:
        doubts = [doubt for each in teachers for doubt in each["doubts"]]
        if found["transfer"]:
            doubts = ["how many of these images they were trained on is not known"]
        rows.append(["taught by", "; ".join([*(each["name"] for each in teachers), *doubts])])
    rows += [
        ["checkpoint", f"selected on {selected}" if selected else "the last, nothing selected"],
        ["step", f"{found['step']:,}"],
        ["prediction", "the emotion of the highest probability, one view of each image, no threshold"],
        ["without copies", _without_copies(found)],
        ["interval", "Wilson's, over the images; training again varies besides"],
        ["macro-F1", "mean over the emotions that occur or are predicted, as scikit-learn"],
        ["model", f"{found['model']}, {found['head']} head, seed {found['seed']}"],
    ]
    return html_page.table([], rows, "facts")


def _without_copies(found: dict) -> str:
    if clean := found["deduplicated"]:
        accuracy = _number(clean["metrics"]["accuracy"], ".2%")
        return (
            f"accuracy {accuracy} of {clean['examples']:,} images, without the copies and flat images of data.exclude"
        )
    if found["copies"] is None:
        listed = ", or the list of those left out," * bool(found["exclude"])
        return f"not scored: the data that the network was trained on{listed} are not at hand"
    copies = found["copies"]
    if not copies["images"]:
        return "no image is an exact copy of one that trained or selected the network"
    which = f"{copies['images']:,} images are exact copies of some that trained or selected the network"
    if copies["accuracy_without"] is None:
        return f"not scored: all {which}"
    low, high = copies["accuracy_without_interval_95"]
    return (
        f"accuracy {copies['accuracy_without']:.2%} ({low:.2%} to {high:.2%}) of {copies['examples_without']:,} "
        f"images; {which}"
    )


def _cost(found: dict) -> str:
    size, speed = found["size"], found["speed"]
    operations = f"{size['mflops']:,.1f} million operations (a multiplication and an addition are two), counted by XLA"
    rows = [
        ["parameters", f"{size['parameters']:,}"],
        [
            "size",
            f"{size['megabytes_float32']:.2f} MB in float32, {size['megabytes_bfloat16']:.2f} in bfloat16; weights "
            f"file {size['megabytes_file']:.2f} MB",
        ],
        ["one face", operations],
        [
            "throughput",
            f"{speed['images_per_second']:,.0f} images/s, {speed['batch_size']} at once, median of "
            f"{speed['batch_rounds']} rounds",
        ],
        [
            "latency",
            f"{speed['latency_p50_ms']:.2f} ms for one face, 95 % within {speed['latency_p95_ms']:.2f} ms, "
            f"{speed['latency_rounds']} calls",
        ],
        ["measured on", f"{speed['device']}, {speed['cores']} cores, JAX {speed['jax']}; images and answers in memory"],
    ]
    return html_page.table([], rows, "facts")


def _classes(found: dict) -> str:
    rows = []
    for emotion, scores in found["classes"].items():
        precision = "never predicted" if scores["precision"] is None else f"{scores['precision']:.3f}"
        recall = "no images of this class" if scores["recall"] is None else f"{scores['recall']:.3f}"
        rows.append([emotion, precision, recall, _number(scores["f1"], ".3f"), scores["support"]])
    return html_page.table(["emotion", "precision", "recall", "F1", "images"], rows)


def _matrix(found: dict, *, shares: bool) -> str:
    """The confusion matrix as a table, shaded by the share of the row."""
    emotions = list(found["classes"])
    lines = ["<tr><th></th>" + "".join(f"<th>{html.escape(emotion)}</th>" for emotion in emotions) + "</tr>"]
    for emotion, counts in zip(emotions, found["confusion"], strict=True):
        total, cells = sum(counts), [f"<td>{html.escape(emotion)}</td>"]
        for count in counts if total else []:
            share = count / total
            ink = "#fff" if share > 0.55 else "#1c2024"
            text = f"{share:.0%}" if shares else f"{count:,}"
            cells.append(f"<td style='background:rgba(31,95,191,{share:.2f});color:{ink}'>{text}</td>")
        gap = "" if total else f"<td colspan={len(emotions)} class=gap>no images of this class</td>"
        lines.append("<tr>" + "".join(cells) + gap + "</tr>")
    caption = "<h3>Share of the true emotion</h3>" if shares else "<h3>Images</h3>"
    return f"<div>{caption}<div class=wide><table class=matrix>{''.join(lines)}</table></div></div>"


def _confusions(found: dict, images: dict[int, np.ndarray]) -> str:
    kinds: dict[tuple[str, str], list[dict]] = {}
    for mistake in found["mistakes"]:
        kinds.setdefault((mistake["true"], mistake["predicted"]), []).append(mistake)
    if not kinds:
        return "<p>None: every image is classified rightly.</p>"
    groups = []
    for (true, predicted), mistakes in sorted(kinds.items(), key=lambda kind: -len(kind[1]))[:_CONFUSIONS]:
        share = len(mistakes) / found["classes"][true]["support"]
        heading = f"{true} taken for {predicted}: {len(mistakes):,} ({share:.0%} of {true})"
        pictures = html_page.row((_figure(mistake, images) for mistake in mistakes[:_PICTURES]), "row pictures")
        groups.append(f"<div class=group><b>{html.escape(heading)}</b>{pictures}</div>")
    return html_page.row(groups)


def _intensity(found: dict, answers: Answers) -> list[str]:
    if not (scores := found["intensity"]):
        return []
    note = "" if found["head"] == "intensity" else " The head is no intensity head: its probabilities stand in."
    low, high = scores["accuracy_interval_95"]
    names, boxes = ("rmse", "mae", "pearson"), []
    rows = [[e, *(_number(each[name], ".3f") for name in names)] for e, each in scores["emotions"].items()]
    rows.append(["all", f"{scores['rmse']:.3f}", f"{scores['mae']:.3f}", ""])
    for i, (emotion, each) in enumerate(scores["emotions"].items()):
        boxes.append(charts.intensities(emotion, each["levels"], answers.target[:, i], answers.intensities[:, i]))
    return [
        "<h2>Intensities</h2>",
        f"<p>Errors in units of intensity, 0..1; correlation is undefined where one side is constant.{note}</p>",
        html_page.table(["emotion", "RMSE", "MAE", "Pearson"], rows),
        "<p>The category derived from the intensities - the strongest emotion, neutral where none reaches 1/2 - is "
        f"right for {scores['accuracy']:.2%} of the images (95 % interval {low:.2%} to {high:.2%}; Xu et al., table "
        "6).</p>",
        "<p>Predicted (upwards) against true intensity: boxes from the lower to the upper quartile at each level, with "
        "the median, and lines from the 5th to the 95th percentile; some of the single faces in grey.</p>",
        html_page.row(boxes),
    ]


def _subjects(found: dict) -> list[str]:
    if not (subjects := found["subjects"]):
        return []
    each = sorted(subjects["each"].items(), key=lambda item: item[1]["accuracy"])
    shares = [scores["accuracy"] for _, scores in each]
    without = subjects["without_subject"]
    rows = [[name, f"{scores['accuracy']:.1%}", scores["examples"]] for name, scores in each[:_SUBJECTS]]
    return [
        "<h2>Subjects</h2>",
        f"<p>{_people(shares, *subjects['accuracy_interval_95'])}"
        + (f" {without:,} images without a subject are left out here." if without else "")
        + "</p>",
        html_page.row(
            [charts.ranked("accuracy of each subject", shares), html_page.table(["lowest", "accuracy", "images"], rows)]
        ),
    ]


def _people(shares: list[float], low: float | None, high: float | None) -> str:
    if len(shares) == 1:
        return f"One person, with an accuracy of {shares[0]:.1%}, who says nothing of others."
    return (
        f"{len(shares):,} people; accuracy from {shares[0]:.1%} to {shares[-1]:.1%}, median {np.median(shares):.1%}. "
        f"For people who are new, the 95 % interval of the accuracy is {low:.2%} to {high:.2%} (Student's)."
    )


def _looks(pictures: dict[str, bytes | str]) -> list[str]:
    """What the network looks at, and has learnt."""
    parts = ["<h2>What it looks at</h2>"]
    for title, picture in pictures.items():
        if isinstance(picture, str):
            parts.append(f"<h3>{html.escape(title)}</h3><p class=gap>{html.escape(picture)}</p>")
            continue
        width = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape[1]
        size = f"max-width: {min(width, 860)}px; min-width: {min(width, 520)}px"  # on a phone it scrolls in its box
        image = (
            f"<img class=look style='{size}' alt='{html.escape(title)}' src='{html_page.data_url(picture, 'jpeg')}'>"
        )
        parts.append(f"<details open><summary>{html.escape(title)}</summary><div class=wide>{image}</div></details>")
    return parts


def _curves(path: Path) -> str:
    if not path.exists():
        return f"<p class=gap>The run directory has no {path.name}.</p>"
    source = html_page.data_url(path.read_bytes(), "png")
    return f"<div class=wide><img class=curves alt='loss and accuracy over the epochs' src='{source}'></div>"


def _figure(mistake: dict, images: dict[int, np.ndarray]) -> str:
    lines = [
        f"is {mistake['true']}",
        f"<b>{mistake['predicted']}</b>",
        f"{mistake['confidence']:.0%}",
        f"no. {mistake['index']}",
    ]
    return html_page.figure(images[mistake["index"]], "<br>".join(lines))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
