"""What would another epoch do for a trained ATOM, taught as before or otherwise?

Each trial goes on from the same stored weights for an epoch with a learning rate that falls to 0,
and is judged by images held out of training; never by test images. CIFAR-10 and the outlier pool
must have been imported.

    python benchmarks/one_more_epoch.py --write
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import torch
from held_out import EPS, STEPS, Look, arguments, attacked, show
from torch import Tensor

from oodbench import metrics
from oodbench.mining import MinedOutliers
from oodbench.progress import LineProgress
from oodbench.randomness import torch_generator
from oodbench.scores import reject_class
from oodbench.threat import LEVELS
from oodbench.trainer import Trained, TrainingRequest, build, train
from oodbench.training import Training, enlarged

TRIALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as before": ({}, {}),
    "λ = 3": ({"weight": 3.0}, {}),
    "λ = 8": ({"weight": 8.0}, {}),
    "no holes": ({}, {"cutout_side": 0}),
}
"""Changes of the recipe and of the schedule."""
ROW = "atom.mixed=true@zoom"
RATE = 0.03
"""Learning rate at the start of the epoch."""
IMAGES = 800
_BATCH = 200
_DEVICE = torch.device("cpu")


def trained(request: TrainingRequest, tensors: dict[str, Tensor]) -> Training:
    """Return the state after a training that left these weights."""
    built, training = build(request, _DEVICE)
    built.load_tensors(tensors)
    training.network.eval()
    return training


def figures(look: Look, training: Training, asked: argparse.Namespace) -> list[str]:
    """Return accuracy, and AUROC natural and attacked of outliers as they are and of parts."""
    assert look.subject.detector.tta == "none", "an epoch more is looked at without views"
    held_out = look.bench.images(asked.suite, look.suite.id_set, "val")
    known = torch.from_numpy(held_out.batch(range(len(held_out)))).float() / LEVELS
    accuracy = Trained(training.network).accuracy(held_out, training.classes)
    assert accuracy is not None
    # In the precision of the training, in which it is three times as fast.
    objective = training.frozen_objective(lambda logits: reject_class(logits, training.classes))

    def value(images: Tensor) -> Tensor:
        return torch.cat([objective.value(part) for part in torch.split(images, _BATCH)])

    def gradient(images: Tensor) -> tuple[Tensor, Tensor]:
        parts = [objective.gradient(part) for part in torch.split(images, _BATCH)]
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    of_id = value(known).numpy()
    found = [accuracy]
    outliers, _ = look.images(look.suite.pool, IMAGES)
    rng = torch_generator(asked.seed, "one more epoch/parts")
    least = training.schedule.pool_zoom
    shares = least + (1 - least) * torch.rand(IMAGES, generator=rng)
    for images in (outliers, enlarged(outliers, shares, torch.rand(IMAGES, 2, generator=rng))):
        both = value(images.float() / LEVELS), attacked(value, gradient, images)
        found += [metrics.auroc(of_id, scores.numpy()) for scores in both]
    return [f"{100 * figure:.1f}" for figure in found]


def main() -> None:
    """Print the table; with --write keep it beside this script."""
    title = "What would another epoch do, taught as before or otherwise?"
    asked = arguments(title, ROW)
    look = Look(asked.rows, asked)
    start = look.bench.weights(look.taught).tensors
    before = look.bench.training_request(look.taught, start)
    if not isinstance(before.recipe, MinedOutliers):
        raise SystemExit(f"{asked.rows} mines no outliers: ask for a row of atom or ntom")
    if before.recipe.start_from is not None:
        # Such a recipe has learning rates of its own; without a first training it has not.
        before = replace(before, recipe=replace(before.recipe, first_weight=None))
    # The next epoch, with the holes of the last one.
    side = before.schedule.cutout_side_of(before.schedule.epochs - 1)
    onward = replace(
        before.schedule,
        epochs=1,
        policy="cosine",
        learning_rate=RATE,
        cutout_side=side,
        cutout_share=1.0,
    )
    rows = [["none", *figures(look, trained(before, start), asked)]]
    for name, (of_recipe, of_schedule) in TRIALS.items():
        request = replace(
            before,
            recipe=replace(before.recipe, **of_recipe),
            schedule=replace(onward, **of_schedule),
        )
        found = train(request, _DEVICE, progress=LineProgress(sys.stderr), title=name)
        rows.append([name, *figures(look, trained(request, found.tensors()), asked)])
    about = (
        f"{asked.rows} of {asked.suite} after an epoch more, with a learning rate that falls from"
        f" {RATE}: accuracy on held-out images, and their AUROC in percent against {IMAGES}"
        f" held-out outliers as they are and as many enlarged parts of them, before and after"
        f" {STEPS} falling sign steps on the score in a ball of {EPS} levels. One training each,"
        " of the same order of images."
    )
    whats = ("", ", attacked")
    headers = ["epoch", "accuracy", *(f"{n}{w}" for n in ("whole", "parts") for w in whats)]
    show(__file__, title, about, rows, headers, write=asked.write)


if __name__ == "__main__":
    main()
