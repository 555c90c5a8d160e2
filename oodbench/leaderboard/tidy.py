"""A row for each detector, perturbation and view, as plain data in full precision."""

import math
from collections.abc import Iterator
from typing import Any

from oodbench.leaderboard.beside import PUBLISHED
from oodbench.leaderboard.best import BEST
from oodbench.leaderboard.footnotes import notes_of
from oodbench.leaderboard.means import METRICS
from oodbench.leaderboard.sections import SETTING, Section

FIGURES = tuple(name for metric in (*METRICS, "accuracy") for name in (metric, f"{metric}_std"))
"""Fractions in [0, 1], and their sample standard deviations over training seeds."""

_ABOUT = (
    *("row", "detector", "detector_version", "params", "column", "perturbation"),
    *("perturbation_version", "perturbation_params", "eps", "budget", "queries", "precision"),
    *("side", "kind", "view", "set", "near", "sets", "of_sets", "seeds", "of_seeds", "n_ood"),
)


def rows(section: Section) -> Iterator[dict[str, Any]]:
    """Yield the rows of a section; a number that there is not is None."""
    for grid in section.grids:
        for line in grid.lines:
            for entry in line.entries:
                if entry is not None:
                    yield _row(section, entry.cell)


def _row(section: Section, cell: Any) -> dict[str, Any]:
    row = {name: section.setting[name] for name in SETTING}
    row |= {name: _plain(cell[name]) for name in (*_ABOUT, *FIGURES)}
    if PUBLISHED[0] in cell:
        row |= {name: _plain(cell[name]) for name in PUBLISHED}
    return row | {
        "best": list(cell.get(BEST, ())),
        "audited": cell["audited"],
        "failed_checks": len(cell["findings"]),
        "notes": notes_of(cell),
        "records": list(cell["records"]),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and math.isnan(value) else value
