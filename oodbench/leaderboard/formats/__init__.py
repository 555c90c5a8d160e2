"""The formats of a leaderboard, one a module; each makes a text of sections.

Every module has ``render(sections, records)``: the tables, and the records behind them by identity
for a format that shows them.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oodbench.errors import RequestError
from oodbench.leaderboard.sections import sections

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("markdown", "csv", "latex", "json", "html")


def render(
    frame: "pd.DataFrame", form: str = FORMATS[0], records: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return a frame of `oodbench.leaderboard.summary` as text, ended by a line break.

    Args:
        frame: The frame, with the columns of `with_best` and `with_published` if they are to show.
        form: One of `FORMATS`.
        records: The records behind it; a page leads from a figure to them.

    Raises:
        RequestError: If there is no such format.
    """
    if form not in FORMATS:
        raise RequestError(f"--format {form}: there are {', '.join(FORMATS)}")
    known = {record["identity"]: record for record in records}
    text: str = import_module(f"{__name__}.{form}").render(sections(frame), known)
    return text
