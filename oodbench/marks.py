"""Which attacked figures are to be read with care: the checks that the attack behind one failed.

A table marks such a figure with `MARK` and says under it what failed. What a record itself tells
is checked without an audit; an audit beside the record adds what it tried.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.audit.checks import FREE, Check, free_checks
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
    told = {check.name: check.told for check in _from_record(record) if check.failed}
    if audit is not None and belongs(audit, record):
        # It has looked at the search on OOD images, and knows more of that one alone.
        told = {check.name: check.told for check in _on_id_images(record) if check.failed}
        told |= {
            check["name"]: check["told"] for check in audit["checks"] if check["verdict"] == "fail"
        }
    names = (record["detector"], record["perturbation"], record["set"], record["seed"])
    return [Finding(*names, check, text) for check, text in told.items()]


def _from_record(record: Mapping[str, Any]) -> list[Check]:
    attack = record["attack"] or {}
    return [*(free_checks(attack) if attack.get("budget") else []), *_on_id_images(record)]


def _on_id_images(record: Mapping[str, Any]) -> list[Check]:
    """Check the search on in-distribution images, where both sides are attacked."""
    search = (record["attack"] or {}).get("id") or {}
    return free_checks(search) if search.get("budget") else []


def audits_below(root: Path, tell: Tell = warnings.warn) -> dict[str, Audit]:
    """Return the audits below a results folder, by identity of the record and digest of scores.

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
            found[audit["scores"]] = audit
    return found


def audit_of(
    record: Mapping[str, Any], audits: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the audit of a record's search on OOD images, if there is one of it as it is.

    Args:
        record: A record.
        audits: As `audits_below` returns them.
    """
    key = record["digests"].get("scores") if record["side"] == "both" else record["identity"]
    found = audits.get(key)
    return found if found is not None and belongs(found, record) else None


def audits_of(
    records: Iterable[tuple[Path, Mapping[str, Any]]], tell: Tell = warnings.warn
) -> dict[str, Audit]:
    """Return the audits beside some records, as `audits_below` does.

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
            found[audit["identity"]] = audit
            found[audit["scores"]] = audit
    return found


@dataclass(frozen=True)
class Figure:
    """A figure of a table, the mean of some cells.

    Attributes:
        row: What its row is called.
        column: What its attack is called.
        cells: Number of the cells.
        audited: How many of them have an audit.
        findings: What was found of any of them.
        seeds: Training seeds of the cells.
    """

    row: str
    column: str
    cells: int
    audited: int
    findings: Sequence[Finding]
    seeds: int = 1


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
    """Name a row and how many of its cells are meant, where that is not all."""
    figure, finding = found[0]
    count = len({(each.image_set, each.seed) for _, each in found})
    if count == figure.cells:
        return row
    if finding.check not in FREE and figure.audited < figure.cells:
        return f"{row} ({count} of {figure.audited} audited cells, of {figure.cells} in all)"
    return f"{row} ({count} of {figure.cells} {'sets' if figure.seeds == 1 else 'cells'})"
