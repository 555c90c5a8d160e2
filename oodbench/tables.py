"""Records as tables: for people by rich, for notebooks by pandas."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

CONVENTION = (
    "FPR@95: share of OOD images accepted where 95 % of in-distribution images are"
    " (fpr95; OpenOOD's convention is fpr95_ood in the record)."
)


def frame(records: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Return one row a cell, columns as the fields of a record."""
    import pandas as pd

    return pd.DataFrame(list(records))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _interval(pair: Sequence[float]) -> str:
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"


def _groups(records: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        key = (record["detector"], str(record["params"]), record["perturbation"], record["seed"])
        grouped.setdefault(key, []).append(record)
    return grouped


def _mean(records: Sequence[dict[str, Any]], metric: str) -> float:
    return float(sum(record[metric] for record in records) / len(records))


def print_tables(
    console: "Console",
    records: Sequence[dict[str, Any]],
    note: str,
    mean_intervals: Sequence[dict[str, tuple[float, float]]] = (),
) -> None:
    """Print a row for each OOD set where there is one block of them, else a row of means."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    groups = _groups(records)
    several_seeds = len({record["seed"] for record in records}) > 1
    by_set = len(groups) == 1
    table = Table(box=SIMPLE_HEAD, title=_title(records), title_justify="left", pad_edge=False)
    if by_set:
        table.add_column("OOD set")
    else:
        table.add_column("detector")
        table.add_column("attack")
        if several_seeds:
            table.add_column("seed", justify="right")
    for name in ("FPR@95 ↓", "95 %", "AUROC ↑", "95 %", "AUPR ↑"):
        table.add_column(name, justify="right", no_wrap=True)
    if not by_set:
        table.add_column("acc.", justify="right", no_wrap=True)
    for position, (key, rows) in enumerate(groups.items()):
        if by_set:
            for row in rows:
                pairs = row["intervals"]
                table.add_row(
                    row["set"],
                    _percent(row["fpr95"]),
                    _interval(pairs["fpr95"]),
                    _percent(row["auroc"]),
                    _interval(pairs["auroc"]),
                    _percent(row["aupr_out"]),
                )
            table.add_section()
        bounds = mean_intervals[position] if position < len(mean_intervals) else {}
        cells = [
            _percent(_mean(rows, "fpr95")),
            _interval(bounds["fpr95"]) if "fpr95" in bounds else "",
            _percent(_mean(rows, "auroc")),
            _interval(bounds["auroc"]) if "auroc" in bounds else "",
            _percent(_mean(rows, "aupr_out")),
        ]
        if by_set:
            table.add_row("mean", *cells, style="bold")
        else:
            seed = [str(key[3])] if several_seeds else []
            accuracy = f"{100 * rows[0]['accuracy']:.1f}"
            table.add_row(key[0], key[2], *seed, *cells, accuracy)
    console.print(table)
    for line in _footnotes(records, note, by_set):
        console.print(line, style="dim", highlight=False, markup=False)


def _title(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    same = {key: len({str(record[key]) for record in records}) == 1 for key in first}
    parts = [f"suite {first['suite']}"]
    if same["detector"]:
        parts.append(first["detector"])
    if same["perturbation"]:
        parts.append(first["perturbation"])
    radii = sorted({record["eps"] for record in records if record["eps"]})
    if radii:
        parts.append(f"eps {', '.join(radii)}")
    parts.append(f"preset {first['preset']}")
    if same["seed"]:
        parts.append(f"seed {first['seed']}")
    return ", ".join(parts)


def _footnotes(records: Sequence[dict[str, Any]], note: str, by_set: bool) -> list[str]:
    lines = [CONVENTION]
    if by_set:
        first = records[0]
        low, high = first["intervals"]["accuracy"]
        lines.append(
            f"In-distribution accuracy {100 * first['accuracy']:.1f} %"
            f" [{100 * low:.1f}, {100 * high:.1f}] on {first['n_id']} images."
        )
    budgets = {
        (record["perturbation"], record["attack"]["budget"], round(record["attack"]["steps"]))
        for record in records
        if record["attack"]
    }
    lines += [
        f"{name}: {steps} gradient steps an image, the worst case chosen by the true score."
        if budget is not None
        else f"{name}: {steps} gradient steps an image, chosen by the published loss."
        for name, budget, steps in sorted(budgets, key=str)
        if steps
    ]
    return [*lines, note] if note else lines
