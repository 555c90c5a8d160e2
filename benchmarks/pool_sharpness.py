"""Do detectors know outliers by their contents, or by how sharp the pool's pictures are?

On held-out images and outliers, never on test ones: AUROC of outliers as they are, blurred and
enlarged, natural and after 40 gradient steps in the ball; and of in-distribution images treated the
same way, which a detector of contents would accept. CIFAR-10 and the outlier pool must have been
imported.

    python benchmarks/pool_sharpness.py --detectors oe,atom --set atom.mixed=true --write
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from torchvision.transforms import functional as F

from oodbench import metrics
from oodbench.api import Places
from oodbench.descent import Ball, falling_sizes, pgd
from oodbench.model import input_gradient
from oodbench.plugins import PluginSpec, resolved, with_settings
from oodbench.threat import LEVELS

STEPS, EPS = 40, 8
IMAGES, ATTACKED = 1_000, 96
_BATCH = 250


def enlarged(images: Tensor) -> Tensor:
    """Return the middle of images at twice its size."""
    side = images.shape[-1]
    middle: Tensor = F.resize(F.center_crop(images, [side // 2]), [side], antialias=True)
    return middle


TREATMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda images: images,
    "blurred, σ 1": lambda images: F.gaussian_blur(images, 5, 1.0),
    "blurred, σ 2": lambda images: F.gaussian_blur(images, 9, 2.0),
    "enlarged": enlarged,
}


def row(spec: PluginSpec, title: str, arguments: argparse.Namespace) -> list[str]:
    """Return the figures of a detector: of each treatment natural, attacked, of ID images."""
    places = Places("cpu", data_root=arguments.data_root, store=arguments.store)
    bench = places.workbench()
    suite = bench.suite(arguments.suite)
    spec = resolved(spec, suite.published)
    taught = bench.taught(spec, arguments.suite, suite.schedule, suite.network, arguments.seed)
    subject = bench.subject(spec, taught, "float32")

    def score(images: Tensor) -> Tensor:
        with torch.no_grad():
            parts = torch.split(images, _BATCH)
            return torch.cat([subject.detector.score(subject.model, part) for part in parts])

    def gradient(images: Tensor) -> tuple[Tensor, Tensor]:
        inputs = images.detach().requires_grad_()
        values = subject.detector.score(subject.model, inputs)
        return values.detach(), input_gradient(values, inputs)

    def held_out(name: str) -> Tensor:
        images = bench.images(arguments.suite, name, "val")
        return torch.from_numpy(images.batch(range(IMAGES))).float()

    known, outliers = held_out(suite.id_set), held_out(suite.pool)
    of_id = score(known / LEVELS).numpy()
    cells = [title]
    for treated in TREATMENTS.values():
        levels = treated(outliers).round()
        ball = Ball.around(levels[:ATTACKED].to(torch.uint8), EPS)
        _, attacked = pgd(score, gradient, ball, ball.centres, falling_sizes(EPS, STEPS))
        of_treated = score(treated(known).round() / LEVELS)
        found = (score(levels / LEVELS), attacked, of_treated)
        cells.append(" / ".join(f"{100 * metrics.auroc(of_id, v.numpy()):.1f}" for v in found))
    return cells


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    parser = argparse.ArgumentParser(description="do detectors know outliers by their sharpness?")
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
    text = "\n".join(
        [
            "# Do detectors know outliers by how sharp they are?",
            "",
            f"AUROC in percent of {IMAGES:,} held-out images against as many held-out outliers /"
            f" {ATTACKED} of them after {STEPS} falling sign steps in a ball of {EPS} levels / the"
            " held-out images themselves, each treated as the column says. 50 in the last place:"
            " the treatment is not seen.",
            "",
            tabulate(
                rows, headers=["detector", *TREATMENTS], tablefmt="pipe", disable_numparse=True
            ),
            "",
        ]
    )
    print(text)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
