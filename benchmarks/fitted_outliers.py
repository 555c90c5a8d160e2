"""Are attacked outliers that a network was taught with rejected better than others of their pool?

A wide gap would ask for more outliers; a small one at a low AUROC for a larger network or a longer
training. Never looks at test images. CIFAR-10 and the outlier pool must have been imported.

    python benchmarks/fitted_outliers.py --rows atom.mixed=true,atom.mixed=true@zoom --write
"""

from __future__ import annotations

import argparse

from held_out import Look, arguments, show

from oodbench import metrics
from oodbench.descent import Ball, falling_sizes, pgd
from oodbench.threat import LEVELS

STEPS, EPS = 40, 8
KNOWN, OUTLIERS = 500, 500


def row(title: str, asked: argparse.Namespace) -> list[str]:
    """Return the figures of a detector: natural and attacked, of training and of held-out ones."""
    look = Look(title, asked)
    cells = [title]
    for part in ("train", "val"):
        known = look.images(look.suite.id_set, KNOWN, part)[0].float()
        outliers, _ = look.images(look.suite.pool, OUTLIERS, part)
        ball = Ball.around(outliers, EPS)
        _, attacked = pgd(look.score, look.gradient, ball, ball.centres, falling_sizes(EPS, STEPS))
        of_id = look.score(known / LEVELS).numpy()
        for found in (look.score(ball.centres / LEVELS), attacked):
            cells.append(f"{100 * metrics.auroc(of_id, found.numpy()):.1f}")
    return cells


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    asked = arguments("are outliers of training rejected better than held-out ones?")
    rows = [row(each, asked) for each in asked.rows.split(",")]
    about = (
        f"AUROC in percent of {KNOWN} in-distribution images against {OUTLIERS} outliers of the"
        f" pool, before and after {STEPS} signed gradient steps on the score that fall, in a ball"
        f" of {EPS} levels: both of training, and both held out of it."
    )
    parts = ("training", "held out")
    headers = ["detector", *(f"{part}{what}" for part in parts for what in ("", ", attacked"))]
    title = "Are outliers of training rejected better than others?"
    show(__file__, title, about, rows, headers, write=asked.write)


if __name__ == "__main__":
    main()
