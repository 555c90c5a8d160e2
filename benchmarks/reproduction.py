"""Our figures beside the published ones: docs/reproduction.md.

Reads stored records of a suite and nothing else; what is not stored yet is left empty.

    python benchmarks/reproduction.py --write
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from tabulate import tabulate

from oodbench.files import shipped_results
from oodbench.identity import canonical_json, parameters
from oodbench.images import Suite
from oodbench.leaderboard.beside import published_params
from oodbench.leaderboard.parting import parted
from oodbench.leaderboard.selection import Selection, load
from oodbench.paired import DRAWS, Scored, draws
from oodbench.plots.source import Results
from oodbench.published import EPS, published
from oodbench.schedule import Schedule
from oodbench.views import ALL, suite_called, views

ATTACKS = ("none", "corruption", "linf", "compositional")
COMPARED = ("svhn", "textures", "miniplaces", "isun")
"""Sets of the tiers and of the correlation: one of each kind, none cut out of another."""
TIERS = (("atom",), ("acet",), ("msp", "odin", "mahalanobis", "sofl", "oe", "ccu", "ntom"))
"""Claimed order under attack: the paper's method, the other that holds, those that do not."""
APART = ("rowl",)
"""Published without its adversary (D2), and so in no tier of that table; here it has one."""
OTHER_SCORES = ("ccu", "rowl")
"""Published by another score than their own: an inner network (D1), a decision (Q3)."""
MIXED = "mixed"
"""A field of detectors taught with attacked images; it stands behind the name of their rows."""
FEWEST = 5
"""Detectors of a correlation: of four even perfect agreement is not beyond chance (p 0.083)."""
UNSEEN = 5e-5
"""Half of the last digit that is shown."""
MARK = "<!-- figures: python benchmarks/reproduction.py --write -->"
PAGE = Path(__file__).parents[1] / "docs/reproduction.md"

