"""Stored records as one table of detectors and perturbations, means over the OOD sets.

`leaderboard` gives a tidy frame, `render` makes a text of one: markdown, CSV, LaTeX, JSON, HTML.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.leaderboard.beside import with_published
from oodbench.leaderboard.best import with_best
from oodbench.leaderboard.formats import FORMATS, render
from oodbench.leaderboard.means import BY, METRICS, summary
from oodbench.leaderboard.order import SORTS, ordered
from oodbench.leaderboard.parting import Record
from oodbench.leaderboard.selection import Selection, load, load_files, results_folder
from oodbench.marks import audits_below

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BY",
    "FORMATS",
    "METRICS",
    "SORTS",
    "Selection",
    "leaderboard",
    "load",
    "load_files",
    "markdown",
    "of_files",
    "ordered",
    "render",
    "results_folder",
    "summary",
    "with_best",
    "with_published",
]


def leaderboard(
    results: str | Path | None = None,
    *,
    reference: bool = False,
    selection: Selection | None = None,
    sort: str = "worst",
    by: str = "mean",
    paper: bool = False,
    tell: Callable[[str], None] = warnings.warn,
) -> "pd.DataFrame":
    """Return the means over OOD sets of stored results.

    Args:
        results: Folder of results; None takes ``./oodbench-results``, or the shipped reference
            where that does not exist.
        reference: Whether to take the shipped reference.
        selection: Which records count.
        sort: Order of the rows, as in `ordered`.
        by: ``mean``, or ``ood`` for rows of each OOD set too.
        paper: Whether to put published figures beside ours, as `with_published` does.
        tell: Told of scores and audits that are damaged.

    Returns:
        What `summary` returns, in order, with what `with_best` adds.

    Raises:
        DamagedFileError: If a record is damaged.
        RequestError: If there is none, or two cannot be told apart.
    """
    root, _ = results_folder(results, reference=reference)
    files = load_files(root, selection)
    return of_files(files, audits_below(root, tell), sort=sort, by=by, paper=paper, tell=tell)


def of_files(
    files: Mapping[Path, Record],
    audits: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    sort: str = "worst",
    by: str = "mean",
    paper: bool = False,
    tell: Callable[[str], None] = warnings.warn,
) -> "pd.DataFrame":
    """Return what `leaderboard` does, of records that were read already.

    Args:
        files: Records by their files, as `load_files` returns them.
        audits: Audits of the records, as `audits_below` returns them.
        sort: Order of the rows, as in `ordered`.
        by: ``mean`` or ``ood``, as in `summary`.
        paper: Whether to put published figures beside ours.
        tell: Told of scores that are damaged.

    Raises:
        RequestError: If two records cannot be told apart.
    """
    frame = ordered(summary(list(files.values()), audits, by=by), sort)
    frame = with_best(frame, files, tell)
    return with_published(frame) if paper else frame


def markdown(frame: "pd.DataFrame") -> str:
    """Return a frame as tables in GitHub's markdown, each with its footnotes."""
    return render(frame, "markdown")
