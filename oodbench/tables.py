"""Records as tables: for people by rich, for notebooks by pandas."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from oodbench.marks import MARK, MEANING, Figure, Finding, audit_of, explained, marks
from oodbench.views import ALL, GENUINE, near_sets, suite_called, views

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from oodbench.images import Suite

GroupKey = tuple[str, str, str, int, str, str | None]
"""Detector, its parameters, perturbation, training seed, side, radius."""

Bounds = Mapping[GroupKey, Mapping[str, Mapping[str, Sequence[float]]]]
"""Intervals of means by row of means, view and metric."""

Views = Mapping[str, Sequence[str]]
"""OOD sets by the view that a mean is over; see `oodbench.views`."""

_OF_GENUINE = "*"
"""Stands after the header of a mean without stand-ins."""

_INTERVAL = "95 %"
"""Header of the interval of the figure before it."""

_GAP = 3
"""Blanks between two columns."""

CONVENTION = (
    "FPR@95: share of OOD images accepted where 95 % of in-distribution images are"
    " (fpr95; OpenOOD's convention is fpr95_ood in the record)."
)

FNR_CONVENTION = (
    "FNR@95: share of in-distribution images rejected at that threshold, which is that of the"
    " clean ones; sides id and both attack them (fnr in the record)."
)


def frame(records: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Return one row a cell, columns as the fields of a record."""
    import pandas as pd

    return pd.DataFrame(list(records))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _interval(pair: Sequence[float]) -> str:
    return f"{_percent(pair[0])}–{_percent(pair[1])}"


def group_key(record: Mapping[str, Any]) -> GroupKey:
    """Return what the records of one row of means have in common."""
    return (
        record["detector"],
        str(record["params"]),
        record["perturbation"],
        record["seed"],
        record["side"],
        record["eps"],
    )


def attacks_id(records: Iterable[Mapping[str, Any]]) -> bool:
    """Whether in-distribution images are attacked in any of some records."""
    return any(record["side"] != "ood" for record in records)


def _groups(records: Iterable[dict[str, Any]]) -> dict[GroupKey, list[dict[str, Any]]]:
    grouped: dict[GroupKey, list[dict[str, Any]]] = {}
    for record in records:
        grouped.setdefault(group_key(record), []).append(record)
    return grouped


def _mean(records: Sequence[dict[str, Any]], metric: str) -> float:
    return float(sum(record[metric] for record in records) / len(records))


