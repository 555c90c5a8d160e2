"""Metrics of out-of-distribution detection, exact in the presence of ties.

Scores are real numbers, one an image, **higher = more OOD**. ``id_scores`` has shape ``(n,)``,
``ood_scores`` shape ``(m,)``; float32 and float64 may be mixed (float32 values are compared at
their exact float64 value). Infinities are ordered normally; NaN and empty input are refused with
``ValueError``. Every metric is a function of the order of the scores alone, so it does not change
under a strictly increasing map that keeps distinct scores distinct. All metrics are shares in
[0, 1], not percent.

References:
    Hendrycks & Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in
    neural networks", ICLR 2017 (AUROC, AUPR-in, AUPR-out).
    Liang, Li & Srikant, "Enhancing the reliability of out-of-distribution image detection in neural
    networks" (ODIN), ICLR 2018, section 4.2 (FPR at 95 % TPR, detection error).
    Chen et al., "ATOM: robustifying out-of-distribution detection using outlier mining",
    ECML PKDD 2021: the published code whose variants :func:`published` reproduces.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "aupr_in",
    "aupr_out",
    "auroc",
    "compute",
    "detection_error",
    "fnr",
    "fpr95",
    "fpr95_ood",
    "notes",
    "placements",
    "published",
    "rank95",
    "sorted_scores",
    "threshold95",
    "tie_counts",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def sorted_scores(scores: npt.ArrayLike, name: str = "scores") -> Floats:
    """Return scores ascending in float64, shape ``(n,)``.

    Raises:
        ValueError: If the scores are not one-dimensional, empty, or contain NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {values.shape}")
    if values.size == 0:
        raise ValueError(f"{name} are empty")
    values = np.sort(values)
    if np.isnan(values[-1]):  # NumPy sorts NaN last
        raise ValueError(f"{name} contain {np.isnan(values).sum()} NaN of {values.size}")
    return values


def tie_counts(a: Floats, b: Floats) -> tuple[Floats, Ints, Ints]:
    """Count ID (``a``) and OOD (``b``) images at each distinct score; both must be ascending.

    Returns:
        The distinct scores, ascending, and how many ID and OOD images have each; shape ``(v,)``.
    """
    pooled = np.sort(np.concatenate([a, b]), kind="stable")
    distinct = pooled[np.concatenate([[True], pooled[1:] != pooled[:-1]])]
    at_a = np.diff(np.searchsorted(a, distinct, side="right"), prepend=0)
    at_b = np.diff(np.searchsorted(b, distinct, side="right"), prepend=0)
    return distinct, at_a, at_b


