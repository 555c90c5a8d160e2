"""The worst corruption, then L∞ about it."""

from dataclasses import dataclass
from typing import ClassVar

from oodbench.perturbation import Composition


@dataclass(frozen=True)
class Compositional(Composition):
    """The worst corruption of each image, then an L∞ attack about the corrupted image.

    Chen et al. (2021). Greedy, as published: the corruption is the worst for the unattacked
    score and is not chosen again afterwards (fault F7 of the published evaluation, kept).

    Attributes:
        eps: Radius of the L∞ stage in grey levels, about the corrupted image; 8.
        budget: Gradient steps an image of the L∞ stage; None takes the suite's.
    """

    in_all: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("corruption", "linf")

    eps: int = 8
    budget: int | None = None
