"""Tables in GitHub's markdown.

A cell is ``FPR@95 / AUROC`` in percent, with the FNR between them where in-distribution images are
attacked: with a column for each, four perturbations would be too wide to read in a terminal.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from oodbench.leaderboard.sections import LABELS, MISSING, Entry, Grid, Section, Value
from oodbench.wording import prose


def render(sections: Sequence[Section], records: Mapping[str, Any] | None = None) -> str:
    """Return tables as markdown, each with its footnotes."""
    return "\n\n".join(map(_section, sections)) + "\n"


def _section(section: Section) -> str:
    parts = [f"### {escaped(section.title)}"]
    for grid in section.grids:
        heading = [f"#### {escaped(grid.heading)}"] if grid.heading else []
        parts += [*heading, escaped(grid.caption), _table(grid)]
    return "\n\n".join([*parts, "\n".join(f"- {_prose(note)}" for note in section.notes)])


def _table(grid: Grid) -> str:
    from tabulate import tabulate

    body = []
    for line in grid.lines:
        figures = [_entry(entry) for entry in line.entries]
        body.append([escaped(line.name), *figures, line.accuracy.text])
        if line.published:
            theirs = [_pair(entry.published) if entry else "" for entry in line.entries]
            body.append([f"{escaped(line.name)}, published", *theirs, ""])
    return tabulate(
        body,
        headers=["detector", *(escaped(c.name) for c in grid.columns), LABELS["accuracy"]],
        tablefmt="pipe",
        colalign=["left", *["right"] * (len(grid.columns) + 1)],
        disable_numparse=True,
    )


def _entry(entry: Entry | None) -> str:
    if entry is None:
        return MISSING
    return " ".join([_pair(entry.values), *entry.marks])


def _pair(values: Sequence[Value]) -> str:
    return " / ".join(f"**{value.text}**" if value.best else value.text for value in values)


def _prose(note: str) -> str:
    # Between backticks nothing is markup, so code stands there as it is.
    note = " ".join(note.split())
    code = iter([text for text, is_code in prose(note) if is_code])
    return re.sub(r"\\`[^`]+\\`", lambda _: f"`{next(code)}`", escaped(note))


def escaped(text: str) -> str:
    """Escape what markdown would take for markup, within a line."""
    text = re.sub(r"([\\|*<>`\[\]&$~])", r"\\\1", " ".join(text.split()))
    # At the start of a line these begin a heading or a list.
    text = re.sub(r"^(\d*)([#+.)-])", r"\1\\\2", text)
    # An underscore within a word is none.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
