"""Are attacked outliers that a network was taught with rejected better than others of their pool?

A wide gap would ask for more outliers of the same kinds; a small one at a low AUROC for a larger
network or a longer training. Of outliers of other kinds it tells nothing. Never looks at test
images. CIFAR-10 and the outlier pool must have been imported.

    python benchmarks/fitted_outliers.py --rows atom.mixed=true@zoom,acet.mixed=true@zoom --write
"""

from __future__ import annotations

import argparse

import numpy as np
from held_out import EPS, STEPS, Look, show_rows

from oodbench import metrics
from oodbench.paired import Scored, draws
from oodbench.threat import LEVELS

IMAGES = 1_000
PARTS = {"train": "training", "val": "held out"}


def row(title: str, asked: argparse.Namespace) -> list[str]:
    """Return the figures of a detector: each part natural and attacked, and the difference."""
    look = Look(title, asked)
    known = look.images(look.suite.id_set, IMAGES)[0].float() / LEVELS
    of_id = look.score(known).numpy().astype(np.float64)
    cells, attacked, figures = [title], [], []
    for part, name in PARTS.items():
        outliers, _ = look.images(look.suite.pool, IMAGES, part)
        natural = look.score(outliers.float() / LEVELS).numpy()
        found = look.attacked(outliers).numpy().astype(np.float64)
        attacked.append(Scored(name, of_id, of_id, found))
        figures.append(metrics.auroc(of_id, found))
        cells += [f"{100 * of:.1f}" for of in (metrics.auroc(of_id, natural), figures[-1])]
    moved = draws(attacked)["auroc"]
    gap = figures[0] - figures[1]
    low, high = 100 * (gap + np.quantile(moved[:, 0] - moved[:, 1], [0.025, 0.975]))
    return [*cells, f"{100 * gap:.1f} ({low:.1f} to {high:.1f})"]


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    about = (
        f"AUROC in percent of {IMAGES:,} held-out images against {IMAGES:,} outliers that were"
        f" taught and as many that were held out, before and after {STEPS} falling sign steps on"
        f" the score in a ball of {EPS} levels; what those taught have more of it, with a 95 %"
        " interval over images."
    )
    whats = ("", ", attacked")
    headers = ["detector", *(f"{name}{what}" for name in PARTS.values() for what in whats)]
    title = "Are outliers of training rejected better than others?"
    show_rows(__file__, title, about, row, [*headers, "difference"])


if __name__ == "__main__":
    main()
