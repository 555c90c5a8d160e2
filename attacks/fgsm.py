"""L∞ attack by one step down the gradient."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.threat import LEVELS, to_float, to_grid


@dataclass(frozen=True)
class FGSM(Perturbation):
    """Step by ε down the sign of the score's gradient (Goodfellow et al., ICLR 2015, §4).

    The step starts at the clean image and is clipped to the box. Where the score has no gradient
    it goes down the first objective of the detector that has one; under ``paper`` it lowers the
    published loss. A gradient search that finds less than this one step is broken.

    Attributes:
        eps: Radius in grey levels (1/255); 8.
    """

    eps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.eps <= LEVELS:
            raise ValueError(f"eps must be 1 to {LEVELS} grey levels")

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield the one image that the step leads to."""
        # The score, or under paper the published loss, is the first of the objectives.
        name = next(name for name, objective in objectives.items() if objective.differentiable)
        _, gradients = objectives[name].gradient(to_float(centres))
        levels = centres.to(torch.float32) - self.eps * gradients.to(torch.float32).sign()
        yield Candidate(to_grid(levels, centres, self.eps), f"{name}/clean")

    @property
    def gradient_steps(self) -> int:
        """One."""
        return 1

    def restarts(self, objectives: Sequence[str]) -> int:
        """Return 1: there is one start."""
        return 1
