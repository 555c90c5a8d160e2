"""Does a network that was taught with attacked outliers tell the noise of the attack from images?

On held-out images and outliers, never on test ones: what 40 gradient steps in the ball leave of the
AUROC, published ones from uniform noise, signs that fall from the image on, and unsigned ones from
the image and from blocks of noise; what `linf` leaves, its fallback included; and what random
signs, which nobody sees, do to the score of in-distribution images. CIFAR-10 and the outlier pool
must have been imported.

    python benchmarks/noise_mark.py --detectors oe,atom --set atom.mixed=true --write
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from oodbench import metrics
from oodbench.api import Places
from oodbench.attacks.linf import LInf
from oodbench.descent import Ball, falling_sizes, pgd
from oodbench.judging import worst_case
from oodbench.model import input_gradient
from oodbench.plugins import PluginSpec, resolved, with_settings
from oodbench.searched import Ledger
from oodbench.threat import LEVELS

STEPS, EPS, ROUGH = 40, 8, 2
BUDGET, BLOCKS = 100, 8
KNOWN, OUTLIERS = 500, 192
# Length of an unsigned step in levels, over the Euclidean norm of an image; it falls to 0.
UNSIGNED, KEPT = 60.0, 0.75

Score = Callable[[Tensor], Tensor]


def unsigned(
    score: Score, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], ball: Ball, start: Tensor
) -> Tensor:
    """Return the lowest scores [N] on a descent along gradients of length 1, with momentum."""
    levels, velocity = ball.project(start), torch.zeros_like(start)
    best = torch.minimum(score(ball.centres / LEVELS), score(levels / LEVELS))
    for step in range(STEPS):
        _, way = gradient(levels / LEVELS)
        velocity = KEPT * velocity + torch.nn.functional.normalize(way.flatten(1)).view_as(way)
        levels = ball.project(levels - UNSIGNED * (1 - step / STEPS) * velocity)
        best = torch.minimum(best, score(levels.round() / LEVELS))
    return best


def row(spec: PluginSpec, title: str, arguments: argparse.Namespace) -> list[str]:
    """Return the figures of a detector."""
    places = Places("cpu", data_root=arguments.data_root, store=arguments.store)
    bench = places.workbench()
    suite = bench.suite(arguments.suite)
    spec = resolved(spec, suite.published)
    taught = bench.taught(spec, arguments.suite, suite.schedule, suite.network, arguments.seed)
    subject = bench.subject(spec, taught, "float32")

    def score(images: Tensor) -> Tensor:
        with torch.no_grad():
            return subject.detector.score(subject.model, images)

    def gradient(images: Tensor) -> tuple[Tensor, Tensor]:
        inputs = images.detach().requires_grad_()
        values = subject.detector.score(subject.model, inputs)
        return values.detach(), input_gradient(values, inputs)

    def held_out(name: str, count: int) -> Tensor:
        images = bench.images(arguments.suite, name, "val")
        return torch.from_numpy(images.batch(range(count)))

    known, outliers = held_out(suite.id_set, KNOWN).float(), held_out(suite.pool, OUTLIERS)
    ball = Ball.around(outliers, EPS)
    rng = torch.Generator().manual_seed(0)
    cells = (len(outliers), outliers.shape[1], BLOCKS, BLOCKS)
    blocks = torch.randn(cells, generator=rng).sign()
    blocks = torch.nn.functional.interpolate(blocks, outliers.shape[2:], mode="nearest") * EPS
    names = bench.images(arguments.suite, suite.pool, "val").ids[:OUTLIERS]
    (judged,) = worst_case([subject], [LInf(budget=BUDGET)], outliers, names, 0, Ledger())
    noise = (2 * torch.rand(ball.centres.shape, generator=rng) - 1) * EPS
    noisy = ball.project((ball.centres + noise).round())
    of_id = score(known / LEVELS)
    found = [
        score(ball.centres / LEVELS),
        pgd(score, gradient, ball, noisy, [1] * STEPS)[1],
        pgd(score, gradient, ball, ball.centres, falling_sizes(EPS, STEPS))[1],
        unsigned(score, gradient, ball, ball.centres),
        unsigned(score, gradient, ball, ball.centres + blocks),
        judged.values,
    ]
    signs = ROUGH * torch.randn(known.shape, generator=rng).sign()
    rough = score((known + signs).clamp(0, LEVELS) / LEVELS)
    aurocs = [f"{100 * metrics.auroc(of_id.numpy(), values.numpy()):.1f}" for values in found]
    return [title, *aurocs, f"{of_id.median():.1f}", f"{rough.median():.1f}"]


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    parser = argparse.ArgumentParser(description="do networks know the noise of an attack?")
    parser.add_argument("--detectors", default="oe,atom")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME.FIELD=VALUE", help="a row more"
    )
    parser.add_argument("--suite", default="cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root")
    parser.add_argument("--store")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    specs = {name: PluginSpec("detectors", name) for name in arguments.detectors.split(",")}
    for text in arguments.set:
        spec = PluginSpec("detectors", text.partition(".")[0])
        (specs[text],) = with_settings([spec], [text])
    rows = [row(spec, title, arguments) for title, spec in specs.items()]
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
    text = "\n".join(
        [
            "# Does the network know the noise of the attack?",
            "",
            f"AUROC in percent of {KNOWN} held-out images against {OUTLIERS} held-out outliers,"
            f" after {STEPS} gradient steps in a ball of {EPS} levels on the score ({least});"
            " medians of the score of in-distribution images, and with random signs in every"
            " pixel.",
            "",
            tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True),
            "",
        ]
    )
    print(text)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