Record = dict[str, Any]
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Stored:
    """Records of one suite, network and training seed, one for each key.

    Attributes:
        suite: Name of the suite.
        records: Records by detector, perturbation, preset and OOD set: of detectors with the
            published hyper-parameters, or with a mixed training attack besides, or taught by a
            schedule that shows outliers otherwise, and of the published radius, on the most
            images.
        results: Gives their scores.
    """

    suite: str
    records: Mapping[Key, Record]
    results: Results

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors there are."""
        return sorted({key[0] for key in self.records})

    def of(self, detector: str, attack: str, preset: str) -> dict[str, Record]:
        """Return the records of a mean by OOD set."""
        wanted = (detector, attack, preset)
        return {key[3]: record for key, record in self.records.items() if key[:3] == wanted}


def _suite(name: str) -> Suite:
    known = suite_called(name)
    if known is None:
        raise ValueError(f"no suite {name}")
    return known


def stored(
    root: Path, suite: str, network: str | None = None, schedule: str | None = None, seed: int = 0
) -> Stored:
    """Choose the records to show.

    Args:
        root: Results folder.
        suite: Name of the suite.
        network: Name of the network; None takes the suite's own.
        schedule: Name of the schedule; None takes the suite's own.
        seed: Training seed.

    Raises:
        ValueError: If the suite has no such schedule, if a record is of another than has its name
            now, or if two records have the same claim to a place.
    """
    known = _suite(suite)
    usual = schedule or known.schedule
    if usual not in known.schedules:
        raise ValueError(f"no schedule {usual}; {suite} has {', '.join(known.schedules)}")
    wanted = {
        "side": "ood",
        "network": network or known.network,
        "seed": seed,
        "kind": "empirical",
    }
    found: dict[Key, Record] = {}
    all_records = load(root, Selection(suites=(suite,)))
    for record in all_records:
        if any(record[name] != value for name, value in wanted.items()):
            continue
        name = record["schedule"]["name"]
        alike = known.schedules.get(name)
        if alike is None or alike.without_outliers != known.schedules[usual].without_outliers:
            continue
        if record["schedule"] != {"name": name, **parameters(alike)}:
            raise ValueError(
                f"a record of {record['detector']} is of another {name} than {suite} has now; take"
                f" it out of {root}"
            )
        if record["eps"] not in (None, EPS):
            continue
        detector = shown_as(record, usual)
        if detector is None:
            continue
        key = (detector, *(record[k] for k in ("perturbation", "preset", "set")))
        other = found.get(key)
        if other is not None and _size(other) == _size(record):
            raise ValueError(f"two records of {', '.join(key)}; take one out of {root}")
        if other is None or _size(record) > _size(other):
            found[key] = record
    results = Results(root, parted(all_records)[0], all_records)
    return Stored(suite, found, results)


def shown_as(record: Record, schedule: str) -> str | None:
    """Return the name of a record's row; None where it has parameters of its own.

    Behind the detector stands "mixed", where its training attack is, and another schedule than
    the usual one, where it was taught with outliers; of the published detectors these alone have a
    pool among their digests.
    """
    name: str = record["detector"]
    params = dict(record["params"])
    words = [name] + [MIXED] * bool(params.pop(MIXED, False))
    if canonical_json(params) != published_params(record["suite"], name):
        return None
    by = record["schedule"]["name"]
    return " ".join(words) + (f" ({by})" if by != schedule and "pool" in record["digests"] else "")


def _size(record: Record) -> tuple[int, int]:
    return record["n_ood"], record["n_id"]


def figures(record: Record) -> dict[str, float]:
    """Return FPR@95 and AUROC of a record in [0, 1]; of preset ``paper`` as published there."""
    ending = "_published" if record["preset"] == "paper" else ""
    source = record["extras"] if ending else record
    return {metric: float(source[metric + ending]) for metric in ("fpr95", "auroc")}


def beside(found: Stored) -> Iterator[str]:
    """Yield a table for each perturbation: ours under both presets beside the published."""
    table = {
        (row["detector"], row["perturbation"]): row
        for row in published().to_dict("records")
        if row["suite"] == found.suite
    }
    sets = list(dict.fromkeys(key[3] for key in sorted(found.records)))
    shown = views(suite_called(found.suite), sets)
    for attack in ATTACKS:
        rows = []
        for detector in found.detectors:
            row: list[str] = [detector]
            known = table.get((named(detector)[0], attack))
            row.append(_pair(known) if known else "")
            for preset in ("paper", "standard"):
                records = found.of(detector, attack, preset)
                row += [_mean(records, members) for members in shown.values()]
            if any(row[2:]):
                rows.append(row)
        if not rows:
            continue
        titles = [name if name != ALL else "all" for name in shown]
        headers = ["detector", "published"]
        headers += [f"{preset}: {title}" for preset in ("paper", "standard") for title in titles]
        kept = [0] + [i for i in range(1, len(headers)) if any(row[i] for row in rows)]
        yield f"#### {'natural' if attack == 'none' else attack}\n"
        yield _table([[row[i] for i in kept] for row in rows], [headers[i] for i in kept])
        yield ""
        yield from _sizes(found, attack)
        yield ""


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)


def _pair(of: Mapping[str, Any]) -> str:
    return f"{100 * of['fpr95']:.2f} / {100 * of['auroc']:.2f}"


def _mean(records: Mapping[str, Record], members: Sequence[str]) -> str:
    """Return the mean over sets; of fewer than all it says how many."""
    there = [figures(records[name]) for name in members if name in records]
    if not there:
        return ""
    mean = {m: float(np.mean([each[m] for each in there])) for m in ("fpr95", "auroc")}
    return _pair(mean) + (f" ({len(there)} of {len(members)})" if len(there) < len(members) else "")


def _sizes(found: Stored, attack: str) -> Iterator[str]:
    """Yield on how many images the rows of a table are."""
    told: dict[str, list[str]] = {}
    for preset in ("paper", "standard"):
        for detector in found.detectors:
            records = found.of(detector, attack, preset).values()
            if records:
                known = "/".join(f"{n:,}" for n in sorted({r["n_id"] for r in records}))
                most = max(r["n_ood"] for r in records)
                told.setdefault(f"{known} ID images, at most {most:,} of an OOD set", []).append(
                    f"{detector} ({preset})"
                )
    if len(told) == 1:
        yield f"Images: {next(iter(told))}."
    else:
        yield "Images: " + "; ".join(f"{size}: {', '.join(who)}" for size, who in told.items())


def means(found: Stored, attack: str, preset: str) -> dict[str, float]:
    """Return the mean AUROC over `COMPARED` in [0, 1] of every detector that has them all."""
    result = {}
    for detector in found.detectors:
        records = found.of(detector, attack, preset)
        if set(COMPARED) <= set(records):
            result[detector] = float(
                np.mean([figures(records[name])["auroc"] for name in COMPARED])
            )
    return result


def tiers(found: Stored, preset: str) -> Iterator[str]:
    """Yield what the claimed order comes to under each attack, and whether it holds.

    A line for each way in which those taught with attacked images were taught: as published,
    mixed, by another schedule.
    """
    for attack in ("linf", "compositional"):
        mean = means(found, attack, preset)
        for way in ways(mean):
            there = claimed(mean, way)
            parts = [
                ", ".join(f"{row} {100 * of:.2f}" for row, of in tier.items()) for tier in there
            ]
            line = f"- {attack}, preset {preset}: " + " | ".join(p or "not measured" for p in parts)
            apart = [row for row in mean if named(row)[0] in APART]
            line += "".join(f"; apart {row} {100 * mean[row]:.2f}" for row in apart)
            between = [
                Gap(*pair, interval(found, attack, preset, pair[:2])) for pair in neighbours(there)
            ]
            yield f"{line}. {order_holds(between, unmeasured(there))}"
            yield from (f"  {gap.line()}" for gap in between)


def named(row: str) -> tuple[str, str]:
    """Return the detector of a row, and the words behind it: the way in which it was taught."""
    name, _, way = row.partition(" ")
    return name, way


def ways(rows: Iterable[str]) -> list[str]:
    """Return the ways of teaching of those taught with attacked images, in order.

    That of publication is "".
    """
    return sorted({way for name, way in map(named, rows) if name in (*TIERS[0], *TIERS[1])})


def nearest_row(detector: str, way: str, rows: Container[str]) -> str | None:
    """Return a detector's row of a way of teaching, or the nearest to it that there is.

    Those that can be taught with a mixed attack have that row or none. Of the others, nearest to it
    is the same schedule, then the usual one.
    """
    if detector in (*TIERS[0], *TIERS[1]):
        near = [way]
    else:
        near = list(dict.fromkeys((way.removeprefix(MIXED).strip(), "")))
    there = [row for words in near if (row := f"{detector} {words}".strip()) in rows]
    return there[0] if there else None


def claimed(mean: Mapping[str, float], way: str) -> list[dict[str, float]]:
    """Return the measured rows of each tier: its upper ones taught in one way, the last in all."""
    return [
        {
            row: of
            for row, of in mean.items()
            if named(row)[0] in tier and (tier is TIERS[-1] or named(row)[1] == way)
        }
        for tier in TIERS
    ]


def neighbours(claim: Sequence[Mapping[str, float]]) -> list[tuple[str, str, float]]:
    """Return the lowest row of each tier, the highest of the next one measured, the difference."""
    pairs = []
    for upper, lower in pairwise([tier for tier in claim if tier]):
        above, below = min(upper, key=upper.__getitem__), max(lower, key=lower.__getitem__)
        pairs.append((above, below, upper[above] - lower[below]))
    return pairs


@dataclass(frozen=True)
class Gap:
    """Difference of two rows of neighbouring tiers.

    Attributes:
        above: The row claimed to be higher.
        below: The other.
        value: Difference of their mean AUROCs.
        of_images: Its 95 % interval over images; None if the images are not the same.
    """

    above: str
    below: str
    value: float
    of_images: tuple[float, float] | None

    @property
    def undecided(self) -> bool:
        """Whether other images might have turned it."""
        return self.of_images is not None and self.of_images[0] <= 0 <= self.of_images[1]

    def line(self) -> str:
        """Tell the difference in percent."""
        told = f"{self.above} less {self.below}: {100 * self.value:.2f}"
        if self.of_images is None:
            return f"{told}, without an interval, since images or scores are not the same."
        low, high = (100 * end for end in self.of_images)
        return f"{told}, 95 % interval {low:.2f} to {high:.2f}."


def interval(
    found: Stored, attack: str, preset: str, rows: Sequence[str]
) -> tuple[float, float] | None:
    """Return the 95 % interval over images of a difference of two rows' mean AUROCs.

    None where they are not of the same images, or a row's figure is not of its own score but of a
    published one that differs.
    """
    of_rows = [found.of(row, attack, preset) for row in rows]
    shown = [
        (figures(each[name])["auroc"], each[name]["auroc"]) for each in of_rows for name in COMPARED
    ]
    own = all(isclose(a, b, abs_tol=UNSEEN) for a, b in shown)
    moved = deviations(found, of_rows) if own else None
    if moved is None:
        return None
    above, below = (np.mean([each[name]["auroc"] for name in COMPARED]) for each in of_rows)
    low, high = above - below + np.quantile(moved[:, 0] - moved[:, 1], [0.025, 0.975])
    return float(low), float(high)


def deviations(
    found: Stored, of_rows: Sequence[Mapping[str, Record]]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]] | None:
    """Return by how much each row's mean AUROC over `COMPARED` differs in draws of the images.

    A paired bootstrap, shape [draws, rows]; None unless all rows saw the same images.
    """
    known, others = set(), set()
    for name in COMPARED:
        for record in (each[name] for each in of_rows):
            # Digests are of whole sets; as many images of one set are the same ones.
            known.add((record["digests"]["id"], record["n_id"]))
            others.add((name, record["digests"]["set"], record["n_ood"]))
    if len(known) > 1 or len(others) > len(COMPARED):
        return None
    scored = []
    for records in of_rows:
        for name in COMPARED:
            clean = found.results.id_scores(records[name]).astype(np.float64)
            ood = found.results.ood_scores(records[name]).astype(np.float64)
            scored.append(Scored(name, clean, clean, ood))
    drawn = draws(scored)["auroc"]
    return drawn.reshape(len(drawn), len(of_rows), len(COMPARED)).mean(axis=2)


def unmeasured(claim: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the detectors of the tiers that have no row in any way of teaching."""
    there = {named(row)[0] for tier in claim for row in tier}
    return [name for tier in TIERS for name in tier if name not in there]


