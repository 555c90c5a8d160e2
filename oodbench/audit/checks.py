"""The checks of an audit: figures in, verdict and a plain sentence out. Nothing is computed here.

Thresholds stand here alone, each with its reason. A check that fails is a finding about the
attack, not an error: the figure may be better for the detector than an attacker would leave it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = (
    "gradient",
    "repeat",
    "search",
    "floor",
    "black_box",
    "transfer",
    "radius",
    "budget",
)
"""All checks in the order of tables."""

FREE = NAMES[:3]
"""Those that need no more than the record."""

BROKEN_GRADIENTS = 0.001
"""Share of images without a sound first gradient above which an objective is broken (methods.md,
7.7): in a healthy search it happens on none."""
WRONG_GRADIENTS = 0.01
"""Share of images whose first gradient finite differences contradict, above which as many as were
found must be more than `LUCK`. On `mini` it is one image in 250 of an honest detector now and then,
where a kink lies at the image itself; what hides its gradient does so on most. Such an image is
searched by the fallback besides."""
RANDOM_SCORES = 0.001
"""Share of images with another score the second time; the same bound, for the same reason."""
NOTHING_FOUND = 0.1
"""Share of images for which nothing was worse than the clean one. Some may lie at a minimum, of a
detector that saturates say; a search that fails on more than one in ten is broken or too weak."""
LOWER_IMAGES = 0.01
"""Share of images on which another attack may go lower: with more the gradient is masked
(methods.md, 7.8)."""
LOWER_BY = 0.01
"""By how much lower counts, of the larger drop of the two: two sound searches that end in the same
valley differ by less, and it has no unit."""
LUCK = 0.05
"""Probability with which a sample of an attack that is within `LOWER_IMAGES` may fail. An image is
a twentieth of a sample of 20, so a single one says nothing; two would be luck in 1.7 %."""
CLEAR_POINTS = 0.01
"""AUROC by which a search beats noise clearly, or else by `CLEAR_RATIO`."""
CLEAR_RATIO = 2.0
"""Drop of the score, in units of that by noise, with which a search beats noise clearly where
AUROC hardly moves, as of a robust detector. A step along the gradient of n pixels gains about √n/3
times what the best of a hundred corners does, so this is far below any sound gradient."""
RISE = 0.01
"""AUROC that may be won back at a larger radius: a larger ball holds the smaller one, so
what is more than the roughness of a search that ends in another valley is a fault of it."""
GAIN = 0.01
"""AUROC that twice the budget may still gain; with more the search had not converged."""

_FLOAT_NOISE = 1e-5

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: One of `NAMES`.
        verdict: ``pass``, ``fail`` or ``skipped``.
        told: One plain sentence for people, without a full stop.
        value: The figure that is held against the threshold.
        threshold: What it may be at most; of ``floor`` and ``radius`` see their functions.
        values: Further figures.
    """

    name: str
    verdict: str
    told: str
    value: float | None = None
    threshold: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it is a finding."""
        return self.verdict == "fail"

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"values": dict(self.values)}


def skipped(name: str, why: str) -> Check:
    """Return a check that was not made, and why."""
    return Check(name, "skipped", why)


def _verdict(fails: bool) -> str:
    return "fail" if fails else "pass"


def _percent(share: float) -> str:
    """Return a share in percent, never rounded to nothing or to all."""
    text = f"{100 * share:.1f}"
    if (text == "0.0") != (share == 0) or (text == "100.0") != (share == 1):
        text = f"{100 * share:.2g}" if share < 0.5 else f"{100 * share:.4f}"
    return f"{text.removesuffix('.0')} %"


# From the record alone


def free_checks(attack: Mapping[str, Any] | None, last: str | None = None) -> list[Check]:
    """Return the checks that need no more than what a record holds of its attack.

    Args:
        attack: Field of the record.
        last: Name of the last stage of a composition; None finds it out where it can.
    """
    if not attack:
        return []
    return [gradient(attack, last), repeat(attack), search(attack, last)]


def gradient(attack: Mapping[str, Any], last: str | None = None) -> Check:
    """Check the first gradient of the score: zero, not finite, or wrong on how many images.

    In records from before that was looked at it is the first gradient that the search took.
    """
    known, health = attack.get("gradient"), attack.get("health", {})
    first = health.get("score", {})
    if known is None and not first:
        return skipped("gradient", "the search goes by no gradient of the score")
    if known is None:
        known = {fault: first[f"{fault}_gradient"] for fault in ("zero", "nonfinite")}
    faults = {fault: known[fault] for fault in ("zero", "nonfinite", "wrong") if fault in known}
    share = min(sum(faults.values()), 1.0)
    values = {**faults, "zero_entries": first.get("zero_entries")}
    wrong = faults.get("wrong", 0.0)
    total = sum(_won(attack, last).values()) or 1000
    fails = (
        too_many(round(wrong * total), total, WRONG_GRADIENTS)
        or sum(faults.values()) - wrong > BROKEN_GRADIENTS
    )
    fallback = attack.get("fallback")
    instead = (
        f"; functions of the logits, then {fallback['name']}, were searched in its place"
        if fallback
        else ""
    )
    if not fails:
        told = f"the score's gradient is sound on {_percent(1 - share)} of images"
    elif fallback and not first:
        told = f"the score offers no gradient to search by{instead}"
    else:
        words = {"zero": "zero", "nonfinite": "not finite", "wrong": "wrong"}
        parts = [f"{words[f]} on {_percent(s)}" for f, s in faults.items() if s > 0]
        told = f"the score's gradient is {' and '.join(parts)} of images{instead}"
    return Check("gradient", _verdict(fails), told, share, BROKEN_GRADIENTS, values)


def repeat(attack: Mapping[str, Any]) -> Check:
    """Check whether the same image gets the same score twice, where randomness is not declared."""
    share = attack.get("gradient", {}).get("random")
    if share is None:
        return skipped("repeat", "the record does not say whether scores can be repeated")
    fails = share > RANDOM_SCORES
    told = (
        f"the score is another the second time on {_percent(share)} of images, and the detector"
        " declares no draws; a search can be fooled by luck"
        if fails
        else "the score is the same the second time"
    )
    return Check("repeat", _verdict(fails), told, share, RANDOM_SCORES)


def search(attack: Mapping[str, Any], last: str | None = None) -> Check:
    """Check for how many images the search found nothing worse than what it began with."""
    won = _won(attack, last)
    total = sum(won.values())
    if not total:
        return skipped("search", "the record does not say how often the search found something")
    share = won.get("clean", 0) / total
    fails = share > NOTHING_FOUND
    told = (
        f"the search found nothing on {_percent(share)} of images"
        if fails
        else f"the search found something on {_percent(1 - share)} of images"
    )
    return Check("search", _verdict(fails), told, share, NOTHING_FOUND)


def _won(attack: Mapping[str, Any], last: str | None) -> Mapping[str, int]:
    """Return how often what won in the last stage."""
    won: Mapping[str, Any] = attack.get("won", {})
    if not any(isinstance(counts, Mapping) for counts in won.values()):
        return won
    if last is not None:
        of_last: Mapping[str, int] = won.get(last, {})
        return of_last
    # A record does not name the order of the stages; those that all detectors share are counted
    # by kind, such as blur, while a search names objective and start, such as score/clean.
    fallback = (attack.get("fallback") or {}).get("name")
    own = [
        counts
        for counts in won.values()
        if all("/" in tag for tag in counts if tag not in ("clean", fallback))
    ]
    # Where a stage has none but clean ones it may be either; one that has others is the search.
    searched = [counts for counts in own if set(counts) != {"clean"}] or own
    one = searched and all(counts == searched[0] for counts in searched)
    return searched[0] if one else {}


# Against other attacks, on a sample


def drop(clean: Values, values: Values) -> Values:
    """Return how far each score fell; 0 where both are the same infinity."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(clean - values, nan=0.0, posinf=np.inf, neginf=-np.inf)


