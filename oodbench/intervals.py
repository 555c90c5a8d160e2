"""Confidence intervals for the metrics of :mod:`oodbench.metrics`.

The estimand is the metric of the two populations the images were drawn from, for one fixed
detector; AUPR at the prevalence m / (n + m) of the sample. Images are taken as independent: where
they overlap (patches of one picture) intervals are too narrow. No interval has zero width, all lie
in [0, 1] and contain the estimate, none depends on the order of the images, and the only random
numbers come from a Philox generator keyed by (seed, purpose).

AUROC, AUPR
    Inversion of a score test, ``(estimate - t)^2 <= q^2 V(t)``, q a Student quantile. V(t) is a
    reference variance that vanishes towards 0 and 1, scaled to the DeLong variance (AUROC: DeLong,
    DeLong & Clarke-Pearson, Biometrics 1988, eq. 4-5; by sorting as in Sun & Xu, IEEE Signal
    Processing Letters 2014) or to that of the influence function (AUPR). Near 1 a handful of images
    decides and that variance comes out too small just when the estimate is too high (logit-DeLong
    can cover as little as 80 %), so it is shrunk to the reference where information is small. The
    reference of AUROC is Hanley & McNeil's (Radiology 1982), averaged over the classes as in method
    5 of Newcombe (Statistics in Medicine 2006). Perfect separation: see :func:`_exact_bound`.

FPR@95, both conventions, and the FNR of attacked ID images
    Fiducial: the number of the n threshold-setting images within the population quantile is
    Binomial(n, 0.95), which places the threshold between two order statistics; given that, the
    share of the other class has the Jeffreys posterior Beta(c + 1/2, m - c + 1/2). This joins both
    uncertainties and stays calibrated near 0 and 1, where the conservative form (outer order
    statistics, Clopper-Pearson) covers 96 to 100 % and is up to half as wide again. Below 59
    threshold-setting images no distribution-free one-sided 95 % bound exists; see
    :func:`counts_within`. The clean images that set the threshold of an FNR are the attacked ones
    before the attack, and are taken as independent, which errs to the wide side: a sample that
    scores high raises the threshold too. On Gaussian scores shifted by an attack, 120 to 2000
    images, it covers 95 to 100 %, and is up to half as wide again as a paired bootstrap, which
    covers as little as 82 % near 1.

Detection error
    The two error shares at the best threshold, Wilson intervals joined by the square-and-add rule
    (Newcombe, Statistics in Medicine 1998), the upper end raised by the optimism of the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from oodbench import metrics
from oodbench.metrics import Floats, placements, sorted_scores, tie_counts

__all__ = [
    "counts_within",
    "delong_variance",
    "intervals",
    "mean_intervals",
    "proportion_interval",
]

Interval = tuple[float, float]
_Pieces = tuple[list[tuple[Floats, Floats]], Callable[[float], float], float]

_DRAWS = 10_000
_BOOTSTRAPS = 100
_WEIGHT = 1.5  # of the reference variance, in deciding images; set by measured coverage


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return the Clopper-Pearson interval of a share, for accuracy or an FNR at a given threshold.

    Clopper-Pearson rather than Wilson because accuracies near 1 are where Wilson's coverage falls
    below 90 %; on test sets of thousands the extra width is negligible.

    Raises:
        ValueError: Unless 0 <= successes <= n, n >= 1 and 0 < confidence < 1.
    """
    if not (n >= 1 and 0 <= successes <= n):
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    tail = _tail(confidence)
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)


