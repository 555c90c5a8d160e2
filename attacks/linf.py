"""L∞ attack by projected gradient descent on the score."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from oodbench.descent import Ball, Steps, momentum_descent, pgd
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.randomness import uniform
from oodbench.threat import LEVELS, to_grid

PAPER_STEPS = 40
# Queries of the fallback for each gradient step of the budget: 5,000, AutoAttack's, for a hundred.
_QUERIES_A_STEP = 50
_MOST_QUERIES = 5000

# Kinds of start, each with the number of rows and columns of its cells of ±ε; None is uniform
# noise in every pixel.
_STARTS: dict[str, tuple[int, int] | None] = {
    "blocks4": (4, 4),
    "stripes": (1, 32),
    "blocks8": (8, 8),
    "uniform": None,
    "blocks2": (2, 2),
}
_PROBES = 8
_STEPS_A_PROBE = 12
# Radius in levels above which steps do not become larger: in a ball as large as the box they would
# throw every pixel from one end to the other and never find what lies near the image.
_FARTHEST = 16
# Step size in levels below which a step changes few pixels of the rounded image.
_FINEST = 0.2


@dataclass(frozen=True)
class LInf(Perturbation):
    """Lower the score within an L∞ ball, on the 8-bit grid.

    Under ``standard`` a third of the budget is spent on short runs from eight starts, the clean
    image and random ones, most with noise that is constant over blocks or columns; a quarter
    continues, for each image, the three of them that lowered the score most, and the rest the
    best of these (successive halving; Jamieson & Talwalkar, AISTATS 2016). Each run is a descent
    with momentum and falling steps (`oodbench.descent.momentum_descent`). Further objectives of a
    detector share a quarter of the first runs; a run keeps its objective, and which goes on is
    decided by the score. Chosen on held-out outliers, not on test images. Under ``paper`` it is
    the published attack (Chen et al., 2021, code): 40 steps of one grey level on the published
    loss from one uniform start, the best iterate chosen by that loss.

    Attributes:
        eps: Radius in grey levels (1/255); 8.
        budget: Gradient steps an image over all objectives and starts; None takes the suite's,
            and ``paper`` has 40.
    """

    version: ClassVar[int] = 2
    in_all: ClassVar[bool] = True
    fallback: ClassVar[str] = "square"
    role: ClassVar[str] = "gradient"

    eps: int = 8
    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.eps <= LEVELS:
            raise ValueError(f"eps must be 1 to {LEVELS} grey levels")
        if self.budget is not None and self.budget < 1:
            raise ValueError("budget must be at least 1 gradient step an image")
        if self.preset == "paper" and self.budget not in (None, PAPER_STEPS):
            raise ValueError(f"the published attack has {PAPER_STEPS} steps; leave --budget out")

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield the lowest image found, and under ``standard`` the best of each probe too."""
        if self.preset == "paper":
            objective = objectives["published"]
            ball = Ball.around(centres, self.eps)
            noise = (2 * uniform(seed, "linf/start", ids, tuple(centres.shape[1:])) - 1) * self.eps
            uniform_start = ball.project(ball.centres + noise.to(ball.centres))
            found, _ = pgd(
                objective.value,
                objective.gradient,
                ball,
                uniform_start.round(),
                [1] * PAPER_STEPS,
            )
            yield Candidate(to_grid(found, centres, self.eps), "published/uniform")
            return
        if self.budget is None:
            raise ValueError("linf has no budget for this suite; set --budget")
        yield from _Search(objectives, centres, ids, seed, self.eps).candidates(self.budget)

    def fallback_parameters(self) -> Mapping[str, Any]:
        """Return the queries of the fallback, in proportion to a budget below 100 steps."""
        if not self.gradient_steps:
            return {}
        return {"queries": min(_QUERIES_A_STEP * self.gradient_steps, _MOST_QUERIES)}

    @property
    def gradient_steps(self) -> int:
        """The budget; 40 under ``paper``."""
        return PAPER_STEPS if self.preset == "paper" else self.budget or 0

    def restarts(self, objectives: Sequence[str]) -> int:
        """Return the number of runs from different starts for an image."""
        if self.preset == "paper":
            return 1
        return _rounds(self.gradient_steps, len(objectives))[0].kept


@dataclass(frozen=True)
class _Round:
    """A round of a search: so many runs of each image are continued for so many steps.

    Attributes:
        kept: Runs of each image, those of the lowest scores so far.
        steps: Gradient steps of each run.
        first: First step size, in units of the radius, or of `_FARTHEST`.
        last: Last step size, in the same units; never below `_FINEST` levels.
    """

    kept: int
    steps: int
    first: float
    last: float


