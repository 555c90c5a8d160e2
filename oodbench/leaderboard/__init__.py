"""Stored records as one table of detectors and perturbations, means over the OOD sets.

`leaderboard` gives a tidy frame, `markdown` shows one; other formats stand on the same frame.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.leaderboard.means import METRICS, summary
from oodbench.leaderboard.order import SORTS, ordered
from oodbench.leaderboard.rendering import markdown
from oodbench.leaderboard.selection import Selection, load, results_folder
from oodbench.marks import audits_below

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "METRICS",
    "SORTS",
    "Selection",
    "leaderboard",
    "load",
    "markdown",
    "ordered",
    "results_folder",
    "summary",
]


def leaderboard(
    results: str | Path | None = None,
    *,
    reference: bool = False,
    selection: Selection | None = None,
    sort: str = "worst",
) -> "pd.DataFrame":
    """Return the means over OOD sets of stored results.

    Args:
        results: Folder of results; None takes ``./oodbench-results``, or the shipped reference
            where that does not exist.
        reference: Whether to take the shipped reference.
        selection: Which records count.
        sort: Order of the rows, as in `ordered`.

    Returns:
        What `summary` returns, in order.

    Raises:
        DamagedFileError: If a record is damaged.
        RequestError: If there is none, or two cannot be told apart.
    """
    root, _ = results_folder(results, reference=reference)
    return ordered(summary(load(root, selection), audits_below(root)), sort)
