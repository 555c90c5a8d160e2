"""Where the time of a whole table goes: by phase and detector, and by operation in the largest.

Reads what `oodbench run --detector all --attack all` stored, which says how long each training
and each cell took, and then profiles the largest phase, the search of `linf`, on one detector.

    oodbench run --detector all --attack all --retrain --results R --store S
    python benchmarks/whole_table.py --results R --store S --write
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from oodbench.api import Places
from oodbench.plan import Request, make_plan
from oodbench.records import find_records, read_record
from oodbench.work import Work, run_work


def phases(results: Path, store: Path, suite: str, seed: int) -> dict[str, Counter[str]]:
    """Return seconds by phase and detector, of training by recipe."""
    found: dict[str, Counter[str]] = {"training": Counter()}
    for card in (store / suite / "weights").glob(f"*/*-{seed}--*.json"):
        facts = json.loads(card.read_text(encoding="utf-8"))["facts"]
        found["training"][card.parent.name] += facts["seconds"]
    for path in find_records(results / suite):
        record = read_record(path)
        if record["seed"] == seed:
            phase = found.setdefault(record["perturbation"], Counter())
            phase[record["detector"]] += record["seconds"]
    return found


def operations(store: Path, suite: str, detector: str) -> list[tuple[str, float]]:
    """Return the share of each operation in a search of `linf`, the largest first."""
    bench = Places(device="cpu", store=store).workbench()
    request = Request(suite=suite, detectors=(detector,), attacks=("linf",), budget=30)
    plan = make_plan(request, bench, Path("nowhere"), force=True)
    work = Work((plan.cells[0],), 0, 250)
    run_work(work, bench)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_work(work, bench)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    shares = [(event.key, event.self_cpu_time_total / total) for event in events]
    return sorted(shares, key=lambda share: -share[1])


def main() -> None:
    """Print the tables; with --write keep them beside this file."""
    parser = argparse.ArgumentParser(description="where the time of a whole table goes")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detector", default="msp", help="whose search is profiled")
    parser.add_argument("--write", action="store_true", help="write whole_table.md")
    arguments = parser.parse_args()
    found = phases(arguments.results, arguments.store, arguments.suite, arguments.seed)
    total = sum(sum(phase.values()) for phase in found.values())
    lines = [
        f"# Where the time goes: all detectors and attacks on {arguments.suite}, one seed",
        "",
        "| phase | seconds | share | the longest |",
        "| --- | ---: | ---: | --- |",
    ]
    for name, phase in sorted(found.items(), key=lambda item: -sum(item[1].values())):
        seconds = sum(phase.values())
        longest = ", ".join(f"{key} {value:.0f}" for key, value in phase.most_common(4))
        lines.append(f"| {name} | {seconds:.0f} | {100 * seconds / total:.0f} % | {longest} |")
    lines += [
        "",
        f"Operations in a search of `linf` on {arguments.detector}, {torch.get_num_threads()}"
        f" threads, torch {torch.__version__}:",
        "",
        "| operation | share |",
        "| --- | ---: |",
    ]
    for name, share in operations(arguments.store, arguments.suite, arguments.detector)[:10]:
        lines.append(f"| {name} | {100 * share:.1f} % |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
