"""Means over OOD sets and training seeds."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from oodbench.errors import RequestError
from oodbench.leaderboard.naming import column_names, row_names, titles
from oodbench.leaderboard.parting import Column, Record, Row, Table, by_set, parted
from oodbench.marks import audit_of, marks
from oodbench.records import usual_path
from oodbench.tables import told_of_fallback
from oodbench.views import near_sets, suite_called, views

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("fpr95", "fpr95_ood", "auroc", "aupr_out", "aupr_in", "detection_error", "fnr")

BySeed = dict[int, dict[str, Record]]
"""Records by training seed and OOD set."""


BY = ("mean", "ood")
"""What a table may be of: means over OOD sets, or besides each set."""


def summary(
    records: Sequence[Record],
    audits: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    by: str = BY[0],
) -> "pd.DataFrame":
    """Return means over OOD sets, and over training seeds, of records.

    Records that differ in suite, network, schedule (but for how outliers are shown), preset,
    protocol or images are in different tables; those that differ in detector, its parameters, its
    recipe or how outliers were shown to it in different rows; those that differ in perturbation,
    its parameters, radius, budget, precision or side in different columns; another version of a
    plugin is another plugin. A cell is the mean over the OOD sets of the seed that has most, and
    over the seeds that have all of these; `remark` says where others in the table have more.

    Args:
        records: Records in any order.
        audits: Audits of the records, as `audits_below` returns them.
        by: ``mean``, or ``ood`` for rows of each OOD set after those of the means.

    Returns:
        One row for each table, detector, view and perturbation that there is. ``table``, ``row``
        and ``column`` name them, ``schedule`` lists the schedules of the table, ``view`` the sets
        that the mean is over (`oodbench.views`), of which each near one, ``near``, is one by
        itself; ``set`` is the set of a view that is of one alone by its nature, else None;
        ``records`` are the identities of what went in; ``suite`` to ``kind`` are fields of the
        records, with versions of plugins and parameters of the perturbation; each of `METRICS` and
        ``accuracy`` is a mean in [0, 1], with ``_std`` after its name the sample standard deviation
        over seeds, NaN for one; ``sets`` and ``seeds`` went in, ``of_sets`` and ``of_seeds`` are
        those of the view and the table; ``notes`` holds pairs of set and note of the records,
        ``findings`` the checks that the attacks behind them failed, ``audited`` how many have an
        audit, ``fallback`` what else searched them.

    Raises:
        RequestError: If two records answer the same question and do not say how they differ, or
            ``by`` is none of these.
    """
    import pandas as pd

    if by not in BY:
        raise RequestError(f"--by {by}: there are {', '.join(BY)}")
    tables = parted(records)
    cells = [
        cell
        for table, title in zip(tables, titles(tables), strict=True)
        for cell in _cells(table, title, audits or {}, by)
    ]
    return pd.DataFrame(cells)


def _cells(
    table: Table, title: str, audits: Mapping[str, Mapping[str, Any]], by: str
) -> Iterator[dict[str, Any]]:
    by_row = arranged(table)
    rows = sorted(by_row, key=lambda row: row.rank)
    columns = sorted(
        {column for row in by_row.values() for column in row}, key=lambda column: column.rank
    )
    names = dict(zip(rows, row_names(rows, table.setting.suite), strict=True))
    headers = dict(zip(columns, column_names(columns), strict=True))
    seeds = tuple(sorted({record["seed"] for record in table.records}))
    setting, sets = table.setting, table.sets
    suite = suite_called(setting.suite)
    near = near_sets(suite, list(sets))
    single = {f"near: {name}": (name,) for name in near}
    if by == "ood":
        single = {f"OOD set: {name}": (name,) for name in sets if name not in near} | single
    shown = views(suite, list(sets)) | single
    for row, (view, of_sets) in itertools.product(rows, shown.items()):
        accuracy, trainings = _accuracy(by_row[row].values())
        for rank, column in enumerate(columns):
            by_seed = within(by_row[row].get(column, {}), of_sets)
            if not by_seed:
                continue
            cell = _mean(by_seed, of_sets, seeds, audits)
            yield {
                "table": title,
                "view": view,
                "near": of_sets[0] in near,
                "set": of_sets[0] if view in single else None,
                "row": names[row],
                "column": headers[column],
                "suite": setting.suite,
                "network": setting.network,
                "network_version": setting.network_version,
                "schedule": table.schedules,
                "preset": setting.preset,
                "protocol": setting.protocol,
                "n_id": setting.n_id,
                "n_ood": sum(sets[name][0] for name in cell["sets"]),
                "detector": row.detector,
                "detector_version": row.version,
                "params": json.loads(row.params),
                "column_rank": rank,
                "perturbation": column.perturbation,
                "perturbation_version": column.version,
                "perturbation_params": json.loads(column.params),
                "eps": column.eps,
                "budget": column.budget,
                "queries": column.queries,
                "precision": column.precision,
                "side": column.side,
                "kind": column.kind,
                **cell,
                **_spread("accuracy", accuracy),
                "remark": "; ".join(filter(None, [cell["remark"], trainings])),
            }


def within(by_seed: BySeed, sets: Sequence[str]) -> BySeed:
    """Return the records that are of some sets."""
    found = {
        seed: {name: record for name, record in records.items() if name in sets}
        for seed, records in by_seed.items()
    }
    return {seed: records for seed, records in found.items() if records}


def arranged(table: Table) -> dict[Row, dict[Column, BySeed]]:
    """Return the records of a table by row, column, seed and set.

    Raises:
        RequestError: If there are two for one place.
    """
    found: dict[Row, dict[Column, BySeed]] = {}
    clashes = []
    for record in by_set(table.records):
        by_column = found.setdefault(Row.of(record), {})
        by_seed = by_column.setdefault(Column.of(record), {})
        known = by_seed.setdefault(record["seed"], {}).setdefault(record["set"], record)
        if not _same(known, record):
            clashes.append((known, record))
    if clashes:
        one, other = map(usual_path, clashes[0])
        more = f", nor {len(clashes) - 1} pairs more" if len(clashes) > 1 else ""
        raise RequestError(
            f"{one} and {other.name} cannot be told apart{more}: they differ in the version of a"
            " plugin or in a parameter that records do not hold; keep one in another folder"
        )
    return found


def _same(one: Record, other: Record) -> bool:
    """Return whether two records are of the same cell, or at least have the same scores."""
    return one["identity"] == other["identity"] or all(
        one["digests"].get(scores) == other["digests"].get(scores)
        for scores in ("scores", "id_scores", "id_attacked")
    )


def _accuracy(cells: Iterable[BySeed]) -> tuple[list[float], str]:
    """Return a row's accuracy for each seed, and what to say if a seed is of several trainings."""
    members: dict[int, list[Record]] = {}
    for by_seed in cells:
        for seed, records in by_seed.items():
            members.setdefault(seed, []).extend(records.values())
    accuracy, mixed = [], []
    for seed, found in sorted(members.items()):
        accuracy.append(fmean(record["accuracy"] for record in found))
        digests = [record["digests"] for record in found]
        if len({(its["weights"], its["id_scores"]) for its in digests}) > 1:
            mixed.append(str(seed))
    told = f"the row holds several trainings or fits of seed {', '.join(mixed)}" if mixed else ""
    return accuracy, told


