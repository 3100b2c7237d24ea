"""The findings of an audit for people: a summary in a few lines, and one HTML page without outside requests.

`found` is what `audit.audit` returns.
"""

import base64
import html
from collections import Counter

import cv2
import numpy as np

_SHOWN_GROUPS, _SHOWN_IMAGES = 20, 8

Images = dict[str, np.ndarray]  # split -> uint8 [N, H, W, C]


def summary(found: dict) -> str:
    """The findings in a few lines."""
    exact, near = found["exact"], found["near"]
    total = sum(found["splits"].values())
    lines = [
        _title(found),
        f"  images         {total:,}, of which {found['distinct']:,} are distinct",
        f"  exact copies   {_counted(exact)}",
        f"  near copies    {_counted(near)} (correlation {found['near_correlation']:g} or more)",
        f"  flat images    {len(found['flat']):,}" + _by_split(Counter(place["split"] for place in found["flat"])),
    ]
    for split in found["splits"]:
        if split != "train" and "train" in found["splits"]:
            exactly, nearly = (found[name][split]["train"] for name in ("with_exact_copy", "with_any_copy"))
            lines.append(
                f"  {split}: {exactly:,} of {found['splits'][split]:,} images have an exact copy in train, "
                f"{nearly:,} an exact or near one"
            )
    if found["subjects"] is not None:
        lines.append(f"  subjects       {len(found['shared_subjects']):,} in more than one split")
    leave_out = {split: len(indices) for split, indices in found["leave_out"].items()}
    lines.append(f"  to leave out   {sum(leave_out.values()):,}{_by_split(leave_out)}")
    if not (exact or near or found["flat"] or found["shared_subjects"]):
        lines.append("  nothing found")
    return "\n".join(lines)


def _title(found: dict) -> str:
    return f"{found['dataset']} {found['variant']}".strip() + (" (SYNTHETIC)" if found["synthetic"] else "")


def _counted(groups: list[dict]) -> str:
    if not groups:
        return "none"
    images = sum(len(group["examples"]) for group in groups)
    across, conflict = (sum(group[name] for group in groups) for name in ("across_splits", "conflict"))
    return f"{len(groups):,} groups of {images:,} images; {across:,} across splits, {conflict:,} with different labels"


def _by_split(counts: dict[str, int]) -> str:
    parts = ", ".join(f"{split} {count:,}" for split, count in counts.items() if count)
    return f" ({parts})" if parts else ""


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff; margin: 0 auto; padding: 16px;
  max-width: 1240px; }
