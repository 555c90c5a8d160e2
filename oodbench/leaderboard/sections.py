"""A frame of means as tables to show: rows, columns and notes, before any markup.

All formats are made from these. What is bold, marked, rounded or left out is decided here; a format
decides how it looks, and escapes every text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oodbench.leaderboard.best import BEST, shown_metrics
from oodbench.leaderboard.footnotes import FAILED, Cell, footnotes
from oodbench.marks import MARK
from oodbench.views import ALL

if TYPE_CHECKING:
    import pandas as pd

LABELS = {"fpr95": "FPR@95 ↓", "fnr": "FNR@95 ↓", "auroc": "AUROC ↑", "accuracy": "ID acc."}
MISSING = "–"
_MARKS = MARK + "‡§¶"


@dataclass(frozen=True)
class Value:
    """A figure.

    Attributes:
        metric: Which.
        value: Fraction in [0, 1].
        spread: Standard deviation over training seeds; None for one seed.
        best: Whether it is the best of its column, or cannot be told from it.
    """

    metric: str
    value: float
    spread: float | None = None
    best: bool = False

    @property
    def percent(self) -> str:
        """The value for people."""
        return f"{100 * self.value:.2f}"

    @property
    def deviation(self) -> str:
        """The spread for people; empty if there is none."""
        return "" if self.spread is None else f"{100 * self.spread:.2f}"

    @property
    def text(self) -> str:
        """Both for people."""
        return f"{self.percent} ± {self.deviation}" if self.deviation else self.percent


@dataclass(frozen=True)
class Entry:
    """Figures of one row in one column.

    Attributes:
        values: Ours, in the order to show.
        marks: Signs of footnotes.
        published: Published ones of the same metrics, as far as there are any.
        cell: The row of the frame that it is.
    """

    values: tuple[Value, ...]
    marks: tuple[str, ...]
    published: tuple[Value, ...]
    cell: Cell


@dataclass(frozen=True)
class Line:
    """A row: its name, an entry for each column or None, and in-distribution accuracy."""

    name: str
    entries: tuple[Entry | None, ...]
    accuracy: Value

    @property
    def published(self) -> bool:
        """Whether there is a published figure in it."""
        return any(entry.published for entry in self.entries if entry)


@dataclass(frozen=True)
class Column:
    """A column: its name and the metrics of its entries."""

    name: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table of one view.

    Attributes:
        view: Its name; see `oodbench.views`.
        heading: What to call it; empty for the mean over all sets.
        caption: What its figures are.
        columns: Its columns.
        lines: Its rows.
    """

    view: str
    heading: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Section:
    """Tables of one setting, a view each, and the notes under them.

    Attributes:
        title: Names the setting.
        setting: Its fields: ``suite``, ``network``, ``preset`` and others.
        grids: The tables, that of the mean over all sets first.
        notes: What stands under them.
    """

    title: str
    setting: Mapping[str, Any]
    grids: tuple[Grid, ...]
    notes: tuple[str, ...] = field(default=())


SETTING = ("suite", "network", "network_version", "schedule", "preset", "protocol", "n_id")
"""What all cells of a section have in common."""


def sections(frame: "pd.DataFrame") -> list[Section]:
    """Return the tables of a frame of `summary`, in its order."""
    parts = [part.to_dict("records") for _, part in frame.groupby("table", sort=False)]
    return [_section(cells) for cells in parts]  # type: ignore[arg-type]


def _section(cells: Sequence[Cell]) -> Section:
    columns = {cell["column"]: cell for cell in sorted(cells, key=lambda cell: cell["column_rank"])}
    marks = _marks(cells)
    views = sorted(dict.fromkeys(cell["view"] for cell in cells), key=lambda view: view != ALL)
    grids = [
        _grid([cell for cell in cells if cell["view"] == view], columns, marks) for view in views
    ]
    return Section(
        title=cells[0]["table"],
        setting={name: cells[0][name] for name in SETTING},
        grids=tuple(grids),
        notes=tuple(footnotes(cells, columns, marks)),
    )


def _grid(cells: Sequence[Cell], columns: Mapping[str, Cell], marks: Mapping[str, str]) -> Grid:
    rows: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        rows.setdefault(cell["row"], {})[cell["column"]] = cell
    attacked = [name for name, cell in columns.items() if cell["side"] != "ood"]
    caption = f"FPR@95 ↓ / AUROC ↑ in percent, {_averaged(cells)}"
    if attacked:
        caption += f". In {', '.join(attacked)}: FPR@95 ↓ / FNR@95 ↓ / AUROC ↑"
    view = cells[0]["view"]
    return Grid(
        view=view,
        heading="" if view == ALL else view,
        caption=caption + ".",
        columns=tuple(Column(name, shown_metrics(cell)) for name, cell in columns.items()),
        lines=tuple(
            Line(
                name,
                tuple(
                    _entry(mine[column], marks) if column in mine else None for column in columns
                ),
                _value(next(iter(mine.values())), "accuracy"),
            )
            for name, mine in rows.items()
        ),
    )


def _entry(cell: Cell, marks: Mapping[str, str]) -> Entry:
    remarks = [FAILED if cell["findings"] else "", cell["remark"]]
    metrics = shown_metrics(cell)
    published: list[Value] = []
    if cell.get("published_source"):
        published = [Value(metric, cell[f"published_{metric}"]) for metric in metrics]
    return Entry(
        values=tuple(_value(cell, metric) for metric in metrics),
        marks=tuple(marks[remark] for remark in remarks if remark),
        published=tuple(published),
        cell=cell,
    )


def _value(cell: Cell, metric: str) -> Value:
    spread = cell[f"{metric}_std"]
    # The deviation of one seed is not a number.
    known = spread if spread == spread else None
    return Value(metric, cell[metric], known, metric in cell.get(BEST, ()))


def _averaged(cells: Sequence[Cell]) -> str:
    sets = cells[0]["of_sets"]
    over = f"mean over {len(sets)} OOD sets ({', '.join(sets)})" if sets[1:] else f"on {sets[0]}"
    if any(cell["n_seeds"] > 1 for cell in cells):
        over += "; ± standard deviation over training seeds"
    return over


def _marks(cells: Iterable[Cell]) -> dict[str, str]:
    """Return a mark for each remark: one of a few signs, repeated where they do not suffice.

    That of a failed check comes first, where there is any, and is the same in every table.
    """
    failed = [FAILED for cell in cells if cell["findings"]]
    remarks = dict.fromkeys([*failed, *(cell["remark"] for cell in cells if cell["remark"])])
    return {
        remark: _MARKS[number % len(_MARKS)] * (1 + number // len(_MARKS))
        for number, remark in enumerate(remarks)
    }