def order_holds(between: Sequence[Gap], lacking: Sequence[str]) -> str:
    """Say whether every row of a tier is above all of those below, as far as measured."""
    if not between:
        return "Too few are measured to say."
    if any(gap.value <= 0 and not gap.undecided for gap in between):
        return "The order does not hold."
    if any(gap.undecided for gap in between):
        said = "These images do not decide the order"
    else:
        said = "The order holds"
    if not lacking:
        return f"{said}."
    verb = "is" if len(lacking) == 1 else "are"
    return f"{said} of those measured; {', '.join(lacking)} {verb} not."


def agreement(found: Stored) -> Iterator[str]:
    """Yield Kendall's τ of natural mean AUROCs with the published ones, and its interval.

    A line for each way of teaching, whose rows are those of `nearest_row`; and another for each
    without the detectors whose published score is another than their own.
    """
    column = published().query("suite == @found.suite and perturbation == 'none'")
    theirs = column.set_index("detector")["auroc"]
    mean = means(found, "none", "standard")
    chosen: dict[tuple[str, ...], None] = {}
    for way in ways(mean) or [""]:
        rows = [row for name in theirs.index if (row := nearest_row(name, way, mean))]
        own = [row for row in rows if named(row)[0] not in OTHER_SCORES]
        chosen |= {tuple(each): None for each in (rows, own) if len(each) >= FEWEST}
    if not chosen:
        yield f"Kendall's τ needs {FEWEST} detectors on {', '.join(COMPARED)}."
    for rows in chosen:
        ours = np.array([mean[row] for row in rows])
        yield f"- {tau_line(found, rows, ours, np.array([theirs[named(row)[0]] for row in rows]))}"


