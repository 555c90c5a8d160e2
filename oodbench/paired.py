"""Comparison of detectors that saw the same images, by a bootstrap over the images.

All detectors, sets, attacks and training seeds share the draws of the in-distribution (ID) images,
and all that are of one OOD set those of its images, so what an easy or a hard image does to every
detector cancels in a difference. It speaks of these trained networks, as the intervals of
:mod:`oodbench.intervals` do, not of others trained in the same way.

A draw is not evaluated by sorting again. AUROC is replaced by its linear part, the placements
(DeLong, DeLong & Clarke-Pearson, Biometrics 1988). For FPR@95 the threshold of a draw is exact, an
order statistic of the weighted ID scores; the OOD images that it accepts are counted in the sample
itself, and what resampling them changes is taken at the threshold of the sample: no density has to
be estimated. Both leave out a term of order 1/n, and make a draw a product of matrices. The FNR of
attacked ID images is exact, for what moves the threshold moves it as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodbench import metrics
from oodbench.identity import digest
from oodbench.metrics import Floats, placements, rank95

DRAWS = 1000
METRICS = ("fpr95", "fnr", "auroc")
"""Metrics that are compared."""
LOWER_IS_BETTER = frozenset({"fpr95", "fnr"})

Single = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """Scores of a detector on the images of one OOD set, one an image, higher = more OOD.

    Attributes:
        image_set: Name of the OOD set; those of one name are of the same images in one order.
        clean: Scores of the ID images that set the threshold, shape [n]; the images and their
            order are the same in all that are compared.
        known: Scores of the ID images as they are judged, shape [n]: ``clean``, or of the same
            images under attack.
        ood: Scores of the OOD images, shape [m].
    """

    image_set: str
    clean: Floats
    known: Floats
    ood: Floats


def draws(
    scored: Sequence[Scored], *, number: int = DRAWS, seed: int = 0
) -> dict[str, npt.NDArray[np.float64]]:
    """Return `METRICS` of each in every draw of a paired bootstrap over images.

    Args:
        scored: What is compared.
        number: Number of draws B.
        seed: Key of the random numbers, 0 <= seed < 2^64.

    Returns:
        Deviations from the figure of the sample, shape [B, len(scored)], by metric.

    Raises:
        ValueError: If two of one set, or the ID images of any two, differ in number.
    """
    if not scored:
        return {metric: np.zeros((number, 0)) for metric in METRICS}
    sizes = {one.known.size for one in scored} | {one.clean.size for one in scored}
    if len(sizes) > 1:
        raise ValueError(f"need the same ID images in all, got {sorted(sizes)} of them")
    size = sizes.pop()
    weights = counts(size, "ID", number=number, seed=seed)
    out = {metric: np.zeros((number, len(scored))) for metric in METRICS}
    thresholds: dict[bytes, Floats] = {}
    rejected: dict[tuple[bytes, bytes], Floats] = {}
    by_set: dict[str, list[int]] = {}
    for place, one in enumerate(scored):
        by_set.setdefault(one.image_set, []).append(place)
    for name, places in by_set.items():
        number_ood = {scored[place].ood.size for place in places}
        if len(number_ood) > 1:
            raise ValueError(f"need the same images of {name} in all, got {sorted(number_ood)}")
        ood_weights = counts(number_ood.pop(), name, number=number, seed=seed)
        terms = [_terms(scored[place]) for place in places]
        of_id = weights @ np.stack([term.of_id for term in terms], axis=1) / size
        of_ood = ood_weights @ np.stack([term.of_ood for term in terms], axis=1)
        accepted = ood_weights @ np.stack([term.accepted for term in terms], axis=1)
        out["auroc"][:, places] = of_id + of_ood / ood_weights.shape[1]
        for column, place in enumerate(places):
            one = scored[place]
            key = one.clean.tobytes()
            if key not in thresholds:
                thresholds[key] = drawn_thresholds(one.clean, weights)
            moved = thresholds[key]
            out["fpr95"][:, place] = accepted[:, column] / one.ood.size
            out["fpr95"][:, place] += _share(one.ood, moved) - terms[column].fpr95
            if one.known is not one.clean:
                if (pair := (key, one.known.tobytes())) not in rejected:
                    rejected[pair] = drawn_fnr(one, moved, weights)
                out["fnr"][:, place] = rejected[pair]
    return out


def counts(size: int, purpose: str, *, number: int = DRAWS, seed: int = 0) -> Single:
    """Return how often each of ``size`` images is in each draw, shape [number, size].

    Args:
        size: Number of images.
        purpose: What the images are; other images are drawn independently.
        number: Number of draws.
        seed: Key of the random numbers.
    """
    key = np.array([seed, int(digest(["paired", purpose])[:16], 16)], dtype=np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    drawn = [np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(number)]
    return np.array(drawn, dtype=np.float32)


@dataclass(frozen=True)
class _Terms:
    """What an image adds to a figure, less the mean; and the figure of FPR@95."""

    of_id: Single
    of_ood: Single
    accepted: Single
    fpr95: float


def _terms(one: Scored) -> _Terms:
    above, below = placements(one.known, one.ood)
    accepted = one.ood <= metrics.threshold95(one.clean)
    of_id, of_ood, counted = (
        (term - term.mean()).astype(np.float32) for term in (above, below, accepted)
    )
    return _Terms(of_id, of_ood, counted, float(accepted.mean()))


def _share(scores: Floats, thresholds: Floats) -> Floats:
    """Return the share of scores at or below each threshold."""
    found = np.searchsorted(np.sort(scores), thresholds, side="right")
    return np.asarray(found / scores.size)


def drawn_thresholds(clean: Floats, weights: Single) -> Floats:
    """Return the threshold of 95 % TPR in each draw.

    Args:
        clean: Scores of the ID images, shape [n].
        weights: How often each is in each draw, shape [B, n].

    Returns:
        Shape [B]; each is a score.
    """
    size = clean.size
    above = size - rank95(size)
    # Ten standard deviations of how many of the sample are above the threshold of a draw.
    top = min(size, above + 20 + int(10 * (0.05 * size) ** 0.5))
    order = np.argsort(clean)[::-1][:top]
    # The threshold is the highest score that no more than `above` images are beyond, itself not
    # counted: the first from the top with more than that at or beyond it.
    reached = np.cumsum(weights[:, order], axis=1) > above
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), top - 1)
    return np.asarray(clean[order][first])


def drawn_fnr(one: Scored, thresholds: Floats, weights: Single) -> Floats:
    """Return by how much the FNR of each draw differs from that of the sample.

    Args:
        one: Scores of attacked ID images among others.
        thresholds: Of each draw, shape [B].
        weights: How often each ID image is in each draw, shape [B, n].
    """
    order = np.argsort(one.known)
    below = np.cumsum(weights[:, order], axis=1)
    places = np.searchsorted(one.known[order], thresholds, side="right") - 1
    accepted = np.where(places < 0, 0, below[np.arange(places.size), places]) / one.known.size
    return np.asarray((one.known <= metrics.threshold95(one.clean)).mean() - accepted)


def tied_with_best(
    values: npt.ArrayLike, deviations: npt.ArrayLike, *, lower: bool, confidence: float = 0.95
) -> list[bool]:
    """Return which may be the best: it, and those whose distance from it may be chance.

    A multiple comparison with the best (Hsu, Annals of Statistics 1984) with bootstrapped critical
    values: a candidate stays unless the best is ahead by more than the quantile, over draws, of how
    far the most fortunate of all others gets ahead of it, each difference in units of its own
    standard error. With ``confidence`` the truly best one stays, however many are compared.

    Args:
        values: Figures, shape [D].
        deviations: Their deviations in each draw, shape [B, D].
        lower: Whether lower is better.
        confidence: In (0, 1), for all comparisons at once.
    """
    sign = -1.0 if lower else 1.0
    figures, drawn = sign * np.asarray(values, np.float64), sign * np.asarray(deviations)
    best = int(np.argmax(figures))
    kept = []
    for candidate in range(figures.size):
        ahead = drawn - drawn[:, [candidate]]
        errors = ahead.std(axis=0)
        # What never differs has no error, and says nothing of the others.
        real = errors > 1e-7
        lead = figures[best] - figures[candidate]
        if not real[best]:
            kept.append(bool(lead <= 1e-9))
            continue
        most = ((ahead - ahead.mean(axis=0))[:, real] / errors[real]).max(axis=1)
        kept.append(bool(lead <= np.quantile(most, confidence) * errors[best]))
    return kept
