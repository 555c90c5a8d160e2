"""The decision of the gate: rare false alarms over all cells, and real losses found."""

import numpy as np
import pytest
from scipy.stats import norm

from oodbench import metrics
from oodbench.gate import Change, Paired, decide

Rng = np.random.Generator


def pair(rng: Rng, size: int, rho: float, centre: float = 0.0, now: float | None = None) -> tuple:
    """Normal scores before and after with a correlation."""
    before, own = rng.normal(size=(2, size))
    after = rho * before + np.sqrt(1 - rho**2) * own
    return before + centre, after + (centre if now is None else now)


def cells(
    rng: Rng, count: int, n: int, m: int, rho: float, area: float, drop: float = 0.0
) -> list[Paired]:
    """Cells of detectors that share their images, five OOD sets each."""
    centre, now = (np.sqrt(2) * norm.ppf(value) for value in (area, area - drop))
    found = []
    for number in range(count):
        if number % 5 == 0:
            known = pair(rng, n, rho)
        found.append(Paired("id", number % 5, known, pair(rng, m, rho, centre, now)))
    return found


def worse(decided: list[list[Change]]) -> list[Change]:
    return [change for changes in decided for change in changes if change.worse]


def test_margins_are_those_of_a_bootstrap_that_resamples_images_for_all_cells() -> None:
    rng = np.random.default_rng(0)
    n, m, draws = 400, 300, 1000
    mine = cells(rng, 4, n, m, 0.7, 0.85)
    noise = np.empty((draws, 4, 2))
    for draw in range(draws):
        known = rng.integers(n, size=n)
        others = [rng.integers(m, size=m) for _ in mine]
        for c, cell in enumerate(mine):
            a = [scores[known] for scores in cell.id_scores]
            b = [scores[others[c]] for scores in cell.ood_scores]
            old, new = (
                (metrics.auroc(x, y), metrics.fpr95(x, y)) for x, y in zip(a, b, strict=True)
            )
            noise[draw, c] = old[0] - new[0], new[1] - old[1]
    decided = decide(mine)
    harm = np.array([[change.harm for change in changes] for changes in decided])
    noise -= harm
    scale = noise.std(axis=0)
    quantile = np.quantile((noise / scale).max(axis=(1, 2)), 0.99)
    margin = np.array([[change.margin for change in changes] for changes in decided])
    ratio = margin / (quantile * scale)
    assert ratio[:, 0] == pytest.approx(1, abs=0.12)
    # FPR@95 has its continuity correction and its conservative scale.
    assert (ratio[:, 1] > 0.88).all()
    assert ratio[:, 1].mean() < 1.4


@pytest.mark.parametrize(("count", "rho"), [(1, 0.5), (1, 0.9), (10, 0.5)])
def test_an_unchanged_detector_rarely_alarms(count: int, rho: float) -> None:
    rng = np.random.default_rng(count)
    alarms = sum(
        bool(worse(decide(cells(rng, count, 300, 150, rho, 0.93), tolerance=0, seed=repeat)))
        for repeat in range(60)
    )
    # 0.6 are expected at 1 %.
    assert alarms <= 4


@pytest.mark.parametrize("offset", [-0.05, 0.0, 0.05])
def test_a_crowd_of_ood_scores_at_the_threshold_does_not_alarm(offset: float) -> None:
    rng = np.random.default_rng(1)
    crowd = norm.ppf(0.95) + offset

    def crowded() -> np.ndarray:
        scores = rng.normal(1.6, 1, size=250)
        scores[:125] = crowd + 1e-4 * rng.normal(size=125)
        return scores

    alarms = 0
    for repeat in range(60):
        cell = Paired("id", "ood", pair(rng, 640, 0.5), (crowded(), crowded()))
        alarms += any(change.metric == "fpr95" for change in worse(decide([cell], seed=repeat)))
    assert alarms <= 4


@pytest.mark.parametrize("rho", [0.5, 0.9])
@pytest.mark.parametrize("area", [0.9, 0.97])
def test_a_drop_of_three_points_is_caught(rho: float, area: float) -> None:
    rng = np.random.default_rng(2)
    caught = sum(
        bool(worse(decide(cells(rng, 1, 2000, 2000, rho, area, 0.03), seed=repeat)))
        for repeat in range(20)
    )
    assert caught >= 19


