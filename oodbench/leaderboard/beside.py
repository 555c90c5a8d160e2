"""Published figures beside ours."""

from typing import TYPE_CHECKING, Any

from oodbench.published import EPS, published
from oodbench.views import ALL

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ("published_fpr95", "published_auroc", "published_source")
"""Columns of a frame: published figures in [0, 1], NaN where there is none, and their source, else empty."""


def with_published(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a frame of `summary` with the columns `PUBLISHED`.

    Published means are over all OOD sets, with one training, of attacks on OOD images of radius
    `oodbench.published.EPS` where there is one; they stand beside nothing else. Which network and
    outliers they are of ``source`` says.
    """
    import pandas as pd

    figures = published().drop_duplicates(["suite", "detector", "perturbation"])
    known = {
        (row["suite"], row["detector"], row["perturbation"]): row
        for row in figures.to_dict("records")
    }
    columns: dict[str, list[Any]] = {name: [] for name in PUBLISHED}
    for cell in frame.to_dict("records"):
        radius = pd.isna(cell["eps"]) or cell["eps"] == EPS
        same = cell["view"] == ALL and cell["side"] == "ood" and radius
        key = (cell["suite"], cell["detector"], cell["perturbation"])
        found = known.get(key) if same and cell["kind"] == "empirical" else None
        columns[PUBLISHED[0]].append(found["fpr95"] if found else float("nan"))
        columns[PUBLISHED[1]].append(found["auroc"] if found else float("nan"))
        columns[PUBLISHED[2]].append(found["source"] if found else "")
    return frame.assign(**columns)