@dataclass(frozen=True)
class _Column:
    """A column of a table; one with a number may be left out, the highest first."""

    header: str
    cells: tuple[str, ...]
    expendable: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        return max(len(text) for text in (self.header, *self.cells))


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Leave columns out until none of the others is cut."""
    kept = list(columns)
    while sum(column.width + _GAP for column in kept) > width:
        last = max(kept, key=lambda column: column.expendable)
        if not last.expendable:
            break
        kept.remove(last)
    return kept


def print_tables(
    console: "Console",
    records: Sequence[dict[str, Any]],
    notes: Sequence[str] = (),
    mean_intervals: Bounds | None = None,
    changed: Sequence[str] = (),
    audits: Mapping[str, Mapping[str, Any]] | None = None,
    suite: "Suite | None" = None,
) -> None:
    """Print a row for each OOD set where there is one block of them, else a row of means.

    Args:
        console: Where to.
        records: What to show.
        notes: What stands under the table.
        mean_intervals: Intervals of the means over OOD sets by `group_key` and view.
        changed: What was asked for that is not usual, such as ``odin.temperature=10``.
        audits: Audits of the records by identity, as far as there are any.
        suite: Says which sets are stand-ins, near, or alike.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    groups = _groups(records)
    bounds = mean_intervals or {}
    by_set = len(groups) == 1
    sets = list(dict.fromkeys(record["set"] for record in records))
    shown, near = views(suite, sets), near_sets(suite, sets)
    # Near sets stand below the others, as they are in no mean.
    groups = {key: sorted(rows, key=lambda row: row["set"] in near) for key, rows in groups.items()}
    records = [record for rows in groups.values() for record in rows]
    columns = _by_set(records, bounds, shown) if by_set else _by_group(groups, bounds, shown)
    known = {
        key: [audit_of(record, audits or {}) for record in rows] for key, rows in groups.items()
    }
    found = {
        key: [marks(record, audit) for record, audit in zip(rows, known[key], strict=True)]
        for key, rows in groups.items()
    }
    audited = {key: sum(audit is not None for audit in each) for key, each in known.items()}
    means = len(shown) if by_set else 0
    columns += _marked(found, means)
    table = Table(
        box=SIMPLE_HEAD,
        # As text, here and below: names and values are not markup.
        title=Text(", ".join([_title(records), *changed]), "table.title"),
        title_justify="left",
        pad_edge=False,
        show_edge=False,
    )
    kept = _fitting(columns, console.width)
    for column in kept:
        justify: Literal["left", "right"] = "left" if column.left else "right"
        table.add_column(column.header, justify=justify, no_wrap=True)
    rows = list(zip(*(column.cells for column in kept), strict=True))
    for number, row in enumerate(rows):
        is_mean = number >= len(rows) - means
        if is_mean and number == len(rows) - means:
            table.add_section()
        table.add_row(*map(Text, row), style="bold" if is_mean else None)
    console.print(table)
    console.print()
    gone = _left_out(columns, kept)
    lines = [
        *_footnotes(records, notes, gone, by_set),
        *_set_notes(shown, near),
        *_faults(found, audited),
    ]
    for line in lines:
        console.print(line, style="dim", highlight=False, markup=False)


def _left_out(columns: Sequence[_Column], kept: Sequence[_Column]) -> list[str]:
    """Name the columns that have no room; an interval by the figure before it."""
    names, figure = [], ""
    for column in columns:
        if column.header.endswith(("↓", "↑")):
            figure = column.header.rstrip(" ↓↑")
        if column not in kept:
            interval = column.header == _INTERVAL
            names.append(f"{_INTERVAL} of {figure}" if interval else column.header)
    return names


Found = Mapping[GroupKey, Sequence[Sequence[Finding]]]
"""What checks of the attack found of each record of each row of means."""


def _set_notes(shown: Views, near: Sequence[str]) -> list[str]:
    """Say which sets the means leave out."""
    lines = []
    if GENUINE in shown:
        gone = ", ".join(name for name in shown[ALL] if name not in shown[GENUINE])
        lines.append(f"{_OF_GENUINE} without stand-ins ({gone}).")
    if near:
        lines.append(f"Near, and in no mean: {', '.join(near)}.")
    return lines


def _marked(found: Found, means: int) -> list[_Column]:
    """Return a column of marks, if any row has one."""
    each = [bool(one) for rows in found.values() for one in rows]
    whole = [any(rows) for rows in found.values()]
    flags = [*each, *whole * means] if means else whole
    return [_Column("", tuple(MARK if flag else "" for flag in flags), left=True)] * any(flags)


def _faults(found: Found, audited: Mapping[GroupKey, int]) -> list[str]:
    """Say what the marks mean."""
    several = len({key[3] for key in found}) > 1
    names = _attack_names(found)
    figures = [
        Figure(
            f"{detector}, seed {seed}" if several else detector,
            names[key] if side == "ood" else f"{names[key]} on side {side}",
            len(rows),
            audited[key],
            [finding for row in rows for finding in row],
        )
        for key, rows in found.items()
        for detector, _, _, seed, side, _ in [key]
    ]
    lines = [f"{MARK} {line}." for line in explained(figures)]
    return [f"{MARK} {MEANING}:", *lines] if lines else []


