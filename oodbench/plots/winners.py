"""Which corruption or objective made the worst case, and of how many images."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodbench.errors import RequestError
from oodbench.leaderboard.parting import Column, Record
from oodbench.plots import Asked, style
from oodbench.plots.source import Results, opened

MOST = 22
"""Winners that have a column of their own; the rarest others share one."""


@dataclass(frozen=True)
class Winners:
    """What won under one perturbation, or in one stage of it.

    Attributes:
        title: Name of the perturbation, and of the stage.
        rows: Names of the detectors.
        names: What won, the most frequent first.
        shares: Share of the images of each detector [rows, names]; rows add up to 1.
    """

    title: str
    rows: list[str]
    names: list[str]
    shares: npt.NDArray[np.float64]


def won(record: Record) -> dict[str, dict[str, int]]:
    """Return how many images each candidate won, by stage; one without a name if there is one."""
    counts = (record["attack"] or {}).get("won") or {}
    nested = any(isinstance(value, dict) for value in counts.values())
    return counts if nested else {"": counts} if counts else {}


def winners(results: Results) -> list[Winners]:
    """Count what won for each detector, over the OOD sets and training seeds of a mean."""
    found = []
    for column, title in results.columns.items():
        stages = _counted(results, column)
        for stage, by_row in stages.items():
            total: Counter[str] = Counter()
            for counts in by_row.values():
                total.update(counts)
            ranked = sorted(total, key=lambda name: (-total[name], name))
            kept = ranked if len(ranked) <= MOST else ranked[: MOST - 1]
            names = kept + [f"{len(ranked) - len(kept)} others"] * (len(ranked) > len(kept))
            shares = np.zeros((len(by_row), len(names)))
            for at, counts in enumerate(by_row.values()):
                whole = sum(counts.values())
                shares[at, : len(kept)] = [counts[name] / whole for name in kept]
                if len(ranked) > len(kept):
                    shares[at, -1] = sum(counts[name] for name in ranked[len(kept) :]) / whole
            about = f"{title}: stage {stage}" if stage else title
            found.append(Winners(about, list(by_row), names, shares))
    return found


def _counted(results: Results, column: Column) -> dict[str, dict[str, Counter[str]]]:
    stages: dict[str, dict[str, Counter[str]]] = {}
    for row, name in results.rows.items():
        for record in results.cells(row, column):
            for stage, counts in won(record).items():
                stages.setdefault(stage, {}).setdefault(name, Counter()).update(counts)
    return stages


def figure(asked: Asked) -> style.Drawn:
    """Draw a panel for each perturbation that tries anything, or each stage of one."""
    results = opened(asked)
    found = winners(results)
    if not found:
        raise RequestError(
            "nothing was tried on the images selected, so nothing won; choose an attack"
            " (--attack) that tries something"
        )
    if len(found) > 16:
        raise RequestError(f"{len(found)} panels are too many; choose with --attack, --eps")
    heights = [0.24 * len(part.rows) + 1.5 for part in found]
    widest = max(len(part.names) for part in found)
    drawn = style.new_figure(
        max(7.0, 2.6 + 0.45 * widest),
        0.9 + sum(heights),
        f"What won, % of the attacked images: {results.title}",
    )
    largest = max(float(part.shares.max()) for part in found)
    axes = drawn.subplots(len(found), 1, squeeze=False, height_ratios=heights).ravel().tolist()
    for panel, part in zip(axes, found, strict=True):
        style.matrix(panel, part.shares, part.rows, part.names, largest)
        panel.set_title(part.title, loc="left")
    lines = [
        f"Of the images together of: {results.mean_of.removeprefix('mean over ')}.",
        "clean: nothing tried was worse for the detector than the image itself.",
    ]
    style.footed(drawn, [*lines, *results.remarks()])
    return style.Drawn(drawn, found, results.notes)
