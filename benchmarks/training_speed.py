"""What a training step costs of each network, plainly and as ATOM with a mixed attack is taught.

Short trainings of random images by the schedule of `cifar10`, each a network's and a recipe's, with
the share of mining that an epoch of the real ones has. One process, the repeats interleaved,
medians.

    OMP_NUM_THREADS=2 python benchmarks/training_speed.py --write
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from held_out import show

from oodbench.images import ArrayImages, Suite
from oodbench.plugins import PluginSpec, resolved, with_settings
from oodbench.recipe import Recipe
from oodbench.registry import load
from oodbench.schedule import Schedule
from oodbench.trainer import TrainingRequest, train
from oodbench.training import arithmetic
from oodbench.views import suite_called
from oodbench.workbench import choose_device, keep_freed_memory

CLASSES = 10
OUTLIERS_A_STEP = 256
"""Pool images ranked for each step: four views of 24,550 for 375 steps are about as many."""


def pictures(count: int, seed: int) -> ArrayImages:
    """Return random images with random labels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return ArrayImages(pixels, [str(i) for i in range(count)], rng.integers(0, CLASSES, count))


def taught(detector: str, suite: Suite) -> Recipe:
    """Return a detector's recipe, with a mixed training attack where there is one."""
    mixed = [f"{detector}.mixed=true"] if hasattr(load("detectors", detector), "mixed") else []
    (spec,) = with_settings([PluginSpec("detectors", detector)], mixed)
    recipe: Recipe = resolved(spec, suite.published).instance.recipe
    return recipe


def main() -> None:
    """Print the table; with --write keep it beside this file."""
    parser = argparse.ArgumentParser(description="what a training step costs")
    parser.add_argument("--networks", default="conv6,conv6wide")
    parser.add_argument("--detectors", default="msp,atom")
    parser.add_argument("--suite", default="cifar10")
    parser.add_argument("--schedule", default="fast")
    parser.add_argument("--steps", type=int, default=12, help="of each training")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument("--write", action="store_true", help="write the table beside this script")
    asked = parser.parse_args()
    device = torch.device(choose_device(asked.device))
    if device.type == "cpu":
        keep_freed_memory()  # as every training does
    suite = suite_called(asked.suite)
    assert suite is not None
    schedule: Schedule = replace(suite.schedules[asked.schedule], epochs=1, pool_views=1)
    images = pictures(asked.steps * schedule.batch_size, 0)
    pool = pictures(asked.steps * OUTLIERS_A_STEP, 1)
    networks, detectors = asked.networks.split(","), asked.detectors.split(",")
    requests = {
        (network, detector): TrainingRequest(
            recipe=taught(detector, suite),
            schedule=schedule,
            network=load("networks", network),
            classes=CLASSES,
            seed=0,
            images=images,
            pool=pool,
        )
        for network in networks
        for detector in detectors
    }
    took: dict[tuple[str, str], list[float]] = {key: [] for key in requests}
    for repeat in range(asked.repeats + 1):
        for key, request in requests.items():
            start = time.perf_counter()
            train(request, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat:  # the first is for warming up
                took[key].append((time.perf_counter() - start) / asked.steps)
    middle = {key: statistics.median(times) for key, times in took.items()}
    rows = []
    for network in networks:
        row = [network]
        for detector in detectors:
            seconds = middle[network, detector]
            row += [f"{1000 * seconds:,.0f}", f"{seconds / middle[networks[0], detector]:.2f}"]
        rows.append(row)
    headers = ["network"]
    for detector in detectors:
        headers += [f"{detector}, ms a step", f"times {networks[0]}"]
    about = (
        f"{schedule.batch_size} images a step and what the recipe adds to them, mining with it;"
        f" training attacks are mixed. Medians of {asked.repeats} interleaved trainings of"
        f" {asked.steps} steps; torch {torch.__version__}, {device.type},"
        f" {torch.get_num_threads()} threads, {arithmetic(schedule.precision, device)}."
    )
    show(__file__, "Cost of a training step", about, rows, headers, write=asked.write)


if __name__ == "__main__":
    main()