def _attack_names(keys: Iterable[GroupKey]) -> dict[GroupKey, str]:
    """Return what the attack of each row is called: with its radius where it has several."""
    known = list(keys)
    radii: dict[str, set[str | None]] = {}
    for key in known:
        radii.setdefault(key[2], set()).add(key[5])
    return {key: f"{key[2]} {key[5]}" if len(radii[key[2]]) > 1 else key[2] for key in known}


def _metrics(
    values: Sequence[Mapping[str, float]],
    bounds: Sequence[Mapping[str, Sequence[float]]],
    with_fnr: bool,
    genuine: Sequence[Mapping[str, float]] = (),
) -> list[_Column]:
    def shown(metric: str) -> tuple[str, ...]:
        return tuple(_percent(value[metric]) for value in values)

    def between(metric: str) -> tuple[str, ...]:
        return tuple(_interval(pair[metric]) if metric in pair else "" for pair in bounds)

    rejected = [_Column("FNR@95 ↓", shown("fnr")), _Column(_INTERVAL, between("fnr"), 3)]

    def beside(metric: str, header: str) -> list[_Column]:
        cells = tuple(_percent(value[metric]) if value else "" for value in genuine)
        return [_Column(f"{header} {_OF_GENUINE}", cells)] * bool(genuine)

    return [
        _Column("FPR@95 ↓", shown("fpr95")),
        *beside("fpr95", "FPR@95"),
        _Column(_INTERVAL, between("fpr95"), 2),
        *(rejected if with_fnr else []),
        _Column("AUROC ↑", shown("auroc")),
        *beside("auroc", "AUROC"),
        _Column(_INTERVAL, between("auroc"), 4),
        _Column("AUPR ↑", shown("aupr_out"), 1),
    ]