def placements(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the share of OOD scores above each of ``a`` and of ID scores below each of ``b``.

    Ties count half. In the order of the scores given; the mean of either is the AUROC.
    """
    known, others = np.sort(a), np.sort(b)
    above = 1 - (np.searchsorted(others, a) + np.searchsorted(others, a, "right")) / (2 * b.size)
    below = (np.searchsorted(known, b) + np.searchsorted(known, b, "right")) / (2 * a.size)
    return above, below


def _both(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    return sorted_scores(id_scores, "ID scores"), sorted_scores(ood_scores, "OOD scores")


def rank95(count: int) -> int:
    """Return which of ``count`` ascending scores is the threshold that accepts 95 %, from 1."""
    # ceil(0.95 * count) in integers, which no rounding can shift.
    return (95 * count + 99) // 100


def _fpr95(a: Floats, b: Floats) -> float:
    threshold = a[rank95(a.size) - 1]
    return float(np.searchsorted(b, threshold, side="right")) / b.size


def _fpr95_ood(a: Floats, b: Floats) -> float:
    threshold = b[b.size - rank95(b.size)]
    return (a.size - float(np.searchsorted(a, threshold, side="left"))) / a.size


def _auroc(at_a: Ints, at_b: Ints) -> float:
    below = np.cumsum(at_a) - at_a
    twice_wins = int(np.sum(at_b * (2 * below + at_a)))  # integers: exact until the division
    return twice_wins / (2 * int(at_a.sum()) * int(at_b.sum()))


def _average_precision(positive: Ints, negative: Ints) -> float:
    """Average precision from counts at distinct values, most positive value first."""
    true = np.cumsum(positive)
    precision = true / (true + np.cumsum(negative))
    return min(1.0, float(np.sum(positive * precision)) / int(true[-1]))


def _detection_error(at_a: Ints, at_b: Ints) -> float:
    n, m = int(at_a.sum()), int(at_b.sum())
    # Accepting nothing need not be tried: it errs on 1/2, as does accepting everything.
    errors = (n - np.cumsum(at_a)) * m + np.cumsum(at_b) * n
    return int(errors.min()) / (2 * n * m)


def threshold95(id_scores: npt.ArrayLike) -> float:
    """Return the smallest ID score at which at least 95 % of ID images are accepted.

    It is the k-th smallest of n ID scores, k = ceil(95 n / 100), never interpolated. An image is
    accepted as ID if its score is at most the threshold. Below 20 images it is the largest score.

    Raises:
        ValueError: If the scores are empty or contain NaN.
    """
    a = sorted_scores(id_scores, "ID scores")
    return float(a[rank95(a.size) - 1])


def fnr(id_scores: npt.ArrayLike, threshold: float) -> float:
    """Return the share of ID images rejected, that is with a score above ``threshold``.

    Raises:
        ValueError: If the scores are empty or contain NaN, or the threshold is NaN.
    """
    if np.isnan(threshold):
        raise ValueError("threshold is NaN")
    a = sorted_scores(id_scores, "ID scores")
    return (a.size - float(np.searchsorted(a, float(threshold), side="right"))) / a.size


def fpr95(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return FPR at 95 % TPR with ID as the positive class: the share of OOD images accepted.

    Accepted means a score of at most :func:`threshold95`, so ties at the threshold count against
    the detector. Lower is better.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    return _fpr95(*_both(id_scores, ood_scores))


def fpr95_ood(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return FPR at 95 % TPR with OOD as the positive class: the share of ID images rejected.

    The convention of OpenOOD 1.5 and pytorch-ood. The threshold is the k-th largest of m OOD
    scores, k = ceil(95 m / 100); an ID image is rejected if its score is at least that, so ties
    count against the detector. It can differ from :func:`fpr95` by half the scale.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    return _fpr95_ood(*_both(id_scores, ood_scores))


def auroc(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return P(ood > id) + P(ood = id) / 2 over all pairs (Mann-Whitney); 0.5 is chance.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    return _auroc(*tie_counts(*_both(id_scores, ood_scores))[1:])


def aupr_out(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return average precision with OOD as the positive class; chance is m / (n + m).

    The step-wise sum of (recall gained) x (precision) over distinct scores, as in scikit-learn's
    ``average_precision_score``; a group of ties is one step. Not comparable between set sizes.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    _, at_a, at_b = tie_counts(*_both(id_scores, ood_scores))
    return _average_precision(at_b[::-1], at_a[::-1])


def aupr_in(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return average precision with ID as the positive class; chance is n / (n + m).

    Low scores are the positive end; otherwise as :func:`aupr_out`.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    return _average_precision(*tie_counts(*_both(id_scores, ood_scores))[1:])


def detection_error(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> float:
    """Return the least (share of ID rejected + share of OOD accepted) / 2 over all thresholds.

    Equal priors (Liang et al. 2018, section 4.2), so independent of the sizes of the sets. The
    thresholds include accepting everything and nothing, hence the range [0, 0.5].

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    return _detection_error(*tie_counts(*_both(id_scores, ood_scores))[1:])


def compute(
    id_scores: npt.ArrayLike,
    ood_scores: npt.ArrayLike,
    *,
    clean_id_scores: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """Return every metric of this module, sorting once.

    Args:
        id_scores: Shape ``(n,)``, higher = more OOD.
        ood_scores: Shape ``(m,)``.
        clean_id_scores: What sets the threshold of ``fpr95`` and ``fnr`` where ``id_scores`` are
            those of attacked images, shape ``(k,)``; None where they are clean themselves.

    Returns:
        ``fpr95``, ``fpr95_ood``, ``auroc``, ``aupr_out``, ``aupr_in``, ``detection_error``, and
        ``threshold`` (see :func:`threshold95`) with the ``fnr`` it has on the ID scores.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    a, b = _both(id_scores, ood_scores)
    setting = a if clean_id_scores is None else sorted_scores(clean_id_scores, "clean ID scores")
    _, at_a, at_b = tie_counts(a, b)
    threshold = float(setting[rank95(setting.size) - 1])
    return {
        "fpr95": _fpr95(setting, b),
        "fpr95_ood": _fpr95_ood(a, b),
        "auroc": _auroc(at_a, at_b),
        "aupr_out": _average_precision(at_b[::-1], at_a[::-1]),
        "aupr_in": _average_precision(at_a, at_b),
        "detection_error": _detection_error(at_a, at_b),
        "fnr": (a.size - float(np.searchsorted(a, threshold, side="right"))) / a.size,
        "threshold": threshold,
    }


def published(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> dict[str, float]:
    """Return the metrics as the code published with ATOM computes them, faults included.

    Only for comparison with published tables. Its AUROC equals :func:`auroc`.

    Returns:
        ``fpr95_published``: Fault Q1: OOD images are accepted only *strictly* below a threshold
        that is itself an ID score, so ties favour the detector (all scores equal: FPR 0 instead
        of 1). Fault Q6: the threshold is the ID score with ``round(0.05 n)`` larger ones, halves
        rounded to even, so that fewer than 95 % of ID are accepted (90 % at n = 20).
        ``aupr_out_published``, ``aupr_in_published``: Fault Q4: the trapezoid rule over recall
        with artificial end points (precision 0 at recall 0, and 0.5 at the end of recall 1 for
        AUPR-in; likewise for AUPR-out). Perfect separation falls short of 1; coarse scores fall
        far short.
        ``detection_error_published``: Fault Q4: errors are weighted by set size, (ID rejected +
        OOD accepted) / (n + m), so the figure depends on how large the sets are.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    a, b = _both(id_scores, ood_scores)
    n, m = a.size, b.size
    threshold = a[n - 1 - round(0.05 * n)]
    _, at_a, at_b = tie_counts(a, b)
    rejected_a = np.concatenate([[0], np.cumsum(at_a[::-1])])
    rejected_b = np.concatenate([[0], np.cumsum(at_b[::-1])])
    accepted_a, accepted_b = n - rejected_a, m - rejected_b

    def trapezoid(hits: Ints, others: Ints, total: int, first: float, last: float) -> float:
        kept = hits + others > 0
        recall = np.concatenate([hits[:1], hits[kept], hits[-1:]]) / total
        precision = hits[kept] / (hits + others)[kept]
        precision = np.concatenate([[first], precision, [last]])
        return abs(float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1])) / 2))

    return {
        "fpr95_published": float(np.searchsorted(b, threshold, side="left")) / m,
        "aupr_out_published": trapezoid(rejected_b, rejected_a, m, 0.0, 0.5),
        "aupr_in_published": trapezoid(accepted_a, accepted_b, n, 0.5, 0.0),
        "detection_error_published": float((rejected_a + accepted_b).min()) / (n + m),
    }


