"""The report of a run for people: a summary in a few lines, and one HTML page without outside requests.

`found` is what `report.findings` returns, `answers` the `report.Answers` that it is about.
"""

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fer_jax import metrics

if TYPE_CHECKING:
    from fer_jax.report import Answers

_CONFUSIONS, _PICTURES, _MISTAKES = 6, 6, 18  # shown


def summary(found: dict) -> str:
    """The findings in two lines, and a third where the protocol flatters."""
    low, high = found["accuracy_interval_95"]
    lines = [
        f"{_title(found)}, {found['split']} split, {found['examples']:,} images",
        f"  accuracy {found['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%})   balanced "
        f"{found['balanced_accuracy']:.2%}   macro-F1 {found['macro_f1']:.3f}   ECE {found['calibration']['ece']:.3f}",
    ]
    return "\n".join([*lines, *(f"  {warning}" for warning in _warnings(found))])


def _title(found: dict) -> str:
    data = f"{found['dataset']} {found['variant']}".strip()
    return f"{found['model']} on {data}" + (" (SYNTHETIC)" if found["synthetic"] else "")


def _warnings(found: dict) -> list[str]:
    """What makes the scores say less than they seem to."""
    warnings = []
    if found["synthetic"]:
        warnings.append("SYNTHETIC faces, drawn by a program: these results say nothing about people.")
    if found["split"] == "train":
        warnings.append("Training images: the network has seen them, these scores do not measure generalisation.")
    if found["split"] == found["selected_on"]:
        warnings.append(f"Optimistic: the {found['split']} split selected the checkpoint and also reports on it.")
    return warnings


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff; margin: 0 auto; padding: 16px;
  max-width: 1240px; }
