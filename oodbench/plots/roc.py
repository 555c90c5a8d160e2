"""ROC curves, in-distribution as the positive class, with the operating point at 95 % TPR."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodbench import metrics
from oodbench.errors import RequestError
from oodbench.plots import Asked, style
from oodbench.plots.source import Results, opened

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A mean ROC curve.

    Attributes:
        row: Name of the detector.
        column: Name of the perturbation.
        fpr: Share of OOD images accepted [2n + 2], from nothing accepted to everything.
        tpr: Share of ID images accepted [2n + 2].
        point: FPR and TPR at the threshold of the clean ID images.
        auroc: Mean AUROC of the records.
    """

    row: str
    column: str
    fpr: Floats
    tpr: Floats
    point: tuple[float, float]
    auroc: float


def roc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the ROC curve of accepting what scores lowest, every corner of it.

    At the k-th ID image there is a point just before it is accepted and one after, so that curves
    of as many ID images can be averaged point by point, which is at equal TPR. Within ties the
    curve is the straight line that AUROC takes it for.

    Returns:
        FPR and TPR, each [2n + 2] for n ID images, from (0, 0) to (1, 1).
    """
    a = metrics.sorted_scores(id_scores, "ID scores")
    b = metrics.sorted_scores(ood_scores, "OOD scores")
    n = a.size
    below = np.searchsorted(b, a, side="left") / b.size
    upto = np.searchsorted(b, a, side="right") / b.size
    first, last = np.searchsorted(a, a, side="left"), np.searchsorted(a, a, side="right")
    rank, size = np.arange(n), last - first
    before = below + (upto - below) * (rank - first) / size
    after = below + (upto - below) * (rank + 1 - first) / size
    fpr = np.concatenate([[0.0], np.stack([before, after], 1).ravel(), [1.0]])
    tpr = np.concatenate([[0.0], np.stack([rank, rank + 1], 1).ravel() / n, [1.0]])
    return fpr, tpr


def curves(results: Results) -> list[Curve]:
    """Return the mean curve of each detector under each perturbation."""
    found = []
    for row, name in results.rows.items():
        for column, title in results.columns.items():
            cells = results.cells(row, column)
            if not cells:
                continue
            each, points = [], []
            for record in cells:
                ours, theirs = results.id_scores(record), results.ood_scores(record)
                each.append(roc(ours, theirs))
                points.append((record["fpr95"], 1 - record["fnr"]))
            fpr = np.mean([one[0] for one in each], axis=0)
            x, y = np.mean(points, axis=0).tolist()
            auroc = float(np.mean([record["auroc"] for record in cells]))
            found.append(Curve(name, title, fpr, each[0][1], (x, y), auroc))
    return found


def figure(asked: Asked) -> style.Drawn:
    """Draw a panel for each perturbation and a curve for each detector."""
    results = opened(asked)
    found = curves(results)
    names, titles = list(results.rows.values()), list(results.columns.values())
    if len(names) > style.MOST_LINES:
        raise RequestError(
            f"{len(names)} detectors are more than lines that can be told apart"
            f" ({style.MOST_LINES}); choose with --detector"
        )
    if len(titles) > 16:
        raise RequestError(f"{len(titles)} perturbations are too many; choose with --attack, --eps")
    across = min(len(titles), 4 if len(titles) > 4 or len(titles) == 3 else 2)
    down = -(-len(titles) // across)
    drawn = style.new_figure(
        1.2 + 3.1 * across + style.legend_width(names),
        max(1.0 + 3.0 * down, 1.2 + style.LINE * (len(names) + 3)),
        f"ROC, operating point at 95 % TPR: {results.title}",
    )
    axes = dict(zip(titles, style.panels(drawn, len(titles), across), strict=True))
    lines = {}
    for curve in found:
        look = style.line_style(names.index(curve.row))
        panel = axes[curve.column]
        (lines[curve.row],) = panel.plot(curve.fpr, curve.tpr, **look)
        panel.plot(*curve.point, marker="o", markersize=4.5, color=look["color"], clip_on=False)
    for title, panel in axes.items():
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=style.clipped(title, 44))
        panel.set(xlabel=style.FPR_LONG, ylabel=style.TPR_LONG)
        chance = panel.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.6, linestyle=":")[0]
        level = panel.axhline(0.95, color=style.GREY, linewidth=0.7)
    point = _point()
    style.legend(
        drawn,
        [*lines.values(), point, level, chance],
        [*lines, "at the threshold", "95 % TPR", "chance"],
    )
    style.footed(drawn, [f"Averaged at equal TPR: {results.mean_of}.", *results.remarks()])
    return style.Drawn(drawn, found, results.notes)


def _point() -> "object":
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", markersize=4.5, color=style.GREY, linestyle="none")