def at_threshold(
    id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, threshold: float
) -> dict[str, float]:
    """Return the figures of a fixed decision: an image is rejected if its score is above it.

    Returns:
        ``threshold``; ``fpr``, the share of OOD images accepted; ``fnr``, the share of ID images
        rejected; ``auroc`` of the binary decision, which is 1 − (fpr + fnr)/2.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    a, b = _both(id_scores, ood_scores)
    fpr, fnr = float((b <= threshold).mean()), float((a > threshold).mean())
    return {"threshold": threshold, "fpr": fpr, "fnr": fnr, "auroc": 1 - (fpr + fnr) / 2}


def notes(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> list[str]:
    """Return plain warnings about small samples and ties; empty if there is nothing to say.

    Raises:
        ValueError: If scores are empty or contain NaN.
    """
    a, b = _both(id_scores, ood_scores)
    out = []
    if a.size < 20:
        out.append(
            f"Only {a.size} ID images: with fewer than 20 the 95 % threshold is the largest ID "
            "score, so every ID image is accepted."
        )
    elif a.size < 100:
        out.append(
            f"Only {a.size} ID images: with fewer than 100 a single image moves the TPR by more "
            "than 1 %."
        )
    share = tie_counts(a, b)[0].size / (a.size + b.size)
    if share < 0.995:
        out.append(
            f"Only {100 * share:.2f} % of the scores are distinct: ties count against the detector "
            "in FPR@95 and half in AUROC; a saturating score is a frequent cause."
        )
    return out
