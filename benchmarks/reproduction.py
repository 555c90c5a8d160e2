"""Our figures beside the published ones: docs/reproduction.md.

Reads stored records of a suite and nothing else; what is not stored yet is left empty.

    python benchmarks/reproduction.py --write
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata
from tabulate import tabulate

from oodbench.files import shipped_results
from oodbench.published import published
from oodbench.records import (
    arrays_digest,
    find_records,
    read_arrays,
    read_record,
    read_scores,
)
from oodbench.views import ALL, suite_called, views

ATTACKS = ("none", "corruption", "linf", "compositional")
COMPARED = ("svhn", "textures", "miniplaces", "isun")
"""Sets of the tiers and of the correlation: one of each kind, none cut out of another."""
TIERS = (("atom",), ("acet",), ("ccu", "mahalanobis", "msp", "ntom", "odin", "oe", "sofl"))
"""Claimed order under attack: the paper's method, the other adversarial one, all others."""
DRAWS = 1000
MARK = "<!-- figures: python benchmarks/reproduction.py --write -->"
PAGE = Path(__file__).parents[1] / "docs/reproduction.md"

Record = Mapping[str, Any]


def stored(root: Path, suite: str, network: str | None, seed: int) -> dict[tuple[str, ...], Path]:
    """Return paths of records by detector, perturbation, preset and set, the largest sets first."""
    found: dict[tuple[str, ...], tuple[int, Path]] = {}
    for path in find_records(root / suite):
        record = read_record(path)
        if record["side"] != "ood" or record["seed"] != seed:
            continue
        if network is not None and record["network"] != network:
            continue
        key = tuple(record[k] for k in ("detector", "perturbation", "preset", "set"))
        if key not in found or record["n_ood"] > found[key][0]:
            found[key] = (record["n_ood"], path)
    return {key: path for key, (_, path) in found.items()}


def beside(paths: Mapping[tuple[str, ...], Path], suite: str) -> Iterator[str]:
    """Yield a table for each perturbation: ours under both presets beside the published."""
    figures = published().query("suite == @suite").set_index(["detector", "perturbation"])
    detectors = sorted({key[0] for key in paths})
    sets = list(dict.fromkeys(key[3] for key in sorted(paths)))
    shown = views(suite_called(suite), sets)
    for attack in ATTACKS:
        rows = []
        for detector in detectors:
            row: list[str] = [detector]
            known = (detector, attack) in figures.index
            row.append(_pair(figures.loc[(detector, attack)]) if known else "")
            for preset in ("paper", "standard"):
                records = {
                    name: read_record(paths[detector, attack, preset, name])
                    for name in sets
                    if (detector, attack, preset, name) in paths
                }
                row += [_mean(records, members) for members in shown.values()]
            if any(row[2:]):
                rows.append(row)
        if not rows:
            continue
        titles = [name if name != ALL else "all" for name in shown]
        headers = ["detector", "published"]
        headers += [f"{preset}: {title}" for preset in ("paper", "standard") for title in titles]
        kept = [0] + [i for i in range(1, len(headers)) if any(row[i] for row in rows)]
        yield f"### {'natural' if attack == 'none' else attack}\n"
        yield tabulate(
            [[row[i] for i in kept] for row in rows],
            headers=[headers[i] for i in kept],
            tablefmt="pipe",
            disable_numparse=True,
        )
        yield ""


def _pair(figures: Mapping[str, float] | pd.Series) -> str:
    return f"{100 * figures['fpr95']:.2f} / {100 * figures['auroc']:.2f}"


def _mean(records: Mapping[str, Record], members: Sequence[str]) -> str:
    """Return the mean over sets; of fewer than all it says how many."""
    there = [records[name] for name in members if name in records]
    if not there:
        return ""
    mean = {m: float(np.mean([record[m] for record in there])) for m in ("fpr95", "auroc")}
    return _pair(mean) + (f" ({len(there)} of {len(members)})" if len(there) < len(members) else "")


def _auroc(known: NDArray[Any], other: NDArray[Any]) -> float:
    ranks = rankdata(np.concatenate([known, other]))[len(known) :]
    return float((ranks.sum() - len(other) * (len(other) + 1) / 2) / (len(known) * len(other)))


