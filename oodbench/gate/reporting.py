"""What a check found, for people, pull requests and CI."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from oodbench.files import write_atomically
from oodbench.gate.comparing import Finding, Report, Status
from oodbench.gate.deciding import Change
from oodbench.gate.matching import Record

if TYPE_CHECKING:
    from rich.console import Console

HEADER = ("", "cell", "metric", "before", "after", "change", "noise")

_SHOWN = 20
"""Cells of each kind that a table shows, of those that are not worse."""

_NAMED = 3
"""Cells that a line names before it counts the rest."""

_METRICS = {
    "auroc": "AUROC",
    "fpr95": "FPR@95",
    "fnr": "FNR@95",
    "accuracy": "ID acc.",
    "aupr_out": "AUPR-out",
    "aupr_in": "AUPR-in",
    "fpr95_ood": "FPR@95-OOD",
    "detection_error": "det. error",
}


# Names


def titles(findings: Sequence[Finding]) -> list[str]:
    """Return a name for each cell: what tells them apart is said, and nothing else."""
    records = [finding.record for finding in findings]
    suites = {record["suite"] for record in records}
    names = [
        f"{record['suite']}: {_title(record)}" if len(suites) > 1 else _title(record)
        for record in records
    ]
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        alike.setdefault(name, []).append(number)
    for numbers in alike.values():
        if len(numbers) > 1:
            details = [_details(records[number]) for number in numbers]
            known = dict.fromkeys(key for detail in details for key in detail)
            differ = [k for k in known if len({detail.get(k) for detail in details}) > 1]
            for number, detail in zip(numbers, details, strict=True):
                told = ", ".join(
                    f"{name} {detail[name]}" if name in detail else f"no {name}" for name in differ
                )
                key = records[number]["cell_key"][:12]
                names[number] += f" ({told or f'cell {key}'})"
    return names


def _title(record: Record) -> str:
    attack = " ".join(filter(None, [record["perturbation"], record["eps"]]))
    title = f"{record['detector']}, seed {record['seed']}, {attack} on {record['set']}"
    if record["side"] != "ood":
        title += f", side {record['side']}"
    return title if record["preset"] == "standard" else f"{title}, {record['preset']}"


def _details(record: Record) -> dict[str, Any]:
    attack = record["attack"] or {}
    return {
        "network": record["network"],
        "schedule": record["schedule"]["name"],
        "precision": record["precision"],
        "steps": attack.get("budget"),
        "images": f"{record['n_id']} + {record['n_ood']}",
        **{name: str(value) for name, value in record["params"].items()},
        **{name: str(value) for name, value in attack.get("params", {}).items()},
    }


# Rows


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _row(title: str, finding: Finding) -> tuple[str, ...]:
    """Return a cell's row: its first metric that is worse, else the one that changed most."""
    change = next(iter(finding.worse), finding.foremost)
    if change is None:
        return (finding.status.value, title, *[""] * (len(HEADER) - 2))
    others = f" +{len(finding.worse) - 1}" if finding.worse[1:] else ""
    return (
        finding.status.value,
        title,
        _METRICS[change.metric] + others,
        _percent(change.before),
        _percent(change.after),
        f"{100 * (change.after - change.before):+.2f}",
        _percent(change.margin) if change.margin else "",
    )


def rows(report: Report) -> list[tuple[str, ...]]:
    """Return what changed, a row a cell, as in `HEADER`: all that are worse, then some others."""
    names = dict(zip(map(id, report.findings), titles(report.findings), strict=True))
    shown = _worst_first(report.of(Status.WORSE))
    for status in (Status.BETTER, Status.CHANGED):
        shown += _worst_first(report.of(status))[:_SHOWN]
    return [_row(names[id(finding)], finding) for finding in shown]


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(
        findings,
        key=lambda finding: -max((abs(change.harm) for change in finding.changes), default=0.0),
    )


# Sentences


def summary(report: Report) -> str:
    """Return what was compared with what, and how it came out, in one line."""
    counts = Counter(finding.status for finding in report.findings)
    order = (Status.WORSE, Status.BETTER, Status.CHANGED, Status.RETRAINED, Status.SAME)
    told = [f"{counts[status]} {status.value}" for status in order if counts[status]]
    others = [
        f"{counts[status]} {status.value}"
        for status in (Status.MISSING, Status.INCOMPARABLE, Status.NEW)
        if counts[status]
    ]
    detail = f": {', '.join(told)}" if told else ""
    rest = f"; {', '.join(others)}" if others else ""
    return (
        f"{_cells(report.compared)} of {report.results} compared with {report.against}"
        f"{detail}{rest}."
    )


