"""Measure how often the intervals of oodbench cover the truth, on Gaussian scores.

ID scores are N(0, 1), OOD scores N(mu, 1); mu gives the AUROC of the first column. Prints a
Markdown table of coverage in percent and mean width of every metric, then of the mean over three
OOD sets that share their ID images.

    python benchmarks/interval_coverage.py --repeats 1000 > benchmarks/interval_coverage.md
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import norm

from oodbench import metrics
from oodbench.intervals import Interval, intervals, mean_intervals

KEYS = ("auroc", "fpr95", "fpr95_ood", "aupr_out", "aupr_in", "detection_error")
SIZES = (50, 250, 2000)
AREAS = (0.75, 0.95, 0.99)


def truth(mu: float, n: int, m: int) -> dict[str, float]:
    """Return the population metrics of N(0, 1) against N(mu, 1) at prevalence m / (n + m)."""
    t = np.linspace(-9, mu + 9, 200_001)
    at_least_id, at_least_ood = norm.sf(t) * n, norm.sf(t - mu) * m
    at_most_id, at_most_ood = norm.cdf(t) * n, norm.cdf(t - mu) * m
    fpr = float(norm.cdf(norm.ppf(0.95) - mu))
    return {
        "auroc": float(norm.cdf(mu / np.sqrt(2))),
        "fpr95": fpr,
        "fpr95_ood": fpr,  # equal variances: the two conventions agree
        "aupr_out": float(
            trapezoid(at_least_ood / (at_least_ood + at_least_id) * norm.pdf(t - mu), t)
        ),
        "aupr_in": float(trapezoid(at_most_id / (at_most_ood + at_most_id) * norm.pdf(t), t)),
        "detection_error": float(norm.cdf(-mu / 2)),
    }


class Tally:
    """Coverage, width and faults of the intervals of one case."""

    def __init__(self) -> None:
        """Start empty."""
        self.covered: dict[str, int] = {}
        self.width: dict[str, float] = {}
        self.repeats = self.zero = self.outside = 0

    def add(
        self, found: dict[str, Interval], true: dict[str, float], estimate: dict[str, float]
    ) -> None:
        """Count the intervals of one repeat."""
        self.repeats += 1
        for key, (low, high) in found.items():
            self.covered[key] = self.covered.get(key, 0) + (low <= true[key] <= high)
            self.width[key] = self.width.get(key, 0.0) + high - low
            self.zero += not high > low
            self.outside += not 0 <= low <= estimate[key] <= high <= 1

    def cells(self) -> list[str]:
        """Return 'coverage (width)' a metric, then the numbers of faulty intervals."""
        rates = [
            f"{100 * self.covered[k] / self.repeats:.1f} ({self.width[k] / self.repeats:.4f})"
            if k in self.covered
            else ""
            for k in KEYS
        ]
        return [*rates, str(self.zero), str(self.outside)]


def run(area: float, n: int, sizes: tuple[int, ...], repeats: int) -> Tally:
    """Tally one case; several sizes mean the mean over sets, whose difficulty then differs."""
    centre = float(np.sqrt(2) * norm.ppf(area))
    mus = centre + 0.5 * (np.arange(len(sizes)) - (len(sizes) - 1) / 2)
    truths = [truth(float(mu), n, m) for mu, m in zip(mus, sizes, strict=True)]
    true = {k: float(np.mean([t[k] for t in truths])) for k in KEYS}
    rng = np.random.default_rng([n, *sizes, round(1e4 * area)])
    tally = Tally()
    for _ in range(repeats):
        a = rng.normal(size=n)
        sets = [rng.normal(mu, size=m) for mu, m in zip(mus, sizes, strict=True)]
        each = [metrics.compute(a, b) for b in sets]
        estimate = {k: float(np.mean([e[k] for e in each])) for k in KEYS}
        found = intervals(a, sets[0]) if len(sets) == 1 else mean_intervals(a, sets)
        tally.add(found, true, estimate)
    return tally


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="coverage of the 95 % intervals")
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    start = time.perf_counter()
    print("# Coverage of the 95 % intervals\n")
    print(f"Coverage in percent (mean width) of nominal 95 % intervals, {repeats} repeats a row.\n")
    head = ["AUROC", "n ID", "m OOD", *KEYS, "zero width", "misplaced"]
    rule = "|" + " --- |" * len(head)
    print("| " + " | ".join(head) + " |\n" + rule)
    cases = [(area, n, (m,)) for area in AREAS for n in SIZES for m in SIZES]
    joint = [(area, n, (m, m, m)) for area in AREAS for n, m in ((50, 50), (250, 250), (250, 2000))]
    for i, (area, n, sizes) in enumerate([*cases, *joint]):
        if i == len(cases):
            print("\nThe mean over three OOD sets that share their ID images:\n")
            print("| " + " | ".join(head) + " |\n" + rule)
        cells = run(area, n, sizes, repeats).cells()
        label = [f"{area}", f"{n}", " + ".join(map(str, sizes))]
        print("| " + " | ".join([*label, *cells]) + " |", flush=True)
    print(f"took {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
