"""Detectors by out-of-distribution sets as a heat map, a panel for each perturbation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodbench.errors import RequestError
from oodbench.leaderboard.means import METRICS
from oodbench.plots import Asked, style
from oodbench.plots.source import Results, clipped_list, opened

NAMES = {
    "fpr95": "FPR at 95 % TPR (share of OOD images accepted)",
    "fpr95_ood": "FPR at 95 % TPR, OOD positive (share of ID images rejected)",
    "auroc": "AUROC",
    "aupr_out": "AUPR, OOD positive",
    "aupr_in": "AUPR, ID positive",
    "detection_error": "detection error",
    "fnr": "share of ID images rejected",
}


@dataclass(frozen=True)
class Heat:
    """A metric under one perturbation.

    Attributes:
        title: Name of the perturbation.
        rows: Names of the detectors.
        sets: Names of the OOD sets.
        values: Means over training seeds in [0, 1], [rows, sets]; NaN where there is none.
        seeds: How many seeds each is over, [rows, sets].
    """

    title: str
    rows: list[str]
    sets: list[str]
    values: npt.NDArray[np.float64]
    seeds: npt.NDArray[np.int64]

    def fewer(self, most: int) -> list[str]:
        """Say for each row which means are over fewer seeds than most."""
        lines = []
        for name, counts in zip(self.rows, self.seeds, strict=True):
            part = {one: int(n) for one, n in zip(self.sets, counts, strict=True) if 0 < n < most}
            for count in sorted(set(part.values())):
                sets = [one for one, n in part.items() if n == count]
                where = f" ({clipped_list(sets)})" if len(sets) < np.count_nonzero(counts) else ""
                lines.append(f"{self.title} on {name}: {count} of {most} seeds{where}")
        return lines


def heats(results: Results, metric: str) -> list[Heat]:
    """Return the metric of each detector on each set, under each perturbation."""
    sets = list(results.table.sets)
    found = []
    for column, title in results.columns.items():
        values = np.full((len(results.rows), len(sets)), np.nan)
        seeds = np.zeros(values.shape, np.int64)
        for at, row in enumerate(results.rows):
            by_seed = results.by_row[row].get(column, {})
            for place, name in enumerate(sets):
                known = [records[name][metric] for records in by_seed.values() if name in records]
                seeds[at, place] = len(known)
                if known:
                    values[at, place] = np.mean(known)
        found.append(Heat(title, list(results.rows.values()), sets, values, seeds))
    return found


def figure(asked: Asked) -> style.Drawn:
    """Draw a panel for each perturbation."""
    if asked.metric not in METRICS:
        raise RequestError(f"--metric {asked.metric}: there are {', '.join(METRICS)}")
    results = opened(asked)
    found = heats(results, asked.metric)
    if len(found) > 16:
        raise RequestError(f"{len(found)} perturbations are too many; choose with --attack, --eps")
    rows, sets = len(found[0].rows), len(found[0].sets)
    across = min(len(found), 2 if sets <= 10 else 1)
    down = -(-len(found) // across)
    drawn = style.new_figure(
        max(6.0, 2.6 + across * (0.5 * sets + 1.0)),
        1.5 + down * (0.24 * rows + 1.2),
        f"{NAMES[asked.metric]} in %: {results.title}",
    )
    axes = style.panels(drawn, len(found), across, sharey=True)
    for panel, heat in zip(axes, found, strict=True):
        image = style.matrix(panel, heat.values, heat.rows, heat.sets)
        panel.set_title(style.clipped(heat.title, 44))
    bar = drawn.colorbar(image, ax=axes, shrink=0.6, aspect=30)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100"])
    seeds = ", ".join(map(str, results.seeds))
    lines = [f"Mean over training seeds {seeds}." if len(results.seeds) > 1 else f"Seed {seeds}."]
    if any(np.isnan(heat.values).any() for heat in found):
        lines.append("Hatched: no record.")
    lines += [line for heat in found for line in heat.fewer(len(results.seeds))]
    style.footed(drawn, lines)
    return style.Drawn(drawn, found, results.notes)
