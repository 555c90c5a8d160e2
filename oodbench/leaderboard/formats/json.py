"""One JSON document, valid against ``oodbench/schemas/leaderboard-1.json``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from oodbench.leaderboard.sections import SETTING, Section
from oodbench.leaderboard.tidy import rows

SCHEMA = 1
"""Version of the format."""


def render(sections: Sequence[Section], records: Mapping[str, Any] | None = None) -> str:
    """Return the tables with their notes, and rows of figures in full precision."""
    document = {"schema": SCHEMA, "tables": [_table(section) for section in sections]}
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _table(section: Section) -> dict[str, Any]:
    own = [
        {name: value for name, value in row.items() if name not in SETTING} for row in rows(section)
    ]
    return {
        "title": section.title,
        **section.setting,
        "notes": list(section.notes),
        "rows": own,
    }
