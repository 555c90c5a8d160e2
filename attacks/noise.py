"""Random noise in the L∞ ball: what a search must beat."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.randomness import generator
from oodbench.threat import LEVELS

MOST_DRAWS = 300
"""More draws hardly lower the floor, and would cost more than the search that must beat it."""


@dataclass(frozen=True)
class Noise(Perturbation):
    """Add random noise, as often as a gradient search takes steps; the floor for every attack.

    The draws are in turn uniform on the whole grey levels −ε..ε and corners of the ball, −ε or ε
    for each pixel and channel, then clipped to the box. The choice of draws is ours.

    Attributes:
        eps: Radius in grey levels (1/255); 8.
        budget: Draws an image, at most 300 of them made; None takes the suite's gradient steps.
    """

    shared: ClassVar[bool] = True
    role: ClassVar[str] = "floor"

    eps: int = 8
    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.eps <= LEVELS:
            raise ValueError(f"eps must be 1 to {LEVELS} grey levels")
        if self.budget is not None and self.budget < 1:
            raise ValueError("budget must be at least 1 draw an image")

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield uniform noise and corners, one after the other."""
        if self.budget is None:
            raise ValueError("noise has no budget for this suite; set --budget")
        middle = centres.to(torch.int16)
        # One generator an image, read on from draw to draw: to key a new one costs as much again.
        generators = [generator(seed, "noise/steps", image_id) for image_id in ids]
        for draw in range(self.queries):
            tag = "corner" if draw % 2 else "uniform"
            steps = self._steps(tag, generators, tuple(centres.shape[1:]))
            images = (middle + steps.to(centres.device)).clamp(0, LEVELS).to(torch.uint8)
            yield Candidate(images, tag)

    def _steps(
        self, tag: str, generators: Sequence[np.random.Generator], shape: tuple[int, ...]
    ) -> Tensor:
        """Draw one step for each image, int16 [N, *shape] in grey levels."""
        steps = np.empty((len(generators), *shape), dtype=np.int16)
        for index, rng in enumerate(generators):
            if tag == "corner":
                steps[index] = rng.integers(0, 2, shape, dtype=np.bool_)
            else:
                steps[index] = rng.integers(-self.eps, self.eps + 1, shape, dtype=np.int16)
        if tag == "corner":
            steps = (2 * steps - 1) * np.int16(self.eps)
        return torch.from_numpy(steps)

    @property
    def queries(self) -> int:
        """The budget, at most 300."""
        return min(self.budget or 0, MOST_DRAWS)