def _mean(
    by_seed: BySeed,
    of_sets: Sequence[str],
    of_seeds: Sequence[int],
    audits: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the means of a cell, over the same sets for every seed."""
    sets, seeds = averaged(by_seed, of_sets)
    values: dict[str, Any] = {}
    for metric in METRICS:
        means = [fmean(by_seed[seed][name][metric] for name in sets) for seed in seeds]
        values |= _spread(metric, means)
    members = [by_seed[seed][name] for seed in seeds for name in sets]
    notes = [(record["set"], note) for record in members for note in record["notes"]]
    known = [audit_of(record, audits) for record in members]
    findings = [
        finding
        for record, audit in zip(members, known, strict=True)
        for finding in marks(record, audit)
    ]
    return {
        **values,
        "sets": sets,
        "n_sets": len(sets),
        "of_sets": tuple(of_sets),
        "records": tuple(record["identity"] for record in members),
        "seeds": seeds,
        "n_seeds": len(seeds),
        "of_seeds": tuple(of_seeds),
        "notes": tuple(dict.fromkeys(notes)),
        "findings": tuple(findings),
        "audited": sum(audit is not None for audit in known),
        "fallback": told_of_fallback(members),
        "remark": fewer({"sets": (sets, of_sets), "seeds": (seeds, of_seeds)}),
    }


def averaged(by_seed: BySeed, of_sets: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the sets and the seeds that a mean is over: the same sets for every seed.

    They are the sets of the seed that has most, and the seeds that have all of these.
    """
    fullest = max(sorted(by_seed), key=lambda seed: len(by_seed[seed]))
    sets = tuple(name for name in of_sets if name in by_seed[fullest])
    return sets, tuple(seed for seed in sorted(by_seed) if set(sets) <= set(by_seed[seed]))


def fewer(parts: Mapping[str, tuple[Sequence[Any], Sequence[Any]]]) -> str:
    """Say over which sets or seeds a mean is, where that is not all."""
    told = [
        f"{len(mine)} of {len(whole)} {what} ({', '.join(map(str, mine))})"
        for what, (mine, whole) in parts.items()
        if len(mine) < len(whole)
    ]
    return f"mean over {' and '.join(told)}" if told else ""


def _spread(metric: str, values: Sequence[float]) -> dict[str, float]:
    spread = stdev(values) if len(values) > 1 else float("nan")
    return {metric: fmean(values), f"{metric}_std": spread}
