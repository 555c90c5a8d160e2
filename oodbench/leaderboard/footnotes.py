"""What stands under a table: conventions, budgets, marks, and what records have to say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oodbench.leaderboard.best import BEST, UNCOMPARED
from oodbench.marks import MARK, MEANING, Figure, explained
from oodbench.tables import CONVENTION, FNR_CONVENTION, told_of_attack
from oodbench.views import ALL, suite_called
from oodbench.wording import merged, pattern

Cell = Mapping[str, Any]
"""A row of the frame."""

FAILED = "a check of the attack failed"
"""The remark on a cell that another attack may find weaker."""

BOLD = (
    "Bold: the best of a column, and all that a paired bootstrap over images cannot tell from it"
    " (95 % for a whole column at once). It speaks of these trained networks, not of other"
    " trainings."
)


def footnotes(
    everything: Sequence[Cell], columns: Mapping[str, Cell], marks: Mapping[str, str]
) -> Iterator[str]:
    """Yield the footnotes of a table.

    Args:
        everything: Its cells, of all views.
        columns: A cell of each column by name.
        marks: Marks by the remark that they stand for.
    """
    # A view of fewer sets has nothing to say that these have not.
    whole = [cell for cell in everything if cell["view"] == ALL or cell["near"]]
    cells = whole or everything
    yield CONVENTION
    if any(cell["side"] != "ood" for cell in cells):
        yield FNR_CONVENTION
    if any(cell.get(BEST) for cell in everything):
        yield BOLD
    yield from _uncompared(everything)
    for remark, mark in marks.items():
        if remark != FAILED:
            yield f"{mark} {remark}."
    yield from _faults(cells)
    # A frame has one cell for each row, view and column.
    places = {(cell["row"], cell["view"]) for cell in everything}
    if len(everything) < len(places) * len(columns):
        yield "– no record."
    seeds = cells[0]["of_seeds"]
    yield f"Training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    for name, cell in columns.items():
        told = told_of_attack(cell["preset"], cell["budget"], cell["queries"], cell["precision"])
        if told:
            yield f"{name}: {told}"
    yield from _fallbacks(cells)
    yield from _published(cells)
    notes = list(_notes(cells))
    yield from notes
    note = _suite_note(cells[0]["suite"])
    if note and note not in notes:
        yield note


def _uncompared(cells: Sequence[Cell]) -> Iterator[str]:
    alone = dict.fromkeys((cell["row"], cell["column"]) for cell in cells if cell.get(UNCOMPARED))
    by_row: dict[str, list[str]] = {}
    for row, column in alone:
        by_row.setdefault(row, []).append(column)
    if by_row:
        every: dict[str, set[str]] = {}
        for cell in cells:
            every.setdefault(cell["row"], set()).add(cell["column"])
        told = "; ".join(
            row if set(names) == every[row] else f"{row} ({', '.join(names)})"
            for row, names in by_row.items()
        )
        yield f"Not compared with others, their scores by image not being at hand: {told}."


def _published(cells: Sequence[Cell]) -> Iterator[str]:
    sources = dict.fromkeys(
        cell["published_source"] for cell in cells if cell.get("published_source")
    )
    for source in sources:
        yield f"Published: {source}."


def notes_of(cell: Cell) -> list[str]:
    """Return what is to be said of one cell, for formats that have a place for it in each row."""
    notes = [cell["remark"], *(f"{MARK} {finding.told}" for finding in cell["findings"])]
    notes += [cell["fallback"], *_notes([cell]), _suite_note(cell["suite"])]
    return list(dict.fromkeys(note for note in notes if note))


def _fallbacks(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield what else searched images whose gradient leads nowhere, and for which rows."""
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell["fallback"]:
            alike.setdefault((cell["column"], pattern(cell["fallback"])), []).append(cell)
    for (column, _), found in alike.items():
        rows = ", ".join(dict.fromkeys(cell["row"] for cell in found))
        yield f"{column} on {rows}: {merged([cell['fallback'] for cell in found])}"


def _faults(cells: Sequence[Cell]) -> Iterator[str]:
    figures = [
        Figure(
            cell["row"],
            cell["column"],
            cell["n_sets"] * cell["n_seeds"],
            cell["audited"],
            cell["findings"],
            cell["n_seeds"],
        )
        for cell in cells
    ]
    lines = explained(figures)
    if lines:
        yield f"{MARK} {MEANING}:"
    for line in lines:
        yield f"{MARK} {line}."


def _suite_note(suite: str) -> str:
    """Return what a suite has to say under every table; nothing where it cannot be found."""
    found = suite_called(suite)
    return "" if found is None else found.note


def _notes(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the notes of the records, those that differ in numbers alone as one.

    What speaks of some sets or some detectors alone says of which.
    """
    alike: dict[str, list[tuple[str, str, str]]] = {}
    for cell in cells:
        for image_set, note in cell["notes"]:
            said = (cell["row"], image_set, note)
            alike.setdefault(pattern(note), []).append(said)
    all_rows = list(dict.fromkeys(cell["row"] for cell in cells))
    all_sets = list(dict.fromkeys(name for cell in cells for name in cell["of_sets"]))
    for found in alike.values():
        rows, sets, notes = zip(*found, strict=True)
        scopes = [_some(all_rows, rows), _some(all_sets, sets)]
        scope = " on ".join(filter(None, scopes))
        yield f"{scope}: {merged(notes)}" if scope else merged(notes)


def _some(whole: Sequence[str], mine: Sequence[str]) -> str:
    """Name what of a whole is meant; nothing where it is all."""
    if set(mine) == set(whole):
        return ""
    return ", ".join(name for name in whole if name in mine)
