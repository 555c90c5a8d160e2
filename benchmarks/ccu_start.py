"""Where do the mixtures of CCU start, with the published floor of variances and without?

Fitted to training images and to the outlier pool, without a network and without test images. Where
the density of outliers is larger by far, a label teaches the network nothing. CIFAR-10 and the
outlier pool must have been imported.

    python benchmarks/ccu_start.py --write
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from oodbench.api import Places
from oodbench.detectors.ccu import Densities, DensityAware
from oodbench.images import Subset
from oodbench.threat import to_float
from oodbench.workbench import Workbench

SUITE = "cifar10"
COMPONENTS = 100
LOOKED_AT = 2_000
LEAST = {"none": 0.0, "published": 1e-3}
"""Floors, in the units of the published metric."""


def flat(bench: Workbench, name: str, split: str, count: int) -> Tensor:
    """Return ``count`` images spread over a split, float64 [N, D] in [0, 1]."""
    images = Subset(bench.images(SUITE, name, split), count)
    return to_float(torch.from_numpy(images.batch(range(len(images))))).flatten(1).double()


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000, help="of either kind, to fit to")
    parser.add_argument("--directions", default="128", help="of the metric, a list")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    bench = Places(device="cpu", data_root=asked.data_root).workbench()
    suite = bench.suite(SUITE)
    ours = flat(bench, suite.id_set, "train", asked.images)
    in_training = len(bench.images(SUITE, suite.id_set, "train"))
    pool = flat(bench, suite.pool, "train", asked.images)
    looked_at = {
        "training images": ours[:: max(1, asked.images // LOOKED_AT)],
        "held-out images": flat(bench, suite.id_set, "val", LOOKED_AT),
        "outliers": pool[:: max(1, asked.images // LOOKED_AT)],
    }
    rows = []
    for directions in map(int, asked.directions.split(",")):
        for title, least in LEAST.items():
            recipe = DensityAware(COMPONENTS, directions, least_variance=least)
            floor = recipe.floor(in_training)
            both = Densities(COMPONENTS, directions, ours.shape[1])
            both.metric.fit(ours.numpy(), 0)
            both.inside.fit(ours.numpy(), both.metric, 0, floor)
            both.outside.fit(pool.numpy(), both.metric, 0, floor)
            both.widen_outside()
            whitened = both.metric.whiten(ours)
            apart = torch.cdist(whitened, both.metric.whiten(both.inside.means.detach()))
            square, nearest = apart.square().min(1)
            alone = int((torch.bincount(nearest, minlength=COMPONENTS) == 1).sum())
            row = [directions, title, alone, float(both.inside.log_variances.detach()[0].exp())]
            row.append(float(square.mean()) / ours.shape[1])
            for vectors in looked_at.values():
                inside, outside = both.log_densities(vectors)
                row.append(100 * float((inside < outside).double().mean()))
            rows.append(row)
            print(row, flush=True)
    headers = ["directions", "floor", "components of one image", "variance", "mean square"]
    headers += [f"outside: {name}" for name in looked_at]
    digits = ("", "", "", ".4f", ".4f", ".1f", ".1f", ".1f")
    table = tabulate(rows, headers, "pipe", floatfmt=digits)
    text = (
        f"# Where the mixtures of CCU start\n\nBefore any training: {COMPONENTS} components of"
        f" either mixture, fitted to {asked.images:,} images of {SUITE} for training and as many"
        f" outliers of its pool, not augmented, with the floor that {in_training:,} images give."
        " How many of the centres are nearest to a single image, the variance that all components"
        " of images start with, the mean square of images about the nearest centre (both per"
        " dimension, in the metric), and the percentage of images of which the density of outliers"
        " is the larger.\n\n"
        f"{table}\n"
    )
    print(f"\n{text}")
    if asked.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