def delong_variance(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return DeLong's variance of the AUROC (1988, eq. 4-5), in O((n + m) log (n + m)).

    NaN if a sample has one image: its spread is then unknown.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    a, b = sorted_scores(id_scores, "ID scores"), sorted_scores(ood_scores, "OOD scores")
    of_id, of_ood = placements(a, b)
    return _variance(of_id) + _variance(of_ood)


def intervals(
    id_scores: npt.ArrayLike,
    ood_scores: npt.ArrayLike,
    *,
    clean_id_scores: npt.ArrayLike | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return (low, high) of every metric of one OOD set.

    Args:
        id_scores: Shape ``(n,)``, higher = more OOD.
        ood_scores: Shape ``(m,)``.
        clean_id_scores: What sets the threshold where ``id_scores`` are those of attacked images.
        seed: Key of the random numbers, 0 <= seed < 2^64.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        ``fpr95``, ``fpr95_ood``, ``auroc``, ``aupr_out``, ``aupr_in``, ``detection_error``; with
        ``clean_id_scores`` also ``fnr``.

    Raises:
        ValueError: If scores are empty or contain NaN, or confidence is not in (0, 1).
    """
    out = mean_intervals(
        id_scores,
        [ood_scores],
        clean_id_scores=clean_id_scores,
        seed=seed,
        confidence=confidence,
    )
    out["detection_error"] = _detection_error(
        sorted_scores(id_scores), sorted_scores(ood_scores), seed, _tail(confidence)
    )
    return out


def mean_intervals(
    id_scores: npt.ArrayLike,
    ood_scores: Sequence[npt.ArrayLike],
    *,
    clean_id_scores: npt.ArrayLike | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return (low, high) of the unweighted mean of each metric over OOD sets.

    The ID images are the same for all sets: their uncertainty (the threshold of FPR@95, the ID
    placements of AUROC) is shared, that of the OOD images is independent between sets.

    Args:
        id_scores: Shape ``(n,)``, higher = more OOD.
        ood_scores: One array of shape ``(m_s,)`` a set.
        clean_id_scores: What sets the threshold where ``id_scores`` are those of attacked images.
        seed: Key of the random numbers, 0 <= seed < 2^64.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        ``fpr95``, ``fpr95_ood``, ``auroc``, ``aupr_out``, ``aupr_in``; with ``clean_id_scores``
        also ``fnr``, which is the same for all sets.

    Raises:
        ValueError: If there is no set, scores are empty or contain NaN, or confidence is not in
            (0, 1).
    """
    tail = _tail(confidence)
    a = sorted_scores(id_scores, "ID scores")
    sets = [sorted_scores(scores, "OOD scores") for scores in ood_scores]
    if not sets:
        raise ValueError("need at least one set of OOD scores")
    setting = a if clean_id_scores is None else sorted_scores(clean_id_scores, "clean ID scores")
    found = [metrics.compute(a, b, clean_id_scores=setting) for b in sets]
    mean = {key: min(1.0, float(np.mean([f[key] for f in found]))) for key in found[0]}

    n, fewest = a.size, min(b.size for b in sets)
    # Of several sets: the size whose share has the variance of the mean of shares.
    total = len(sets) ** 2 / sum(1 / b.size for b in sets)
    prevalence = total / (total + n * len(sets))
    exact = _exact_bound(min(n, fewest), tail)

    def average_precision(parts: list[tuple[Floats, Floats]], share: float) -> _Pieces:
        # One misplaced image weighs in proportion to the share of the negative class.
        scale = (n + total) / (3 * n * total) * min(1.0, 2 * (1 - share))
        odds = (1 - share) / share * (1 - exact)
        bound = 1 - odds * float(np.log1p(1 / odds))
        return parts, lambda t: scale * t * (1 - t), bound

    area: dict[str, _Pieces] = {
        "auroc": ([placements(a, b) for b in sets], _hanley_mcneil(n, total), exact),
        "aupr_out": average_precision([_influence(a, b)[::-1] for b in sets], prevalence),
        "aupr_in": average_precision(
            [_influence(-b[::-1], -a[::-1]) for b in sets], 1 - prevalence
        ),
    }
    draws = {
        "fpr95": _fpr95(setting, sets, _generator(seed, 1)),
        "fpr95_ood": _fpr95_ood(a, sets, _generator(seed, 2)),
    }
    if clean_id_scores is not None:
        draws["fnr"] = 1 - _fpr95(setting, [a], _generator(seed, 4))
    out = {}
    for key, values in draws.items():
        low, high = np.quantile(values, [tail, 1 - tail])
        out[key] = (min(float(low), mean[key]), max(float(high), mean[key]))
    for key, pieces in area.items():
        out[key] = _score_interval(mean[key], *pieces, tail)
    return out


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return (1 - confidence) / 2


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64)))


