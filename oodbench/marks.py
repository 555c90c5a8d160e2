"""Which attacked figures are to be read with care: the checks that the attack behind one failed.

A table marks such a figure with `MARK` and says under it what failed. What a record itself tells
is checked without an audit; an audit beside the record adds what it tried.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.audit.checks import Check, free_checks
from oodbench.audit.storing import Audit, audit_beside, belongs, find_audits, read_audit
from oodbench.errors import DamagedFileError
from oodbench.wording import merged, pattern

MARK = "†"
MEANING = (
    "the attack failed a check (`oodbench audit`); another may find the detector weaker than this"
)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """A check that the attack behind a cell failed.

    Attributes:
        detector: Name of the detector.
        perturbation: Name of the attack.
        image_set: Name of the OOD set.
        seed: Training seed.
        check: Name of the check.
        told: What it found, in plain words.
    """

    detector: str
    perturbation: str
    image_set: str
    seed: int
    check: str
    told: str


def marks(record: Mapping[str, Any], audit: Mapping[str, Any] | None = None) -> list[Finding]:
    """Return the checks that the attack of a record failed.

    The published attack is kept as it is, faults included, and not held to them.

    Args:
        record: A record.
        audit: Its audit, if there is one; one of another record counts as none.
    """
    if record["preset"] != "standard":
        return []
    if audit is not None and belongs(audit, record):
        failed = [check for check in audit["checks"] if check["verdict"] == "fail"]
        told = {check["name"]: check["told"] for check in failed}
    else:
        told = {check.name: check.told for check in _from_record(record) if check.failed}
    names = (record["detector"], record["perturbation"], record["set"], record["seed"])
    return [Finding(*names, check, text) for check, text in told.items()]


def _from_record(record: Mapping[str, Any]) -> list[Check]:
    attack = record["attack"] or {}
    # Where both sides are attacked the search on in-distribution images stands for itself.
    searches = [attack, attack.get("id") or {}]
    return [check for search in searches if search.get("budget") for check in free_checks(search)]


def audits_below(root: Path, tell: Tell = warnings.warn) -> dict[str, Audit]:
    """Return the audits below a results folder by identity of the record.

    One that is damaged is told and left out: no table fails for it.
    """
    found = {}
    for path in find_audits(root):
        try:
            audit = read_audit(path)
        except DamagedFileError as error:
            tell(f"{error}; the table goes without it")
        else:
            found[audit["identity"]] = audit
    return found


def audits_of(
    records: Iterable[tuple[Path, Mapping[str, Any]]], tell: Tell = warnings.warn
) -> dict[str, Audit]:
    """Return the audits beside some records by identity, as `audits_below` does.

    Args:
        records: Files and what they hold.
        tell: Told of what is damaged.
    """
    found = {}
    for path, record in records:
        try:
            audit = audit_beside(path, record)
        except DamagedFileError as error:
            tell(f"{error}; the table goes without it")
            continue
        if audit is not None:
            found[record["identity"]] = audit
    return found


@dataclass(frozen=True)
class Figure:
    """A figure of a table, the mean of some cells.

    Attributes:
        row: What its row is called.
        column: What its attack is called.
        cells: Number of the cells.
        findings: What was found of any of them.
    """

    row: str
    column: str
    cells: int
    findings: Sequence[Finding]


def explained(figures: Iterable[Figure]) -> list[str]:
    """Return a line for each attack and fault, with those whom it concerns.

    Faults that differ in numbers alone are one, with ranges for numbers.
    """
    groups: dict[tuple[str, str, str], list[tuple[Figure, Finding]]] = {}
    for figure in figures:
        for finding in figure.findings:
            key = (figure.column, finding.check, pattern(finding.told))
            groups.setdefault(key, []).append((figure, finding))
    lines = []
    for (column, _, _), found in groups.items():
        concerned: dict[str, list[tuple[Figure, Finding]]] = {}
        for figure, finding in found:
            concerned.setdefault(figure.row, []).append((figure, finding))
        whom = ", ".join(_whom(row, mine) for row, mine in concerned.items())
        lines.append(f"{column} on {whom}: {merged([finding.told for _, finding in found])}")
    return lines


def _whom(row: str, found: Sequence[tuple[Figure, Finding]]) -> str:
    cells = {(finding.image_set, finding.seed) for _, finding in found}
    total = found[0][0].cells
    if len(cells) == total:
        return row
    seeds = {finding.seed for figure, _ in found for finding in figure.findings}
    noun = "sets" if len(seeds) == 1 else "cells"
    return f"{row} ({len(cells)} of {total} {noun})"
