"""The parts of the page that say what was seen, as HTML with all pictures inside: nothing is written to disk."""

import html
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from fer_jax import html_page
from fer_jax.data.emotions import expressed
from fer_jax.overlay import COLOURS
from fer_jax.web_analysis import Person, Seen

_LIVE_QUALITY, _QUALITY = 75, 88  # of JPEG
_WIDTH, _HEIGHT = 600, 70  # of a curve, in its own units

STYLE = """
.gradio-container { max-width: 1120px !important; margin: 0 auto !important; }
.fer p { margin: 4px 0; }
.fer h1 { font-size: 24px; line-height: 1.25; margin: 4px 0 12px; }
.fer-use { border-left: 3px solid #d08700; padding: 2px 12px; font-size: 14px; line-height: 1.5; }
.fer-error { border-left: 3px solid #c0392b; padding: 6px 12px; background: rgba(192, 57, 43, .1); font-size: 15px;
  overflow-wrap: anywhere; }
.fer-note { font-size: 14px; overflow-wrap: anywhere; }
.fer-note, .fer figcaption, .fer thead th, .fer-ends { color: var(--body-text-color) !important; opacity: .75; }
.fer-picture { display: block; max-width: 100%; max-height: 640px; width: auto; height: auto; margin: 0 auto;
  border-radius: 8px; }
.fer-card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px; }
.fer-face { display: flex; flex-wrap: wrap; gap: 8px 20px; align-items: flex-start; }
.fer-face figure { margin: 0; width: 160px; }
.fer-face img { display: block; width: 160px; height: 160px; border-radius: 8px; }
.fer-face figcaption { font-size: 13px; line-height: 1.35; margin-top: 4px; }
.fer-heat figure { width: 100%; }
.fer-scores { flex: 1 1 260px; max-width: 560px; min-width: 0; }
.fer-scores h3 { font-size: 17px; margin: 0 0 2px; }
.fer-scores table { width: 100%; margin: 0; border-collapse: collapse; font-size: 14px;
  font-variant-numeric: tabular-nums; }
.fer-scores table, .fer-scores tr, .fer-scores th, .fer-scores td { border: 0 !important; }
.fer-scores th, .fer-scores td { padding: 1px 10px 1px 0 !important; text-align: left; font-weight: normal;
  color: var(--body-text-color); }
.fer-scores thead th { font-size: 13px; }
.fer-scores tr.most th, .fer-scores tr.most td { font-weight: 600; }
.fer-bar { display: flex; align-items: center; gap: 8px; }
.fer-bar span, .fer-curve svg { background: rgba(127, 127, 127, .2); overflow: hidden; }
.fer-bar span { flex: 1; height: 10px; border-radius: 5px; }
.fer-bar i { display: block; height: 100%; }
.fer-bar b { width: 38px; text-align: right; font-weight: inherit; color: var(--body-text-color); }
.fer-legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin: 6px 0; }
.fer-legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.fer-curve { margin: 8px 0; font-size: 13px; }
.fer-curve svg { display: block; width: 100%; height: 70px; border-radius: 6px; }
.fer-ends { display: flex; justify-content: space-between; }
"""

HEADER = """
<div class="fer"><h1>Facial expression recognition</h1><div class="fer-use">
<p><b>Faces are biometric data, and an expression is not a feeling.</b> The network names the expression that a face
shows in a picture, with errors that differ between people and groups; what somebody feels it cannot know. Use pictures
of people who agree to it. In the EU the AI Act (Regulation 2024/1689, Art. 5(1)(f)) prohibits systems that infer
people's emotions in workplaces and in education.</p>
<p>Pictures are looked at on the machine where this page runs; none is kept on its disk.</p></div></div>
"""


def error(message: str) -> str:
    """What went wrong with somebody's file."""
    return f'<div class="fer fer-error" role="alert">{html.escape(message)}</div>'


def note(message: str) -> str:
    return f'<p class="fer fer-note" role="status">{html.escape(message)}</p>'