def _means(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {metric: _mean(records, metric) for metric in ("fpr95", "fnr", "auroc", "aupr_out")}


def _by_set(records: Sequence[dict[str, Any]], bounds: Bounds, shown: Views) -> list[_Column]:
    """One detector under one perturbation: a row for each OOD set, and the means."""
    names = tuple(record["set"] for record in records)
    titles = [v if v in (ALL, GENUINE) else f"{v} ({len(sets)})" for v, sets in shown.items()]
    known = bounds.get(group_key(records[0]), {})
    return [
        _Column("OOD set", (*names, *titles), left=True),
        *_metrics(
            [*records, *(_means(_of(records, sets)) for sets in shown.values())],
            [*(record["intervals"] for record in records), *(known.get(v, {}) for v in shown)],
            attacks_id(records),
        ),
    ]


def _of(records: Sequence[dict[str, Any]], sets: Sequence[str]) -> list[dict[str, Any]]:
    return [record for record in records if record["set"] in sets]


def _by_group(
    groups: Mapping[GroupKey, list[dict[str, Any]]], bounds: Bounds, shown: Views
) -> list[_Column]:
    """Several detectors, perturbations or seeds: a row of means over the OOD sets for each.

    What is the same in all rows stands in the title.
    """
    whole = max(len(rows) for rows in groups.values())
    labels = [
        ("detector", [key[0] for key in groups], True),
        ("attack", list(_attack_names(groups).values()), True),
        ("side", [key[4] for key in groups], True),
        ("seed", [str(key[3]) for key in groups], False),
        ("sets", [f"{len(rows)} of {whole}" for rows in groups.values()], False),
    ]
    columns = [
        _Column(header, tuple(cells), left=left)
        for header, cells, left in labels
        if len(set(cells)) > 1
    ]
    if not columns:
        columns = [_Column("parameters", tuple(key[1] for key in groups), left=True)]
    # A row that has near sets alone, others having failed, is the mean of these.
    counted = [_of(rows, shown[ALL]) or rows for rows in groups.values()]
    genuine = []
    if GENUINE in shown:
        parts = [_of(rows, shown[GENUINE]) for rows in groups.values()]
        genuine = [_means(part) if part else {} for part in parts]
    accuracy = tuple(_percent(rows[0]["accuracy"]) for rows in groups.values())
    return [
        *columns,
        *_metrics(
            [_means(rows) for rows in counted],
            [bounds.get(key, {}).get(ALL, {}) for key in groups],
            any(attacks_id(rows) for rows in groups.values()),
            genuine,
        ),
        _Column("acc.", accuracy, 3),
    ]


def _title(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    same = {key: len({str(record[key]) for record in records}) == 1 for key in first}
    parts = [f"suite {first['suite']}"]
    suite = suite_called(first["suite"])
    if suite is None or first["network"] != suite.network:
        parts.append(f"network {first['network']}")
    if same["detector"]:
        parts.append(first["detector"])
    if same["perturbation"]:
        parts.append(first["perturbation"])
    if same["side"] and first["side"] != "ood":
        parts.append(f"side {first['side']}")
    found = {record["eps"] for record in records if record["eps"]}
    radii = sorted(found, key=lambda eps: int(eps.partition("/")[0]))
    if radii:
        parts.append(f"eps {', '.join(radii)}")
    parts.append(f"preset {first['preset']}")
    if same["seed"]:
        parts.append(f"seed {first['seed']}")
    return ", ".join(parts)


def told_of_attack(preset: str, budget: int, queries: int, precision: str = "float32") -> str:
    """Return what a perturbation did and who chose the worst case; empty if it did nothing."""
    means = [f"{queries} candidates an image"] if queries else []
    if budget:
        means.append(f"{budget} gradient steps an image")
        if precision != "float32":
            means.append(f"searched in {precision}")
    if not means:
        return ""
    judges = ["the true score"]
    if preset == "paper":
        judges = ["the published score"] * (queries > 0) + ["the published loss"] * (budget > 0)
    return f"{', '.join(means)}, the worst case chosen by {', then by '.join(judges)}."


def told_of_fallback(records: Iterable[Mapping[str, Any]]) -> str:
    """Return what else searched images whose gradient leads nowhere; empty if nothing did."""
    found, images = {}, 0
    for record in records:
        attack = record["attack"] or {}
        for search in (attack, attack.get("id") or {}):
            fallback = search.get("fallback")
            if fallback:
                found[fallback["name"]] = fallback["queries"]
                images += fallback["images"]
    if not found:
        return ""
    means = " and ".join(f"{name} with {queries} queries" for name, queries in found.items())
    return (
        f"besides, functions of the logits and {means} on the {images} image"
        f"{'s' if images != 1 else ''} whose gradient leads nowhere."
    )


def _footnotes(
    records: Sequence[dict[str, Any]], notes: Sequence[str], gone: Sequence[str], by_set: bool
) -> list[str]:
    lines = [CONVENTION, FNR_CONVENTION] if attacks_id(records) else [CONVENTION]
    if by_set:
        first = records[0]
        low, high = first["intervals"]["accuracy"]
        lines.append(
            f"In-distribution accuracy {100 * first['accuracy']:.1f} %"
            f" [{100 * low:.1f}, {100 * high:.1f}] on {first['n_id']} images."
        )
    attacks: dict[str, None] = {}
    for record in records:
        attack = record["attack"] or {}
        told = told_of_attack(
            record["preset"],
            attack.get("budget", 0),
            attack.get("queries", 0),
            record["precision"],
        )
        if told:
            attacks[f"{record['perturbation']}: {told}"] = None
    for name in dict.fromkeys(record["perturbation"] for record in records):
        told = told_of_fallback(record for record in records if record["perturbation"] == name)
        if told:
            attacks[f"{name}: {told}"] = None
    lines += attacks
    # A few images make figures look better known than they are, wherever they are pasted.
    fewest = min(min(record["n_id"], record["n_ood"]) for record in records)
    if fewest < 100:
        lines.append(f"Only {fewest} images in the smallest set: the figures are rough.")
    if gone:
        lines.append(f"A wider terminal also shows {', '.join(gone)}; --json has all.")
    return [*lines, *notes]
