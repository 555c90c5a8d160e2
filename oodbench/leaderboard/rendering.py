"""A frame of means as markdown."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oodbench.errors import RequestError
from oodbench.registry import load
from oodbench.tables import CONVENTION, told_of_attack

if TYPE_CHECKING:
    import pandas as pd

Cell = Mapping[str, Any]
"""A row of the frame."""

_MARKS = "†‡§¶"
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])")


def markdown(frame: "pd.DataFrame") -> str:
    """Return a frame of `summary` as tables in GitHub's markdown, each with its footnotes.

    A cell is ``FPR@95 / AUROC`` in percent: with a column for each, four perturbations would be
    too wide to read in a terminal.
    """
    tables = [part.to_dict("records") for _, part in frame.groupby("table", sort=False)]
    return "\n\n".join(_section(cells) for cells in tables) + "\n"  # type: ignore[arg-type]


def _section(cells: Sequence[Cell]) -> str:
    columns = {cell["column"]: cell for cell in sorted(cells, key=lambda cell: cell["column_rank"])}
    marks = _marks(cells)
    caption = f"FPR@95 ↓ / AUROC ↑ in percent, {_averaged(cells)}"
    notes = [f"- {_escaped(note)}" for note in _footnotes(cells, columns, marks)]
    parts = [
        f"### {_escaped(cells[0]['table'])}",
        f"{_escaped(caption)}.",
        _grid(cells, list(columns), marks),
        "\n".join(notes),
    ]
    return "\n\n".join(parts)


def _grid(cells: Sequence[Cell], columns: Sequence[str], marks: Mapping[str, str]) -> str:
    from tabulate import tabulate

    rows: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        rows.setdefault(cell["row"], {})[cell["column"]] = cell
    body = []
    for name, mine in rows.items():
        shown = [_shown(mine[column], marks) if column in mine else "–" for column in columns]
        accuracy = _percent(next(iter(mine.values())), "accuracy")
        body.append([_escaped(name), *shown, accuracy])
    return tabulate(
        body,
        headers=["detector", *map(_escaped, columns), "ID acc."],
        tablefmt="pipe",
        colalign=["left", *["right"] * (len(columns) + 1)],
        disable_numparse=True,
    )


def _averaged(cells: Sequence[Cell]) -> str:
    sets = cells[0]["of_sets"]
    over = f"mean over {len(sets)} OOD sets ({', '.join(sets)})" if sets[1:] else f"on {sets[0]}"
    if any(cell["n_seeds"] > 1 for cell in cells):
        over += "; ± standard deviation over training seeds"
    return over


def _marks(cells: Iterable[Cell]) -> dict[str, str]:
    """Return a mark for each remark: one of a few signs, repeated where they do not suffice."""
    remarks = dict.fromkeys(cell["remark"] for cell in cells if cell["remark"])
    return {
        remark: _MARKS[number % len(_MARKS)] * (1 + number // len(_MARKS))
        for number, remark in enumerate(remarks)
    }


def _shown(cell: Cell, marks: Mapping[str, str]) -> str:
    text = f"{_percent(cell, 'fpr95')} / {_percent(cell, 'auroc')}"
    return f"{text} {marks[cell['remark']]}" if cell["remark"] else text


def _percent(cell: Cell, metric: str) -> str:
    text, spread = f"{100 * cell[metric]:.2f}", 100 * cell[f"{metric}_std"]
    # The deviation of one seed is not a number.
    return f"{text} ± {spread:.2f}" if spread == spread else text


def _escaped(text: str) -> str:
    """Escape what markdown would take for markup, within a line."""
    text = re.sub(r"([\\|*<>`\[\]])", r"\\\1", " ".join(text.split()))
    # An underscore within a word is none.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


# Footnotes


def _footnotes(
    cells: Sequence[Cell], columns: Mapping[str, Cell], marks: Mapping[str, str]
) -> Iterator[str]:
    yield CONVENTION
    for remark, mark in marks.items():
        yield f"{mark} {remark}."
    # A frame has one cell for each row and column.
    if len(cells) < len({cell["row"] for cell in cells}) * len(columns):
        yield "– no record."
    seeds = cells[0]["of_seeds"]
    yield f"Training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    for name, cell in columns.items():
        told = told_of_attack(cell["preset"], cell["budget"], cell["queries"], cell["precision"])
        if told:
            yield f"{name}: {told}"
    notes = list(_notes(cells))
    yield from notes
    note = _suite_note(cells[0]["suite"])
    if note and note not in notes:
        yield note


def _suite_note(suite: str) -> str:
    """Return what a suite has to say under every table; nothing where it cannot be found."""
    try:
        found = load("datasets", suite)()
    except (RequestError, TypeError, ValueError):
        return ""
    return str(getattr(found, "note", ""))


def _notes(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the notes of the records, those that differ in numbers alone as one.

    What speaks of some sets or some detectors alone says of which.
    """
    alike: dict[str, list[tuple[str, str, str]]] = {}
    for cell in cells:
        for image_set, note in cell["notes"]:
            said = (cell["row"], image_set, note)
            alike.setdefault(_NUMBER.sub("#", note), []).append(said)
    all_rows = list(dict.fromkeys(cell["row"] for cell in cells))
    for found in alike.values():
        rows, sets, notes = zip(*found, strict=True)
        scopes = [_some(all_rows, rows), _some(cells[0]["of_sets"], sets)]
        scope = " on ".join(filter(None, scopes))
        yield f"{scope}: {_merged(notes)}" if scope else _merged(notes)


def _some(whole: Sequence[str], mine: Sequence[str]) -> str:
    """Name what of a whole is meant; nothing where it is all."""
    if set(mine) == set(whole):
        return ""
    return ", ".join(name for name in whole if name in mine)


def _merged(notes: Sequence[str]) -> str:
    """Return notes that differ in numbers alone as one, with ranges for numbers."""
    numbers = zip(*map(_NUMBER.findall, notes), strict=True)
    ranges = iter([_range(values) for values in numbers])
    return _NUMBER.sub(lambda _: next(ranges), notes[0])


def _range(values: Iterable[str]) -> str:
    ascending = sorted(values, key=float)
    low, high = ascending[0], ascending[-1]
    return low if low == high else f"{low}–{high}"
