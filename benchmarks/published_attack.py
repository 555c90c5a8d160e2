"""What the faults of the published evaluation are worth: mean AUROC, `paper` beside `standard`.

Both presets attack the same trained networks of a suite; results that are stored already are
used. The judge's score decides in both columns of a detector, so that they can be compared; of
`paper` the AUROC of the published float32 score is shown too, as a published table would have it.

    python benchmarks/published_attack.py --seeds 0,1,2 --write
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from oodbench import evaluate
from oodbench.progress import LineProgress
from oodbench.records import find_records, read_record, read_scores
from oodbench.registry import entries, load

ATTACKS = ("corruption", "linf", "compositional")

# Lead of the reject logit above which float32 cross entropy is exactly 0 (fault F2).
FLOAT32_POINT = 17.0
LOG_ODDS = Path(__file__).parent / "detectors" / "atom_log_odds.py"


def beyond_float32(arguments: argparse.Namespace, seeds: Sequence[int]) -> list[str]:
    """Return a table of what the published loss alone hides of ATOM (fault F2).

    The same network under the published search (one start, 40 plain steps) twice, on the
    published cross entropy and on the log-odds, and under `standard`; images parted by whether
    the clean score lies beyond the point where the cross entropy is 0.
    """
    common: dict[str, Any] = {
        "attack": "linf",
        "eps": "8/255",
        "suite": arguments.suite,
        "seed": seeds,
        "store": arguments.store,
        "progress": LineProgress(sys.stderr),
    }
    kept = Path(arguments.results)
    quantile = load("datasets", arguments.suite)().published["atom"]["quantile"]
    with tempfile.TemporaryDirectory() as folder:
        clean = evaluate(**common | {"detector": "atom", "attack": "none", "results": kept})
        runs = {
            "paper: cross entropy": evaluate(
                **common, detector="atom", preset="paper", results=kept
            ),
            "paper's search on the log-odds": evaluate(
                **common,
                detector=str(LOG_ODDS),
                preset="paper",
                params=[f"quantile={quantile}"],
                results=folder,
            ),
            "standard": evaluate(**common, detector="atom", results=kept),
        }
        scores = {
            name: _scores(cells, folder if "log-odds" in name else kept)
            for name, cells in {"clean": clean, **runs}.items()
        }
    beyond = scores["clean"] > FLOAT32_POINT
    lines = [
        "## ATOM, parted by fault F2",
        "",
        f"Of the OOD images of all seeds, {100 * beyond.mean():.2f} % have a clean score above"
        f" {FLOAT32_POINT:g}, where the published cross entropy is 0 in float32. Scores are the"
        " judge's, means over images; lower is the stronger attack.",
        "",
        "| attack | mean AUROC | score, beyond | score, others | still beyond |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, cells in {"clean": clean, **runs}.items():
        values = scores[name]
        high = f"{values[beyond].mean():.2f}" if beyond.any() else ""
        still = f"{100 * (values > FLOAT32_POINT).mean():.2f} %"
        lines.append(
            f"| {name} | {100 * cells['auroc'].mean():.2f} | {high} |"
            f" {values[~beyond].mean():.2f} | {still} |"
        )
    return lines


def _scores(cells: pd.DataFrame, results: str | Path) -> NDArray[np.float32]:
    """Return the scores of all images of all cells, in the order of set and seed."""
    records = {read_record(path)["identity"]: path for path in find_records(Path(results))}
    ordered = cells.sort_values(["set", "seed"])
    return np.concatenate([read_scores(records[i])["scores"] for i in ordered["identity"]])


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
    lines += ["", *beyond_float32(arguments, seeds)]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
