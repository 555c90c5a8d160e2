"""How often does `oodbench check` raise a false alarm, and how often does it miss a real loss?

The decision function on simulated paired scores, normal on both sides. ``alarms``: a detector
that was trained again and is no better or worse, so that every alarm is false; ten OOD sets, which
detectors share, as they do the in-distribution images. ``caught``: the AUROC of one cell fell, the
others are as they were.

    python benchmarks/gate_errors.py --write
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import norm

from oodbench.gate import TOLERANCE, Change, Paired, decide

SETS = 10
CORRELATIONS = (0.5, 0.9)
# As many cells as may be, and as few images as those of the suite `mini`.
SIZES = (
    *((1, 2000, 2000), (10, 2000, 2000), (100, 2000, 2000)),
    *((1, 640, 250), (10, 640, 250), (100, 640, 250)),
)

OFTEN = 0.025
"""Share of alarms beyond which a row is drawn again."""
AGAIN = 4
"""How many times as often it is drawn again."""


def paired(rng: np.random.Generator, size: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw standard normal scores of the same images before and after."""
    before, own = rng.normal(size=(2, size))
    return before, rho * before + np.sqrt(1 - rho**2) * own


def centre(area: float) -> float:
    """Return the mean of the OOD scores at which the AUROC is ``area``."""
    return float(np.sqrt(2) * norm.ppf(area))


def cells(
    rng: np.random.Generator, count: int, n: int, m: int, rho: float, area: float, drop: float
) -> list[Paired]:
    """Draw cells: a detector for every ten OOD sets; the AUROC of the last falls by ``drop``."""
    images = [paired(rng, m, 0.0)[0] for _ in range(SETS)]
    found = []
    for number in range(count):
        which = number % SETS
        if which == 0:
            # Scores of different detectors go together, as hard images are hard for all.
            shared = rng.normal(size=n)
            known = tuple(np.sqrt(0.5) * (shared + each) for each in paired(rng, n, 2 * rho - 1))
        others = tuple(
            np.sqrt(0.5) * (images[which] + each) for each in paired(rng, m, 2 * rho - 1)
        )
        after = others[1] + centre(area - (drop if number == count - 1 else 0.0))
        found.append(Paired("id", which, known, (others[0] + centre(area), after)))
    return found


def worse(mine: list[Paired], seed: int) -> Iterator[Change]:
    """Yield what the interval alone calls worse."""
    for changes in decide(mine, tolerance=0.0, seed=seed):
        yield from (change for change in changes if change.worse)


def rate(
    count: int,
    n: int,
    m: int,
    rho: float,
    area: float,
    drop: float,
    repeats: int,
    others: tuple[int, ...] = (),
) -> tuple[int, int]:
    """Return in how many repeats anything is worse: by the interval alone, and beyond tolerance."""
    key = [count, n, m, round(100 * rho), round(100 * area)]
    rng = np.random.default_rng(np.random.SeedSequence(key, spawn_key=others))
    alone = beyond = 0
    for repeat in range(repeats):
        found = list(worse(cells(rng, count, n, m, rho, area, drop), repeat))
        alone += bool(found)
        beyond += any(change.harm > TOLERANCE for change in found)
    return alone, beyond


def _share(alarms: int, repeats: int) -> str:
    return f"{alarms} of {repeats}, {100 * alarms / repeats:.2f} %"


def lines(alarms: int, caught: int) -> Iterator[str]:
    """Yield the report."""
    yield "# Errors of the gate\n"
    yield "Numbers of repeats in which `oodbench check` calls anything worse: outside the joint"
    yield f"interval alone, and also beyond the tolerance of {100 * TOLERANCE:g} points.\n"
    yield f"A detector trained again that is no worse, {alarms} repeats; 1 % is meant:\n"
    yield "| cells | n ID | m OOD | correlation | AUROC | interval alone | with tolerance |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    total, often = [0, 0], []
    for count, n, m in SIZES:
        for rho in CORRELATIONS:
            for area in (0.9,) if count > 1 else (0.75, 0.9, 0.99):
                alone, beyond = rate(count, n, m, rho, area, 0.0, alarms)
                yield f"| {count} | {n} | {m} | {rho} | {area} | {alone} | {beyond} |"
                total = [total[0] + alone, total[1] + alarms]
                if alone > OFTEN * alarms:
                    often.append((count, n, m, rho, area))
    yield f"\nIn all: {_share(*total)}."
    for each in often:
        # One of so many rows may have as many by chance, or the interval may be too narrow there.
        alone, _ = rate(*each, 0.0, AGAIN * alarms, (1,))
        yield f"The row of more than {100 * OFTEN:g} % with other random numbers, more often:"
        yield f"{_share(alone, AGAIN * alarms)}."
    yield f"\nThe AUROC of one cell fell by 3 points, {caught} repeats; it should be caught:\n"
    yield "| cells | n ID | m OOD | correlation | AUROC before | interval alone | with tolerance |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for count in (1, 10, 100):
        for rho in CORRELATIONS:
            for area in (0.9, 0.95, 0.99) if count == 1 else (0.9,):
                alone, beyond = rate(count, 2000, 2000, rho, area, 0.03, caught)
                yield f"| {count} | 2000 | 2000 | {rho} | {area} | {alone} | {beyond} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="false alarms and misses of the regression gate")
    parser.add_argument("--alarms", type=int, default=400, help="repeats without a loss")
    parser.add_argument("--caught", type=int, default=200, help="repeats with a loss")
    parser.add_argument("--write", action="store_true", help="keep the result beside the script")
    given = parser.parse_args()
    start = time.perf_counter()
    told = []
    for line in lines(given.alarms, given.caught):
        print(line, flush=True)
        told.append(line)
    if given.write:
        Path(__file__).with_suffix(".md").write_text("\n".join(told) + "\n", encoding="utf-8")
    print(f"took {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
