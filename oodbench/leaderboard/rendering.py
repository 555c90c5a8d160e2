"""A frame of means as markdown."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oodbench.marks import MARK, MEANING, Figure, explained
from oodbench.tables import CONVENTION, FNR_CONVENTION, told_of_attack
from oodbench.views import ALL, suite_called
from oodbench.wording import merged, pattern

if TYPE_CHECKING:
    import pandas as pd

Cell = Mapping[str, Any]
"""A row of the frame."""

_MARKS = MARK + "‡§¶"
_FAILED = "a check of the attack failed"


def markdown(frame: "pd.DataFrame") -> str:
    """Return a frame of `summary` as tables in GitHub's markdown, each with its footnotes.

    A cell is ``FPR@95 / AUROC`` in percent, with the FNR between them where in-distribution
    images are attacked: with a column for each, four perturbations would be too wide to read in a
    terminal.
    """
    tables = [part.to_dict("records") for _, part in frame.groupby("table", sort=False)]
    return "\n\n".join(_section(cells) for cells in tables) + "\n"  # type: ignore[arg-type]


def _section(cells: Sequence[Cell]) -> str:
    """Return the table of the mean over all sets, then those of its other views, and notes."""
    columns = {cell["column"]: cell for cell in sorted(cells, key=lambda cell: cell["column_rank"])}
    marks = _marks(cells)
    shown = list(dict.fromkeys(cell["view"] for cell in cells))
    parts = [f"### {_escaped(cells[0]['table'])}"]
    for view in sorted(shown, key=lambda view: view != ALL):
        mine = [cell for cell in cells if cell["view"] == view]
        attacked = [name for name, cell in columns.items() if cell["side"] != "ood"]
        caption = f"FPR@95 ↓ / AUROC ↑ in percent, {_averaged(mine)}"
        if attacked:
            caption += f". In {', '.join(attacked)}: FPR@95 ↓ / FNR@95 ↓ / AUROC ↑"
        heading = [] if view == ALL else [f"#### {_escaped(view)}"]
        parts += [*heading, f"{_escaped(caption)}.", _grid(mine, list(columns), marks)]
    # A view of fewer sets has nothing to say that these have not.
    whole = [cell for cell in cells if cell["view"] == ALL or cell["near"]]
    notes = [f"- {_escaped(note)}" for note in _footnotes(whole or cells, columns, marks)]
    return "\n\n".join([*parts, "\n".join(notes)])


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
    """Return a mark for each remark: one of a few signs, repeated where they do not suffice.

    That of a failed check comes first, where there is any, and is the same in every table.
    """
    failed = [_FAILED for cell in cells if cell["findings"]]
    remarks = dict.fromkeys([*failed, *(cell["remark"] for cell in cells if cell["remark"])])
    return {
        remark: _MARKS[number % len(_MARKS)] * (1 + number // len(_MARKS))
        for number, remark in enumerate(remarks)
    }


def _shown(cell: Cell, marks: Mapping[str, str]) -> str:
    metrics = ["fpr95", "auroc"] if cell["side"] == "ood" else ["fpr95", "fnr", "auroc"]
    text = " / ".join(_percent(cell, metric) for metric in metrics)
    remarks = [_FAILED if cell["findings"] else "", cell["remark"]]
    return " ".join([text, *(marks[remark] for remark in remarks if remark)])


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
    if any(cell["side"] != "ood" for cell in cells):
        yield FNR_CONVENTION
    for remark, mark in marks.items():
        if remark != _FAILED:
            yield f"{mark} {remark}."
    yield from _faults(cells)
    # A frame has one cell for each row, view and column.
    places = {(cell["row"], cell["view"]) for cell in cells}
    if len(cells) < len(places) * len(columns):
        yield "– no record."
    seeds = cells[0]["of_seeds"]
    yield f"Training seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    for name, cell in columns.items():
        told = told_of_attack(cell["preset"], cell["budget"], cell["queries"], cell["precision"])
        if told:
            yield f"{name}: {told}"
    yield from _fallbacks(cells)
    notes = list(_notes(cells))
    yield from notes
    note = _suite_note(cells[0]["suite"])
    if note and note not in notes:
        yield note


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
