"""Whether cells got worse, from paired scores of two trainings: a pure function.

Each cell has scores of the same images before and after; cells share images (all cells of a suite
its in-distribution images, all cells of an OOD set that set's). A metric of a cell is worse if its
difference lies outside the joint interval of all differences, and is larger than a tolerance.

**The interval.** One-sided and simultaneous: with probability 1 − ``level`` no metric of any cell
that is truly no worse is called worse, however many cells there are. It is the max-T bootstrap:
images are resampled, the same ones for all cells that have them; each difference is divided by its
scale; the quantile q of the largest ratio serves all of them, so a metric is worse if its harm is
above q times its scale. The claims are strong (they hold whichever of the cells are truly worse),
because the joint law of the other cells' noise does not depend on those (Westfall & Young 1993).

**Resampling without resampling.** AUROC is a mean over pairs; up to terms of order 1/n it is the
sum over images of their placements (DeLong, DeLong & Clarke-Pearson, Biometrics 1988). Hence its
paired difference is linear in the weights of the images, and a bootstrap that gives every image a
Gaussian weight (Chernozhukov, Chetverikov & Kato, Annals of Statistics 2013, who show that the
quantile of the maximum is right even with more tests than images) draws from a normal distribution
whose factor is found once: no score is sorted again, and the draws of thousands of cells take
seconds. Variances are second moments about zero, not about the mean: the two agree where there is
no difference, which is what is tested; where few images decide it is McNemar's variance, which
does not vanish when all of them agree (AUROC from 1 to 0 has a spread of zero), and a sum of
symmetric terms divided by its root mean square is less heavy in the tails than a normal variable
(Efron, JASA 1969), so no Student correction is needed.

**FPR@95 is lumpy**: one image of n_ood is one step, and the threshold is an order statistic of the
ID scores, beyond which many OOD scores may crowd. Linearising it would need the density of both
there. Instead the weights move the rank of the threshold (Bahadur 1966: by minus the weighted
excess of ID images below it, in which all cells are linear) and the share of OOD images below the
moved threshold is looked up, crowds included. Such noise may be far from normal, and one cell
whose noise has a rare large jump would raise q for all others; so its scale is the smallest with
which a normal distribution is at least as wide as the noise at every quantile beyond one standard
deviation, in either tail (that in which the threshold has jumped already shows the other way).
Ratios then have tails no heavier than normal ones, and only the cell itself pays. One image is
taken off the difference as a continuity correction (Edwards 1948). Overlapping images (patches of
one picture) make all this too narrow, as they do all intervals here.

What it does not speak of: another training of the same recipe is another network. Its true figures
differ too, by the spread over training seeds, and a difference that is real is found.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from oodbench import metrics
from oodbench.intervals import counts_within
from oodbench.metrics import Floats, placements

LEVEL = 0.01
"""Family-wise share of false alarms."""
TOLERANCE = 0.005
"""Loss that is let pass, as a fraction: half a point."""
HIGHER_IS_BETTER = {
    "auroc": True,
    "fpr95": False,
    "fnr": False,
    "accuracy": True,
    "aupr_out": True,
    "aupr_in": True,
    "fpr95_ood": False,
    "detection_error": False,
}
"""Metrics that can be compared; the first four are those that `decide` guards."""

_DRAWS = 5000
_BATCH = 500
_SLACK = 1e-12  # what rounding may add to a difference of exactly the tolerance


@dataclass(frozen=True)
class Paired:
    """Scores of one cell, before and after, of the same images in the same order.

    Attributes:
        id_images: What tells the in-distribution (ID) images from others; cells with equal ones
            are resampled jointly.
        ood_images: The same for the OOD images.
        id_scores: Clean ID scores before and after, each [n]; they set the threshold.
        ood_scores: OOD scores before and after, each [m].
        attacked: Scores of the ID images as they are in the cell, each [n]; None where clean.
        correct: Whether each ID image was classified rightly, each bool [n]; None if not known.
    """

    id_images: Hashable
    ood_images: Hashable
    id_scores: tuple[Floats, Floats]
    ood_scores: tuple[Floats, Floats]
    attacked: tuple[Floats, Floats] | None = None
    correct: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None = None


@dataclass(frozen=True)
class Change:
    """A metric before and after.

    Attributes:
        metric: Name of the metric.
        before: Its value in the reference, in [0, 1].
        after: Its value now, in [0, 1].
        margin: How much worse it may get by the choice of images alone; 0 where scores are of
            the same weights and images, so that nothing is left to chance.
        tolerance: How much worse it may get in any case.
    """

    metric: str
    before: float
    after: float
    margin: float = 0.0
    tolerance: float = TOLERANCE

    @property
    def harm(self) -> float:
        """How much worse it got; negative where it got better."""
        difference = self.after - self.before
        return -difference if HIGHER_IS_BETTER[self.metric] else difference

    @property
    def worse(self) -> bool:
        """Whether it got worse by more than margin and tolerance."""
        return self._beyond(self.harm)

    @property
    def better(self) -> bool:
        """Whether it got better by more than margin and tolerance."""
        return self._beyond(-self.harm)

    def _beyond(self, size: float) -> bool:
        return size > self.margin and size > self.tolerance + _SLACK


def decide(
    cells: Sequence[Paired],
    *,
    tolerance: float = TOLERANCE,
    level: float = LEVEL,
    seed: int = 0,
) -> list[list[Change]]:
    """Return what changed in each cell, with the margins that all of them hold jointly.

    Args:
        cells: Paired scores; cells with the same images have them in the same order.
        tolerance: Loss that is let pass, a fraction in [0, 1).
        level: Family-wise probability that anything is called worse that is not.
        seed: Key of the random numbers.

    Returns:
        For each cell its changes in ``auroc`` and ``fpr95``, in ``fnr`` where ID images are
        attacked, and in ``accuracy`` where it is known.

    Raises:
        ValueError: If scores are empty or contain NaN, or cells with the same images have
            different numbers of them.
    """
    tests = [test for number, cell in enumerate(cells) for test in _tests(number, cell)]
    noise = _Noise()
    for test in tests:
        test.add_to(noise)
    drawn, exact = noise.drawn(tests, seed)
    scales = np.array(
        [
            exact[column] if test.threshold is None else _dominating(drawn[:, column])
            for column, test in enumerate(tests)
        ]
    )
    noisy = scales > 0
    quantile = 0.0
    if noisy.any():
        largest = (drawn[:, noisy] / scales[noisy]).max(axis=1)
        quantile = float(np.quantile(largest, 1 - level, method="higher"))
    found: list[list[Change]] = [[] for _ in cells]
    for test, scale in zip(tests, scales, strict=True):
        margin = quantile * float(scale) + test.lump if scale > 0 else 0.0
        found[test.cell].append(Change(test.metric, test.before, test.after, margin, tolerance))
    return found


@dataclass(frozen=True)
class _Threshold:
    """Share of some scores below the threshold, as a function of how its rank moves.

    Attributes:
        setting: Clean ID scores before and after, ascending.
        others: Scores whose share is meant, before and after, ascending.
        effects: Effect of each ID image on the rank before and after.
        sign: 1 where a larger share is harm, −1 where a smaller one is.
    """

    setting: tuple[Floats, Floats]
    others: tuple[Floats, Floats]
    effects: tuple[Floats, Floats]
    sign: int

    def harm(self, moved: tuple[Floats, Floats]) -> Floats:
        """Return the harm of moves of both ranks, relative to none."""
        before, after = (
            self._share(which, move) - self._share(which, np.zeros(1))
            for which, move in enumerate(moved)
        )
        return self.sign * (after - before)

    def _share(self, which: int, move: Floats) -> Floats:
        setting, others = self.setting[which], self.others[which]
        rank = np.clip(metrics.rank95(setting.size) + move, 0, setting.size + 0.999)
        inside = np.floor(rank).astype(np.int64)
        return counts_within(setting, others, inside, rank - inside) / others.size


@dataclass(frozen=True)
class _Test:
    """One metric of one cell.

    Attributes:
        cell: Number of the cell.
        metric: Name of the metric.
        before: Its value before.
        after: Its value after.
        effects: Effect of each image on the harm, by what images they are.
        lump: The smallest step that the metric can make.
        threshold: How it depends on the threshold; None where it does not.
        setting: What ID images set the threshold.
    """

    cell: int
    metric: str
    before: float
    after: float
    effects: list[tuple[Hashable, Floats]]
    lump: float = 0.0
    threshold: _Threshold | None = None
    setting: Hashable = None

    def add_to(self, noise: "_Noise") -> None:
        """Add a column of effects, and two of effects on the threshold."""
        noise.add(self.effects)
        if self.threshold is not None:
            for effect in self.threshold.effects:
                noise.add_move([(self.setting, effect)])


def _tests(number: int, cell: Paired) -> Iterator[_Test]:
    clean = _checked(cell.id_scores)
    others = _checked(cell.ood_scores)
    known = clean if cell.attacked is None else _checked(cell.attacked)
    values = [
        metrics.compute(a, b, clean_id_scores=None if cell.attacked is None else c)
        for a, b, c in zip(known, others, clean, strict=True)
    ]

    def figures(metric: str) -> tuple[float, float]:
        return values[0][metric], values[1][metric]

    (above, below), (above_now, below_now) = map(placements, known, others)
    n, m = clean[0].size, others[0].size
    yield _Test(
        number,
        "auroc",
        *figures("auroc"),
        [(cell.id_images, (above - above_now) / n), (cell.ood_images, (below - below_now) / m)],
    )
    ranked, setting = _each(_effect_on_rank, clean), _each(np.sort, clean)
    limits = [scores[metrics.rank95(n) - 1] for scores in setting]

    def at_threshold(metric: str, images: Hashable, scores: Pair, sign: int) -> _Test:
        accepted = [(own <= limit).astype(float) for own, limit in zip(scores, limits, strict=True)]
        step = 1 / scores[0].size
        return _Test(
            number,
            metric,
            *figures(metric),
            [(images, sign * step * (accepted[1] - accepted[0]))],
            step,
            _Threshold(setting, _each(np.sort, scores), ranked, sign),
            cell.id_images,
        )

    yield at_threshold("fpr95", cell.ood_images, others, 1)
    if cell.attacked is not None:
        yield at_threshold("fnr", cell.id_images, known, -1)
    if cell.correct is not None:
        right, right_now = (np.asarray(each, float) for each in cell.correct)
        effect = (right - right_now) / n
        shares = float(right.mean()), float(right_now.mean())
        yield _Test(number, "accuracy", *shares, [(cell.id_images, effect)], 1 / n)


Pair = tuple[Floats, Floats]


def _each(function: Callable[[Floats], Floats], pair: Pair) -> Pair:
    return function(pair[0]), function(pair[1])


def _checked(scores: tuple[npt.ArrayLike, npt.ArrayLike]) -> Pair:
    before, after = (np.asarray(each, dtype=np.float64) for each in scores)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"scores are not paired: shapes {before.shape} and {after.shape}")
    return before, after


def _effect_on_rank(scores: Floats) -> Floats:
    """Return how far a unit more of each image moves the rank of the threshold.

    Ties are ranked in the order of the images, before and after alike, so that the rank keeps its
    spread and pairs keep their correlation.
    """
    k = metrics.rank95(scores.size)
    within = np.zeros(scores.size)
    within[np.argsort(scores, kind="stable")[:k]] = 1.0
    return np.asarray(k / scores.size - within)


def _dominating(noise: Floats) -> float:
    """Return the least scale at which a normal distribution is as wide as some noise.

    It is at every quantile from one standard deviation on, in either tail.
    """
    from scipy.stats import norm

    ordered = np.sort(noise)
    tail = int(norm.sf(1) * noise.size)
    normal = norm.isf((np.arange(tail) + 0.5) / noise.size)
    upper, lower = ordered[::-1][:tail] / normal, -ordered[:tail] / normal
    return max(0.0, float(upper.max()), float(lower.max()))


@dataclass
class _Noise:
    """Effects of images, as columns, and draws of their sum over Gaussian weights."""

    _columns: list[list[tuple[Hashable, Floats]]] = field(default_factory=list)
    _moves: list[list[tuple[Hashable, Floats]]] = field(default_factory=list)

    def add(self, effects: list[tuple[Hashable, Floats]]) -> None:
        """Add the column of a test."""
        self._columns.append(effects)

    def add_move(self, effects: list[tuple[Hashable, Floats]]) -> None:
        """Add the column of a threshold."""
        self._moves.append(effects)

    def drawn(self, tests: Sequence[_Test], seed: int) -> tuple[Floats, Floats]:
        """Return draws of the harm of each test [draws, tests], and their scales if linear."""
        columns = [*self._columns, *self._moves]
        factors = list(_factors(columns))
        variances = np.zeros(len(columns))
        for places, factor in factors:
            variances[places] += (factor**2).sum(axis=0)
        key = np.array([seed, 5], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        out = np.empty((_DRAWS, len(tests)))
        for start in range(0, _DRAWS, _BATCH):
            sums = np.zeros((_BATCH, len(columns)))
            for places, factor in factors:
                sums[:, places] += rng.standard_normal((_BATCH, factor.shape[0])) @ factor
            harm, moves = sums[:, : len(tests)], iter(sums[:, len(tests) :].T)
            for column, test in enumerate(tests):
                if test.threshold is not None:
                    harm[:, column] += test.threshold.harm((next(moves), next(moves)))
            out[start : start + _BATCH] = harm
        return out, np.sqrt(variances[: len(tests)])


def _factors(
    columns: Sequence[Sequence[tuple[Hashable, Floats]]],
) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Yield for each kind of images the columns that they act on, and a factor [rank, columns].

    Standard normal rows times the factor have the law of Gaussian weights times the effects; with
    fewer columns than images it is smaller than the effects.
    """
    grouped: dict[Hashable, dict[int, Floats]] = {}
    for place, effects in enumerate(columns):
        for images, effect in effects:
            mine = grouped.setdefault(images, {})
            if mine and next(iter(mine.values())).size != effect.size:
                raise ValueError(f"cells have different numbers of the images {images}")
            mine[place] = mine[place] + effect if place in mine else effect
    for mine in grouped.values():
        matrix = np.stack(list(mine.values()), axis=1)
        if matrix.shape[1] < matrix.shape[0]:
            matrix = np.asarray(np.linalg.qr(matrix, mode="r"))
        yield np.array(list(mine)), matrix
