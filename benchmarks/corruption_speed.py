"""What the 95 corruptions of an image cost, type by type.

Pictures of the embedded suite; milliseconds for each severity of a batch, and the sum for all of
`corruption`.

    OMP_NUM_THREADS=1 python benchmarks/corruption_speed.py --write
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oodbench.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from oodbench.registry import load
from oodbench.workbench import choose_device


def pictures(count: int) -> tuple[Tensor, list[str]]:
    """Return the first test pictures of all OOD sets of `mini`, uint8 [count, 3, 32, 32]."""
    suite = load("datasets", "mini")()
    parts: list[Tensor] = []
    ids: list[str] = []
    for name in suite.ood_sets:
        images = suite.image_set(name).open("test", Path())
        parts.append(torch.from_numpy(images.batch(np.arange(len(images)))))
        ids += [f"{name}/{each}" for each in images.ids]
    stacked = torch.cat(parts)
    if count > len(stacked):
        raise SystemExit(f"mini has {len(stacked)} pictures; ask for no more")
    # Evenly over the sets, whose contents differ.
    chosen = np.linspace(0, len(stacked) - 1, count).astype(int)
    return stacked[chosen].contiguous(), [ids[index] for index in chosen]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the time that some work takes."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Print the table; with --write keep it beside this file."""
    parser = argparse.ArgumentParser(description="speed of the corruptions")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3, help="the least time counts")
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument("--write", action="store_true", help="write to corruption_speed.md")
    arguments = parser.parse_args()
    device = torch.device(choose_device(arguments.device))
    images, ids = pictures(arguments.images)
    images = images.to(device)

    def whole(name: str, severity: int) -> None:
        for start in range(0, len(images), arguments.batch):
            part = slice(start, start + arguments.batch)
            corrupt(images[part], ids[part], name, severity, 0)

    times: dict[str, list[float]] = {}
    for name in CORRUPTIONS:
        corrupt(images[:8], ids[:8], name, 1, 0)  # first use fills caches
        times[name] = [
            min(seconds(partial(whole, name, severity), device) for _ in range(arguments.repeats))
            for severity in range(1, SEVERITIES + 1)
        ]
    total = sum(map(sum, times.values()))
    columns = "".join(f" {severity} |" for severity in range(1, SEVERITIES + 1))
    lines = [
        f"# Speed of the corruptions: {len(images)} images in batches of {arguments.batch}",
        "",
        "Milliseconds for all images, by severity.",
        "",
        f"| type |{columns} sum |",
        "| --- |" + " --: |" * (SEVERITIES + 1),
    ]
    for name, taken in times.items():
        cells = "".join(f" {1000 * value:.0f} |" for value in taken)
        lines.append(f"| {name} |{cells} {1000 * sum(taken):.0f} |")
    lines += [
        "",
        f"All {len(times) * SEVERITIES} candidates: {total:.1f} s, which is"
        f" {1000 * total / len(images):.1f} ms an image. The least of {arguments.repeats} repeats;"
        f" torch {torch.__version__}, {device}, {torch.get_num_threads()} threads.",
    ]
    print("\n".join(lines))
    if arguments.write:
        path = Path(__file__).with_suffix(".md")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
