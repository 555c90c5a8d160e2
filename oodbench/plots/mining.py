"""The two-dimensional example: why outliers are mined, and why from a quantile on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oodbench.mining_example import (
    CLASSES,
    CONTOUR,
    LEAST_AREA,
    MEANS,
    SIDE,
    Choice,
    Setting,
    Trained,
    example,
)
from oodbench.plots import Asked, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SHOWN = (Choice(None), Choice(0.0), Choice(0.05), Choice(0.125))
"""Choices whose regions are shown."""
_VIEW = 4.4
_DOTS = 250
_PALE = ("#cfe3f1", "#cdeadd", "#f7e3bd", "#f4f4f4")


def figure(asked: Asked) -> style.Drawn:
    """Train the networks, and draw their decision regions and errors."""
    return picture(example(progress=asked.progress))


def picture(found: Sequence[Trained], setting: Setting | None = None) -> style.Drawn:
    """Draw the regions of the first seed above, errors of all seeds below.

    Args:
        found: Networks of every choice in `SHOWN` at least, of the same seeds.
        setting: What they were trained with.
    """
    its = setting or Setting()
    drawn = style.new_figure(10.4, 6.5, "Outliers for a network with a reject class: which ones?")
    above, below = drawn.subfigures(2, 1, height_ratios=[1, 0.95], squeeze=False).ravel()
    panels = above.subplots(1, len(SHOWN))
    for panel, choice in zip(panels, SHOWN, strict=True):
        mine = [one for one in found if one.choice == choice]
        _regions(panel, mine[0])
        panel.set_title(
            f"{choice.title}\nerror: ID {_percent(mine, 'id_error')}, "
            f"OOD {_percent(mine, 'ood_error')}"
        )
    _regions_legend(above)
    errors, areas = below.subplots(1, 2)
    _errors(errors, found)
    _areas(areas, found)
    seeds = len({one.seed for one in found})
    style.footed(
        drawn,
        [
            f"Mean and standard deviation over {seeds} seeds; regions of the first. Pool of"
            f" {its.pool:,} outliers, of which {100 * (1 - its.near - its.id_like):g} % far,"
            f" {100 * its.near:g} % near, {100 * its.id_like:g} % drawn from the classes;"
            f" {its.chosen:,} chosen each epoch, mined ones from rank q on, hardest first."
            " ID error: ID points rejected or misclassified. OOD error: near OOD points, pushed by"
            f" {its.eps:g} towards the data, that are not rejected. Dashed: 99\u00a0% of a class.",
        ],
        grow=False,  # subfigures would be laid out under the title
    )
    return style.Drawn(drawn, list(found))


def _percent(networks: Sequence[Trained], measure: str) -> str:
    return f"{100 * np.mean([getattr(one, measure) for one in networks]):.1f} %"


def _regions(panel: "Axes", one: Trained) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Circle

    panel.imshow(
        one.regions,
        origin="lower",
        extent=(-SIDE, SIDE, -SIDE, SIDE),
        cmap=ListedColormap(_PALE),
        vmin=0,
        vmax=CLASSES,
        interpolation="nearest",
    )
    seen = one.outliers[np.abs(one.outliers).max(1) < _VIEW][:_DOTS]
    panel.plot(*one.points[:: len(one.points) // 150].T, ".", color=style.BLUE, markersize=1.5)
    panel.plot(*seen.T, "x", color=style.VERMILLION, markersize=2, markeredgewidth=0.4)
    along = np.linspace(-SIDE, SIDE, len(one.regions))
    for its in range(CLASSES):
        # Above the points, which may hide a small region.
        panel.contour(
            along, along, one.regions == its, levels=[0.5], colors="black", linewidths=1, zorder=3
        )
    for mean in MEANS:
        panel.add_patch(Circle(tuple(mean), CONTOUR, fill=False, linestyle="--", linewidth=0.9))
    panel.set(xlim=(-_VIEW, _VIEW), ylim=(-_VIEW, _VIEW), xticks=[], yticks=[], aspect="equal")
    panel.spines[:].set_visible(True)


def _regions_legend(figure: "SubFigure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shapes: list[Patch | Line2D] = [
        Patch(color=_PALE[0], label="accepted, a colour a class"),
        Patch(facecolor=_PALE[3], edgecolor="#bbbbbb", label="rejected"),
        Line2D([], [], marker=".", linestyle="none", color=style.BLUE, label="ID points"),
        Line2D(
            [],
            [],
            marker="x",
            linestyle="none",
            color=style.VERMILLION,
            markersize=4,
            label="outliers of the last epoch",
        ),
    ]
    figure.legend(handles=shapes, loc="outside lower center", ncols=4)


def _errors(panel: "Axes", found: Sequence[Trained]) -> None:
    """Draw errors of the K+1 decision against the quantile, those of random outliers beside."""
    for measure, name, colour, dashes, marker in (
        ("error", "mean of both", style.BLACK, "-", "o"),
        ("ood_error", "OOD error", style.VERMILLION, "--", "s"),
        ("id_error", "ID error", style.BLUE, ":", "^"),
    ):
        _against_quantile(panel, found, measure, 100, name, (colour, dashes, marker))
    panel.set(ylabel="error of the K+1 classes, %", ylim=(0, 100))
    panel.legend(loc="upper center")


def _areas(panel: "Axes", found: Sequence[Trained]) -> None:
    """Draw the area accepted at 95 % TPR against the quantile."""
    _against_quantile(panel, found, "area", 1, "of the networks", (style.BLACK, "-", "o"))
    panel.axhline(LEAST_AREA, color=style.GREY, linewidth=1, label="least possible")
    panel.set(ylabel="area accepted at 95 % TPR")
    panel.set_ylim(bottom=0)
    panel.legend(loc="lower right")


def _against_quantile(
    panel: "Axes",
    found: Sequence[Trained],
    measure: str,
    scale: float,
    name: str,
    look: tuple[str, str, str],
) -> None:
    """Draw means and standard deviations over seeds; random outliers stand at the left."""
    by_choice = {
        choice: [scale * getattr(one, measure) for one in found if one.choice == choice]
        for choice in dict.fromkeys(one.choice for one in found)
    }
    quantiles = [choice.quantile for choice in by_choice if choice.quantile is not None]
    apart = -max(quantiles) / 5
    colour, dashes, marker = look
    for random in (False, True):
        mine = [choice for choice in by_choice if (choice.quantile is None) == random]
        panel.errorbar(
            [apart if choice.quantile is None else choice.quantile for choice in mine],
            [float(np.mean(by_choice[choice])) for choice in mine],
            [_spread(by_choice[choice]) for choice in mine],
            capsize=2,
            elinewidth=0.8,
            color=colour,
            linestyle=dashes,
            marker=marker,
            markersize=4,
            label=None if random else name,
            clip_on=False,
        )
    panel.axvline(apart / 2, color="#cccccc", linewidth=0.8)
    panel.set_xticks([apart, *quantiles], ["random", *(f"{q:g}" for q in quantiles)])
    panel.set_xlabel("q: outliers mined from this quantile on")


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
