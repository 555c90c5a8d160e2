"""Metrics against scikit-learn, brute force and hand-computed examples."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from oodbench import metrics

Array = npt.NDArray[np.float64]
RANKED = ("fpr95", "fpr95_ood", "auroc", "aupr_out", "aupr_in", "detection_error", "fnr")

tied = st.integers(-3, 3).map(float)
plain = st.floats(-1e6, 1e6, allow_nan=False)
near_1e4 = st.integers(0, 40).map(lambda i: 1e4 + i * 2**-10)
mixed = st.one_of(tied, near_1e4, st.sampled_from([1e-300, -1e-300, 1e300, 0.0, -0.0]))


@st.composite
def samples(draw: st.DrawFn) -> tuple[Array, Array]:
    kind = draw(st.sampled_from([tied, plain, near_1e4, mixed]))
    sizes = st.lists(kind, min_size=1, max_size=60)
    return np.array(draw(sizes)), np.array(draw(sizes))


def labels(a: Array, b: Array) -> tuple[npt.NDArray[np.int64], Array]:
    return np.repeat([0, 1], [a.size, b.size]), np.concatenate([a, b])


def ranks(a: Array, b: Array) -> tuple[Array, Array]:
    order = np.unique(np.concatenate([a, b]), return_inverse=True)[1].astype(np.float64)
    return order[: a.size], order[a.size :]


@given(samples())
def test_auroc_equals_scikit_learn_with_and_without_ties(pair: tuple[Array, Array]) -> None:
    # On ranks: scikit-learn takes differences of scores, which overflow near 1e300.
    truth, scores = labels(*ranks(*pair))
    assert metrics.auroc(*pair) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@given(samples())
def test_aupr_equals_scikit_learn_average_precision_for_either_positive_class(
    pair: tuple[Array, Array],
) -> None:
    truth, scores = labels(*ranks(*pair))
    out = average_precision_score(truth, scores)
    inside = average_precision_score(1 - truth, -scores)
    assert metrics.aupr_out(*pair) == pytest.approx(out, abs=1e-12)
    assert metrics.aupr_in(*pair) == pytest.approx(inside, abs=1e-12)


@given(samples())
def test_fpr95_equals_the_first_threshold_with_95_percent_of_id_accepted(
    pair: tuple[Array, Array],
) -> None:
    a, b = pair
    for t in sorted(a):
        if 100 * np.sum(a <= t) >= 95 * a.size:
            break
    assert metrics.threshold95(a) == t
    assert metrics.fpr95(a, b) == np.mean(b <= t)
    assert metrics.fnr(a, t) == np.mean(a > t) <= 0.05


@given(samples())
def test_fpr95_ood_equals_scikit_learn_roc_curve_at_95_percent_recall(
    pair: tuple[Array, Array],
) -> None:
    a, b = pair
    truth, scores = labels(*ranks(a, b))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    caught = np.rint(tpr * b.size)
    expected = fpr[np.argmax(100 * caught >= 95 * b.size)]
    assert metrics.fpr95_ood(a, b) == pytest.approx(expected, abs=1e-12)
    assert metrics.fpr95_ood(a, b) == metrics.fpr95(-b, -a)


@given(samples())
def test_detection_error_equals_brute_force_over_all_thresholds(pair: tuple[Array, Array]) -> None:
    a, b = pair
    thresholds = [*a, *b]
    errors = [(np.sum(a > t) / a.size + np.sum(b <= t) / b.size) / 2 for t in thresholds]
    errors.append(0.5)  # accept nothing
    assert metrics.detection_error(a, b) == pytest.approx(min(errors), abs=1e-12)
    assert 0 <= metrics.detection_error(a, b) <= 0.5


@given(samples())
def test_compute_equals_the_single_functions(pair: tuple[Array, Array]) -> None:
    found = metrics.compute(*pair)
    threshold = metrics.threshold95(pair[0])
    assert found.pop("threshold") == threshold
    assert found.pop("fnr") == metrics.fnr(pair[0], threshold)
    assert found == {key: getattr(metrics, key)(*pair) for key in found}


@given(samples())
def test_metrics_are_unchanged_when_scores_become_their_ranks(pair: tuple[Array, Array]) -> None:
    before, after = metrics.compute(*pair), metrics.compute(*ranks(*pair))
    assert [before[k] for k in RANKED] == [after[k] for k in RANKED]
    assert metrics.published(*pair) == metrics.published(*ranks(*pair))


@pytest.mark.parametrize(
    "increasing",
    [np.exp, lambda x: x**3, lambda x: x * 1e-3 + 1e4, np.arctan, lambda x: x * 1e-5 - 1e4],
)
@given(numbers=st.lists(st.integers(-200, 200), min_size=2, max_size=80), cut=st.integers(1, 79))
@settings(max_examples=40)
def test_metrics_are_unchanged_under_increasing_maps(
    increasing: np.ufunc, numbers: list[int], cut: int
) -> None:
    cut = min(cut, len(numbers) - 1)
    a, b = np.array(numbers[:cut]) / 32, np.array(numbers[cut:]) / 32
    pooled = np.concatenate([a, b])
    assert np.unique(increasing(pooled)).size == np.unique(pooled).size
    before, after = metrics.compute(a, b), metrics.compute(increasing(a), increasing(b))
    assert [before[k] for k in RANKED] == [after[k] for k in RANKED]


def test_fpr95_without_ties_counts_ood_up_to_the_95th_of_100_id_scores() -> None:
    a = np.arange(1.0, 101.0)
    b = np.array([94.5, 95.5, 10.0, 200.0])
    assert metrics.threshold95(a) == 95
    assert metrics.fpr95(a, b) == 0.5
    assert metrics.fnr(a, 95) == 0.05


def test_fpr95_counts_ties_at_the_threshold_against_the_detector() -> None:
    a = np.concatenate([np.zeros(10), np.ones(10)])
    assert metrics.fpr95(a, np.array([1.0, 1.0, 2.0, 0.0])) == 0.75
    assert metrics.fpr95_ood(np.array([1.0, 0.0, 2.0, 1.0]), a + 1) == 0.75


def test_constant_scores_are_useless_by_every_metric() -> None:
    found = metrics.compute(np.ones(30), np.ones(10))
    assert (found["fpr95"], found["fpr95_ood"], found["fnr"]) == (1, 1, 0)
    assert (found["auroc"], found["detection_error"]) == (0.5, 0.5)
    assert (found["aupr_out"], found["aupr_in"]) == (0.25, 0.75)


def test_perfect_separation_is_perfect_and_reversal_is_worst() -> None:
    a, b = np.arange(40.0), np.arange(100.0, 130.0)
    found = metrics.compute(a, b)
    assert (found["auroc"], found["aupr_out"], found["aupr_in"]) == (1, 1, 1)
    assert (found["fpr95"], found["fpr95_ood"], found["detection_error"]) == (0, 0, 0)
    worst = metrics.compute(b, a)
    assert (worst["auroc"], worst["fpr95"], worst["detection_error"]) == (0, 1, 0.5)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_threshold_is_the_largest_id_score_below_20_images_and_rounds_up_above(
    n: int, k: int
) -> None:
    assert metrics.threshold95(np.random.default_rng(0).permutation(n) + 1.0) == k


def test_threshold_rank_is_exact_where_floating_point_is_not() -> None:
    for n in range(1, 5000):
        accepted = np.searchsorted(np.arange(n), metrics.threshold95(np.arange(n)), "right")
        assert 100 * (accepted - 1) < 95 * n <= 100 * accepted


@given(st.lists(st.booleans(), min_size=1), st.lists(st.booleans(), min_size=1))
def test_auroc_of_a_binary_score_is_half_of_tpr_plus_one_minus_fpr(
    rejected_id: list[bool], rejected_ood: list[bool]
) -> None:
    tpr, fpr = 1 - np.mean(rejected_id), 1 - np.mean(rejected_ood)
    found = metrics.auroc(np.array(rejected_id, float), np.array(rejected_ood, float))
    assert found == pytest.approx((tpr + 1 - fpr) / 2, abs=1e-12)


def test_float32_and_float64_are_compared_exactly() -> None:
    a = np.full(20, 0.1, dtype=np.float32)  # 0.1f is slightly more than 0.1
    assert metrics.fpr95(a, np.array([0.1])) == 1
    assert metrics.auroc(a, np.array([0.1])) == 0
    assert metrics.auroc(a.astype(np.float64), np.array([0.1], np.float32)) == 0.5


def test_infinities_are_ordered_normally() -> None:
    a, b = np.array([-np.inf, 0.0, np.inf]), np.array([np.inf, 1.0])
    assert metrics.auroc(a, b) == pytest.approx((2 + 0.5 + 2) / 6)
    assert metrics.fpr95(a, b) == 1
    assert metrics.detection_error(a, b) == pytest.approx(1 / 6)


@pytest.mark.parametrize("name", ["auroc", "aupr_in", "fpr95", "fpr95_ood", "compute", "published"])
@pytest.mark.parametrize(
    ("bad", "says"),
    [([], "empty"), ([0.0, math.nan], "1 NaN of 2"), ([[1.0], [2.0]], "one-dimensional")],
)
def test_nan_empty_and_wrongly_shaped_scores_are_refused_on_either_side(
    name: str, bad: list[float], says: str
) -> None:
    function = getattr(metrics, name)
    with pytest.raises(ValueError, match=f"^ID scores .*{says}"):
        function(np.array(bad), np.ones(3))
    with pytest.raises(ValueError, match=f"^OOD scores .*{says}"):
        function(np.ones(3), np.array(bad))


def test_fnr_refuses_a_nan_threshold() -> None:
    with pytest.raises(ValueError, match="threshold is NaN"):
        metrics.fnr([0.0], math.nan)


def published_by_brute_force(a: Array, b: Array) -> dict[str, float]:
    """Go over thresholds as the published evaluation does, by plain counting."""
    n, m = a.size, b.size
    confidence_in, confidence_out = np.sort(-a), -b
    cuts = [-math.inf, *np.unique(np.concatenate([-a, -b]))]
    kept_in = [np.sum(confidence_in > t) for t in cuts]
    kept_out = [np.sum(confidence_out > t) for t in cuts]
    inside = [(1.0, 0.5)] + [
        (i / n, i / (i + o)) for i, o in zip(kept_in, kept_out, strict=True) if i + o
    ]
    outside = [(0.0, 0.0)] + [
        ((m - o) / m, (m - o) / (n - i + m - o))
        for i, o in zip(kept_in, kept_out, strict=True)
        if n - i + m - o
    ]
    inside.append((0.0, 0.0))
    outside.append((1.0, 0.5))

    def area(points: list[tuple[float, float]]) -> float:
        return abs(sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points)))

    threshold = confidence_in[round(0.05 * n)]
    return {
        "fpr95_published": float(np.mean(confidence_out > threshold)),
        "aupr_out_published": area(outside),
        "aupr_in_published": area(inside),
        "detection_error_published": float(
            min(n - i + o for i, o in zip(kept_in, kept_out, strict=True)) / (n + m)
        ),
    }


@given(samples())
def test_published_variants_equal_plain_counting(pair: tuple[Array, Array]) -> None:
    assert metrics.published(*pair) == pytest.approx(published_by_brute_force(*pair), abs=1e-12)


def test_published_variants_show_the_faults_they_are_kept_for() -> None:
    same = metrics.published(np.ones(100), np.ones(100))
    assert same["fpr95_published"] == 0 != metrics.fpr95(np.ones(100), np.ones(100))
    a = np.arange(20.0)  # round(0.05 * 20) = 1 leaves 90 % of ID strictly below the threshold
    assert metrics.published(a, np.array([17.5, 18.0, 18.5]))["fpr95_published"] == 1 / 3
    a = np.arange(50.0)  # 2.5 rounds to the even 2
    assert metrics.published(a, np.array([46.5, 47.0, 47.5]))["fpr95_published"] == 1 / 3
    split = metrics.published(np.arange(500.0), np.arange(500.0) + 1000)
    assert split["aupr_in_published"] == pytest.approx(0.999)
    skewed = metrics.published(np.arange(900.0), np.full(100, -1.0))
    assert skewed["detection_error_published"] == 0.1


def test_notes_warn_of_few_id_images_and_of_ties_only_where_they_occur() -> None:
    rng = np.random.default_rng(0)
    few, some, many = rng.normal(size=19), rng.normal(size=99), rng.normal(size=100)
    assert metrics.notes(many, some) == []
    assert ["fewer than 100" in note for note in metrics.notes(some, many)] == [True]
    assert ["largest ID score" in note for note in metrics.notes(few, many)] == [True]
    notes = metrics.notes(np.round(many, 1), np.round(some, 1))
    assert ["are distinct" in note for note in notes] == [True]


def test_compute_takes_milliseconds_for_ten_thousand_images_a_side() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=10_000), rng.normal(2, 1, size=10_000)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        metrics.compute(a, b)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