def _variance(values: Floats) -> float:
    """Variance of the mean of the values."""
    return float(values.var(ddof=1) / values.size) if values.size > 1 else float("nan")


def _influence(negative: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """Influence on average precision of each positive and of each negative, up to constants.

    With P = S+ / (S+ + S-) at counts S at or above a score, an image adds its own P and moves P at
    every score up to its own: dP/dS+ = S- / (S+ + S-)^2, dP/dS- = -S+ / (S+ + S-)^2.
    """
    values, at_n, at_p = tie_counts(negative, positive)
    up_n, up_p = np.cumsum(at_n[::-1])[::-1], np.cumsum(at_p[::-1])[::-1]
    square = (up_n + up_p).astype(np.float64) ** 2
    gain = np.cumsum(at_p * up_n / square) + up_p / (up_n + up_p)
    loss = np.cumsum(at_p * up_p / square) * negative.size / positive.size
    place_n, place_p = np.searchsorted(values, negative), np.searchsorted(values, positive)
    return gain[place_p], -loss[place_n]


def _hanley_mcneil(n: float, m: float) -> Callable[[float], float]:
    def variance(t: float) -> float:
        t = max(t, 1 - t)  # so that swapping the classes mirrors the interval
        spread = t / (2 - t) + 2 * t * t / (1 + t) - 2 * t * t
        return (t * (1 - t) + ((n + m) / 2 - 1) * spread) / (n * m)

    return variance


def _exact_bound(pairs: int, tail: float) -> float:
    """Lower bound of the AUROC when the samples are perfectly separated.

    Then all of min(n, m) disjoint, hence independent, pairs are in the right order, which has
    probability at most AUROC^min(n, m): the Clopper-Pearson bound of as many successes.
    """
    return float(tail ** (1 / pairs))


def _score_interval(
    estimate: float,
    parts: list[tuple[Floats, Floats]],
    reference: Callable[[float], float],
    exact: float,
    tail: float,
) -> Interval:
    """Invert the score test; ``parts``: the terms of ID and of OOD images, a pair a set."""
    shared = np.mean([of_id for of_id, _ in parts], axis=0)
    own = [_variance(of_ood) / len(parts) ** 2 for _, of_ood in parts]
    variance = _variance(shared) + sum(own)
    distance = min(estimate, 1 - estimate)
    ratio, quantile = 1.0, float(stats.norm.isf(tail))
    # NaN (one image) and 0 (all tied; up to rounding) say nothing about the spread.
    if variance > 1e-28 and distance > 0:
        # distance^2 / variance: about the number of images that decide, were their number Poisson.
        shift = distance**2
        ratio = (shift / reference(estimate) + _WEIGHT) / (shift / variance + _WEIGHT)
        # Welch-Satterthwaite, as in Brunner & Munzel (Biometrical Journal 2000).
        doubt = _variance(shared) ** 2 / (shared.size - 1)
        doubt += sum(v**2 / (p[1].size - 1) for v, p in zip(own, parts, strict=True))
        quantile = float(stats.t.isf(tail, variance**2 / doubt))
    ends = []
    for outer in (0.0, 1.0):
        inner = estimate
        for _ in range(60):
            middle = (inner + outer) / 2
            if (estimate - middle) ** 2 < quantile**2 * ratio * reference(middle):
                inner = middle
            else:
                outer = middle
        ends.append(outer)
    low, high = ends
    if estimate == 1:
        low = min(low, exact)
    elif estimate == 0:
        high = max(high, 1 - exact)
    return low, high


def counts_within(
    setting: Floats, other: Floats, inside: npt.NDArray[np.int64], between: Floats
) -> Floats:
    """How many ``other`` scores lie within a threshold between order statistics of ``setting``.

    ``inside`` draws of the order statistic below it, ``between`` the way to the next in [0, 1].
    Beyond the largest score of ``setting`` nothing is known without assumptions. Where draws
    seldom fall there (0.95^n <= 0.1, n >= 45) the count continues by twice its last two steps;
    otherwise up to all images, which makes the interval nearly uninformative, as it should be.
    """
    counts = np.searchsorted(other, setting, side="right")
    last = other.size
    if 0.95**setting.size <= 0.1:
        last = min(last, int(3 * counts[-1] - 2 * counts[-3]))
    counts = np.concatenate([[0], counts, [last]])
    return np.asarray(counts[inside] + between * (counts[inside + 1] - counts[inside]), np.float64)


def _fpr95(a: Floats, sets: list[Floats], rng: np.random.Generator) -> Floats:
    inside, between = rng.binomial(a.size, 0.95, _DRAWS), rng.random(_DRAWS)
    total = np.zeros(_DRAWS)
    for b in sets:
        count = counts_within(a, b, inside, between)
        total += rng.beta(count + 0.5, b.size - count + 0.5)
    return total / len(sets)


def _fpr95_ood(a: Floats, sets: list[Floats], rng: np.random.Generator) -> Floats:
    rejected = np.empty((_DRAWS, len(sets)))
    for s, b in enumerate(sets):
        inside, between = rng.binomial(b.size, 0.95, _DRAWS), rng.random(_DRAWS)
        rejected[:, s] = counts_within(-b[::-1], -a[::-1], inside, between)
    # One draw of the ID distribution serves all thresholds: Dirichlet increments between them.
    edges = np.sort(rejected, axis=1)
    shapes = np.diff(edges, prepend=-0.5, append=a.size + 0.5, axis=1)
    masses = np.cumsum(rng.standard_gamma(shapes), axis=1)
    return np.asarray((masses[:, :-1] / masses[:, -1:]).mean(axis=1))


def _detection_error(a: Floats, b: Floats, seed: int, tail: float) -> Interval:
    n, m = a.size, b.size
    values, at_a, at_b = tie_counts(a, b)
    missed, accepted = n - np.cumsum(at_a), np.cumsum(at_b)
    best = int(np.argmin(missed * m + accepted * n))
    shares = np.array([missed[best] / n, accepted[best] / m])
    z, sizes = float(stats.norm.isf(tail)), np.array([n, m])
    middle = (shares + z * z / (2 * sizes)) / (1 + z * z / sizes)
    half = z / (1 + z * z / sizes)
    half = half * np.sqrt(shares * (1 - shares) / sizes + z * z / (4 * sizes**2))
    estimate = float(shares.mean())

    # The minimum is lower than the error of its threshold; resampling shows about half of that
    # (measured on Gaussians from 50 to 2000 images), hence twice.
    rng = _generator(seed, 3)
    place_a, place_b = np.searchsorted(values, a), np.searchsorted(values, b)
    least = np.empty(_BOOTSTRAPS)
    for r in range(_BOOTSTRAPS):
        new_a = np.bincount(place_a[rng.integers(n, size=n)], minlength=values.size)
        new_b = np.bincount(place_b[rng.integers(m, size=m)], minlength=values.size)
        error = 1 - np.cumsum(new_a) / n + np.cumsum(new_b) / m
        least[r] = error.min() / 2
    optimism = max(0.0, 2 * (estimate - float(least.mean())))

    low = estimate - float(np.hypot(*(shares - (middle - half)))) / 2
    high = estimate + float(np.hypot(*(middle + half - shares))) / 2 + optimism
    return min(max(low, 0.0), estimate), max(min(high, 0.5), estimate)
