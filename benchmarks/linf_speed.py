"""What the `linf` search costs above the network's own forward pass and input gradient.

Image-steps a second of the attack through the judge, with everything it does besides, beside
bare gradients at the same batch, channels last: (a) of the network that the search makes for
itself, batch norm folded, (b) of the detector's own. One process, the repeats interleaved, medians.

    OMP_NUM_THREADS=1 python benchmarks/linf_speed.py --write
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from oodbench.judging import worst_case
from oodbench.model import Backbone, Model, input_gradient
from oodbench.network import initialised
from oodbench.plugins import PluginSpec
from oodbench.registry import load
from oodbench.searched import Ledger
from oodbench.subject import Subject
from oodbench.workbench import choose_device, keep_freed_memory

CLASSES = 8


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the time that some work takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Print a table for each network; with --write keep them beside this file."""
    parser = argparse.ArgumentParser(description="speed of linf beside bare gradients")
    parser.add_argument("--networks", nargs="+", default=["conv6", "conv3"])
    parser.add_argument("--detector", default="msp", help="one that needs no fit")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--budget", type=int, default=100, help="gradient steps an image")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", help="such as cpu or cuda:0")
    parser.add_argument("--write", action="store_true", help="write the table to linf_speed.md")
    arguments = parser.parse_args()
    lines = ["# Speed of `linf`"]
    for network in arguments.networks:
        lines += ["", *table(network, arguments)]
    print("\n".join(lines))
    if arguments.write:
        path = Path(__file__).with_suffix(".md")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(network: str, arguments: argparse.Namespace) -> list[str]:
    """Measure one network and return the lines of its table."""
    device = torch.device(choose_device(arguments.device))
    if device.type == "cpu":
        keep_freed_memory()  # as every run does; the bare gradients gain by it too
    dtype = getattr(torch, arguments.precision)

    plain = initialised(load("networks", network), CLASSES, 0).to(device)
    plain.train()
    with torch.no_grad():  # running statistics other than their defaults
        plain(torch.rand(256, 3, 32, 32, device=device))
    plain.eval().requires_grad_(False)
    judge = Backbone(initialised(load("networks", network), CLASSES, 0).to(device), 8)
    judge.network.load_state_dict(plain.state_dict())
    search = judge.for_search(dtype)
    detector = PluginSpec("detectors", arguments.detector).instance
    subject = Subject(detector, Model(judge), Model(search))
    linf = load("attacks", "linf")(budget=arguments.budget)

    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (arguments.batch, 3, 32, 32), generator=rng, dtype=torch.uint8)
    images = images.to(device)
    ids = [str(i) for i in range(arguments.batch)]
    inputs = images.float() / 255

    def gradients(backbone: Backbone) -> Callable[[], None]:
        def work() -> None:
            for _ in range(arguments.budget):
                leaf = inputs.detach().requires_grad_()
                x = leaf.to(backbone.dtype).contiguous(memory_format=torch.channels_last)
                input_gradient(backbone.network(x).float().sum(1), leaf)

        return work

    def attack() -> None:
        ledger = Ledger()
        worst_case([subject], [linf], images, ids, 0, ledger)
        assert ledger.gradient_images == arguments.budget * arguments.batch

    runs = {
        "`linf`, judged": attack,
        "(a) bare gradient, search network": gradients(search),
        "(b) bare gradient, own network": gradients(judge),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(arguments.repeats + 1):
        for name, work in runs.items():
            took = seconds(work, device)
            if repeat:  # the first is for warming up
                times[name].append(took)
    steps = arguments.batch * arguments.budget
    own = times["`linf`, judged"]
    lines = [
        f"## {network}, batch {arguments.batch}, budget {arguments.budget}, {arguments.precision}",
        "",
        "| | image-steps a second | seconds | `linf` takes … times as long |",
        "| --- | --- | --- | --- |",
    ]
    for name, taken in times.items():
        middle = statistics.median(taken)
        # Ratios within a repeat: what else the machine does then concerns both.
        ratio = statistics.median(a / b for a, b in zip(own, taken, strict=True))
        lines.append(f"| {name} | {steps / middle:,.0f} | {middle:.3f} | {ratio:.2f} |")
    lines += [
        "",
        f"Medians of {arguments.repeats} interleaved repeats; torch {torch.__version__}, {device},"
        f" {torch.get_num_threads()} threads.",
    ]
    return lines


if __name__ == "__main__":
    main()
