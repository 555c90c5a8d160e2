"""Energy of a plain network."""

from dataclasses import dataclass

from torch import Tensor

from oodbench.detector import Detector
from oodbench.model import Model
from oodbench.scores import energy


@dataclass(frozen=True)
class Energy(Detector):
    """Energy score of a plainly trained network (Liu et al., NeurIPS 2020).

    It has no published attack, so ``--preset paper`` leaves it out.

    Attributes:
        temperature: T, eq. 4; no unit; 1.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError("temperature must be positive")

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return −T·lse(z/T)."""
        return energy(model.logits(images), self.temperature)
