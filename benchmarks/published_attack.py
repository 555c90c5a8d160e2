"""What the faults of the published evaluation are worth: mean AUROC, `paper` beside `standard`.

Both presets attack the same trained networks of a suite; results that are stored already are
used. The judge's score decides in both columns of a detector, so that they can be compared; of
`paper` the AUROC of the published float32 score is shown too, as a published table would have it.

    python benchmarks/published_attack.py --seeds 0,1,2 --write
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from oodbench import evaluate
from oodbench.progress import LineProgress
from oodbench.registry import entries, load

ATTACKS = ("corruption", "linf", "compositional")


def main() -> None:
    """Print the table; with --write keep it beside this file."""
    parser = argparse.ArgumentParser(description="mean AUROC under both presets")
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--results", default="oodbench-results")
    parser.add_argument("--store")
    parser.add_argument("--write", action="store_true", help="write published_attack.md")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    # A suite resolves what its published values are; whether a loss was published needs none.
    detectors = [
        name
        for name in entries("detectors")
        if load("detectors", name)().published_objective() is not None
    ]
    frames = [
        evaluate(
            detectors,
            ATTACKS,
            eps="8/255",
            suite=arguments.suite,
            preset=preset,
            seed=seeds,
            results=arguments.results,
            store=arguments.store,
            progress=LineProgress(sys.stderr),
        )
        for preset in ("standard", "paper")
    ]
    cells = pd.concat(frames, ignore_index=True)
    cells["published"] = [extras.get("auroc_published") for extras in cells["extras"]]
    means = 100 * cells.groupby(["detector", "perturbation", "preset"])[
        ["auroc", "published"]
    ].mean().astype(float)
    lines = [
        f"# `paper` beside `standard`: {arguments.suite}, ε 8/255, seeds {arguments.seeds}",
        "",
        "Mean AUROC in percent over OOD sets and seeds, of the same networks; lower is the stronger"
        " attack. `standard` has "
        f"{frames[0]['attack'].map(lambda a: a['budget']).max()} gradient steps an image, `paper`"
        " the published 40. In brackets, the AUROC of the published score in float32.",
        "",
        "| detector | " + " | ".join(f"{a} standard | {a} paper" for a in ATTACKS) + " |",
        "| --- |" + " ---: | ---: |" * len(ATTACKS),
    ]
    for detector in detectors:
        row = []
        for attack in ATTACKS:
            ours = means.loc[(detector, attack, "standard")]
            theirs = means.loc[(detector, attack, "paper")]
            row += [f"{ours['auroc']:.2f}", f"{theirs['auroc']:.2f} ({theirs['published']:.2f})"]
        lines.append(f"| {detector} | " + " | ".join(row) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
