"""Tables of text as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Container, Sequence

Table = tuple[list[str], list[list[str]]]  # header, rows

_LATEX = {each: f"\\{each}" for each in "%&_#${}"} | {
    "±": r"$\pm$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def as_text(table: Table, form: str, *, bold: Container[tuple[int, int]] = ()) -> str:
    """A table as `markdown`, `csv` or `latex` (for booktabs, numbers to the right of a first column of names).

    `bold`: the places (row below the header, column) of what Markdown and LaTeX set in bold.
    """
    rows: Sequence[list[str]] = [table[0], *table[1]]
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()
    escape, strong = (_markdown, "**{}**") if form == "markdown" else (_latex, r"\textbf{{{}}}")
    cells = [
        [strong.format(escape(cell)) if (i, j) in bold else escape(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(rows, -1)
    ]
    if form == "markdown":
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"
    lines = [" & ".join(row) + r" \\" for row in cells]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _markdown(text: str) -> str:
    return text.replace("|", "\\|")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
