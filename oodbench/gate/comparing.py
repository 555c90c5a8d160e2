"""What became of each cell of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from oodbench import metrics
from oodbench.gate.deciding import HIGHER_IS_BETTER, TOLERANCE, Change, Paired, decide
from oodbench.gate.matching import Match, Record, Results, paired
from oodbench.progress import Progress
from oodbench.records import Arrays, arrays_digest

DRIFT = 1e-4
"""Difference of a score, of the same weights and image, beyond which a cell has changed."""

_FOLLOWS = 1e-9  # figures that follow from their scores differ by rounding at most


class Status(StrEnum):
    """What became of a cell."""

    SAME = "same"
    """Same weights, and no score drifted."""
    CHANGED = "changed"
    """Same weights, but scores drifted; no metric is worse by more than the tolerance."""
    RETRAINED = "retrained"
    """Other weights, and nothing is worse beyond chance and tolerance."""
    BETTER = "better"
    """Other weights, and something is better beyond chance and tolerance."""
    WORSE = "worse"
    """A metric got worse beyond the tolerance, and of other weights beyond chance."""
    NEW = "new"
    """The reference has no such cell."""
    MISSING = "missing"
    """Only the reference has it."""
    INCOMPARABLE = "incomparable"
    """Both are there, but not of the same protocol or data."""


COMPARED = frozenset({Status.SAME, Status.CHANGED, Status.RETRAINED, Status.BETTER, Status.WORSE})
"""What a cell is that was compared."""


@dataclass(frozen=True)
class Finding:
    """What became of a cell.

    Attributes:
        record: A record that says which cell it is.
        status: What became of it.
        changes: Metrics before and after.
        drift: Largest difference of a score, where weights are the same.
        why: What hinders a comparison.
        versions: What was made by another version, before and after.
        unfounded: Whether stored figures do not follow from the stored scores.
    """

    record: Record
    status: Status
    changes: Sequence[Change] = ()
    drift: float | None = None
    why: str = ""
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    unfounded: bool = False

    @property
    def worse(self) -> list[Change]:
        """The metrics that got worse."""
        return [change for change in self.changes if change.worse]

    @property
    def foremost(self) -> Change | None:
        """The metric that changed most."""
        return max(self.changes, key=lambda change: abs(change.harm), default=None)


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        findings: What became of each cell.
        results: What was checked.
        against: What it was held against.
        tolerance: Loss that was let pass.
        allow_missing: Whether missing cells were let pass.
        itself: Whether both are the same folder.
    """

    findings: list[Finding]
    results: str
    against: str
    tolerance: float = TOLERANCE
    allow_missing: bool = False
    itself: bool = False

    def of(self, *statuses: Status) -> list[Finding]:
        """Return the cells of which some status is true."""
        return [finding for finding in self.findings if finding.status in statuses]

    @property
    def compared(self) -> int:
        """How many cells were compared."""
        return len(self.of(*COMPARED))

    @property
    def exit_code(self) -> int:
        """Exit code: 2 if the check itself failed, 1 if something is worse, else 0."""
        missing = self.of(Status.MISSING) and not self.allow_missing
        if missing or self.of(Status.INCOMPARABLE) or not self.compared:
            return 2
        return 1 if self.of(Status.WORSE) else 0


