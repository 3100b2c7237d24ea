"""Charts of the HTML pages as SVG, each in a box of its own."""

import html

import numpy as np

_BLUE, _GREY, _RED = "#1f5fbf", "#8a8f98", "#c0392b"
_POINTS = 250  # drawn of a scatter


def reliability(bins: dict) -> str:
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
    lines.append("<text x=46 y=22>accuracy</text><text x=300 y=303 text-anchor=end>confidence</text>")
    lines.append(f"<text x=46 y=303 fill=#5a626c>images, at most {largest:,} in a bin</text>")
    return f"<div class=chart><svg viewBox='0 0 330 350' font-size=11>{''.join(lines)}</svg></div>"


def bars(title: str, counts: dict[str, int]) -> str:
    """A bar for each name."""
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


def columns(title: str, counts: list[int]) -> str:
    """A histogram over 0..1."""
    largest, width = max(max(counts), 1), 160 / len(counts)
    lines = [
        f"<text x=2 y=12 font-weight=600>{html.escape(title)}</text>",
        f"<text x=162 y=12 text-anchor=end>highest {max(counts):,}</text>",
    ]
    for i, count in enumerate(counts):
        height = 70 * count / largest
        lines.append(
            f"<rect x={2 + i * width:.1f} y={90 - height:.1f} width={width - 1:.1f} height={height:.1f} fill=#1f5fbf />"
        )
    lines.append("<path d='M2 90.5H162' stroke=#8a8f98 />")
    for x, anchor, text in ((2, "start", "0"), (82, "middle", "0.5"), (162, "end", "1")):
        lines.append(f"<text x={x} y=104 text-anchor={anchor} fill=#5a626c>{text}</text>")
    return f"<div class=narrow><svg viewBox='0 0 164 108' font-size=11>{''.join(lines)}</svg></div>"


def intensities(title: str, levels: list[dict], target: np.ndarray, predicted: np.ndarray) -> str:
    """Predicted against true intensities: some of the points, and a box for each level of `intensity_levels`.

    Args:
      target, predicted: float [n] in 0..1.
    """
    lines = []
    # Spread over the true intensities: most emotions of most faces are not shown at all.
    order = np.argsort(target, kind="stable")
    for i in order[np.unique(np.linspace(0, len(order) - 1, min(_POINTS, len(order))).astype(int))]:
        x, y = _place(target[i], predicted[i])
        lines.append(f"<circle cx={x:.1f} cy={y:.1f} r=1.6 fill={_GREY} fill-opacity=.55 />")
    (x0, y0), (x1, y1) = _place(0, 0), _place(1, 1)
    lines.append(f"<path d='M{x0} {y0}L{x1} {y1}' stroke={_RED} stroke-dasharray='4 3' />")
    for level in levels:
        x, _ = _place(level["target"], 0)
        low, bottom, middle, top, high = (_place(0, level[f"q{share:02}"])[1] for share in (5, 25, 50, 75, 95))
        lines.append(
            f"<path d='M{x:.1f} {low:.1f}V{bottom:.1f}M{x:.1f} {top:.1f}V{high:.1f}' stroke={_BLUE} />"
            f"<rect x={x - 6:.1f} y={top:.1f} width=12 height={max(bottom - top, 0.8):.1f} fill={_BLUE} "
            f"fill-opacity=.3 stroke={_BLUE} />"
            f"<path d='M{x - 6:.1f} {middle:.1f}h12' stroke={_BLUE} stroke-width=2 />"
        )
    lines.append(f"<path d='M{x0} {y1}V{y0}H{x1}' stroke={_GREY} fill=none />")
    for share in (0, 0.5, 1):
        (x, y), text = _place(share, share), f"{share:g}"
        lines.append(f"<text x=27 y={y + 4:.0f} text-anchor=end fill=#5a626c>{text}</text>")
        lines.append(f"<text x={x:.0f} y=214 text-anchor=middle fill=#5a626c>{text}</text>")
    lines.append(f"<text x=33 y=10 font-weight=600>{html.escape(title)}</text>")
    return f"<div class='chart small'><svg viewBox='0 0 230 220' font-size=11>{''.join(lines)}</svg></div>"


def _place(x: float, y: float) -> tuple[float, float]:
    return 40 + 180 * x, 198 - 180 * y


def ranked(title: str, shares: list[float]) -> str:
    """Shares in 0..1 from low to high, as bars side by side."""
    width = 280 / len(shares)
    lines = [f"<text x=0 y=13 font-weight=600>{html.escape(title)}</text>"]
    for i, share in enumerate(sorted(shares)):
        height = max(130 * share, 0.8)
        lines.append(
            f"<rect x={40 + i * width:.1f} y={155 - height:.1f} width={max(width - 1, 0.6):.1f} height={height:.1f} "
            f"fill={_BLUE} fill-opacity=.75 />"
        )
    for share in (0, 0.5, 1):
        lines.append(f"<text x=34 y={159 - 130 * share:.0f} text-anchor=end fill=#5a626c>{share:.0%}</text>")
    return f"<div class=chart><svg viewBox='0 0 330 165' font-size=11>{''.join(lines)}</svg></div>"
