"""Where do the mixtures of CCU start: as published, and from k-means?

Fitted to training images and to the outlier pool, without a network and without test images. A
training image whose density of outliers is the larger one teaches the network no label. CIFAR-10
and the outlier pool must have been imported.

    python benchmarks/ccu_start.py --write
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from tabulate import tabulate

from oodbench.api import Places
from oodbench.detectors.ccu import Densities
from oodbench.mixtures import INITIALISATIONS
from oodbench.threat import to_float
from oodbench.workbench import Workbench

SUITE = "cifar10"
COMPONENTS = 100
LOOKED_AT = 2_000


def spread(bench: Workbench, name: str, split: str, count: int) -> NDArray[np.float64]:
    """Return ``count`` images spread over a split, flat, in [0, 1]."""
    images = bench.images(SUITE, name, split)
    at = np.linspace(0, len(images) - 1, count).round().astype(int)
    found: NDArray[np.float64] = (
        to_float(torch.from_numpy(images.batch(at))).flatten(1).double().numpy()
    )
    return found


def alone(vectors: NDArray[np.float64], initialisation: str) -> int:
    """Return how many components hold one image of those that they are fitted to."""
    if initialisation == "em":
        mixture = GaussianMixture(COMPONENTS, covariance_type="spherical", random_state=0)
        own = mixture.fit(vectors).predict(vectors)
    else:
        own = KMeans(COMPONENTS, n_init=1, random_state=0).fit(vectors).labels_
    return int((np.bincount(own, minlength=COMPONENTS) <= 1).sum())


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000, help="of either kind, to fit to")
    parser.add_argument("--directions", default="128,3071", help="of the metric")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    bench = Places(device="cpu", data_root=asked.data_root).workbench()
    suite = bench.suite(SUITE)
    ours = spread(bench, suite.id_set, "train", asked.images)
    pool = spread(bench, suite.pool, "train", asked.images)
    looked_at = {
        "training images": ours[:: max(1, asked.images // LOOKED_AT)],
        "held-out images": spread(bench, suite.id_set, "val", LOOKED_AT),
        "outliers": pool[:: max(1, asked.images // LOOKED_AT)],
    }
    rows = []
    for directions in map(int, asked.directions.split(",")):
        for initialisation in INITIALISATIONS:
            both = Densities(COMPONENTS, directions, ours.shape[1])
            both.metric.fit(ours, 0)
            both.inside.fit(ours, both.metric, 0, initialisation)
            both.outside.fit(pool, both.metric, 0, initialisation)
            both.widen_outside()
            whitened = both.metric.whiten(torch.from_numpy(ours))
            centres = both.metric.whiten(both.inside.means.detach())
            square = torch.cdist(whitened, centres).amin(1).square().mean() / ours.shape[1]
            row = [directions, initialisation, alone(whitened.numpy(), initialisation)]
            row += [float(both.inside.log_variances.detach()[0].exp()), float(square)]
            for vectors in looked_at.values():
                inside, outside = both.log_densities(torch.from_numpy(vectors))
                row.append(100 * float((inside < outside).double().mean()))
            rows.append(row)
            print(row, flush=True)
    headers = ["directions", "start", "components of one image", "variance", "mean square"]
    headers += [f"outside: {name}" for name in looked_at]
    table = tabulate(
        rows, headers, "pipe", floatfmt=("", "", "", ".4f", ".4f", ".1f", ".1f", ".1f")
    )
    text = (
        f"# Where the mixtures of CCU start\n\n{COMPONENTS} components of either mixture, fitted to"
        f" {asked.images:,} training images of {SUITE} and as many outliers of its pool: how many"
        " of those of images hold a single one, the variance that all start with, the mean square"
        " of images about the nearest centre (per dimension, in the metric), and the percentage"
        " of images of which the density of outliers is the larger.\n\n"
        f"{table}\n"
    )
    print(f"\n{text}")
    if asked.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
