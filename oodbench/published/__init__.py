"""Published figures, to stand beside ours: never a target of any choice made here.

``atom_table2.csv`` is Table 2 of Chen et al. (ECML-PKDD 2021): DenseNet-BC-100-12, 80 Million
Tiny Images as outliers, one training, means over six OOD sets. ``atom_table2_first_version.csv``
is the table of its workshop version. Both were transcribed by eye from images in the authors'
repository; the column ``source`` names file and commit.

``defaults.json`` has the hyper-parameters of our detectors as records have them, so that whoever
shows records need not load detectors, and torch with them.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("atom_table2", "atom_table2_first_version")

EPS = "8/255"
"""Radius of the attacks that have one, in all of them."""


@cache
def published(table: str = TABLES[0]) -> "pd.DataFrame":
    """Return the figures of a published table.

    Args:
        table: One of `TABLES`.

    Returns:
        A row for each in-distribution set, detector and perturbation, with our names of them in
        ``suite``, ``detector`` and ``perturbation``; ``fpr95`` and ``auroc`` in [0, 1]; ``source``.

    Raises:
        ValueError: If there is no such table.
    """
    import pandas as pd

    if table not in TABLES:
        raise ValueError(f"no published table {table}; there are {', '.join(TABLES)}")
    with (files(__name__) / f"{table}.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file)
    return pd.DataFrame(
        {
            "suite": rows["id"].str.lower().str.replace("-", "", regex=False),
            "detector": rows["method"].str.lower(),
            "perturbation": rows["setting"].replace({"natural": "none"}),
            "fpr95": rows["fpr95"] / 100,
            "auroc": rows["auroc"] / 100,
            "source": rows["source"],
        }
    )


@cache
def defaults() -> Mapping[str, Mapping[str, Any]]:
    """Return the default hyper-parameters of each detector of the package, by its name.

    None stands for a value that a suite gives.
    """
    with (files(__name__) / "defaults.json").open(encoding="utf-8") as file:
        found: dict[str, dict[str, Any]] = json.load(file)
    return found
