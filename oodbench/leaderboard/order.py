"""The order of rows."""

import re
from typing import TYPE_CHECKING, Any

from oodbench.errors import RequestError
from oodbench.views import ALL

if TYPE_CHECKING:
    import pandas as pd

SORTS = ("worst", "name")


def natural(value: Any) -> list[Any]:
    """Return a key that sorts 2 before 10."""
    parts = re.split(r"(\d+)", str(value))
    return [int(part) if part.isdecimal() else part for part in parts]


def ordered(frame: "pd.DataFrame", sort: str = "worst") -> "pd.DataFrame":
    """Return the frame of `summary` with the rows of each table in another order.

    Args:
        frame: A frame as `summary` returns it.
        sort: ``worst``: by the lowest AUROC of the row, the best row first; rows that lack
            columns, or sets in one, come last, for theirs is not the lowest of all. ``name``.

    Raises:
        RequestError: If the order is not one of these.
    """
    if sort not in SORTS:
        raise RequestError(f"--sort {sort}: there are {', '.join(SORTS)}")
    cells = frame.to_dict("records")
    tables = list(dict.fromkeys(cell["table"] for cell in cells))
    places = {}
    for title in tables:
        everything = [cell for cell in cells if cell["table"] == title]
        table = [cell for cell in everything if cell["view"] == ALL] or everything
        columns = {cell["column"] for cell in table}
        for row in {cell["row"] for cell in everything}:
            place: list[Any] = [tables.index(title)]
            if sort == "worst":
                mine = [cell for cell in table if cell["row"] == row]
                mine = mine or [cell for cell in everything if cell["row"] == row]
                whole = len(mine) == len(columns) and all(
                    cell["sets"] == cell["of_sets"] for cell in mine
                )
                place += [not whole, -min(cell["auroc"] for cell in mine)]
            places[title, row] = [*place, natural(row)]
    # Python's sort keeps the order of the columns.
    order = sorted(range(len(cells)), key=lambda i: places[cells[i]["table"], cells[i]["row"]])
    return frame.iloc[order].reset_index(drop=True)
