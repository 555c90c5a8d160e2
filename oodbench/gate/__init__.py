"""The regression gate: stored results against a reference.

`check` compares, `Report` says what was found and how to exit, `reporting` shows it.
"""

from collections.abc import Sequence
from pathlib import Path

from oodbench.errors import RequestError
from oodbench.gate.comparing import COMPARED, DRIFT, Finding, Report, Status, compare
from oodbench.gate.deciding import TOLERANCE, Change, Paired, decide
from oodbench.gate.matching import Results, Stored, chosen, matched, reference_of, results_of
from oodbench.leaderboard import Selection
from oodbench.progress import Progress

__all__ = [
    "COMPARED",
    "DRIFT",
    "TOLERANCE",
    "Change",
    "Finding",
    "Paired",
    "Report",
    "Status",
    "check",
    "check_again",
    "decide",
]


def check(
    results: str | Path | None = None,
    against: str | Path | None = None,
    *,
    selection: Selection | None = None,
    tolerance: float = TOLERANCE,
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compare results with a reference, cell by cell.

    Args:
        results: Folder of results; None takes ``./oodbench-results``, never the reference.
        against: Folder of the reference; None takes the one that ships, of whose suites those
            count that the results have something of.
        selection: Which cells count.
        tolerance: Loss that is let pass, a fraction in [0, 1).
        allow_missing: Whether cells may be missing.
        progress: Where to report.

    Raises:
        RequestError: If there is nothing to compare, or the tolerance is none.
        DamagedFileError: If a file is damaged.
    """
    _check_tolerance(tolerance)
    mine, reference = results_of(results, against)
    before = reference.stored(progress)
    same = mine.root.resolve() == reference.root.resolve()
    after = before if same else mine.stored(progress)
    if selection is not None:
        before, after = _chosen_of_both(
            selection, before, after, f"{reference.name} or {mine.name}"
        )
    if reference.ships:
        before = _of_suites_at_hand(before, after, reference, mine, progress)
    matches = matched(before, after)
    findings = compare(matches, mine, reference, tolerance=tolerance, progress=progress)
    return Report(findings, mine.name, reference.name, tolerance, allow_missing, same)


def _of_suites_at_hand(
    before: Sequence[Stored],
    after: Sequence[Stored],
    reference: Results,
    mine: Results,
    progress: Progress | None,
) -> list[Stored]:
    """Return the cells of a reference whose suites some results are of, and tell of the others.

    What ships has suites that not everybody has the images of. Nothing is left out where no suite
    would be left.
    """
    at_hand = {stored.record["suite"] for stored in after}
    suites = dict.fromkeys(stored.record["suite"] for stored in before)
    others = [suite for suite in suites if suite not in at_hand]
    if not others or len(others) == len(suites):
        return list(before)
    (progress or Progress()).note(
        f"{reference.name} has {', '.join(others)} too, of which {mine.name} has nothing"
    )
    return [stored for stored in before if stored.record["suite"] in at_hand]


def check_again(
    results: str | Path,
    against: str | Path | None = None,
    *,
    selection: Selection | None = None,
    tolerance: float = TOLERANCE,
    device: str | None = None,
    batch_size: int | None = None,
    data_root: str | Path | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compute cells of a reference again from its weights, and compare these.

    Args:
        results: Where they go; what is there of the same cells is replaced.
        against: Folder of the reference; None takes the one that ships.
        selection: Which cells of the reference.
        tolerance: Loss that is let pass, a fraction in [0, 1).
        device: Device such as ``cuda:0``.
        batch_size: Images at once.
        data_root: Folder of image data.
        store: Folder of weights; None takes those that ship where the reference does.
        progress: Where to report.

    Raises:
        RequestError: If the cells cannot be asked for again, or their weights are not there.
        DamagedFileError: If a file is damaged.
    """
    from oodbench.api import Places
    from oodbench.gate.rerunning import rerun

    _check_tolerance(tolerance)
    reference = reference_of(against)
    before = chosen(selection or Selection(), reference.stored(progress), reference.name)
    places = Places(device, batch_size, data_root, results, store)
    again = rerun(before, Path(results), reference, places, progress)
    mine = Results(Path(results))
    findings = compare(
        matched(before, again.stored),
        mine,
        reference,
        tolerance=tolerance,
        failed=again.failed,
        progress=progress,
    )
    return Report(findings, mine.name, reference.name, tolerance)


def _chosen_of_both(
    selection: Selection, before: Sequence[Stored], after: Sequence[Stored], where: str
) -> tuple[list[Stored], list[Stored]]:
    """Return what is wanted of two folders; what one of them has may be named."""
    if before is after:
        both = chosen(selection, before, where)
        return both, both
    both = chosen(selection, [*before, *after], where)
    old = {id(each) for each in before}
    return [e for e in both if id(e) in old], [e for e in both if id(e) not in old]


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance < 1:
        raise RequestError(
            f"--tolerance {tolerance:g}: a fraction such as {TOLERANCE} is meant, half a point"
        )
