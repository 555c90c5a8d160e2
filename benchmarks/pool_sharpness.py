"""Do detectors know outliers by their contents, or by how sharp the pool's pictures are?

On held-out images and outliers, never on test ones: AUROC of outliers as they are, blurred and
enlarged, natural and after 40 gradient steps in the ball; and of in-distribution images treated the
same way, which a detector of contents would accept. CIFAR-10 and the outlier pool must have been
imported.

    python benchmarks/pool_sharpness.py --rows rowl@zoom,atom.mixed=true@zoom --write
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from held_out import EPS, STEPS, Look, show_rows
from torch import Tensor
from torchvision.transforms import functional as F

from oodbench import metrics
from oodbench.threat import LEVELS

IMAGES, ATTACKED = 1_000, 100


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


def row(title: str, asked: argparse.Namespace) -> list[str]:
    """Return the figures of a detector: of each treatment natural, attacked, of ID images."""
    look = Look(title, asked)
    known, outliers = (
        look.images(name, IMAGES)[0].float() for name in (look.suite.id_set, look.suite.pool)
    )
    of_id = look.score(known / LEVELS).numpy()
    cells = [title]
    for treated in TREATMENTS.values():
        levels = treated(outliers).round()
        attacked = look.attacked(levels[:: IMAGES // ATTACKED].to(torch.uint8))
        of_treated = look.score(treated(known).round() / LEVELS)
        found = (look.score(levels / LEVELS), attacked, of_treated)
        cells.append(" / ".join(f"{100 * metrics.auroc(of_id, v.numpy()):.1f}" for v in found))
    return cells


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    about = (
        f"AUROC in percent of {IMAGES:,} held-out images against as many held-out outliers /"
        f" {ATTACKED} of them after {STEPS} falling sign steps in a ball of {EPS} levels / the"
        " held-out images themselves, each treated as the column says. 50 in the last place:"
        " the treatment is not seen."
    )
    title = "Do detectors know outliers by how sharp they are?"
    show_rows(__file__, title, about, row, ["detector", *TREATMENTS])


if __name__ == "__main__":
    main()
