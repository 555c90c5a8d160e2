"""L∞ attack by projected gradient descent on the score."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oodbench.descent import Ball, apgd, pgd
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.randomness import uniform
from oodbench.threat import LEVELS, to_grid

PAPER_STEPS = 40
_PROBE_SHARE = 0.3
_STARTS = ("clean", "uniform")


@dataclass(frozen=True)
class LInf(Perturbation):
    """Lower the score within an L∞ ball, on the 8-bit grid.

    Under ``standard`` every objective is probed from the clean image and from a uniform start
    with a short Auto-PGD run (Croce & Hein, ICML 2020); the rest of the budget continues, for
    each image, from the probe that lowered the score most. Under ``paper`` it is the published
    attack (Chen et al., 2021, code): 40 steps of one grey level on the published loss from one
    uniform start, the best iterate chosen by that loss.

    Attributes:
        eps: Radius in grey levels (1/255); 8.
        budget: Gradient steps an image over all objectives and starts; None takes the suite's,
            and ``paper`` has 40.
    """

    in_all: ClassVar[bool] = True
    fallback: ClassVar[str] = "square"

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
        ball = Ball.around(centres, self.eps)
        noise = (2 * uniform(seed, "linf/start", ids, tuple(centres.shape[1:])) - 1) * self.eps
        uniform_start = ball.project(ball.centres + noise.to(ball.centres))
        if self.preset == "paper":
            objective = objectives["published"]
            found, _ = pgd(
                objective.value,
                objective.gradient,
                ball,
                uniform_start.round(),
                steps=PAPER_STEPS,
                step=1,
            )
            yield Candidate(to_grid(found, centres, self.eps), "published/uniform")
            return
        budget = self.budget
        if budget is None:
            raise ValueError("linf has no budget for this suite; set --budget")
        starts = dict(zip(_STARTS, (ball.centres, uniform_start), strict=True))
        runs, probe_steps = _probes(tuple(objectives), budget)
        score = objectives["score"]
        best = ball.centres
        best_values = torch.full((len(centres),), torch.inf, device=centres.device)
        winner = torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
        for number, (name, start) in enumerate(runs):
            objective = objectives[name]
            found, values = apgd(
                objective.value,
                objective.gradient,
                ball,
                starts[start],
                probe_steps,
                step=2.0 * self.eps,
            )
            if name != "score":
                values = score.value(found / LEVELS)
            lower = values < best_values
            best = torch.where(lower[:, None, None, None], found, best)
            best_values = torch.where(lower, values, best_values)
            winner = torch.where(lower, number, winner)
            yield Candidate(to_grid(found, centres, self.eps), f"{name}/{start}")
        left = budget - probe_steps * len(runs)
        if left < 1:
            return
        final = best.clone()
        for name in dict.fromkeys(name for name, _ in runs):
            numbers = [number for number, run in enumerate(runs) if run[0] == name]
            rows = torch.isin(winner, torch.tensor(numbers, device=winner.device)).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            part = Ball(ball.centres[rows], ball.low[rows], ball.high[rows])
            objective = objectives[name]
            found, _ = apgd(
                objective.value,
                objective.gradient,
                part,
                best[rows],
                left,
                step=1.0 * self.eps,
            )
            final[rows] = found
        tags = [f"{runs[number][0]}/{runs[number][1]}+" for number in winner.tolist()]
        yield Candidate(to_grid(final, centres, self.eps), tags)

    @property
    def gradient_steps(self) -> int:
        """The budget; 40 under ``paper``."""
        return PAPER_STEPS if self.preset == "paper" else self.budget or 0

    def restarts(self, objectives: Sequence[str]) -> int:
        """Return the number of runs from different starts for an image."""
        return 1 if self.preset == "paper" else len(_probes(objectives, self.gradient_steps)[0])


def _probes(objectives: Sequence[str], budget: int) -> tuple[list[tuple[str, str]], int]:
    """Return the probes, objective and start of each, and their steps; never above the budget."""
    runs = [(name, start) for name in objectives for start in _STARTS]
    steps = max(int(_PROBE_SHARE * budget) // max(len(runs), 1), 1)
    return runs[: budget // steps], steps