h1 { font-size: 22px; line-height: 1.25; margin: 8px 0; }
h2 { font-size: 17px; margin: 32px 0 6px; border-top: 1px solid #dde1e6; padding-top: 14px; }
p { margin: 6px 0; max-width: 75ch; }
.note { color: #5a626c; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid #eceff2; font-weight: normal; }
th { color: #5a626c; }
th:first-child, td:first-child { text-align: left; }
.row { display: flex; flex-wrap: wrap; gap: 12px; }
.chart { width: 340px; max-width: 100%; }
.small { width: 164px; max-width: calc(50% - 6px); }
svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.group { border: 1px solid #dde1e6; border-radius: 6px; padding: 8px; }
.group.conflict { border-color: #c0392b; background: #fdf3f2; }
.group > b { display: block; font-size: 13px; font-weight: 600; margin-bottom: 4px; }
.conflict > b { color: #a5281b; }
figure { margin: 0; width: 84px; font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
figure img { display: block; width: 84px; height: auto; image-rendering: pixelated; }
"""


def page(found: dict, images: Images) -> str:
    """The findings as one HTML page that asks for nothing from outside."""
    splits, shape = list(found["splits"]), found["image_shape"]
    total = sum(found["splits"].values())
    emotions = list(next(iter(found["class_counts"].values())))
    classes = [[emotion, *(found["class_counts"][split][emotion] for split in splits)] for emotion in emotions]
    copies = [
        [f"{a} in {b}", found["with_exact_copy"][a][b], found["with_any_copy"][a][b], found["splits"][a]]
        for a in splits
        for b in splits
    ]
    copies = [[*row[:3], f"{row[2] / row[3]:.1%}"] for row in copies]
    parts = [
        f"<h1>{html.escape(_title(found))}: what is in the data</h1>",
        f"<p class=note>{total:,} images of {shape[1]} x {shape[0]} pixels, "
        f"{'grey' if shape[2] == 1 else 'colour'}; fingerprint {found['fingerprint']}</p>",
        _table(
            ["", "found"],
            [
                ["distinct images", f"{found['distinct']:,} of {total:,}"],
                *_group_rows("exact copies", found["exact"]),
                *_group_rows("near copies", found["near"]),
                ["flat images", len(found["flat"])],
                ["subjects in more than one split", _shared(found)],
            ],
        ),
        "<h2>Classes</h2>",
        _table(["emotion", *splits], [*classes, ["all", *found["splits"].values()]]),
        _row(_bars(split, found["class_counts"][split]) for split in splits),
        *_intensities(found),
        "<h2>Images with a copy</h2>",
        "<p>How many images of a split have a copy, other than themselves, in a split. What is learnt from a training "
        "copy of an evaluation image shows in the score.</p>",
        _table(["images of ... with a copy in ...", "exact", "exact or near", "as a share"], copies),
        "<h2>Exact copies</h2><p>Equal in every pixel.</p>",
        _groups(found["exact"], images),
        "<h2>Near copies</h2>",
        f"<p>A correlation of the grey levels of {found['near_correlation']:g} or more: equal up to brightness, "
        "contrast and compression. A group is what such pairs connect, with the exact copies of its members.</p>",
        _groups(found["near"], images),
        "<h2>Flat images</h2><p>Of one colour.</p>",
        _row(_figure(place, images) for place in found["flat"][:_SHOWN_GROUPS]) + _rest(len(found["flat"]), "images")
        if found["flat"]
        else "<p>None found.</p>",
        *_subject_table(found),
        "<h2>To leave out</h2>",
        "<p>What <code>--write-clean</code> lists: flat images everywhere; of exact copies all but one, kept in test "
        "before validation before train; all copies within train whose labels differ. Near copies stay.</p>",
        _table(
            ["split", "images", "to leave out", "left"],
            [
                [split, n, len(found["leave_out"][split]), n - len(found["leave_out"][split])]
                for split, n in found["splits"].items()
            ],
        ),
    ]
    head = (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(_title(found))}: audit</title><style>{_STYLE}</style></head>\n<body>\n"
    )
    return head + "\n".join(parts) + "\n</body></html>\n"


def _group_rows(name: str, groups: list[dict]) -> list[list]:
    return [
        [f"groups of {name}", len(groups)],
        ["- images in them", sum(len(group["examples"]) for group in groups)],
        ["- groups across splits", sum(group["across_splits"] for group in groups)],
        ["- groups with different labels", sum(group["conflict"] for group in groups)],
    ]


def _shared(found: dict) -> str:
    if found["subjects"] is None:
        return "the data name no subjects"
    return f"{len(found['shared_subjects']):,}"


def _intensities(found: dict) -> list[str]:
    if found["intensity"] is None:
        return []
    parts = [
        "<h2>Intensities</h2>",
        "<p>How often an emotion has an intensity in each tenth of 0..1; 0 is left out.</p>",
    ]
    for split, histograms in found["intensity"].items():
        charts = _row(_columns(emotion, counts) for emotion, counts in histograms.items())
        parts.append(f"<p class=note>{html.escape(split)}</p>{charts}")
    return parts


def _subject_table(found: dict) -> list[str]:
    if found["subjects"] is None:
        return []
    heading, splits = "<h2>Subjects in more than one split</h2>", list(found["splits"])
    if not found["shared_subjects"]:
        return [heading, f"<p>None found among {found['subjects']:,}.</p>"]
    rows = [[s, *(counts.get(split, 0) for split in splits)] for s, counts in found["shared_subjects"].items()]
    return [heading, _table(["subject", *splits], rows[:_SHOWN_GROUPS]), _rest(len(rows), "subjects")]


def _table(header: list[str], rows: list[list]) -> str:
    def cells(row: list, tag: str) -> str:
        texts = (f"{cell:,}" if isinstance(cell, int) else html.escape(str(cell)) for cell in row)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = "".join(cells(row, "td") for row in rows)
    return f"<div class=wide><table>{cells(header, 'th')}{body}</table></div>"


def _row(parts) -> str:
    return "<div class=row>" + "\n".join(parts) + "</div>"


def _rest(count: int, what: str) -> str:
    more = count - _SHOWN_GROUPS
    return f"<p class=note>and {more:,} more {what}, in audit.json</p>" if more > 0 else ""


def _bars(title: str, counts: dict[str, int]) -> str:
    """A bar for each name, as SVG."""
    largest, total = max(max(counts.values()), 1), max(sum(counts.values()), 1)
    lines = [f"<text x=0 y=13 font-weight=600>{html.escape(title)}</text>"]
    for i, (name, count) in enumerate(counts.items()):
        y, width = 22 + 18 * i, 160 * count / largest
        lines.append(
            f"<text x=0 y={y + 11}>{html.escape(name)}</text>"
            f"<rect x=66 y={y} width={width:.1f} height=14 fill=#1f5fbf />"
            f"<text x={72 + width:.1f} y={y + 11}>{count:,} ({count / total:.1%})</text>"
        )
    return f"<div class=chart><svg viewBox='0 0 340 {26 + 18 * len(counts)}' font-size=11>{''.join(lines)}</svg></div>"


def _columns(title: str, counts: list[int]) -> str:
    """A histogram over 0..1, as SVG."""
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
    return f"<div class=small><svg viewBox='0 0 164 108' font-size=11>{''.join(lines)}</svg></div>"


def _groups(groups: list[dict], images: Images) -> str:
    """Thumbnails of some groups: those with different labels first, then those across splits, then the largest."""
    if not groups:
        return "<p>None found.</p>"
    order = sorted(groups, key=lambda g: (not g["conflict"], not g["across_splits"], -len(g["examples"])))
    shown = []
    for group in order[:_SHOWN_GROUPS]:
        words = [f"{len(group['examples'])} images"]
        words += ["different labels"] * group["conflict"] + ["across splits"] * group["across_splits"]
        figures = _row(_figure(place, images) for place in group["examples"][:_SHOWN_IMAGES])
        words += [f"{_SHOWN_IMAGES} of them shown"] * (len(group["examples"]) > _SHOWN_IMAGES)
        shown.append(f"<div class='group{' conflict' * group['conflict']}'><b>{', '.join(words)}</b>{figures}</div>")
    return _row(shown) + _rest(len(groups), "groups")


def _figure(place: dict, images: Images) -> str:
    image = images[place["split"]][place["index"]]
    _, png = cv2.imencode(".png", image[..., ::-1] if image.shape[-1] == 3 else image)
    source = base64.b64encode(png).decode()
    caption = f"<b>{html.escape(place['label'])}</b><br>{html.escape(place['split'])} {place['index']}"
    return f"<figure><img alt='' src='data:image/png;base64,{source}'><figcaption>{caption}</figcaption></figure>"
