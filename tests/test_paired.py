"""The paired bootstrap: the same as resampling and sorting again, and as sure as it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oodbench import metrics, paired
from oodbench.paired import Scored, counts, drawn_thresholds, draws, tied_with_best


def scored(rng: np.random.Generator, n: int, m: int, shift: float, name: str = "far") -> Scored:
    clean = rng.normal(0, 1, n)
    return Scored(name, clean, clean, rng.normal(shift, 1, m))


def brute(one: Scored, number: int) -> dict[str, np.ndarray]:
    """The metrics of every draw, by repeating images and sorting."""
    of_id = counts(one.known.size, "ID", number=number).astype(int)
    of_ood = counts(one.ood.size, one.image_set, number=number).astype(int)
    found = [
        metrics.compute(
            np.repeat(one.known, w), np.repeat(one.ood, v), clean_id_scores=np.repeat(one.clean, w)
        )
        for w, v in zip(of_id, of_ood, strict=True)
    ]
    return {metric: np.array([f[metric] for f in found]) for metric in paired.METRICS}


@pytest.mark.parametrize("attacked", [False, True])
@pytest.mark.parametrize(("shift", "rounded"), [(0.3, False), (1.5, False), (2.5, True)])
def test_draws_are_those_of_resampling_and_sorting_again(
    shift: float, rounded: bool, attacked: bool
) -> None:
    rng = np.random.default_rng(1)
    one = scored(rng, 800, 500, shift)
    if attacked:
        one = Scored("far", one.clean, one.clean + rng.exponential(0.3, 800), one.ood)
    if rounded:
        one = Scored("far", *(np.round(part, 1) for part in (one.clean, one.known, one.ood)))
        if not attacked:
            one = Scored("far", one.clean, one.clean, one.ood)
    right, fast = brute(one, 400), draws([one], number=400)
    for metric in paired.METRICS if attacked else ("fpr95", "auroc"):
        exact = (
            right[metric] - metrics.compute(one.known, one.ood, clean_id_scores=one.clean)[metric]
        )
        mine = fast[metric][:, 0]
        assert np.corrcoef(exact, mine)[0, 1] > 0.97, metric
        assert mine.std() == pytest.approx(exact.std(), rel=0.08), metric
        assert abs(mine.mean() - exact.mean()) < 0.25 * exact.std(), metric


def test_a_difference_of_detectors_that_saw_the_same_images_has_the_error_of_a_paired_bootstrap():
    rng = np.random.default_rng(2)
    clean, ood = rng.normal(0, 1, 600), rng.normal(1, 1, 600)
    pair = [
        Scored("far", c := clean + 0.3 * rng.normal(size=600), c, ood + 0.3 * rng.normal(size=600))
        for _ in range(2)
    ]
    fast = draws(pair, number=500)
    exact = [brute(one, 500) for one in pair]
    for metric in ("fpr95", "auroc"):
        mine = np.diff(fast[metric], axis=1).std()
        assert mine == pytest.approx((exact[1][metric] - exact[0][metric]).std(), rel=0.1)
    unpaired = np.sqrt(2) * fast["auroc"].std(axis=0).mean()
    assert np.diff(fast["auroc"], axis=1).std() < 0.6 * unpaired


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_thresholds_of_draws_are_exact(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean = np.round(rng.normal(size=size), 1)
    weights = counts(size, "ID", number=20, seed=seed)
    right = [metrics.threshold95(np.repeat(clean, w.astype(int))) for w in weights]
    assert drawn_thresholds(clean, weights).tolist() == right


def test_draws_do_not_depend_on_what_else_is_compared() -> None:
    rng = np.random.default_rng(3)
    three = [scored(rng, 50, 30, 1), scored(rng, 50, 40, 1, "near"), scored(rng, 50, 30, 2)]
    together = draws(three, number=20)
    for place, one in enumerate(three):
        alone = draws([one], number=20)
        for metric in paired.METRICS:
            assert together[metric][:, place] == pytest.approx(alone[metric][:, 0], abs=1e-6)


def test_images_that_are_not_the_same_are_refused() -> None:
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="same ID images"):
        draws([scored(rng, 50, 30, 1), scored(rng, 51, 30, 1)])
    with pytest.raises(ValueError, match="same images of far"):
        draws([scored(rng, 50, 30, 1), scored(rng, 50, 31, 1)])
    assert draws([])["auroc"].shape == (paired.DRAWS, 0)


@pytest.mark.parametrize("lower", [True, False])
def test_equal_ones_are_all_best_and_a_clear_loser_is_not(lower: bool) -> None:
    rng = np.random.default_rng(5)
    drawn = 0.01 * rng.normal(size=(500, 3))
    values = np.array([0.500, 0.505, 0.7 if lower else 0.3])
    assert tied_with_best(values, drawn, lower=lower) == [True, True, False]
    nothing = np.zeros((500, 3))
    assert tied_with_best([1.0, 1.0, 0.9], nothing, lower=lower) == [not lower, not lower, lower]
    assert tied_with_best([0.3], drawn[:, :1], lower=lower) == [True]


def test_the_truly_best_of_ten_is_kept_in_about_95_of_100_samples() -> None:
    # All ten are equally good, the hardest case; at a bare 95 % each, some 30 % would lose theirs.
    rng = np.random.default_rng(6)
    trials, lost = 300, 0
    for _ in range(trials):
        truth = rng.normal(size=10)
        drawn = rng.normal(size=(300, 10))
        lost += not tied_with_best(truth, drawn, lower=False)[0]
    assert 0.01 * trials <= lost <= 0.085 * trials
