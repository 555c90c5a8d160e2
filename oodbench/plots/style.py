"""The style that all figures share: colours that colour-blind people can tell, names as they are.

Figures are made without pyplot, so no window is opened and no other figure is touched.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Of Okabe & Ito (2008), which people with any usual colour blindness can tell; no yellow, which
is too pale for a line on white."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Lines of one colour are told apart by these."""
SEQUENTIAL = "cividis"
"""Colour map that looks the same to people with and without colour blindness."""

FPR = "FPR at 95 % TPR"
FPR_LONG = "FPR: share of OOD images accepted"
TPR_LONG = "TPR: share of ID images accepted"

_NAME = 34
"""Characters of a name that a label has room for."""

_RC: dict[str, Any] = {
    "text.usetex": False,
    # A name may hold a dollar sign, which is no formula.
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.titlesize": 10.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "lines.linewidth": 1.5,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    # Text stays text, which can be searched, and files of the same data are the same.
    "svg.fonttype": "none",
    "svg.hashsalt": "oodbench",
}


@dataclass(frozen=True)
class Drawn:
    """A figure.

    Attributes:
        figure: The figure.
        data: What is drawn, as plain data.
        notes: What has to be said of it, such as what was left out.
        path: Its file, once it is written.
    """

    figure: "Figure"
    data: Any
    notes: Sequence[str] = field(default=())
    path: Path | None = None


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the common style whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]
        yield


def saved(drawn: Drawn, path: Path) -> Drawn:
    """Write a figure, in the format that its name ends in.

    Raises:
        RequestError: If the file cannot be written.
    """
    from oodbench.files import write_atomically

    form = path.suffix.lower().removeprefix(".")
    # Without a date, the same figure is the same file.
    metadata = {"Date": None} if form == "svg" else None

    def write(file: Path) -> None:
        drawn.figure.savefig(file, format=form, metadata=metadata)

    try:
        with styled():
            write_atomically(path, write)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from None
    return replace(drawn, path=path)


def new_figure(width: float, height: float, title: str) -> "Figure":
    """Return an empty figure of a size in inches, with a title that fits into its width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(wspace=0.05, hspace=0.03)  # type: ignore[call-arg]
    figure.suptitle(textwrap.fill(title, int(width * 13)))
    return figure


_FOOT = 0.14
"""Inches that a line under a figure takes."""
_MOST_REMARKS = 8
"""Remarks under a figure; more would leave no room for it."""


def footed(figure: "Figure", lines: Sequence[str], *, grow: bool = True) -> None:
    """Write what has to be said under a figure, which grows by it unless told otherwise."""
    width = int(figure.get_figwidth() * 17)
    said = [line for line in lines if line]
    if len(said) > _MOST_REMARKS:
        more = len(said) - _MOST_REMARKS + 1
        said = [*said[: _MOST_REMARKS - 1], f"and {more} more; `oodbench leaderboard` has them all"]
    text = "\n".join(textwrap.fill(line, width) for line in said)
    if text:
        if grow:
            # The panels keep their size.
            figure.set_figheight(figure.get_figheight() + _FOOT * (1 + text.count("\n")))
        figure.supxlabel(text, fontsize=7.5, color="#444444", x=0.01, ha="left")


def panels(figure: "Figure", count: int, columns: int, **shared: Any) -> list["Axes"]:
    """Return axes for so many panels, in rows of at most ``columns``; none is left empty."""
    across = min(columns, count)
    down = ceil(count / across)
    grid = figure.subplots(down, across, squeeze=False, **shared).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    for place, axes in enumerate(grid[:count]):
        # Where the panel below is none, the one above it has the labels.
        below = place + across >= count
        axes.xaxis.set_tick_params(labelbottom=below or not shared.get("sharex"))
    return list(grid[:count])


def line_style(place: int) -> dict[str, Any]:
    """Return colour and dashes of the line at a place in a legend."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }


LINE = 0.19
"""Inches that a line of a legend takes."""


def legend_width(names: Sequence[str]) -> float:
    """Return the inches that a legend of names takes beside the panels."""
    return 0.6 + 0.085 * max(len(clipped(name)) for name in [*names, "at the threshold"])


MOST_LINES = len(COLOURS) * len(DASHES)
"""Lines that can be told apart."""


def clipped(name: str, most: int = _NAME) -> str:
    """Shorten a name in the middle to what a label has room for, on one line."""
    text = " ".join(name.split())
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def legend(figure: "Figure", handles: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend on the right, outside the panels.

    Matplotlib leaves out names that begin with an underscore, so they are put in afterwards.
    """
    dummies = [f"name {i}" for i in range(len(names))]
    made = figure.legend(handles, dummies, loc="outside right center")
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_text("\n".join(clipped(line) for line in name.split("\n")))


def matrix(
    axes: "Axes", values: Any, rows: Sequence[str], columns: Sequence[str], largest: float = 1.0
) -> "AxesImage":
    """Draw shares in [0, 1] as colours with percents; what is not there is hatched.

    Args:
        axes: Where.
        values: Float array [rows, columns]; NaN where there is none.
        rows: Names of the rows.
        columns: Names of the columns.
        largest: The value of the brightest colour.
    """
    import numpy as np

    axes.set_facecolor("white")
    axes.patch.set(hatch="////", edgecolor="#bbbbbb", linewidth=0)
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=0, vmax=largest, aspect="auto"
    )
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            dark = value < 0.45 * largest
            axes.text(
                column,
                row,
                f"{100 * value:.1f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    axes.set_yticks(range(len(rows)), [clipped(name) for name in rows])
    axes.set_xticks(
        range(len(columns)),
        [clipped(name) for name in columns],
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