def compare(
    matches: Sequence[Match],
    results: Results,
    against: Results,
    *,
    tolerance: float = TOLERANCE,
    failed: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Compare what two folders have of the same questions.

    Args:
        matches: What they have.
        results: The folder to check.
        against: The reference.
        tolerance: Loss that is let pass, a fraction.
        failed: Why cells could not be computed again, by their ``cell_key``.
        progress: Where to report.

    Raises:
        DamagedFileError: If scores are damaged.
    """
    found: dict[int, Finding] = {}
    retrained: dict[int, Paired] = {}
    unfounded: set[int] = set()
    with (progress or Progress()).task("comparing cells", len(matches)) as task:
        for number, match in enumerate(matches):
            task.advance(1)
            why = match.obstacle() or (failed or {}).get(match.record["cell_key"], "")
            if why:
                found[number] = Finding(match.record, Status.INCOMPARABLE, why=why)
            elif not match.is_pair:
                found[number] = Finding(match.record, Status.NEW if match.after else Status.MISSING)
            else:
                try:
                    scores = _Scores(match, results, against)
                    if match.same_weights:
                        found[number] = _drifted(match, scores, tolerance)
                    else:
                        if scores.unfounded:
                            unfounded.add(number)
                        retrained[number] = scores.paired()
                except ValueError as error:
                    # NaN, or scores of other images.
                    found[number] = Finding(match.record, Status.INCOMPARABLE, why=str(error))
        decided = decide(list(retrained.values()), tolerance=tolerance)
        for number, changes in zip(retrained, decided, strict=True):
            found[number] = _retrained(matches[number], changes, number in unfounded)
    return [found[number] for number in range(len(matches))]


class _Scores:
    """The scores of a pair of cells, before and after, in the order of the ids."""

    def __init__(self, match: Match, results: Results, against: Results) -> None:
        self.match = match
        self._both: tuple[dict[str, float], dict[str, float]] | None = None
        sides = [(against, match.before[0]), (results, match.after[0])]
        if sides[0][1].path.resolve() == sides[1][1].path.resolve():
            # A folder against itself: everything is read once.
            sides = [sides[0]]
        read = [
            (store.ood(stored), store.clean(stored), store.attacked(stored))
            for store, stored in sides
        ]
        before, after = read[0], read[-1]
        self.ood = paired(before[0], after[0])
        self.clean = paired(before[1], after[1])
        self.attacked: tuple[Arrays, Arrays] | None = None
        if before[2] is not None and after[2] is not None:
            self.attacked = paired(before[2], after[2])

    def metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the metrics before and after, from the scores.

        Raises:
            ValueError: If scores contain NaN.
        """
        if self._both is None:
            old = self._metrics(0)
            self._both = old, old if self.match.same_scores else self._metrics(1)
        return self._both

    def _metrics(self, which: int) -> dict[str, float]:
        clean, others = self.clean[which]["scores"], self.ood[which]["scores"]
        attacked = None if self.attacked is None else self.attacked[which]["scores"]
        values = metrics.compute(
            clean if attacked is None else attacked,
            others,
            clean_id_scores=None if attacked is None else clean,
        )
        return values | {"accuracy": float(self.clean[which]["correct"].mean())}

    @property
    def guarded(self) -> list[str]:
        """The metrics that mean something here: without attack the FNR is 5 % by definition."""
        return [name for name in HIGHER_IS_BETTER if name != "fnr" or self.attacked is not None]

    @property
    def unfounded(self) -> bool:
        """Whether stored figures do not follow from the stored scores.

        Raises:
            ValueError: If scores contain NaN.
        """
        stored = self.match.before[0].record, self.match.after[0].record
        return any(
            abs(derived[metric] - record[metric]) > _FOLLOWS
            for derived, record in zip(self.metrics(), stored, strict=True)
            for metric in self.guarded
        )

    @property
    def drift(self) -> float:
        """Largest difference of a score."""
        pairs = [self.ood, self.clean, *([] if self.attacked is None else [self.attacked])]
        return max(_largest_difference(old["scores"], new["scores"]) for old, new in pairs)

    def paired(self) -> Paired:
        """Return what the decision function takes."""
        digests = self.match.record["digests"]

        def images(name: str, arrays: Arrays) -> tuple[str, str]:
            # Some of a set's images are others than all of them.
            return digests[name], arrays_digest({"ids": arrays["ids"]})

        def scores(pair: tuple[Arrays, Arrays], name: str = "scores") -> Any:
            return tuple(arrays[name] for arrays in pair)

        return Paired(
            id_images=images("id", self.clean[0]),
            ood_images=images("set", self.ood[0]),
            id_scores=scores(self.clean),
            ood_scores=scores(self.ood),
            attacked=None if self.attacked is None else scores(self.attacked),
            correct=scores(self.clean, "correct"),
        )


def _largest_difference(old: Any, new: Any) -> float:
    old, new = np.asarray(old, np.float64), np.asarray(new, np.float64)
    # The difference of equal infinities is not a number.
    return float(np.abs(np.subtract(new, old, out=np.zeros(old.shape), where=new != old)).max())


def _drifted(match: Match, scores: _Scores, tolerance: float) -> Finding:
    """Judge a cell of the same weights and images: nothing is left to chance."""
    stored = match.before[0].record, match.after[0].record
    derived = scores.metrics()
    drift = 0.0 if match.same_scores else scores.drift
    changes = []
    for metric in scores.guarded:
        from_scores, as_stored = (
            Change(metric, values[0][metric], values[1][metric], tolerance=tolerance)
            for values in (derived, stored)
        )
        # A fault of the metrics shows in what is stored, one of the scores in what follows.
        changes.append(max(from_scores, as_stored, key=lambda change: change.harm))
    status = Status.CHANGED if drift > DRIFT else Status.SAME
    if any(change.worse for change in changes):
        status = Status.WORSE
    return Finding(
        match.record, status, changes, drift, versions=match.versions(), unfounded=scores.unfounded
    )


def _retrained(match: Match, changes: list[Change], unfounded: bool) -> Finding:
    status = Status.BETTER if any(change.better for change in changes) else Status.RETRAINED
    if any(change.worse for change in changes):
        status = Status.WORSE
    return Finding(match.record, status, changes, versions=match.versions(), unfounded=unfounded)
