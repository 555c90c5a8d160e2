"""One page that needs nothing else: sortable, filterable, from a figure to its records."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from oodbench import __version__
from oodbench.leaderboard.footnotes import notes_of
from oodbench.leaderboard.sections import LABELS, MISSING, Column, Entry, Grid, Line, Section
from oodbench.paired import LOWER_IS_BETTER
from oodbench.records import usual_path
from oodbench.wording import prose

FILTERS = ("suite", "preset", "network")

_DIGITS = 6
_WITHOUT = ("schema", "detector", "suite", "network", "perturbation", "preset", "extras")
"""Fields of a record that stand on the page already, or are too long for it."""
_FIGURES = (
    *("fpr95", "fpr95_ood", "auroc", "aupr_out", "aupr_in", "detection_error", "fnr", "accuracy"),
)
_SHARED = ("params", "recipe", "schedule", "versions", "device", "notes", "digests")
"""Fields that many records have in common, which are embedded once."""
_DIGESTS = ("weights", "scores", "id_scores", "record")


def render(sections: Sequence[Section], records: Mapping[str, Any] | None = None) -> str:
    """Return the page; every text is escaped, the records are embedded as JSON."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def breakable(name: str) -> Markup:
        # A name of several words breaks between them, if it must.
        return Markup("_<wbr>").join(escape(part) for part in name.split("_"))

    def with_code(note: str) -> Markup:
        return Markup("").join(
            Markup("<code>{}</code>").format(text) if is_code else escape(text)
            for text, is_code in prose(note)
        )

    folder = files(__package__)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = breakable
    environment.filters["with_code"] = with_code
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    template = environment.from_string(folder.joinpath("page.jinja").read_text("utf-8"))
    embedded = _Embedded(records or {})
    text = template.render(
        tables=[_table(section, embedded) for section in sections],
        filters=_filters(sections),
        labels=LABELS,
        missing=MISSING,
        version=__version__,
        # Our own files, in which nothing is filled in.
        style=Markup(folder.joinpath("page.css").read_text("utf-8")),
        script=Markup(folder.joinpath("page.js").read_text("utf-8")),
        # Escapes what could end the element.
        embedded=embedded.data(),
    )
    return text.rstrip("\n") + "\n"


class _Embedded:
    """What the panel shows: cells, and the records behind them once each."""

    def __init__(self, records: Mapping[str, Any]) -> None:
        self._records = records
        self._places: dict[str, int] = {}
        self._cells: list[dict[str, Any]] = []
        self._shared: dict[str, int] = {}

    def add(self, section: Section, grid: Grid, line: Line, column: Column, entry: Entry) -> int:
        """Take a cell, and return its number."""
        cell = entry.cell
        self._cells.append(
            {
                "row": line.name,
                "column": column.name,
                "view": grid.view,
                "table": section.title,
                "values": [[LABELS[v.metric], v.text, v.best] for v in entry.values],
                "published": [[LABELS[v.metric], v.percent] for v in entry.published],
                "source": cell.get("published_source") or "",
                "params": cell["params"],
                "notes": notes_of(cell),
                "records": [self._place(i) for i in cell["records"] if i in self._records],
            }
        )
        return len(self._cells) - 1

    def _place(self, identity: str) -> int:
        return self._places.setdefault(identity, len(self._places))

    def data(self) -> dict[str, Any]:
        """Return all that was taken, as JSON can hold it."""
        return {
            "cells": self._cells,
            "records": [self._record(self._records[identity]) for identity in self._places],
            "shared": [json.loads(text) for text in self._shared],
            "are_shared": list(_SHARED),
        }

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        shown = _shown(record)
        for name in _SHARED:
            text = json.dumps(shown[name])
            shown[name] = self._shared.setdefault(text, len(self._shared))
        return shown


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record for the panel, figures to six digits."""
    shown = {name: value for name, value in record.items() if name not in (*_WITHOUT, *_FIGURES)}
    shown["file"] = usual_path(record).as_posix()
    shown["digests"] = {name: record["digests"].get(name) for name in _DIGESTS}
    intervals = shown.pop("intervals")
    shown["metrics"] = {name: [record[name], *intervals.get(name, ())] for name in _FIGURES}
    plain: dict[str, Any] = _rounded(json.loads(json.dumps(shown)))
    return plain


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else str(value)
    return value


def _table(section: Section, embedded: _Embedded) -> dict[str, Any]:
    return {
        "section": section,
        "grids": [
            {
                "grid": grid,
                "heads": [
                    {"column": column, "metric": metric, "lower": metric in LOWER_IS_BETTER}
                    for column in grid.columns
                    for metric in column.metrics
                ],
                "lines": [_line(section, grid, line, embedded) for line in grid.lines],
            }
            for grid in section.grids
        ],
    }


def _line(section: Section, grid: Grid, line: Line, embedded: _Embedded) -> dict[str, Any]:
    cells: list[dict[str, Any] | None] = []
    for column, entry in zip(grid.columns, line.entries, strict=True):
        if entry is None:
            cells += [None] * len(column.metrics)
            continue
        number = embedded.add(section, grid, line, column, entry)
        theirs = {value.metric: value for value in entry.published}
        cells += [
            {
                "number": number,
                "value": value,
                "column": column.name,
                "published": theirs.get(value.metric),
                # A mark is of the whole cell, and stands once.
                "marks": entry.marks if value is entry.values[-1] else (),
            }
            for value in entry.values
        ]
    return {"line": line, "cells": cells}


def _filters(sections: Sequence[Section]) -> list[tuple[str, str, list[str]]]:
    """Return what can be chosen, where there are several: field, label and values."""
    grids = [grid for section in sections for grid in section.grids]
    found = {
        **{(name, name.capitalize()): [s.setting[name] for s in sections] for name in FILTERS},
        ("view", "OOD sets"): [grid.view for grid in grids],
        ("column", "Perturbation"): [column.name for grid in grids for column in grid.columns],
    }
    unique = {field: list(dict.fromkeys(values)) for field, values in found.items()}
    return [(*field, values) for field, values in unique.items() if len(values) > 1]