h1 { font-size: 22px; line-height: 1.25; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 32px 0 6px; border-top: 1px solid #dde1e6; padding-top: 14px; }
h3 { font-size: 14px; margin: 12px 0 4px; }
p { margin: 6px 0; max-width: 75ch; }
.note { color: #5a626c; overflow-wrap: anywhere; }
.gap { color: #8a5a00; }
.warning { margin: 10px 0; border: 1px solid #c0392b; border-radius: 6px; background: #fdf3f2; color: #a5281b;
  font-weight: 600; padding: 6px 10px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid #eceff2; font-weight: normal; }
th { color: #5a626c; }
th:first-child, td:first-child { text-align: left; }
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
.row { display: flex; flex-wrap: wrap; gap: 12px 24px; align-items: flex-start; }
.row > * { max-width: 100%; }
.pictures { gap: 10px; }
.scores > div { min-width: 104px; }
.scores b { display: block; font-size: 22px; line-height: 1.3; font-weight: 600; }
.scores span { display: block; font-size: 13px; color: #5a626c; }
.chart { width: 340px; }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.group { border: 1px solid #dde1e6; border-radius: 6px; padding: 8px; box-sizing: border-box; }
.group > b { display: block; font-size: 13px; font-weight: 600; margin-bottom: 4px; }
figure { margin: 0; width: 84px; font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
figure img { display: block; width: 84px; height: auto; image-rendering: pixelated; }
.curves { width: 100%; min-width: 640px; max-width: 940px; height: auto; }
"""


def page(found: dict, answers: "Answers") -> str:
    """The findings as one HTML page that asks for nothing from outside."""
    title = html.escape(_title(found))
    images = dict(zip(answers.index.tolist(), answers.image, strict=True))
    parts = [
        f"<h1>{title}</h1>",
        f"<p class=note>{found['examples']:,} images of the {html.escape(found['split'])} split; "
        f"run {html.escape(found['run'])}</p>",
        *(f"<p class=warning>{html.escape(warning)}</p>" for warning in _warnings(found)),
        _headline(found),
        "<h2>Protocol</h2>",
        _protocol(found),
        "<h2>Classes</h2>",
        _classes(found),
        "<h2>Confusion</h2><p>Rows are the true emotion, columns the predicted one.</p>",
        _row([_matrix(found, shares=False), _matrix(found, shares=True)]),
        "<h2>Most frequent confusions</h2><p>Each with its most confident examples.</p>",
        _confusions(found, images),
        "<h2>Most confident mistakes</h2>",
        _row((_figure(m, images) for m in found["mistakes"][:_MISTAKES]), "row pictures")
        if found["mistakes"]
        else "<p>None: every image is classified rightly.</p>",
        "<h2>Calibration</h2>",
        f"<p>The expected calibration error is {found['calibration']['ece']:.3f}: how far confidence and accuracy are "
        f"apart, on average over the images, in {metrics.CALIBRATION_BINS} bins (Guo et al. 2017). Bars below the "
        "diagonal are overconfident; the grey ones show how many images a bin has.</p>",
        _reliability(found["calibration"]),
        *_intensity(found),
        "<h2>Learning curves</h2>",
        _curves(answers.workdir / "learning_curves.png"),
        "<h2>Class distribution</h2>",
        _row(_bars(split, counts) for split, counts in found["class_counts"].items()),
    ]
    head = (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}: report</title><style>{_STYLE}</style></head>\n<body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


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
    return _row(cells, "row scores")


def _protocol(found: dict) -> str:
    unlabelled = f"; {found['without_label']:,} without a label left out" if found["without_label"] else ""
    selected = found["selected_on"]
    clean = found["deduplicated"]
    rows = [
        ["data set", f"{found['dataset']} {found['variant']}".strip() + (", SYNTHETIC" * found["synthetic"])],
        ["fingerprint", found["fingerprint"]],
        ["evaluated on", f"{found['split']}, {found['examples']:,} images{unlabelled}"],
        ["trained on", f"train without what {found['exclude']} lists" if found["exclude"] else "train"],
        ["checkpoint", f"selected on {selected}" if selected else "the last, nothing selected"],
        ["step", f"{found['step']:,}"],
        ["de-duplicated"]
        + (
            [
                f"accuracy {_number(clean['metrics']['accuracy'], '.2%')} of {clean['examples']:,} images, "
                "without copies and flat images"
            ]
            if clean
            else ["not scored on this split" if found["exclude"] else "not scored: the run names no data.exclude"]
        ),
        ["interval", "percentile bootstrap over the images, 2,000 resamples; training again varies besides"],
        ["model", f"{found['model']}, {found['head']} head, seed {found['seed']}"],
        ["size", f"{found['parameters']:,} parameters, weights file {found['megabytes']:.2f} MB"],
    ]
    return _table([], rows, "facts")


def _classes(found: dict) -> str:
    rows = []
    for emotion, scores in found["classes"].items():
        precision = "never predicted" if scores["precision"] is None else f"{scores['precision']:.3f}"
        recall = "no images of this class" if scores["recall"] is None else f"{scores['recall']:.3f}"
        rows.append([emotion, precision, recall, _number(scores["f1"], ".3f"), scores["support"]])
    return _table(["emotion", "precision", "recall", "F1", "images"], rows)


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
        pictures = _row((_figure(mistake, images) for mistake in mistakes[:_PICTURES]), "row pictures")
        groups.append(f"<div class=group><b>{html.escape(heading)}</b>{pictures}</div>")
    return _row(groups)


def _intensity(found: dict) -> list[str]:
    if not found["intensity"]:
        return []
    note = "" if found["head"] == "intensity" else " The head is no intensity head: its probabilities stand in."
    names = ("rmse", "mae", "pearson")
    rows = [[e, *(_number(scores[name], ".3f") for name in names)] for e, scores in found["intensity"].items()]
    return [
        "<h2>Intensities</h2>",
        f"<p>Errors in units of intensity, 0..1; correlation is undefined where one side is constant.{note}</p>",
        _table(["emotion", "RMSE", "MAE", "Pearson"], rows),
    ]


def _reliability(bins: dict) -> str:
    """Accuracy against confidence, and how many images each bin has, as SVG."""
    width, largest = 260 / len(bins["count"]), max(bins["count"])
    lines = []
    for i, (count, accuracy) in enumerate(zip(bins["count"], bins["accuracy"], strict=True)):
        if not count:
            continue
        x, few = f"x={40 + i * width + 0.5:.1f} width={width - 1:.1f}", 34 * count / largest
        bar = max(260 * accuracy, 0.8)  # a bin that is always wrong has a line, an empty one nothing
        lines.append(f"<rect {x} y={270 - bar:.1f} height={bar:.1f} fill=#1f5fbf fill-opacity=.75 />")
        lines.append(f"<rect {x} y={342 - few:.1f} height={few:.1f} fill=#8a8f98 />")
    lines.append("<path d='M40 270L300 10' stroke=#c0392b stroke-dasharray='4 3' />")
    lines.append("<path d='M40 10V270.5H300M40 342.5H300' stroke=#8a8f98 fill=none />")
    for share in (0, 0.5, 1):
        at = f"{share:.0%}"
        lines.append(f"<text x=34 y={274 - 260 * share:.0f} text-anchor=end fill=#5a626c>{at}</text>")
        lines.append(f"<text x={40 + 260 * share:.0f} y=285 text-anchor=middle fill=#5a626c>{at}</text>")
    lines.append("<text x=46 y=22>accuracy</text><text x=294 y=264 text-anchor=end>confidence</text>")
    lines.append(f"<text x=46 y=303 fill=#5a626c>images, at most {largest:,} in a bin</text>")
    return f"<div class=chart><svg viewBox='0 0 330 350' font-size=11>{''.join(lines)}</svg></div>"


def _curves(path: Path) -> str:
    if not path.exists():
        return f"<p class=gap>The run directory has no {path.name}.</p>"
    picture = f"<img class=curves alt='loss and accuracy over the epochs' src='{_data_url(path.read_bytes())}'>"
    return f"<div class=wide>{picture}</div>"


def _bars(title: str, counts: dict[str, int]) -> str:
    """A bar for each name, as SVG."""
    largest, total = max(max(counts.values()), 1), max(sum(counts.values()), 1)
    lines = [f"<text x=0 y=13 font-weight=600>{html.escape(title)}, {sum(counts.values()):,}</text>"]
    for i, (name, count) in enumerate(counts.items()):
        y, width = 22 + 18 * i, 150 * count / largest
        text = f"{count:,} ({count / total:.1%})" if count else "no images of this class"
        lines.append(
            f"<text x=0 y={y + 11}>{html.escape(name)}</text>"
            f"<rect x=66 y={y} width={width:.1f} height=14 fill=#1f5fbf />"
            f"<text x={72 + width:.1f} y={y + 11}>{text}</text>"
        )
    return f"<div class=chart><svg viewBox='0 0 340 {26 + 18 * len(counts)}' font-size=11>{''.join(lines)}</svg></div>"


def _figure(mistake: dict, images: dict[int, np.ndarray]) -> str:
    image = images[mistake["index"]]
    _, png = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    text = (
        f"is {mistake['true']}<br><b>{mistake['predicted']}</b><br>{mistake['confidence']:.0%}, no. {mistake['index']}"
    )
    return f"<figure><img alt='' src='{_data_url(png.tobytes())}'><figcaption>{text}</figcaption></figure>"


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _table(header: list[str], rows: list[list], kind: str = "") -> str:
    def cells(row: list, tag: str) -> str:
        texts = (f"{cell:,}" if isinstance(cell, int) else html.escape(str(cell)) for cell in row)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    top = cells(header, "th") if header else ""
    return f"<div class=wide><table class='{kind}'>{top}{''.join(cells(row, 'td') for row in rows)}</table></div>"


def _row(parts: Iterable[str], kind: str = "row") -> str:
    return f"<div class='{kind}'>" + "\n".join(parts) + "</div>"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