def lower(clean: Values, own: Values, other: Values) -> NDArray[np.bool_]:
    """Return on which images another attack goes lower than the search.

    By more than `LOWER_BY` of the larger drop of the two, and more than float32 rounds.

    Args:
        clean: Scores before any attack [N].
        own: Scores after the search.
        other: Scores after the other attack.
    """
    larger = np.maximum(np.maximum(drop(clean, own), drop(clean, other)), 0)
    larger = np.where(np.isfinite(larger), larger, 0)
    noise = _FLOAT_NOISE * np.maximum(np.where(np.isfinite(own), np.abs(own), 0), 1e-3)
    found: NDArray[np.bool_] = drop(own, other) > np.maximum(LOWER_BY * larger, noise)
    return found


def too_many(count: int, total: int, share: float = LOWER_IMAGES, *, luck: float = LUCK) -> bool:
    """Return whether so many images of a sample show that more than a share of all are.

    One-sided exact binomial test at ``luck``; one image of several never suffices.
    """
    if count < min(2, total):
        return False
    fewer = sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(count))
    return 1 - fewer <= luck


def _no_lower(who: str, count: int, total: int) -> str:
    """Say that something goes no lower than the search, or on so few images that it may be luck."""
    if not count:
        return f"{who} does not go lower than the search"
    return f"{who} goes lower than the search on {count} of {total} images, which may be luck"