def tau_line(
    found: Stored,
    rows: Sequence[str],
    ours: np.ndarray[Any, Any],
    theirs: np.ndarray[Any, Any],
) -> str:
    """Tell τ of some rows: its interval over images, and how often chance would have it."""
    exact = kendalltau(ours, theirs)
    told = (
        f"Kendall's τ of the mean natural AUROC over {', '.join(COMPARED)} with the published"
        f" natural column, {len(rows)} detectors ({', '.join(rows)}):"
        f" {exact.statistic:.2f} (p {exact.pvalue:.2g} against none)"
    )
    moved = deviations(found, [found.of(row, "none", "standard") for row in rows])
    if moved is None:
        return f"{told}, without an interval, since the images are not the same."
    low, high = np.quantile([tau(ours + one, theirs) for one in moved], [0.025, 0.975])
    return f"{told}, 95 % interval {low:.2f} to {high:.2f}."


def tau(ours: Sequence[float] | np.ndarray[Any, Any], theirs: Any) -> float:
    """Return Kendall's τ-b."""
    return float(kendalltau(ours, theirs).statistic)


def winners(found: Stored) -> Iterator[str]:
    """Yield which corruptions are the worst of an image, for each detector."""
    rows = []
    for detector in found.detectors:
        counts: Counter[str] = Counter()
        for record in found.of(detector, "corruption", "standard").values():
            counts.update(record["attack"]["won"])
        total = sum(counts.values())
        if total:
            shares = [f"{kind} {100 * n / total:.0f} %" for kind, n in counts.most_common(3)]
            rows.append([detector, ", ".join(shares), f"{100 * counts['clean'] / total:.0f} %"])
    if rows:
        yield _table(rows, ["detector", "the three that win most often", "nothing is worse"])
    else:
        yield "No corruption is stored yet."


