"""The parts of an HTML page that asks for nothing from outside: head and style, tables, rows, pictures."""

import base64
import html
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff; margin: 0 auto; padding: 16px;
  max-width: 1240px; }
h1 { font-size: 22px; line-height: 1.25; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 32px 0 6px; border-top: 1px solid #dde1e6; padding-top: 14px; }
h3 { font-size: 14px; margin: 12px 0 4px; }
p { margin: 6px 0; max-width: 75ch; }
.note { color: #5a626c; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid #eceff2; font-weight: normal; }
th { color: #5a626c; }
th:first-child, td:first-child { text-align: left; }
.row { display: flex; flex-wrap: wrap; gap: 12px 24px; align-items: flex-start; }
.row > * { max-width: 100%; }
.pictures { gap: 10px; }
.chart { width: 340px; }
.small { width: 230px; }
.narrow { width: 164px; max-width: calc(50% - 12px); }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.group { border: 1px solid #dde1e6; border-radius: 6px; padding: 8px; box-sizing: border-box; }
.group > b { display: block; font-size: 13px; font-weight: 600; margin-bottom: 4px; }
figure { margin: 0; width: 84px; font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
figure img { display: block; width: 84px; height: auto; image-rendering: pixelated; }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """The page: `parts` are HTML, `style` is CSS beside what all pages share."""
    head = (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head>\n<body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """A table that scrolls in its box where it is too wide; `kind` is its class, an empty header is left out."""

    def cells(row: Sequence[object], tag: str) -> str:
        texts = (f"{cell:,}" if isinstance(cell, int) else html.escape(str(cell)) for cell in row)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    top = cells(header, "th") if header else ""
    return f"<div class=wide><table class='{kind}'>{top}{''.join(cells(row, 'td') for row in rows)}</table></div>"


def row(parts: Iterable[str], kind: str = "row") -> str:
    """HTML side by side, as far as there is room."""
    return f"<div class='{kind}'>" + "\n".join(parts) + "</div>"


def figure(image: np.ndarray, caption: str) -> str:
    """An image uint8 [H, W, 1 or 3], RGB, as a thumbnail, pixel for pixel; `caption` is HTML."""
    _, png = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    return f"<figure><img alt='' src='{data_url(png.tobytes(), 'png')}'><figcaption>{caption}</figcaption></figure>"


def data_url(picture: bytes, kind: str) -> str:
    """A picture file as an address; `kind` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
