"""Histograms of scores: clean ID, clean OOD and attacked OOD images, and the threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from oodbench.errors import RequestError
from oodbench.leaderboard.parting import Column, Record, Row, Table
from oodbench.plots import Asked, style
from oodbench.plots.source import Results, opened
from oodbench.sides import CLEAN

if TYPE_CHECKING:
    from matplotlib.artist import Artist

Floats = npt.NDArray[np.float64]

BINS = 40
MOST_PANELS = 24
_REACH = 2.0
_TAIL = 1.0
"""Percent of each kind of images, at either end, that the end bins may have to hold."""


@dataclass(frozen=True)
class Histogram:
    """Scores of one detector under one attack.

    Attributes:
        row: Name of the detector.
        column: Name of the attack; empty where there are clean OOD images alone.
        seed: Training seed.
        edges: Edges of the bins [B + 1]; the first and the last bin also hold what lies beyond.
        shares: Share of images a bin [B], by what they are: ``clean ID``, ``clean OOD``,
            ``attacked OOD``. Of OOD images each set counts the same, as in a mean.
        threshold: The largest score that is accepted.
    """

    row: str
    column: str
    seed: int
    edges: Floats
    shares: dict[str, Floats]
    threshold: float


def binned(samples: Sequence[npt.ArrayLike], edges: Floats) -> Floats:
    """Return the share of each bin, mean over samples; the end bins hold what lies beyond."""
    inside = (edges[0], edges[-1])
    counts = [np.histogram(np.clip(sample, *inside), edges)[0] for sample in samples]
    sizes = [np.size(sample) for sample in samples]
    shares = np.array([c / size for c, size in zip(counts, sizes, strict=True)])
    return np.array(shares.mean(axis=0))


def edges_for(samples: Sequence[npt.ArrayLike], threshold: float) -> Floats:
    """Return edges of `BINS` bins that hold most of each sample, and the threshold.

    Args:
        samples: Scores; those of clean ID images first, from whose range the bins do not go
            farther than twice its width.
        threshold: A score that is within.
    """
    values = [np.asarray(sample, dtype=np.float64) for sample in samples]
    values = [sample[np.isfinite(sample)] for sample in values]
    ends = [np.percentile(sample, [_TAIL, 100 - _TAIL]) for sample in values if sample.size]
    low = min((float(end[0]) for end in ends), default=0.0)
    high = max((float(end[1]) for end in ends), default=0.0)
    if ends and (spread := float(ends[0][1] - ends[0][0])):
        # Where few images have huge scores, all others would share a bin.
        low = max(low, float(ends[0][0]) - _REACH * spread)
        high = min(high, float(ends[0][1]) + _REACH * spread)
    if np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.03 * (high - low) or 0.5 * max(abs(low), 1.0)
    return np.linspace(low - margin, high + margin, BINS + 1)


def strongest(results: Results) -> Column | None:
    """Return the perturbation with the highest mean FPR at 95 % TPR; None if all is clean."""
    means = {
        column: np.mean([np.mean([r["fpr95"] for r in cells]) for cells in by_row])
        for column in results.columns
        if column.perturbation != CLEAN
        and column.side == "ood"
        and (by_row := [c for row in results.rows if (c := results.cells(row, column))])
    }
    return max(means, key=lambda column: (means[column], column.rank), default=None)


def histograms(results: Results, columns: Sequence[Column | None]) -> list[Histogram]:
    """Return the histograms of each detector under some attacks, of the first seed.

    Args:
        results: The records.
        columns: The attacks; None stands for clean OOD images alone.
    """
    clean = _clean_cells(results)
    found = []
    for row, name in results.rows.items():
        for column in columns:
            attacked = [] if column is None else _one_seed(results.cells(row, column))
            unharmed = _one_seed(clean.get(row, []), attacked)
            cells = attacked or unharmed
            if not cells:
                continue
            known = results.id_scores(cells[0], clean=True)
            samples = {
                "clean ID": [known],
                "clean OOD": [results.ood_scores(record) for record in unharmed],
                "attacked OOD": [results.ood_scores(record) for record in attacked],
            }
            samples = {kind: parts for kind, parts in samples.items() if parts}
            threshold = float(cells[0]["threshold"])
            edges = edges_for([np.concatenate(parts) for parts in samples.values()], threshold)
            shares = {kind: binned(parts, edges) for kind, parts in samples.items()}
            title = "" if column is None else results.columns[column]
            found.append(Histogram(name, title, cells[0]["seed"], edges, shares, threshold))
    return found


def _clean_cells(results: Results) -> dict[Row, list[Record]]:
    """Return the records of clean images by detector, whatever attacks were selected."""
    records = [record for record in results.pool if record["perturbation"] == CLEAN]
    if not records:
        return {}
    whole = Results(results.root, Table(results.table.setting, records), records)
    (column,) = list(whole.columns)[:1]
    return {row: whole.cells(row, column) for row in whole.rows}


def _one_seed(cells: Sequence[Record], beside: Sequence[Record] = ()) -> list[Record]:
    """Return the records of the first seed, or of the seed and all sets of others beside them."""
    if beside:
        sets = {record["set"] for record in beside}
        cells = [r for r in cells if r["seed"] == beside[0]["seed"] and r["set"] in sets]
        # Histograms over other sets would not show what the attack did.
        return cells if len(cells) == len(beside) else []
    return [record for record in cells if record["seed"] == cells[0]["seed"]]


_LOOKS = {
    "clean ID": {"color": style.BLUE, "fill": True, "linestyle": "-"},
    "clean OOD": {"color": style.GREEN, "fill": False, "linestyle": "-"},
    "attacked OOD": {"color": style.VERMILLION, "fill": False, "linestyle": (0, (3, 1))},
}


def figure(asked: Asked) -> style.Drawn:
    """Draw a panel for each detector; several attacks only where they are asked for."""
    results = opened(asked)
    notes = list(results.notes)
    columns: list[Column | None] = [
        column
        for column in results.columns
        if column.perturbation != CLEAN and column.side == "ood"
    ]
    if len(columns) > 1 and not asked.selection.attacks:
        columns = [strongest(results)]
        others = [results.columns[c] for c in results.columns if c not in columns]
        notes.append(
            f"showing {results.columns[columns[0]]}, the strongest; --attack chooses among"  # type: ignore[index]
            f" {', '.join(others)}"
        )
    found = histograms(results, columns or [None])
    if not found:
        raise RequestError("no attack on OOD images is selected; choose with --attack")
    if len(found) > MOST_PANELS:
        raise RequestError(
            f"{len(found)} panels are too many (at most {MOST_PANELS}); choose with --detector,"
            " --attack, --eps"
        )
    bare = list(dict.fromkeys(one.row for one in found if "clean OOD" not in one.shares))
    if bare:
        notes.append(
            f"no records of the clean OOD images for {', '.join(bare)};"
            f" `oodbench run --attack {CLEAN}` makes them"
        )
    across = min(len(found), 4)
    down = -(-len(found) // across)
    titles = {one.column for one in found}
    about = f", {found[0].column}" if len(titles) == 1 and found[0].column else ""
    drawn = style.new_figure(
        2.4 + 2.6 * across, max(2.9, 1.1 + 1.95 * down), f"Scores: {results.title}{about}"
    )
    handles: dict[str, Artist] = {}
    for panel, one in zip(style.panels(drawn, len(found), across), found, strict=True):
        for kind, shares in one.shares.items():
            look = _LOOKS[kind]
            if look["fill"]:
                handles[kind] = panel.stairs(
                    shares, one.edges, fill=True, color=look["color"], alpha=0.35
                )
            else:
                handles[kind] = panel.stairs(
                    shares,
                    one.edges,
                    color=look["color"],
                    linestyle=look["linestyle"],
                    linewidth=1.4,
                )
        if np.isfinite(one.threshold):
            handles["threshold: 95 % of\nclean ID accepted"] = panel.axvline(
                one.threshold, color=style.BLACK, linewidth=1.0
            )
        name = one.row if len(titles) == 1 else f"{one.row}\n{one.column}"
        panel.set_title("\n".join(style.clipped(part) for part in name.split("\n")))
        panel.set_xlim(one.edges[0], one.edges[-1])
        panel.set_ylim(bottom=0)
        panel.locator_params(axis="x", nbins=4)
        panel.locator_params(axis="y", nbins=4)
        panel.set_xlabel("score (higher: more OOD)")
        panel.set_ylabel("share of images")
    style.legend(drawn, list(handles.values()), list(handles))
    seeds = ", ".join(map(str, sorted({one.seed for one in found})))
    sets = results.mean_of.removeprefix("mean over ").partition(", training")[0]
    style.footed(
        drawn,
        [
            f"Training seed {seeds}. OOD: {sets.removeprefix('OOD set ')}, each set counting the"
            " same. The end bins also hold what lies beyond them.",
        ],
    )
    if len(results.seeds) > 1:
        notes.append(f"of seeds {', '.join(map(str, results.seeds))} the first; --seed chooses")
    return style.Drawn(drawn, found, notes)
