"""A score whose worst case in a ball is known: the mean level of an image."""

from dataclasses import dataclass

from torch import Tensor

from oodbench.detector import Detector
from oodbench.model import Model


@dataclass(frozen=True)
class Bright(Detector):
    """Mean level, 0 to 255: the brighter, the more OOD."""

    def score(self, model: Model, images: Tensor) -> Tensor:
        return 255 * images.mean((1, 2, 3))
