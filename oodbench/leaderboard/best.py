"""Which figures of a column are the best, or cannot be told from it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oodbench.leaderboard.evidence import Evidence
from oodbench.leaderboard.parting import Record
from oodbench.paired import LOWER_IS_BETTER, Scored, draws, tied_with_best

if TYPE_CHECKING:
    import pandas as pd

BEST = "best"
"""Column of a frame: the metrics in which a cell is the best of its column, or tied with it."""
UNCOMPARED = "uncompared"
"""Column of a frame: whether scores of a cell are not there, or of other images than others'."""

Cell = Mapping[str, Any]
Draws = dict[str, Any]


def with_best(
    frame: "pd.DataFrame",
    files: Mapping[Path, Record],
    tell: Callable[[str], None] = warnings.warn,
) -> "pd.DataFrame":
    """Return a frame of `summary` with the columns `BEST` and `UNCOMPARED`.

    In each column of a table, for each view, the best figure is found among the rows whose mean is
    over most sets, and those that `oodbench.paired` cannot tell from it: images resampled jointly
    for all rows, with 95 % for all comparisons of the column at once. A column of one row has no
    best, nor has one of the same figure throughout, nor one whose rows with most sets have others.

    Args:
        frame: A frame as `summary` returns it.
        files: The records behind it by their files.
        tell: Told of scores that are damaged.
    """
    evidence = Evidence(files, tell)
    cells: list[Any] = frame.to_dict("records")
    tables: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        tables.setdefault(cell["table"], []).append(place)
    best: list[tuple[str, ...]] = [()] * len(cells)
    uncompared = [False] * len(cells)
    for places in tables.values():
        rivals = _rivals(cells, places)
        concerned = [place for group in rivals for place in group]
        deviations = _deviations([cells[place] for place in concerned], evidence)
        for place in concerned:
            uncompared[place] = cells[place]["records"] not in deviations
        for group in rivals:
            for place, metrics in zip(
                group, _best_of([cells[place] for place in group], deviations), strict=True
            ):
                best[place] = metrics
    columns: dict[str, Any] = {BEST: best, UNCOMPARED: uncompared}
    return frame.assign(**columns)


def _rivals(cells: Sequence[Cell], places: Sequence[int]) -> list[list[int]]:
    """Return the cells that are compared: of one view and column, over the same sets."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place in places:
        groups.setdefault((cells[place]["view"], cells[place]["column"]), []).append(place)
    rivals = []
    for group in groups.values():
        most = max(len(cells[place]["sets"]) for place in group)
        fullest = {cells[place]["sets"] for place in group if len(cells[place]["sets"]) == most}
        same = [place for place in group if cells[place]["sets"] in fullest]
        # Means over as many sets, but others, have no best among them.
        if len(fullest) == 1 and len(same) > 1:
            rivals.append(same)
    return rivals


def _deviations(cells: Sequence[Cell], evidence: Evidence) -> dict[tuple[str, ...], Draws]:
    """Return the drawn deviations of each cell whose scores are all there, by its records."""
    wanted = dict.fromkeys(identity for cell in cells for identity in cell["records"])
    images: dict[str, tuple[str, ...]] = {}
    there: dict[str, Scored] = {}
    for identity in wanted:
        found = evidence.scored(identity)
        if found is not None and images.setdefault(found[1].image_set, found[0]) == found[0]:
            there[identity] = found[1]
    drawn = draws(list(there.values()))
    number = {identity: place for place, identity in enumerate(there)}
    out: dict[tuple[str, ...], Draws] = {}
    for cell in cells:
        members = cell["records"]
        if members not in out and all(identity in number for identity in members):
            columns = [number[identity] for identity in members]
            # Every seed has the same sets, so that the mean of all is that of the means.
            out[members] = {key: values[:, columns].mean(axis=1) for key, values in drawn.items()}
    return out


def _best_of(
    cells: Sequence[Cell], deviations: Mapping[tuple[str, ...], Draws]
) -> list[tuple[str, ...]]:
    """Return, for each of some rivals, the metrics in which it is the best or tied with it."""
    found: list[list[str]] = [[] for _ in cells]
    for metric in shown_metrics(cells[0]):
        lower = metric in LOWER_IS_BETTER
        values = np.array([cell[metric] for cell in cells])
        if values.min() == values.max():
            continue
        top = values.min() if lower else values.max()
        known = [place for place, cell in enumerate(cells) if cell["records"] in deviations]
        tied = dict.fromkeys(np.flatnonzero(values == top).tolist())
        # Where scores of the best itself are missing nothing can be compared with it.
        if set(tied) & set(known):
            drawn = [deviations[cells[place]["records"]][metric] for place in known]
            kept = tied_with_best(values[known], np.stack(drawn, axis=1), lower=lower)
            tied |= dict.fromkeys(place for place, keep in zip(known, kept, strict=True) if keep)
        for place in tied:
            found[place].append(metric)
    return [tuple(metrics) for metrics in found]


def shown_metrics(cell: Cell) -> tuple[str, ...]:
    """Return the metrics that tables show of a cell, in order."""
    return ("fpr95", "auroc") if cell["side"] == "ood" else ("fpr95", "fnr", "auroc")