def picture(image: np.ndarray, description: str, *, live: bool = False) -> str:
    """An image uint8 [H, W, 3], RGB."""
    height, width = image.shape[:2]
    return (
        f'<img class="fer-picture" width="{width}" height="{height}" alt="{html.escape(description)}" '
        f'src="{_jpeg(image, _LIVE_QUALITY if live else _QUALITY)}">'
    )


def face(seen: Seen, *, rates_intensity: bool) -> str:
    """A face, its emotion, and the numbers of each emotion as bars."""
    most, strengths = seen.emotion, dict(zip(expressed(seen.emotions), seen.intensities, strict=True))
    rows = []
    for i, name in enumerate(seen.emotions):
        cells = [_bar(float(seen.probabilities[i]), name)]
        if rates_intensity:
            cells.append(_bar(float(strengths[name]), name) if name in strengths else "")
        kind = ' class="most"' if i == most else ""
        rows.append(f'<tr{kind}><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    columns = ["emotion", "probability"] + ["intensity"] * rates_intensity
    without = "" if rates_intensity else note("This network was trained without intensities.")
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return (
        f'<div class="fer fer-face">{_figure(seen.view, seen.title or "face", seen.title)}'
        f'<div class="fer-scores"><h3>{seen.emotions[most]} {seen.probabilities[most]:.0%}</h3>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{without}</div></div>"
    )


def grad_cam(view: np.ndarray, emotion: str) -> str:
    """A face uint8 [H, W, 3] under the heat of Grad-CAM."""
    caption = f"Grad-CAM: red parts speak most for {emotion}, those without colour not at all"
    return f'<div class="fer fer-face fer-heat">{_figure(view, f"Grad-CAM for {emotion}", caption)}</div>'


def curves(people: Mapping[int, Person], emotions: Sequence[str], seconds: float) -> str:
    """Each person's probabilities over a clip, one upon the other, and a legend."""
    legend = "".join(f'<span><i style="background:{_colour(name)}"></i>{name}</span>' for name in emotions)
    parts = [f'<div class="fer"><div class="fer-legend">Probabilities over time: {legend}</div>']
    for number, person in people.items():
        areas = _areas(person, emotions, seconds)
        named = f"Person {number}, {person.times[0]:.1f} to {person.times[-1]:.1f} s"
        parts.append(
            f'<div class="fer-curve">{named}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" '
            f'role="img" aria-label="probabilities of {named}">{areas}</svg>'
            f"<div class=fer-ends><span>0 s</span><span>{seconds:.1f} s</span></div></div>"
        )
    return "".join(parts) + "</div>"


def _areas(person: Person, emotions: Sequence[str], seconds: float) -> str:
    answers = np.array(person.answers)  # [T, C]
    across = np.array(person.times) * _WIDTH / max(seconds, 1e-9)
    if len(across) == 1:  # seen in one frame: wide enough to be visible
        across, answers = np.array([across[0], across[0] + 2]), np.repeat(answers, 2, 0)
    edges = _HEIGHT * (1 - np.cumsum(np.pad(answers, ((0, 0), (1, 0))), 1))  # [T, C + 1]
    areas = []
    for i, name in enumerate(emotions):
        outline = [*zip(across, edges[:, i], strict=True), *zip(across[::-1], edges[::-1, i + 1], strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        areas.append(f'<polygon points="{points}" fill="{_colour(name)}"/>')
    return "".join(areas)


def _figure(image: np.ndarray, description: str, caption: str) -> str:
    caption = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{html.escape(description)}" src="{_jpeg(image, _QUALITY)}">{caption}</figure>'


def _bar(value: float, emotion: str) -> str:
    filled = f'<i style="width:{value:.1%};background:{_colour(emotion)}"></i>'
    return f'<div class="fer-bar"><span>{filled}</span><b>{value:.0%}</b></div>'


def _colour(emotion: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[emotion])


def _jpeg(image: np.ndarray, quality: int) -> str:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return html_page.data_url(data.tobytes(), "jpeg")