def figures_of(found: Stored) -> str:
    """Return the figures of one schedule in markdown."""
    lines = [
        *beside(found),
        "#### Order",
        "",
        *tiers(found, "paper"),
        *tiers(found, "standard"),
        "",
        *agreement(found),
        "",
        "#### Which corruption is the worst",
        "",
        *winners(found),
        "",
    ]
    return "\n".join(lines)


def page(each: Mapping[str, Stored], seed: int) -> str:
    """Return the figures of the page in markdown.

    Args:
        each: What is stored, by the name of the schedule.
        seed: Training seed of all.
    """
    lines = [
        f"FPR@95 / AUROC in percent, seed {seed}, means over OOD sets. Under `paper` both are as"
        " published: of float32 scores that saturate, CCU's of its inner network, ROWL's of its"
        " decision.",
        "",
        "Orders are by mean AUROC over " + ", ".join(COMPARED) + ", claimed highest first."
        f" Intervals are of {DRAWS:,} paired bootstraps over images; neither the spread over"
        " trainings nor that of the published column is in them.",
        "",
    ]
    for schedule, found in each.items():
        lines += [f"### Taught with `{schedule}`", "", figures_of(found)]
    return "\n".join(lines)


def by_schedule(
    root: Path, suite: str, network: str | None = None, seed: int = 0
) -> dict[str, Stored]:
    """Return what is stored by the schedule of its rows, in the order of the suite.

    Schedules that differ in nothing but how outliers are shown stand together, under the first.

    Raises:
        ValueError: If nothing is stored, or two records have the same claim to a place.
    """
    known = _suite(suite)
    alike: dict[Schedule, str] = {}
    for name, schedule in known.schedules.items():
        alike.setdefault(schedule.without_outliers, name)
    found = {name: stored(root, suite, network, name, seed) for name in alike.values()}
    there = {name: each for name, each in found.items() if each.records}
    if not there:
        raise ValueError(f"no record of {suite}, seed {seed}, in {root}")
    return there


def main() -> None:
    """Print the figures; with --write put them into the page."""
    parser = argparse.ArgumentParser(description="our figures beside the published ones")
    parser.add_argument("--suite", default="cifar10")
    parser.add_argument("--network", help="the suite's own by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=shipped_results())
    parser.add_argument("--write", action="store_true", help="write docs/reproduction.md")
    arguments = parser.parse_args()
    found = by_schedule(arguments.results, arguments.suite, arguments.network, arguments.seed)
    text = page(found, arguments.seed)
    print(text)
    if arguments.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
        _, _, after = rest.partition(MARK)
        PAGE.write_text(f"{before}{MARK}\n\n{text}\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
