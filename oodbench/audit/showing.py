"""Audits as a table for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oodbench.audit.checks import NAMES
from oodbench.marks import Figure, Finding, explained
from oodbench.wording import merged, pattern

if TYPE_CHECKING:
    from rich.console import Console

Audit = Mapping[str, Any]

HEADERS = {"gradient": "grad.", "black_box": "b. box", "transfer": "trans."}
"""Of the checks whose names would make the table too wide."""
_WORDS = {"pass": "pass", "fail": "FAIL", "skipped": "–"}
_RANK = ("skipped", "pass", "fail")


def print_audits(console: "Console", audits: Sequence[Audit]) -> None:
    """Print a row for each set where one detector was audited, else the worst over the sets.

    Args:
        console: Where to.
        audits: What to show.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    groups: dict[tuple[Any, ...], list[Audit]] = {}
    for audit in audits:
        groups.setdefault(_group(audit), []).append(audit)
    by_set = len(groups) == 1
    table = Table(
        box=SIMPLE_HEAD,
        # As text, here and below: names are not markup.
        title=Text(_title(audits), "table.title"),
        title_justify="left",
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        padding=(0, 1, 0, 0),
    )
    table.add_column("OOD set" if by_set else "detector", overflow="fold")
    for name in NAMES:
        table.add_column(HEADERS.get(name, name), no_wrap=True)
    if by_set:
        for audit in audits:
            table.add_row(Text(audit["set"]), *_verdicts([audit]))
    else:
        for members in groups.values():
            table.add_row(Text(_label(members[0], groups)), *_verdicts(members))
    console.print(table)
    console.print()
    for line in _lines(audits, groups):
        console.print(line, highlight=False, markup=False)


def _group(audit: Audit) -> tuple[Any, ...]:
    return audit["detector"], audit["perturbation"], audit["eps"], audit["seed"]


def _verdicts(members: Sequence[Audit]) -> list[str]:
    """Return the worst verdict of each check."""
    worst = []
    for name in NAMES:
        found = [
            check["verdict"]
            for audit in members
            for check in audit["checks"]
            if check["name"] == name
        ]
        worst.append(_WORDS[max(found, key=_RANK.index, default="skipped")])
    return worst


def _title(audits: Sequence[Audit]) -> str:
    first = audits[0]
    parts = [f"audit, suite {first['suite']}"]
    parts += [str(first[key]) for key in ("detector", "perturbation") if _same(audits, key)]
    if first["eps"] and _same(audits, "eps"):
        parts.append(f"eps {first['eps']}")
    if _same(audits, "seed"):
        parts.append(f"seed {first['seed']}")
    return ", ".join(parts)


def _same(audits: Sequence[Audit], key: str) -> bool:
    return len({audit[key] for audit in audits}) == 1


def _label(audit: Audit, groups: Mapping[tuple[Any, ...], Any]) -> str:
    """Return what tells a row from the others."""
    parts = [str(audit["detector"])]
    if len({attack for _, attack, _, _ in groups}) > 1:
        parts.append(str(audit["perturbation"]))
    if len({seed for _, _, _, seed in groups}) > 1:
        parts.append(f"seed {audit['seed']}")
    return ", ".join(parts)


def _lines(audits: Sequence[Audit], groups: Mapping[tuple[Any, ...], list[Audit]]) -> list[str]:
    """Say what failed, then what else there is to know."""
    figures = [
        Figure(
            _label(members[0], groups),
            members[0]["perturbation"],
            len(members),
            len(members),
            [finding for audit in members for finding in _findings(audit)],
        )
        for members in groups.values()
    ]
    failed = [f"{line}." for line in explained(figures)]
    notes: dict[str, list[tuple[str, str]]] = {}
    for audit in audits:
        for note in audit["notes"]:
            whom = f"{audit['detector']} on {audit['set']}"
            notes.setdefault(pattern(note), []).append((whom, note))
    told = [
        f"{', '.join(whom for whom, _ in found)}: {merged([note for _, note in found])}."
        for found in notes.values()
    ]
    fewest = min(audit["n"] for audit in audits)
    most = max(audit["n"] for audit in audits)
    count = str(most) if fewest == most else f"{fewest}–{most}"
    what = f"On {count} images of each set"
    if len(groups) > 1:
        what += ", the worst verdict over the sets"
    return [
        f"{what}; – is not checked, --json says why.",
        *(failed or ["No check failed."]),
        *told,
    ]


def _findings(audit: Audit) -> list[Finding]:
    names = (audit["detector"], audit["perturbation"], audit["set"], audit["seed"])
    return [
        Finding(*names, check["name"], check["told"])
        for check in audit["checks"]
        if check["verdict"] == "fail"
    ]
