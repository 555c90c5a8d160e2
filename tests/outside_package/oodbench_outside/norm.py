"""Norm of the logits."""

from dataclasses import dataclass

from torch import Tensor

from oodbench.detector import Detector
from oodbench.model import Model


@dataclass(frozen=True)
class Norm(Detector):
    """Negated Euclidean norm of the logits: small where the network knows nothing."""

    def score(self, model: Model, images: Tensor) -> Tensor:
        return -model.logits(images).norm(dim=1)
