"""What do outliers of in-distribution classes teach?

OE with a short schedule on CIFAR-10, once with Tiny ImageNet less the 23 classes that CIFAR-10 has
too and once with all of it: accuracy, AUROC against OOD sets, and the same of in-distribution
images of classes with a twin in the pool (cars, trucks, birds, cats, dogs, frogs, ships) and of
those without. The image sets must have been imported.

    python benchmarks/pool_overlap.py --write
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from held_out import show
from torch import Tensor

from oodbench import metrics
from oodbench.api import Places
from oodbench.datasets.tinyimagenet import CIFAR10_CLASSES
from oodbench.detector import Detector
from oodbench.identity import digest, parameters
from oodbench.model import Backbone, Model
from oodbench.plugins import PluginSpec, resolved
from oodbench.progress import LineProgress
from oodbench.threat import LEVELS
from oodbench.trainer import build, train
from oodbench.workbench import Workbench

SUITE, DETECTOR, SCHEDULE = "cifar10", "oe", "whole"
POOLS = ("tinyimagenet", "tinyimagenet_all")
SETS = ("svhn", "textures", "miniplaces", "isun", "cifar100")
NEAR = ("cifar100",)
_BATCH = 500


def taught(bench: Workbench, spec: PluginSpec, pool: str, epochs: int, folder: Path) -> Model:
    """Return the network taught with a pool."""
    suite = bench.suite(SUITE)
    training = bench.taught(spec, SUITE, SCHEDULE, suite.network, 0)
    request = replace(
        bench.training_request(training),
        schedule=replace(bench.schedule(SUITE, SCHEDULE), epochs=epochs),
        pool=bench.images(SUITE, pool, "train"),
    )
    assert request.pool is not None
    asked = {"pool": request.pool.digest, "schedule": parameters(request.schedule)}
    checkpoint = folder / digest(asked | {"detector": spec.identity()})
    found = train(request, bench.device, checkpoint, bench.progress, f"{spec.name}, {pool}")
    trained, _ = build(request, bench.device)
    trained.load_tensors(found.tensors())
    return Model(Backbone(trained.network, bench.classes(SUITE), trained.modules))


def scores(detector: Detector, model: Model, images: Tensor) -> Tensor:
    """Return the scores of uint8 images [N, 3, H, W], float32 [N]."""
    parts = torch.split(images, _BATCH)
    with torch.no_grad():
        return torch.cat([detector.score(model, part.float() / LEVELS) for part in parts]).cpu()


def row(
    detector: Detector,
    model: Model,
    known: Tensor,
    labels: Tensor,
    twins: Tensor,
    unknown: Mapping[str, Tensor],
) -> list[str]:
    """Return accuracy, AUROC against each set, and mean AUROC of classes with twins and without."""
    with torch.no_grad():
        parts = torch.split(known, _BATCH)
        predicted = torch.cat([detector.predict(model, p.float() / LEVELS).cpu() for p in parts])
    of_id = scores(detector, model, known)
    of_ood = {name: scores(detector, model, images) for name, images in unknown.items()}

    def auroc(chosen: Tensor, name: str) -> float:
        return metrics.auroc(of_id[chosen].numpy(), of_ood[name].numpy())

    everything = torch.ones_like(twins)
    far = [name for name in unknown if name not in NEAR]
    means = [sum(auroc(of, name) for name in far) / len(far) for of in (twins, ~twins)]
    figures = [
        float((predicted == labels).double().mean()),
        *(auroc(everything, name) for name in unknown),
        *means,
    ]
    return [f"{100 * figure:.1f}" for figure in figures]


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    parser = argparse.ArgumentParser(description="what do outliers of known classes teach?")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=1_000, help="of each OOD set")
    parser.add_argument("--data-root")
    parser.add_argument("--store", type=Path, help="where trainings are kept, to be gone on with")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    places = Places("cpu", data_root=arguments.data_root)
    bench = Workbench(places.workbench().settings, LineProgress(sys.stderr))
    spec = resolved(PluginSpec("detectors", DETECTOR), bench.suite(SUITE).published)
    test = bench.images(SUITE, SUITE, "test")
    known = torch.from_numpy(test.batch(range(len(test))))
    assert test.labels is not None
    labels = torch.from_numpy(test.labels).long()
    names = bench.image_set(SUITE, SUITE).classes
    assert names is not None
    twins = torch.tensor([names[label] in CIFAR10_CLASSES for label in labels.tolist()])
    unknown = {}
    for name in SETS:
        images = bench.limited(SUITE, name, arguments.images)
        unknown[name] = torch.from_numpy(images.batch(range(len(images))))
    rows = []
    with TemporaryDirectory() as temporary:
        folder = arguments.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for pool in POOLS:
            model = taught(bench, spec, pool, arguments.epochs, folder)
            found = row(spec.instance, model, known, labels, twins, unknown)
            rows.append([pool, f"{len(bench.images(SUITE, pool, 'train')):,}", *found])
    headers = ["pool", "outliers", "accuracy", *SETS, "with a twin", "without"]
    about = (
        f"{DETECTOR}@{SCHEDULE} on {SUITE}, {arguments.epochs} epochs, one training a pool:"
        f" accuracy and AUROC in percent of {len(test):,} test images against {arguments.images:,}"
        " of each set; the last two are means over all sets but cifar100, of in-distribution images"
        " of classes that the whole pool has too, and of the others."
    )
    title = "What do outliers of in-distribution classes teach?"
    show(__file__, title, about, rows, headers, write=arguments.write)


if __name__ == "__main__":
    main()
