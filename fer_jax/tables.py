"""Tables of text as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

Table = tuple[list[str], list[list[str]]]  # header, rows

_LATEX = {each: f"\\{each}" for each in "%&_#${}"} | {
    "±": r"$\pm$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex(text: str) -> str:
    """Text as LaTeX sets it."""
    return "".join(_LATEX.get(character, character) for character in text)


def as_text(table: Table, form: str) -> str:
    """A table as `markdown`, `csv` or `latex` (for booktabs)."""
    rows: Sequence[list[str]] = [table[0], *table[1]]
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()
    if form == "markdown":
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"
    lines = [" & ".join(map(latex, row)) + r" \\" for row in rows]
    begin = rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"
