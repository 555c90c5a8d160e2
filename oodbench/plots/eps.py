"""FPR at 95 % TPR and AUROC against the radius of an attack."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from oodbench.errors import RequestError
from oodbench.leaderboard.naming import column_names
from oodbench.leaderboard.parting import Column, Record, Row, Table
from oodbench.plots import Asked, style
from oodbench.plots.source import Results, opened
from oodbench.registry import load
from oodbench.sides import CLEAN
from oodbench.threat import LEVELS

METRICS = {"fpr95": style.FPR, "auroc": "AUROC"}


@dataclass(frozen=True)
class Curve:
    """Metrics of a detector against the radius of one attack.

    Attributes:
        row: Name of the detector.
        column: Name of the attack, without a radius.
        levels: Radii in grey levels, ascending [R]; 0 is what the attack stands about.
        means: By metric its means over OOD sets and training seeds in [0, 1] [R].
        spreads: Their sample standard deviations over training seeds [R]; 0 for one seed.
    """

    row: str
    column: str
    levels: list[int]
    means: dict[str, npt.NDArray[np.float64]]
    spreads: dict[str, npt.NDArray[np.float64]]


def curves(results: Results) -> list[Curve]:
    """Return a curve for each detector and attack that has a radius."""
    kinds: dict[Column, list[Column]] = {}
    for column in results.columns:
        if column.eps is not None:
            kinds.setdefault(replace(column, eps=None), []).append(column)
    names = dict(zip(kinds, column_names(list(kinds)), strict=True))
    floor = Results(results.root, Table(results.table.setting, results.pool), results.pool)
    found = []
    for kind, columns in kinds.items():
        for row, name in results.rows.items():
            by_level: dict[int, list[Record]] = {}
            for column in columns:
                cells = results.cells(row, column)
                if cells:
                    by_level[_level(column)] = cells
            if not by_level:
                continue
            if kind.side == "ood":
                at_zero = _at_zero(floor, row, kind, by_level)
                if at_zero:
                    by_level[0] = at_zero
            found.append(_curve(name, names[kind], dict(sorted(by_level.items()))))
    return found


def _level(column: Column) -> int:
    assert column.eps is not None
    return int(column.eps.partition("/")[0])


def _at_zero(
    results: Results, row: Row, kind: Column, by_level: dict[int, list[Record]]
) -> list[Record]:
    """Return the cells that a radius of zero comes to, empty if not of the same sets and seeds.

    Of a composition it is the stage before its ball, otherwise clean images.
    """
    try:
        stages = load("attacks", kind.perturbation).stages
    except RequestError:
        stages = ()
    before = stages[0] if len(stages) == 2 else CLEAN
    wanted = {(record["seed"], record["set"]) for record in next(iter(by_level.values()))}
    for column in results.columns:
        if column.perturbation == before and column.eps is None and column.side == "ood":
            cells = [r for r in results.cells(row, column) if (r["seed"], r["set"]) in wanted]
            if len(cells) == len(wanted):
                return cells
    return []


def _curve(row: str, column: str, by_level: dict[int, list[Record]]) -> Curve:
    means: dict[str, list[float]] = {metric: [] for metric in METRICS}
    spreads: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for cells in by_level.values():
        for metric in METRICS:
            by_seed: dict[int, list[float]] = {}
            for record in cells:
                by_seed.setdefault(record["seed"], []).append(record[metric])
            each = [float(np.mean(values)) for values in by_seed.values()]
            means[metric].append(float(np.mean(each)))
            spreads[metric].append(float(np.std(each, ddof=1)) if len(each) > 1 else 0.0)
    return Curve(
        row,
        column,
        list(by_level),
        {metric: np.array(values) for metric, values in means.items()},
        {metric: np.array(values) for metric, values in spreads.items()},
    )


def figure(asked: Asked) -> style.Drawn:
    """Draw a column of panels for each attack: FPR at 95 % TPR above, AUROC below."""
    results = opened(asked)
    found = curves(results)
    hint = "`oodbench run --attack linf --eps 2/255,4/255,8/255` makes some"
    if not found:
        raise RequestError(f"no attack that has a radius is selected; {hint}")
    if all(len(curve.levels) < 2 for curve in found):
        raise RequestError(f"a curve needs more than the one radius there is; {hint}")
    notes = list(results.notes)
    if all(len(set(curve.levels) - {0}) < 2 for curve in found):
        notes.append(f"there is one radius beside zero; {hint}")
    names = list(dict.fromkeys(curve.row for curve in found))
    titles = list(dict.fromkeys(curve.column for curve in found))
    if len(names) > style.MOST_LINES:
        raise RequestError(f"{len(names)} detectors are too many lines; choose with --detector")
    if len(titles) > 6:
        raise RequestError(f"{len(titles)} attacks are too many; choose with --attack")
    drawn = style.new_figure(
        1.2 + 3.3 * len(titles) + style.legend_width(names),
        max(5.6, 1.2 + style.LINE * len(names)),
        f"Against the radius: {results.title}",
    )
    axes = drawn.subplots(2, len(titles), squeeze=False, sharex="col", sharey="row")
    lines = {}
    levels = sorted({level for curve in found for level in curve.levels})
    for curve in found:
        place, at = titles.index(curve.column), names.index(curve.row)
        look = style.line_style(at)
        for panel, metric in zip(axes[:, place], METRICS, strict=True):
            lines[curve.row] = panel.errorbar(
                curve.levels,
                curve.means[metric],
                curve.spreads[metric] if curve.spreads[metric].any() else None,
                marker="o",
                markersize=3.5,
                capsize=2,
                elinewidth=0.8,
                clip_on=False,
                **look,
            )
    for place, title in enumerate(titles):
        axes[0, place].set_title(style.clipped(title, 44))
        axes[1, place].set_xlabel(f"ε, in grey levels (ε·{LEVELS})")
        for panel in axes[:, place]:
            _scaled(panel, levels)
            panel.set_ylim(0, 1)
            panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
            panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes[0, 0].set_ylabel(f"{style.FPR}, %\n(share of OOD images accepted)")
    axes[1, 0].set_ylabel("AUROC, %")
    style.legend(drawn, list(lines.values()), list(lines))
    spread = " Bars: standard deviation over seeds." if len(results.seeds) > 1 else ""
    # Clean images may not have been asked for.
    zero = " ε = 0: no attack; of a composition, its stages before the ball." * (0 in levels)
    style.footed(
        drawn,
        [
            f"{results.mean_of[0].upper()}{results.mean_of[1:]}.{spread}{zero}",
            *results.remarks(),
        ],
    )
    return style.Drawn(drawn, found, notes)


def _scaled(panel: "object", levels: list[int]) -> None:
    """Put a tick at every radius, on a scale on which their labels have room."""
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    largest = levels[-1]
    dense = any(b - a < 0.045 * largest for a, b in pairwise(levels))
    if dense:
        panel.set_xscale("symlog", linthresh=1, linscale=0.7, base=2)
    panel.set_xticks(levels, [str(level) for level in levels])
    panel.minorticks_off()
    # Bars at zero would lie on the axis.
    panel.set_xlim(-0.2 if dense else -0.03 * largest, largest * 1.02)