def agreement(paths: Mapping[tuple[str, ...], Path], suite: str) -> Iterator[str]:
    """Yield Kendall's τ of natural mean AUROCs with the published ones, and its interval.

    Bootstrapped over images, the same draws for all detectors, since they saw the same images.
    """
    figures = published().query("suite == @suite and perturbation == 'none'")
    theirs = figures.set_index("detector")["auroc"]
    scores: dict[str, tuple[NDArray[Any], list[NDArray[Any]]]] = {}
    for detector in theirs.index:
        mine = [paths.get((detector, "none", "standard", name)) for name in COMPARED]
        if any(path is None for path in mine):
            continue
        first = mine[0]
        assert first is not None
        known = _id_scores(first)
        scores[detector] = (known, [read_scores(path)["scores"] for path in mine if path])
    if len(scores) < 3:
        sets = ", ".join(COMPARED)
        yield f"Kendall's τ needs three detectors on {sets}; {len(scores)} are there."
        return
    rng = np.random.default_rng(0)

    def tau(draw: bool) -> float:
        means = []
        picks: dict[int, NDArray[Any]] = {}

        def picked(values: NDArray[Any], place: int) -> NDArray[Any]:
            if not draw:
                return values
            if place not in picks:
                picks[place] = rng.integers(len(values), size=len(values))
            return values[picks[place]]

        for known, others in scores.values():
            of_id = picked(known, 0)
            means.append(
                np.mean([_auroc(of_id, picked(o, i)) for i, o in enumerate(others, start=1)])
            )
        return float(kendalltau(means, theirs[list(scores)]).statistic)

    draws = [tau(True) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    yield (
        f"Kendall's τ of the mean natural AUROC over {', '.join(COMPARED)} with the published"
        f" natural column, {len(scores)} detectors ({', '.join(scores)}): {tau(False):.2f}, 95 %"
        f" interval {low:.2f} to {high:.2f} ({DRAWS} bootstraps over images)."
    )


def _id_scores(path: Path) -> NDArray[Any]:
    """Return the scores of the in-distribution images that a record stands on."""
    wanted = read_record(path)["digests"]["id_scores"]
    for file in path.parents[1].glob("id--*.npz"):
        arrays = read_arrays(file)[0]
        if arrays_digest(arrays) == wanted:
            return arrays["scores"]
    raise FileNotFoundError(f"no in-distribution scores beside {path}")


def tiers(paths: Mapping[tuple[str, ...], Path], preset: str) -> Iterator[str]:
    """Yield what the claimed order comes to under each attack."""
    for attack in ("linf", "compositional"):
        means = {}
        for detector in sorted({name for tier in TIERS for name in tier}):
            mine = [paths.get((detector, attack, preset, name)) for name in COMPARED]
            if all(mine):
                means[detector] = np.mean([read_record(p)["auroc"] for p in mine if p])
        parts = [
            ", ".join(f"{n} {100 * means[n]:.2f}" for n in tier if n in means) or "not measured"
            for tier in TIERS
        ]
        yield f"- {attack}, preset {preset}: " + " | ".join(parts)


def winners(paths: Mapping[tuple[str, ...], Path]) -> Iterator[str]:
    """Yield which corruptions are the worst of an image, for each detector."""
    rows = []
    for detector in sorted({key[0] for key in paths}):
        counts: Counter[str] = Counter()
        for (name, attack, preset, _), path in paths.items():
            if (name, attack, preset) == (detector, "corruption", "standard"):
                counts.update(read_record(path)["attack"]["won"])
        total = sum(counts.values())
        if total:
            shares = [f"{kind} {100 * n / total:.0f} %" for kind, n in counts.most_common(3)]
            rows.append([detector, ", ".join(shares), f"{100 * counts['clean'] / total:.0f} %"])
    if rows:
        yield tabulate(
            rows,
            headers=["detector", "the three that win most often", "nothing is worse"],
            tablefmt="pipe",
            disable_numparse=True,
        )
    else:
        yield "No corruption is stored yet."


def main() -> None:
    """Print the figures; with --write put them into the page."""
    parser = argparse.ArgumentParser(description="our figures beside the published ones")
    parser.add_argument("--suite", default="cifar10")
    parser.add_argument("--network", help="one network alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=shipped_results())
    parser.add_argument("--write", action="store_true", help="write docs/reproduction.md")
    arguments = parser.parse_args()
    paths = stored(arguments.results, arguments.suite, arguments.network, arguments.seed)
    lines = [
        f"FPR@95 / AUROC in percent, seed {arguments.seed}, means over OOD sets.",
        "",
        *beside(paths, arguments.suite),
        "Order by mean AUROC over " + ", ".join(COMPARED) + ", claimed highest first:",
        "",
        *tiers(paths, "paper"),
        *tiers(paths, "standard"),
        "",
        *agreement(paths, arguments.suite),
        "",
        "### Which corruption is the worst",
        "",
        *winners(paths),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        before, mark, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
        _, _, after = rest.partition(MARK)
        page = f"{before}{mark}\n\n{text}\n{MARK}{after}"
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
