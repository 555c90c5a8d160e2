"""Tables for a paper: one float for each view, in booktabs, in the shape of the published ones."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from oodbench.leaderboard.sections import LABELS, MISSING, Entry, Grid, Line, Section, Value
from oodbench.wording import prose

_PREAMBLE = r"% \usepackage{booktabs, graphicx}"
# Tables of many columns are shrunk to the line, others stay as they are.
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def render(sections: Sequence[Section], records: Mapping[str, Any] | None = None) -> str:
    """Return tables as LaTeX that needs the packages named in its first line."""
    parts = [_PREAMBLE]
    number = 0
    for section in sections:
        first = number + 1
        for grid in section.grids:
            number += 1
            parts.append(_table(section, grid, number, first))
    return "\n\n".join(parts) + "\n"


def _table(section: Section, grid: Grid, number: int, first: int) -> str:
    titles = [section.title, grid.heading, grid.caption]
    caption = ". ".join(escaped(text).removesuffix(".") for text in titles if text)
    notes = [rf"Notes as under Table~\ref{{{_label(first)}}}."]
    if number == first:
        notes = [_prose(note) for note in section.notes]
    widths = [len(column.metrics) for column in grid.columns]
    starts = [2 + sum(widths[:place]) for place in range(len(widths))]
    rules = [
        rf"\cmidrule(lr){{{start}-{start + width - 1}}}"
        for start, width in zip(starts, widths, strict=True)
    ]
    spans = [
        rf"\multicolumn{{{width}}}{{c}}{{{escaped(column.name)}}}"
        for column, width in zip(grid.columns, widths, strict=True)
    ]
    metrics = [escaped(LABELS[metric]) for column in grid.columns for metric in column.metrics]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}.}}",
        rf"\label{{{_label(number)}}}",
        _FIT,
        rf"\begin{{tabular}}{{l{'r' * sum(widths)}r}}",
        r"\toprule",
        _row(["", *spans, ""]),
        " ".join(rules),
        _row(["detector", *metrics, escaped(LABELS["accuracy"])]),
        r"\midrule",
        *(row for line in grid.lines for row in _rows(line, widths)),
        r"\bottomrule",
        r"\end{tabular}%",
        "}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        "\\par\n".join(notes),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _label(number: int) -> str:
    return f"tab:oodbench-{number}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _rows(line: Line, widths: Sequence[int]) -> list[str]:
    cells: list[str] = []
    theirs: list[str] = []
    for entry, width in zip(line.entries, widths, strict=True):
        cells += [escaped(MISSING)] * width if entry is None else _values(entry)
        published = [value.percent for value in entry.published] if entry else []
        theirs += published or [""] * width
    rows = [_row([escaped(line.name), *cells, _figure(line.accuracy)])]
    if line.published:
        italic = [rf"\textit{{{text}}}" if text else "" for text in theirs]
        rows.append(_row([r"\quad published", *italic, ""]))
    return rows


def _values(entry: Entry) -> list[str]:
    texts = [_figure(value) for value in entry.values]
    # A mark is of the whole cell; it hangs over so that figures stay in line.
    marks = "".join(escaped(mark) for mark in entry.marks)
    return [*texts[:-1], texts[-1] + (rf"\rlap{{\textsuperscript{{{marks}}}}}" if marks else "")]


def _figure(value: Value) -> str:
    text = rf"\textbf{{{value.percent}}}" if value.best else value.percent
    return rf"{text}\,{{\scriptsize$\pm$\,{value.deviation}}}" if value.deviation else text


def escaped(text: str) -> str:
    """Return LaTeX that shows a text as it is."""
    encoded: str = _encoder().unicode_to_latex(" ".join(text.split()))
    # Two hyphens would be a dash.
    return re.sub(r"-(?=-)", "-{}", encoded)


def _prose(note: str) -> str:
    def piece(text: str) -> str:
        # By itself it would lose the blanks at its ends.
        return re.sub(r"\S.*\S|\S", lambda found: escaped(found[0]), text)

    return "".join(
        rf"\texttt{{{piece(text)}}}" if is_code else piece(text)
        for text, is_code in prose(" ".join(note.split()))
    )


@cache
def _encoder() -> Any:
    from pylatexenc.latexencode import (
        RULE_DICT,
        UnicodeToLatexConversionRule,
        UnicodeToLatexEncoder,
    )

    own = {
        # The oldest font encoding has a dash in its place.
        ord("|"): r"{\textbar}",
        # After the end of a row they would be taken for its arguments.
        ord("["): "{[}",
        ord("*"): "{*}",
        ord("↓"): r"\ensuremath{\downarrow}",
        ord("↑"): r"\ensuremath{\uparrow}",
    }
    return UnicodeToLatexEncoder(
        conversion_rules=[UnicodeToLatexConversionRule(RULE_DICT, own), "defaults"],
        unknown_char_policy="keep",
        unknown_char_warning=False,
    )
