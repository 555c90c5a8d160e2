"""Intervals against naive computations, closed forms and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from oodbench import metrics
from oodbench.intervals import delong_variance, intervals, mean_intervals, proportion_interval

Array = npt.NDArray[np.float64]
KEYS = {"fpr95", "fpr95_ood", "auroc", "aupr_out", "aupr_in", "detection_error"}

values = st.one_of(
    st.just(0.0), st.integers(-2, 2).map(float), st.floats(-1e6, 1e6), st.sampled_from([1e4, 1e300])
)


@st.composite
def samples(draw: st.DrawFn) -> tuple[Array, Array]:
    kind = draw(st.sampled_from([values, st.just(1.0), st.integers(0, 3).map(float)]))
    sizes = st.lists(kind, min_size=1, max_size=draw(st.sampled_from([3, 70])))
    a, b = np.array(draw(sizes)), np.array(draw(sizes))
    shift = draw(st.sampled_from([0.0, 0.0, 1e7, -1e7]))  # perfectly separated, either way
    return a, b + shift


def assert_sound(found: dict[str, tuple[float, float]], estimate: dict[str, float]) -> None:
    for key, (low, high) in found.items():
        assert 0 <= low <= estimate[key] <= high <= 1, key
        assert low < high, key


@given(samples())
@settings(max_examples=150, deadline=None)
def test_intervals_contain_the_estimate_lie_in_0_1_and_have_width(
    pair: tuple[Array, Array],
) -> None:
    found = intervals(*pair)
    assert set(found) == KEYS
    assert_sound(found, metrics.compute(*pair))


@given(samples(), samples())
@settings(max_examples=60, deadline=None)
def test_mean_intervals_contain_the_mean_lie_in_0_1_and_have_width(
    one: tuple[Array, Array], two: tuple[Array, Array]
) -> None:
    a, sets = one[0], [one[1], two[0], two[1]]
    each = [metrics.compute(a, b) for b in sets]
    found = mean_intervals(a, sets)
    assert set(found) == KEYS - {"detection_error"}
    assert_sound(found, {k: float(np.mean([e[k] for e in each])) for k in found})


@pytest.mark.parametrize(("n", "m"), [(50, 50), (2000, 60), (60, 2000)])
@pytest.mark.parametrize("kind", ["separated", "reversed", "constant", "one overlap"])
def test_degenerate_scores_still_have_wide_enough_intervals(kind: str, n: int, m: int) -> None:
    a, b = np.arange(n) / n, np.arange(m) / m + 2
    if kind == "reversed":
        a, b = b[:n] if n <= m else a + 5, b
    elif kind == "constant":
        a, b = np.ones(n), np.ones(m)
    elif kind == "one overlap":
        b[0] = a[-1] - 1e-9
    found, estimate = intervals(a, b), metrics.compute(a, b)
    assert_sound(found, estimate)
    # A share of 1.5 / min(n, m) of unseen bad images is entirely possible.
    low, high = found["auroc"]
    assert high - low > 0.4 / min(n, m)
    low, high = found["fpr95"]
    assert high - low > 1.5 / m


def test_rounding_does_not_shrink_the_intervals_of_many_constant_scores() -> None:
    a, sets = np.ones(10_007), [np.ones(1000), np.ones(1003), np.ones(7000)]
    for low, high in [*intervals(a, sets[0]).values(), *mean_intervals(a, sets).values()]:
        assert high - low > 1e-5


def test_detection_error_interval_allows_for_the_optimism_of_the_minimum() -> None:
    # Nearly equal populations: the best of many thresholds looks far better than it is.
    rng = np.random.default_rng(10)
    mu, repeats = 0.3, 60
    hits = 0
    for _ in range(repeats):
        low, high = intervals(rng.normal(size=60), rng.normal(mu, 1, size=60))["detection_error"]
        hits += low <= stats.norm.cdf(-mu / 2) <= high
    assert hits >= 0.85 * repeats


def test_delong_variance_equals_the_placements_written_out_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    for digits in (0, 1, 9):
        a, b = rng.normal(size=37).round(digits), rng.normal(1, 2, size=23).round(digits)
        wins = np.array([[(y > x) + 0.5 * (y == x) for y in b] for x in a])
        of_id, of_ood = wins.mean(axis=1), wins.mean(axis=0)
        auroc = wins.mean()
        naive = np.sum((of_id - auroc) ** 2) / 36 / 37 + np.sum((of_ood - auroc) ** 2) / 22 / 23
        assert delong_variance(a, b) == pytest.approx(naive, rel=1e-10)
    assert math.isnan(delong_variance([0.0], [1.0, 2.0]))


def test_auroc_interval_is_logit_delong_where_images_are_many() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=4000), rng.normal(1.2, 1, size=3000)
    area = metrics.auroc(a, b)
    step = 1.959964 * delong_variance(a, b) ** 0.5 / (area * (1 - area))
    logit = math.log(area / (1 - area))
    expected = [1 / (1 + math.exp(-logit - s)) for s in (-step, step)]
    assert intervals(a, b)["auroc"] == pytest.approx(expected, abs=4e-4)


@pytest.mark.parametrize("key", ["aupr_out", "aupr_in"])
def test_aupr_interval_has_the_width_of_the_jackknife_where_images_are_many(key: str) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=500).round(2), rng.normal(1.2, 1, size=300).round(2)
    metric = getattr(metrics, key)
    without_id = [metric(np.delete(a, i), b) for i in range(a.size)]
    without_ood = [metric(a, np.delete(b, j)) for j in range(b.size)]
    variance = sum(np.var(v) * (len(v) - 1) for v in (without_id, without_ood))
    low, high = intervals(a, b)[key]
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.08)


def test_auroc_bound_is_clopper_pearsons_at_perfect_separation() -> None:
    found = intervals(np.arange(300.0), np.arange(1000.0, 1050.0))["auroc"]
    assert found[0] <= proportion_interval(50, 50)[0] + 1e-12
    assert found[0] > 0.9
    assert found[1] == 1


def test_fpr95_interval_is_jeffreys_where_the_threshold_is_certain() -> None:
    # No OOD score between the possible thresholds: only the OOD share is uncertain.
    a = np.linspace(0, 1, 2000)
    b = np.concatenate([np.full(30, -1.0), np.full(70, 5.0)])
    expected = stats.beta.ppf([0.025, 0.975], 30.5, 70.5)
    assert intervals(a, b)["fpr95"] == pytest.approx(expected, abs=0.008)


def test_fpr95_interval_is_the_order_statistics_one_where_ood_images_are_many() -> None:
    # OOD uniform: FPR is the threshold itself, between order statistics J and J + 1, where J is
    # Binomial(n, 0.95); its distribution function joins that of J by straight lines.
    a, b = np.arange(1, 401) / 400, np.linspace(0, 1, 200_001)
    heights = np.concatenate([[0], stats.binom.cdf(np.arange(401), 400, 0.95)])
    expected = np.interp([0.025, 0.975], heights, np.arange(402) / 400)
    assert intervals(a, b)["fpr95"] == pytest.approx(expected, abs=0.0012)


def test_intervals_of_the_two_fpr_conventions_mirror_each_other() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=300), rng.normal(2, 1.5, size=200)
    one, other = intervals(a, b), intervals(-b, -a)
    assert one["fpr95"] == pytest.approx(other["fpr95_ood"], abs=0.015)
    assert one["fpr95_ood"] == pytest.approx(other["fpr95"], abs=0.015)
    assert one["auroc"] == pytest.approx(other["auroc"], abs=1e-9)
    assert one["aupr_out"] == pytest.approx(other["aupr_in"], abs=1e-9)
    flipped = intervals(b, a)["auroc"]
    assert one["auroc"] == pytest.approx((1 - flipped[1], 1 - flipped[0]), abs=1e-9)


def test_too_few_id_images_leave_the_upper_fpr95_bound_open() -> None:
    rng = np.random.default_rng(4)
    assert intervals(rng.normal(size=15), rng.normal(8, 1, size=500))["fpr95"][1] > 0.9


def test_intervals_are_deterministic_and_do_not_depend_on_the_order_of_images() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=80), rng.normal(2, 1, size=60)
    first = intervals(a, b, seed=3)
    assert intervals(a, b, seed=3) == first
    assert intervals(rng.permutation(a), rng.permutation(b), seed=3) == first
    assert intervals(a, b, seed=4)["fpr95"] == pytest.approx(first["fpr95"], abs=0.03)


def test_intervals_are_unchanged_under_increasing_maps() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=80), rng.normal(2, 1, size=60)
    assert intervals(np.exp(a), np.exp(b)) == intervals(a, b)
    assert intervals(a * 1e-3 + 1e4, b * 1e-3 + 1e4) == intervals(a, b)


def test_higher_confidence_means_wider_intervals() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=80), rng.normal(2, 1, size=60)
    narrow, wide = intervals(a, b, confidence=0.8), intervals(a, b, confidence=0.99)
    for key in KEYS:
        assert wide[key][0] < narrow[key][0] < narrow[key][1] < wide[key][1]


def test_mean_of_copies_of_one_set_keeps_the_shared_id_uncertainty() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=60), rng.normal(2, 1, size=20_000)
    one, many = intervals(a, b), mean_intervals(a, [b] * 6)
    for key in ("auroc", "fpr95", "fpr95_ood", "aupr_in"):
        assert np.diff(many[key]) == pytest.approx(np.diff(one[key]), rel=0.15)


def test_joint_mean_auroc_interval_equals_delong_covariances_pair_by_pair() -> None:
    rng = np.random.default_rng(9)
    a = rng.normal(size=900)
    sets = [rng.normal(mu, 1, size=m) for mu, m in ((1.0, 700), (1.5, 500), (0.5, 1100))]
    wins = [(b[None, :] > a[:, None]).astype(float) for b in sets]
    covariance = np.cov([w.mean(axis=1) for w in wins]) / a.size
    covariance += np.diag([np.var(w.mean(axis=0), ddof=1) / w.shape[1] for w in wins])
    half = 1.96 * (covariance.sum() / 9) ** 0.5
    low, high = mean_intervals(a, sets)["auroc"]
    assert (high - low) / 2 == pytest.approx(half, rel=0.02)


def covered(n: int, sizes: tuple[int, ...], mus: tuple[float, ...], repeats: int) -> dict[str, int]:
    rng = np.random.default_rng([n, *sizes])
    true = {
        "auroc": np.mean([stats.norm.cdf(mu / 2**0.5) for mu in mus]),
        "fpr95": np.mean([stats.norm.cdf(stats.norm.ppf(0.95) - mu) for mu in mus]),
    }
    true["fpr95_ood"] = true["fpr95"]
    hits = dict.fromkeys(true, 0)
    for _ in range(repeats):
        a = rng.normal(size=n)
        found = mean_intervals(
            a, [rng.normal(mu, 1, size=m) for mu, m in zip(mus, sizes, strict=True)]
        )
        for key, value in true.items():
            hits[key] += bool(found[key][0] <= value <= found[key][1])
    return hits


@pytest.mark.parametrize(
    ("n", "sizes", "mus"),
    [
        (50, (50,), (3.29,)),
        (250, (50,), (2.33,)),
        (50, (250,), (1.0,)),
        (100, (60, 90, 120), (1.0, 2.0, 3.0)),
    ],
)
def test_intervals_cover_the_population_value_at_nearly_the_nominal_rate(
    n: int, sizes: tuple[int, ...], mus: tuple[float, ...]
) -> None:
    repeats = 150
    at_least = stats.binom.ppf(1e-4, repeats, 0.93)
    for key, hits in covered(n, sizes, mus, repeats).items():
        assert hits >= at_least, key


def test_proportion_interval_is_clopper_pearson_and_never_of_zero_width() -> None:
    expected = stats.binomtest(7, 30).proportion_ci(0.95, method="exact")
    assert proportion_interval(7, 30) == pytest.approx((expected.low, expected.high))
    assert proportion_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert proportion_interval(10, 10) == pytest.approx((0.025**0.1, 1))
    assert proportion_interval(10_000, 10_000)[0] < 1


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_proportion_interval_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        proportion_interval(successes, n)


@pytest.mark.parametrize("bad", [[], [math.nan, 1.0]])
def test_nan_and_empty_scores_are_refused(bad: list[float]) -> None:
    good = [0.0, 1.0]
    for call in (intervals, delong_variance, lambda a, b: mean_intervals(a, [good, b])):
        with pytest.raises(ValueError, match="OOD scores"):
            call(good, bad)
        with pytest.raises(ValueError, match="ID scores"):
            call(bad, good)
    with pytest.raises(ValueError, match="at least one set"):
        mean_intervals(good, [])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_confidence_outside_0_1_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        intervals([0.0], [1.0], confidence=confidence)
