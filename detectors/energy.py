"""Energy of a plain network."""

from dataclasses import dataclass

from torch import Tensor

from oodbench.detector import Detector
from oodbench.fields import positive
from oodbench.model import Model
from oodbench.scores import energy


@dataclass(frozen=True)
class Energy(Detector):
    """Energy score of a plainly trained network (Liu et al., NeurIPS 2020).

    It was not attacked when published, so no search of ``--preset paper`` can attack it.

    Attributes:
        temperature: T, eq. 4; no unit; 1.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "temperature")

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return −T·lse(z/T)."""
        return energy(model.logits(images), self.temperature)