def floor(
    name: str, draws: int, clean: Values, own: Values, other: Values, aurocs: Mapping[str, float]
) -> Check:
    """Check that the search beats noise: on the images one by one, and clearly on the whole.

    Clearly is by `CLEAR_POINTS` of AUROC or with `CLEAR_RATIO` times the mean drop. The value and
    its threshold are the share of images on which noise goes lower.

    Args:
        name: Name of the noise.
        draws: How often it was drawn.
        clean: Scores before any attack [N].
        own: Scores after the search.
        other: Lowest scores of the draws.
        aurocs: ``search`` and ``other``, AUROC after each.
    """
    count, total = int(lower(clean, own, other).sum()), len(own)
    ratio = _ratio(drop(clean, own), drop(clean, other))
    gap = aurocs["other"] - aurocs["search"]
    # A drop to minus infinity, or noise that moves nothing, has no ratio worth a number.
    clear = gap >= CLEAR_POINTS or ratio >= CLEAR_RATIO
    values = {
        "draws": draws,
        "images": count,
        "auroc_search": aurocs["search"],
        "auroc_noise": aurocs["other"],
        "drop_ratio": ratio if math.isfinite(ratio) else None,
    }
    beaten = too_many(count, total)
    if beaten:
        told = f"{name} goes lower than the search on {count} of {total} images"
    elif not clear:
        told = (
            f"the search hardly beats {name}: AUROC {_points(aurocs['search'])} against"
            f" {_points(aurocs['other'])}"
        )
    else:
        told = f"the search beats {draws} draws of {name}"
        told += f", but for {count} of {total} images, which may be luck" if count else ""
    return Check("floor", _verdict(beaten or not clear), told, count / total, LOWER_IMAGES, values)


def _ratio(own: Values, other: Values) -> float:
    ours, theirs = (float(np.maximum(each, 0).mean()) for each in (own, other))
    if ours <= 0:
        return 0.0
    return ours / theirs if theirs > 0 else math.inf


def _points(auroc: float) -> str:
    return f"{100 * auroc:.2f}"


def black_box(
    name: str, queries: int, clean: Values, own: Values, other: Values, aurocs: Mapping[str, float]
) -> Check:
    """Check that a search without gradients does not go lower; where it does they are masked.

    Arguments are those of `floor`.
    """
    count, total = int(lower(clean, own, other).sum()), len(own)
    fails = too_many(count, total)
    values = {
        "queries": queries,
        "images": count,
        "auroc_search": aurocs["search"],
        "auroc_black_box": aurocs["other"],
    }
    told = (
        f"{name} goes lower than the search on {count} of {total} images, without a gradient"
        if fails
        else _no_lower(f"{name} with {queries} queries", count, total)
    )
    return Check("black_box", _verdict(fails), told, count / total, LOWER_IMAGES, values)


