"""Does a network that was taught with attacked outliers tell the noise of the attack from images?

On held-out images and outliers, never on test ones: what 40 gradient steps in the ball leave of the
AUROC, published ones from uniform noise, signs that fall from the image on, and unsigned ones from
the image and from blocks of noise; what `linf` leaves, its fallback included; and what random
signs, which nobody sees, do to the score of in-distribution images. CIFAR-10 and the outlier pool
must have been imported.

    python benchmarks/noise_mark.py --rows rowl@zoom,atom.mixed=true@zoom --write
"""

from __future__ import annotations

import argparse

import torch
from held_out import EPS, STEPS, Look, show_rows
from torch import Tensor

from oodbench import metrics
from oodbench.attacks.linf import LInf
from oodbench.descent import Ball, pgd
from oodbench.judging import worst_case
from oodbench.searched import Ledger
from oodbench.threat import LEVELS

ROUGH = 2
BUDGET, BLOCKS = 100, 8
KNOWN, OUTLIERS = 500, 192
# Length of an unsigned step in levels, over the Euclidean norm of an image; it falls to 0.
UNSIGNED, KEPT = 60.0, 0.75


def unsigned(look: Look, ball: Ball, start: Tensor) -> Tensor:
    """Return the lowest scores [N] on a descent along gradients of length 1, with momentum."""
    levels, velocity = ball.project(start), torch.zeros_like(start)
    best = torch.minimum(look.score(ball.centres / LEVELS), look.score(levels / LEVELS))
    for step in range(STEPS):
        _, way = look.gradient(levels / LEVELS)
        velocity = KEPT * velocity + torch.nn.functional.normalize(way.flatten(1)).view_as(way)
        levels = ball.project(levels - UNSIGNED * (1 - step / STEPS) * velocity)
        best = torch.minimum(best, look.score(levels.round() / LEVELS))
    return best


def row(title: str, asked: argparse.Namespace) -> list[str]:
    """Return the figures of a detector."""
    look = Look(title, asked)
    known = look.images(look.suite.id_set, KNOWN)[0].float()
    outliers, names = look.images(look.suite.pool, OUTLIERS)
    ball = Ball.around(outliers, EPS)
    rng = torch.Generator().manual_seed(0)
    cells = (len(outliers), outliers.shape[1], BLOCKS, BLOCKS)
    blocks = torch.randn(cells, generator=rng).sign()
    blocks = torch.nn.functional.interpolate(blocks, outliers.shape[2:], mode="nearest") * EPS
    (judged,) = worst_case([look.subject], [LInf(budget=BUDGET)], outliers, names, 0, Ledger())
    noise = (2 * torch.rand(ball.centres.shape, generator=rng) - 1) * EPS
    noisy = ball.project((ball.centres + noise).round())
    of_id = look.score(known / LEVELS)
    found = [
        look.score(ball.centres / LEVELS),
        pgd(look.score, look.gradient, ball, noisy, [1] * STEPS)[1],
        look.attacked(outliers),
        unsigned(look, ball, ball.centres),
        unsigned(look, ball, ball.centres + blocks),
        judged.values,
    ]
    signs = ROUGH * torch.randn(known.shape, generator=rng).sign()
    rough = look.score((known + signs).clamp(0, LEVELS) / LEVELS)
    aurocs = [f"{100 * metrics.auroc(of_id.numpy(), values.numpy()):.1f}" for values in found]
    return [title, *aurocs, f"{of_id.median():.1f}", f"{rough.median():.1f}"]


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    headers = [
        "detector",
        "natural",
        "published",
        "falling signs",
        "unsigned",
        f"unsigned from {BLOCKS}×{BLOCKS} blocks",
        "linf",
        "ID score",
        f"with signs of {ROUGH} levels",
    ]
    least = f"`linf` has {BUDGET} steps and what it falls back to"
    about = (
        f"AUROC in percent of {KNOWN} held-out images against {OUTLIERS} held-out outliers,"
        f" after {STEPS} gradient steps in a ball of {EPS} levels on the score ({least});"
        " medians of the score of in-distribution images, and with random signs in every pixel."
    )
    title = "Does the network know the noise of the attack?"
    show_rows(__file__, title, about, row, headers)


if __name__ == "__main__":
    main()