def _rounds(budget: int, objectives: int) -> list[_Round]:
    """Return how a budget is spent: on many short runs, then on fewer and longer ones."""
    probes = min(max(_PROBES, 4 * (objectives - 1)), budget // _STEPS_A_PROBE)
    if probes < 2:
        return [_Round(1, budget, 2.0, 0.0)]
    wide = _Round(probes, max(round(0.32 * budget / probes), 1), 4.0, 0.5)
    kept = min(3, probes)
    narrow = _Round(kept, max(round(0.24 * budget / kept), 1), 2.0, 0.25)
    left = budget - wide.kept * wide.steps - narrow.kept * narrow.steps
    return [wide, narrow, _Round(1, left, 1.0, 0.0)]


class _Search:
    """Runs from several starts, most of which are given up on the way.

    Attributes:
        levels: Best point of each run, [runs, N, 3, H, W].
        scores: Its score, [runs, N].
        origins: Number of the run's start and objective, int64 [runs, N].
    """

    def __init__(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
        eps: int,
    ) -> None:
        self._centres = centres
        self._ball = Ball.around(centres, eps)
        self._score = objectives["score"]
        self._objectives = {n: o for n, o in objectives.items() if o.differentiable}
        self._ids = ids
        self._seed = seed
        self._eps = eps

    def candidates(self, budget: int) -> Iterator[Candidate]:
        """Yield the best image so far after each round."""
        rounds = _rounds(budget, len(self._objectives))
        self._runs = self._assigned(rounds[0].kept)
        count = len(self._ball.centres)
        self.levels = torch.stack([self._start(number) for number in range(rounds[0].kept)])
        self.origins = torch.arange(rounds[0].kept)[:, None].expand(-1, count)
        self.origins = self.origins.to(self.levels.device)
        self.scores = torch.full((rounds[0].kept, count), torch.inf, device=self.levels.device)
        for turn in rounds:
            self._keep(turn.kept)
            for run in range(turn.kept):
                self._continue(run, turn)
            yield self._best()

    def _assigned(self, probes: int) -> list[tuple[str, str]]:
        """Return objective and kind of start of each probe.

        Three in four are of the score, but every other objective has one, as far as there are
        probes.
        """
        others = [name for name in self._objectives if name != "score"]
        names = ["score"] * probes
        if others:
            turns = itertools.cycle(others)
            for place in self._places_of_others(probes, len(others)):
                names[place] = next(turns)
        kinds = ["clean", *itertools.islice(itertools.cycle(_STARTS), probes - 1)]
        return list(zip(names, kinds, strict=True))

    def _places_of_others(self, probes: int, others: int) -> list[int]:
        if "score" not in self._objectives:
            return list(range(probes))
        # Every fourth; with more objectives than that, from the last one on, never the clean one.
        every_fourth = list(range(3, probes, 4))
        further = [place for place in range(probes - 1, 0, -1) if place not in every_fourth]
        return sorted([*every_fourth, *further[: max(others - len(every_fourth), 0)]])

    def _start(self, number: int) -> Tensor:
        kind = self._runs[number][1]
        if kind == "clean":
            return self._ball.centres
        _, channels, height, width = self._ball.centres.shape
        rows, columns = _STARTS[kind] or (height, width)
        shape = (channels, min(rows, height), min(columns, width))
        draws = 2 * uniform(self._seed, "linf/start", self._ids, shape, number) - 1
        coarse = draws if kind == "uniform" else torch.where(draws < 0, -1.0, 1.0)
        noise = functional.interpolate(coarse, (height, width), mode="nearest")
        return self._ball.project(self._ball.centres + self._eps * noise.to(self._ball.centres))

    def _keep(self, number: int) -> None:
        """Give up all runs of an image but the best."""
        if number == len(self.scores):
            return
        best = self.scores.topk(number, 0, largest=False).indices
        images = torch.arange(best.shape[1], device=best.device).expand_as(best)
        self.levels = self.levels[best, images]
        self.scores = self.scores[best, images]
        self.origins = self.origins[best, images]

    def _continue(self, run: int, turn: _Round) -> None:
        """Continue one run of each image, with the objective that it has had."""
        names = [name for name, _ in self._runs]
        # A single run of few steps has to cross the ball in them.
        scale = self._eps if len(self._runs) == 1 else min(self._eps, _FARTHEST)
        for name in dict.fromkeys(names):
            own = torch.tensor([other == name for other in names], device=self.origins.device)
            rows = own[self.origins[run]].nonzero()[:, 0]
            if len(rows) == 0:
                continue
            objective, ball, start = self._objectives[name], self._ball, self.levels[run]
            if len(rows) < len(start):
                objective, ball, start = objective.rows(rows), ball.rows(rows), start[rows]
            found, values = momentum_descent(
                objective,
                ball,
                start,
                Steps(turn.steps, turn.first * scale, max(turn.last * scale, _FINEST)),
            )
            before = self.scores[run, rows]
            if name == "score":
                better = values < before
            else:
                values = self._score.rows(rows).value(found / LEVELS)
                # On a plateau of the score another objective still leads on.
                better = values <= before
            better = better.nonzero()[:, 0]
            self.levels[run, rows[better]] = found[better]
            self.scores[run, rows[better]] = values[better]

    def _best(self) -> Candidate:
        best = self.scores.argmin(0)
        images = torch.arange(len(best), device=best.device)
        origins = self.origins[best, images].tolist()
        tags = ["/".join(self._runs[number]) for number in origins]
        return Candidate(to_grid(self.levels[best, images], self._centres, self._eps), tags)