def transfer(sources: Sequence[str], clean: Values, own: Values, other: Values) -> Check:
    """Check that images made against other detectors do not fool this one more.

    Neither those of any one detector, nor the best of all of them together.

    Args:
        sources: Names of the other detectors.
        clean: Scores before any attack [N].
        own: Scores after the search.
        other: Scores [M, N] of the images made against each of the others.
    """
    hits = np.stack([lower(clean, own, theirs) for theirs in other])
    count, total = int(hits.any(0).sum()), len(own)
    by_source = {name: int(each.sum()) for name, each in zip(sources, hits, strict=True)}
    # Each of several may go lower on `LOWER_IMAGES`, so together they may on more; but what a
    # single one finds must not be lost among the others. Both are asked, each with half the luck.
    together = 1 - (1 - LOWER_IMAGES) ** len(sources)
    luck = LUCK / 2 if len(sources) > 1 else LUCK
    fails = too_many(count, total, together, luck=luck) or too_many(
        max(by_source.values()), total, luck=luck / len(sources)
    )
    told = (
        f"images made against other detectors go lower than the search on {count} of {total}"
        if fails
        else _no_lower(f"the best of the images made against {len(sources)} others", count, total)
    )
    values = {"images": count, "by_source": by_source}
    return Check("transfer", _verdict(fails), told, count / total, LOWER_IMAGES, values)


def radius(aurocs: Mapping[int, float], fprs: Mapping[int, float], largest: int) -> Check:
    """Check that a larger ball never helps the defender, and the whole box leaves nothing of it.

    The value is the largest rise of AUROC from one radius to a larger, its threshold `RISE`; at
    ``largest`` FPR@95 must be 1 besides.

    Args:
        aurocs: AUROC by radius in grey levels.
        fprs: FPR@95 by radius.
        largest: Radius at which every image can become any other.
    """
    ascending = sorted(aurocs)
    # Over any two: a rise in several small steps is a rise too.
    rises = {(a, b): aurocs[b] - aurocs[a] for a, b in combinations(ascending, 2)}
    (small, large), rise = max(rises.items(), key=lambda item: item[1])
    values = {
        "auroc": {str(k): aurocs[k] for k in ascending},
        "fpr95": {str(k): fprs[k] for k in ascending},
    }
    rises_too_much, survives = rise > RISE, fprs[largest] < 1
    if rises_too_much:
        told = (
            f"a larger ball helps the detector: AUROC rises by {_points(rise)} points from radius"
            f" {small}/{largest} to {large}/{largest}"
        )
    elif survives:
        told = (
            f"even with any image allowed the search fools the detector on only"
            f" {_percent(fprs[largest])} of images"
        )
    else:
        told = (
            "a larger ball "
            + ("never helps the detector" if rise <= 0 else "hardly ever helps the detector")
            + ", and any image allowed fools it always"
        )
    return Check("radius", _verdict(rises_too_much or survives), told, rise, RISE, values)


def budget(auroc: float, doubled: float, steps: int, unit: str) -> Check:
    """Check that twice the budget gains little.

    Args:
        auroc: AUROC after the search.
        doubled: AUROC after one with twice the budget.
        steps: The budget.
        unit: What it counts.
    """
    gain = auroc - doubled
    fails = gain > GAIN
    told = (
        f"twice the {unit} lower AUROC by {_points(gain)} points more, to {_points(doubled)}"
        if fails
        else f"twice the {unit} gain less than {_points(GAIN)} points of AUROC"
    )
    values = {"auroc": auroc, "auroc_doubled": doubled, "budget": steps}
    return Check("budget", _verdict(fails), told, gain, GAIN, values)