def test_a_loss_in_one_of_many_cells_is_named_and_no_other() -> None:
    rng = np.random.default_rng(3)
    mine = cells(rng, 40, 640, 250, 0.8, 0.9)
    mine[17] = Paired("id", 2, mine[17].id_scores, pair(rng, 250, 0.8, 1.8, 0.9))
    decided = decide(mine)
    assert [number for number, changes in enumerate(decided) if worse([changes])] == [17]


def test_broken_normalisation_of_mahalanobis_is_caught() -> None:
    rng = np.random.default_rng(4)
    known = pair(rng, 640, 0.5)
    cell = Paired("id", "ood", known, pair(rng, 250, 0.0, np.sqrt(2) * norm.ppf(0.75), 0.0))
    (changes,) = decide([cell])
    (auroc,) = (change for change in changes if change.metric == "auroc")
    assert auroc.before == pytest.approx(0.75, abs=0.04)
    assert auroc.after == pytest.approx(0.5, abs=0.04)
    assert auroc.worse


def test_a_loss_that_all_images_agree_on_is_caught() -> None:
    known, others = np.zeros(100), np.ones(100)
    (changes,) = decide([Paired("i", "o", (known, known), (others, -others))])
    assert {change.metric for change in changes if change.worse} == {"auroc", "fpr95"}


def test_cells_that_repeat_each_other_widen_nothing() -> None:
    cell = cells(np.random.default_rng(5), 1, 400, 300, 0.6, 0.8)[0]
    alone, among = decide([cell])[0], decide([cell] * 30)[0]
    for one, other in zip(alone, among, strict=True):
        assert other.margin == pytest.approx(one.margin, rel=0.08)
    strangers = [Paired(("id", i), ("ood", i), cell.id_scores, cell.ood_scores) for i in range(30)]
    # The same scores on images of their own are as many chances of a false alarm.
    assert decide(strangers)[0][0].margin > 1.2 * alone[0].margin


def test_the_same_scores_have_no_margin_and_nothing_changed() -> None:
    rng = np.random.default_rng(6)
    known, others = rng.normal(size=100), rng.normal(1, 1, size=80)
    right = rng.random(100) < 0.9
    cell = Paired(
        "i", "o", (known, known), (others, others), (known + 1, known + 1), (right, right)
    )
    (changes,) = decide([cell])
    assert [change.metric for change in changes] == ["auroc", "fpr95", "fnr", "accuracy"]
    assert all(
        (change.harm, change.worse, change.better) == (0, False, False) for change in changes
    )


def test_attacked_id_images_and_accuracy_are_guarded() -> None:
    rng = np.random.default_rng(7)
    known, others = pair(rng, 640, 0.9), pair(rng, 250, 0.9, 3)
    attacked = (known[0] + 0.2, known[1] + 1.5)
    right = rng.random(640) < 0.97
    (changes,) = decide(
        [Paired("i", "o", known, others, attacked, (right, right & (known[0] < 1)))]
    )
    found = {change.metric: change for change in changes}
    threshold = metrics.threshold95(known[1])
    assert found["fnr"].after == pytest.approx((attacked[1] > threshold).mean())
    assert found["fnr"].worse
    assert found["accuracy"].worse
    assert not found["fpr95"].worse


def test_tolerance_is_a_loss_that_passes_and_exactly_it_does() -> None:
    assert not Change("auroc", 0.9, 0.895, tolerance=0.005).worse
    assert Change("auroc", 0.9, 0.8949, tolerance=0.005).worse
    assert Change("fpr95", 0.1, 0.1051, tolerance=0.005).worse
    assert Change("fpr95", 0.1, 0.09, tolerance=0.005).better
    assert not Change("auroc", 0.9, 0.85, margin=0.06, tolerance=0.005).worse


def test_unpaired_scores_and_nan_are_refused() -> None:
    a, b = np.arange(5.0), np.arange(6.0)
    with pytest.raises(ValueError, match="not paired"):
        decide([Paired("i", "o", (a, b), (a, a))])
    with pytest.raises(ValueError, match="NaN"):
        decide([Paired("i", "o", (a, a), (a, a * np.nan))])
    with pytest.raises(ValueError, match="different numbers"):
        decide([Paired("i", "o", (a, a), (a, a)), Paired("i", "o", (b, b), (a, a))])


def test_there_is_nothing_to_decide_of_nothing() -> None:
    assert decide([]) == []
