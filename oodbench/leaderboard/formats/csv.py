"""A row for each detector, perturbation and view; figures are fractions in full precision.

Lists and parameters are JSON within their field; what there is not is empty.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from oodbench.leaderboard.sections import Section
from oodbench.leaderboard.tidy import rows


def render(sections: Sequence[Section], records: Mapping[str, Any] | None = None) -> str:
    """Return all rows of all tables under one header."""
    found = [row for section in sections for row in rows(section)]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(found[0]), lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({name: _text(value) for name, value in row.items()})
    return out.getvalue()


def _text(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    # The shortest text that is read back to the same number.
    return repr(value) if isinstance(value, float) else value