def notes(report: Report) -> list[str]:
    """Return what has to be said under the table."""
    return [*_notes(report)]


def _notes(report: Report) -> Iterator[str]:
    if report.itself:
        yield "Both are one folder: against itself nothing can be worse."
    for status in (Status.BETTER, Status.CHANGED):
        hidden = len(report.of(status)) - _SHOWN
        if hidden > 0:
            yield f"{hidden} more {status.value}."
    if any(finding.worse[1:] for finding in report.findings):
        yield "+1: so many more metrics of the cell are worse."
    drifts = [f.drift for f in report.of(Status.CHANGED, Status.WORSE) if f.drift]
    if drifts:
        yield f"Same weights, other scores: they drifted by up to {max(drifts):.2g}."
    if any(change.margin for finding in report.findings for change in finding.changes):
        yield (
            "Other weights: worse is what is beyond noise, the joint bound of all changes by the"
            " choice of images at a family-wise 1 %. Spread over training seeds is not in it."
        )
    for what, cells in _versions(report):
        yield f"Other versions: {what} ({_cells(cells)})."
    for status in (Status.NEW, Status.MISSING):
        found = report.of(status)
        if found:
            yield f"{status.value.capitalize()}: {_some(found)}."
    found = report.of(Status.INCOMPARABLE)
    for why in dict.fromkeys(finding.why for finding in found):
        mine = [finding for finding in found if finding.why == why]
        yield f"Incomparable, {why}: {_some(mine)}."
    unfounded = [finding for finding in report.findings if finding.unfounded]
    if unfounded:
        yield f"Stored figures do not follow from stored scores: {_some(unfounded)}."


def _versions(report: Report) -> list[tuple[str, int]]:
    told = Counter(
        f"{name} {before} → {after}"
        for finding in report.findings
        for name, (before, after) in finding.versions.items()
    )
    return list(told.items())


def problems(report: Report) -> list[str]:
    """Return why the check itself failed, a line each; empty if it did not."""
    missing = [] if report.allow_missing else report.of(Status.MISSING)
    lines = []
    if missing:
        lines.append(
            f"{report.results} lacks {_some(missing)} of {report.against}; `oodbench run` makes"
            " what is missing, --allow-missing lets it pass"
        )
    incomparable = report.of(Status.INCOMPARABLE)
    if incomparable:
        whys = list(dict.fromkeys(finding.why for finding in incomparable))
        more = f", and {len(whys) - 1} more reasons" if whys[1:] else ""
        lines.append(f"{_some(incomparable)} cannot be compared: {whys[0]}{more}")
    if not report.compared and not lines:
        lines.append(
            f"no cell of {report.results} was compared with {report.against}: they have none in"
            " common"
        )
    return lines


def _some(findings: Sequence[Finding]) -> str:
    """Name some of the cells and count the rest."""
    names = titles(findings)
    if len(names) <= _NAMED:
        return "; ".join(names)
    counts = Counter(finding.record["detector"] for finding in findings)
    by_detector = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{len(names)} cells ({by_detector}), such as {names[0]}"


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"


# Forms


