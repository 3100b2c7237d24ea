"""The findings of an audit for people: a summary in a few lines, and one HTML page without outside requests.

`found` is what `audit.audit` returns.
"""

import html
from collections import Counter

import numpy as np

from fer_jax import charts, html_page

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
.group.conflict { border-color: #c0392b; background: #fdf3f2; }
.conflict > b { color: #a5281b; }
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
        html_page.table(
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
        html_page.table(["emotion", *splits], [*classes, ["all", *found["splits"].values()]]),
        html_page.row(charts.bars(split, found["class_counts"][split]) for split in splits),
        *_intensities(found),
        "<h2>Images with a copy</h2>",
        "<p>How many images of a split have a copy, other than themselves, in a split. What is learnt from a training "
        "copy of an evaluation image shows in the score.</p>",
        html_page.table(["images of ... with a copy in ...", "exact", "exact or near", "as a share"], copies),
        "<h2>Exact copies</h2><p>Equal in every pixel.</p>",
        _groups(found["exact"], images),
        "<h2>Near copies</h2>",
        f"<p>A correlation of the grey levels of {found['near_correlation']:g} or more: equal up to brightness, "
        "contrast and compression. A group is what such pairs connect, with the exact copies of its members.</p>",
        _groups(found["near"], images),
        "<h2>Flat images</h2><p>Of one colour.</p>",
        _flat(found["flat"], images),
        *_subject_table(found),
        "<h2>To leave out</h2>",
        "<p>What <code>--write-clean</code> lists: flat images everywhere; of exact copies all but one, kept in test "
        "before validation before train; all copies within train whose labels differ. Near copies stay.</p>",
        html_page.table(
            ["split", "images", "to leave out", "left"],
            [
                [split, n, len(found["leave_out"][split]), n - len(found["leave_out"][split])]
                for split, n in found["splits"].items()
            ],
        ),
    ]
    return html_page.document(f"{_title(found)}: audit", parts, _STYLE)


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
        columns = html_page.row(charts.columns(emotion, counts) for emotion, counts in histograms.items())
        parts.append(f"<p class=note>{html.escape(split)}</p>{columns}")
    return parts


def _subject_table(found: dict) -> list[str]:
    if found["subjects"] is None:
        return []
    heading, splits = "<h2>Subjects in more than one split</h2>", list(found["splits"])
    if not found["shared_subjects"]:
        return [heading, f"<p>None found among {found['subjects']:,}.</p>"]
    rows = [[s, *(counts.get(split, 0) for split in splits)] for s, counts in found["shared_subjects"].items()]
    return [heading, html_page.table(["subject", *splits], rows[:_SHOWN_GROUPS]), _rest(len(rows), "subjects")]


def _rest(count: int, what: str) -> str:
    more = count - _SHOWN_GROUPS
    return f"<p class=note>and {more:,} more {what}, in audit.json</p>" if more > 0 else ""


def _groups(groups: list[dict], images: Images) -> str:
    """Thumbnails of some groups: those with different labels first, then those across splits, then the largest."""
    if not groups:
        return "<p>None found.</p>"
    order = sorted(groups, key=lambda g: (not g["conflict"], not g["across_splits"], -len(g["examples"])))
    shown = []
    for group in order[:_SHOWN_GROUPS]:
        words = [f"{len(group['examples'])} images"]
        words += ["different labels"] * group["conflict"] + ["across splits"] * group["across_splits"]
        figures = _figures(group["examples"][:_SHOWN_IMAGES], images)
        words += [f"{_SHOWN_IMAGES} of them shown"] * (len(group["examples"]) > _SHOWN_IMAGES)
        shown.append(f"<div class='group{' conflict' * group['conflict']}'><b>{', '.join(words)}</b>{figures}</div>")
    return html_page.row(shown) + _rest(len(groups), "groups")


def _flat(places: list[dict], images: Images) -> str:
    if not places:
        return "<p>None found.</p>"
    return _figures(places[:_SHOWN_GROUPS], images) + _rest(len(places), "images")


def _figures(places: list[dict], images: Images) -> str:
    figures = []
    for place in places:
        where = f"<span title='{html.escape(place['source'])}'>{html.escape(place['split'])} {place['index']}</span>"
        caption = f"<b>{html.escape(place['label'])}</b><br>{where}"  # the file and line are shown as one points at it
        figures.append(html_page.figure(images[place["split"]][place["index"]], caption))
    return html_page.row(figures, "row pictures")
