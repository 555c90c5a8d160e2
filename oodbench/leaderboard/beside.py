"""Published figures beside ours."""

from functools import cache
from typing import TYPE_CHECKING, Any

from oodbench.identity import canonical_json
from oodbench.published import EPS, defaults, published
from oodbench.views import ALL, suite_called

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ("published_fpr95", "published_auroc", "published_source")
"""Columns of a frame: figures in [0, 1], NaN where none are published; their source, else empty."""


def with_published(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a frame of `summary` with the columns `PUBLISHED`.

    Published means are over all OOD sets, of detectors with the published hyper-parameters, and
    attacks on OOD images of radius `oodbench.published.EPS` where there is one; they stand beside
    nothing else. Which network and outliers they are of ``source`` says.
    """
    import pandas as pd

    @cache
    def wanted(suite: str, detector: str) -> str | None:
        return published_params(suite, detector)

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
        if found and canonical_json(cell["params"]) != wanted(cell["suite"], cell["detector"]):
            found = None
        columns[PUBLISHED[0]].append(found["fpr95"] if found else float("nan"))
        columns[PUBLISHED[1]].append(found["auroc"] if found else float("nan"))
        columns[PUBLISHED[2]].append(found["source"] if found else "")
    return frame.assign(**columns)


def published_params(suite: str, detector: str) -> str | None:
    """Return the hyper-parameters that a detector was published with, as JSON.

    They are its defaults, and for those that have none (null, or unnamed at None) the suite's own
    values; of a suite that is not to be found by its name they stay as they are. None of a detector
    that oodbench has not.
    """
    own = defaults().get(detector)
    if own is None:
        return None
    known = suite_called(suite)
    values = known.published.get(detector, {}) if known else {}
    filled = {name: value for name, value in values.items() if own.get(name) is None}
    return canonical_json({**own, **filled})