def print_report(console: "Console", report: Report) -> None:
    """Print a table of what changed, and what there is to say."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    body = rows(report)
    if body:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for number, header in enumerate(HEADER):
            # Names are cut nowhere: they are what the table is for.
            table.add_column(header, justify="right" if number > 2 else "left", overflow="fold")
        for row in body:
            # As text: names are not markup.
            table.add_row(*map(Text, row), style="bold" if row[0] == Status.WORSE else None)
        console.print(table)
        console.print()
    plain = not console.is_terminal
    console.print(summary(report), highlight=False, markup=False, soft_wrap=plain)
    for note in notes(report):
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=plain)


def markdown(report: Report) -> str:
    """Return the report for a comment in a pull request."""
    from tabulate import tabulate

    verdict = {0: "passed", 1: "something got worse", 2: "could not be carried out"}
    parts = [f"### oodbench check: {verdict[report.exit_code]}", _escaped(summary(report))]
    body = [[_escaped(text) for text in row] for row in rows(report)]
    if body:
        parts.append(
            tabulate(
                [[f"**{row[0]}**" if row[0] == "worse" else row[0], *row[1:]] for row in body],
                headers=HEADER,
                tablefmt="pipe",
                colalign=["left", "left", "left", "right", "right", "right", "right"],
                disable_numparse=True,
            )
        )
    said = "\n".join(f"- {_escaped(note)}" for note in notes(report))
    return "\n\n".join(filter(None, [*parts, said])) + "\n"


def _escaped(text: str) -> str:
    """Escape what GitHub would take for markup, entities, or the name of somebody to call."""
    text = re.sub(r"([\\|*<>`\[\]&~#])", r"\\\1", " ".join(text.split()))
    # A zero-width joiner keeps @name from calling anybody.
    text = re.sub(r"@(?=[A-Za-z])", "@\u200d", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def as_json(report: Report) -> str:
    """Return everything that was found as one JSON document, figures as fractions."""
    cells = [
        {
            "title": title,
            "status": finding.status.value,
            **{
                name: finding.record[name]
                for name in ("cell_key", "suite", "detector", "seed", "perturbation")
            },
            **{name: finding.record[name] for name in ("preset", "eps", "side", "set")},
            "changes": [
                {
                    "metric": change.metric,
                    "before": change.before,
                    "after": change.after,
                    "margin": change.margin,
                    "worse": change.worse,
                }
                for change in finding.changes
            ],
            "drift": finding.drift,
            "unfounded": finding.unfounded,
            "why": finding.why,
            "versions": {name: list(pair) for name, pair in finding.versions.items()},
        }
        for finding, title in zip(report.findings, titles(report.findings), strict=True)
    ]
    whole = {
        "exit_code": report.exit_code,
        "results": report.results,
        "against": report.against,
        "tolerance": report.tolerance,
        "compared": report.compared,
        "itself": report.itself,
        "cells": cells,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False)


# JUnit

_CONTROL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """Return the report as JUnit XML: a test case for each cell.

    A cell that is worse is a failure; one that is missing or incomparable an error, as is that
    nothing was compared; a new cell, or a missing one that may be, is skipped.
    """
    cases = []
    for finding, title in zip(report.findings, titles(report.findings), strict=True):
        record = finding.record
        group = _clean(f"{record['suite']}.{record['detector']}")
        case = ET.Element("testcase", classname=group, name=_clean(title))
        if finding.status is Status.WORSE:
            told = [_told(change) for change in finding.worse]
            ET.SubElement(case, "failure", message=told[0]).text = "\n".join(told)
        elif finding.status is Status.INCOMPARABLE:
            ET.SubElement(case, "error", message=_clean(f"incomparable: {finding.why}"))
        elif finding.status is Status.MISSING:
            kind = "skipped" if report.allow_missing else "error"
            ET.SubElement(case, kind, message="missing")
        elif finding.status is Status.NEW:
            ET.SubElement(case, "skipped", message="new: the reference has no such cell")
        cases.append(case)
    if not report.compared:
        cases.append(_error_case("no cell was compared"))
    return _suite(cases)


def junit_of_error(message: str) -> str:
    """Return JUnit XML that says why there is no report."""
    return _suite([_error_case(message)])


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def _told(change: Change) -> str:
    name, before, after = _METRICS[change.metric], _percent(change.before), _percent(change.after)
    noise = f", noise {_percent(change.margin)}" if change.margin else ""
    return f"{name} {before} -> {after} (worse by {_percent(change.harm)} points{noise})"


def _error_case(message: str) -> ET.Element:
    case = ET.Element("testcase", classname="oodbench", name="check")
    ET.SubElement(case, "error", message=_clean(message))
    return case


def _suite(cases: Sequence[ET.Element]) -> str:
    def count(kind: str) -> str:
        return str(sum(case.find(kind) is not None for case in cases))

    totals = {
        "tests": str(len(cases)),
        "failures": count("failure"),
        "errors": count("error"),
        "skipped": count("skipped"),
    }
    root = ET.Element("testsuites", name="oodbench check")
    suite = ET.SubElement(root, "testsuite", {"name": "oodbench check", **totals})
    suite.extend(cases)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Leave out what XML cannot hold."""
    return _CONTROL.sub("", text)
