"""A detector that fails in the way that its field says."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.detector import Detector
from oodbench.model import Model


@dataclass(frozen=True)
class Faulty(Detector):
    """Fails on purpose."""

    fault: str = "nan"

    def fit(self, model: Model, data: object) -> dict[str, Tensor]:
        if self.fault == "fit":
            data.labels  # noqa: B018  (not declared)
        return {"none": torch.zeros(1)}

    def score(self, model: Model, images: Tensor) -> Tensor:
        scores = -model.logits(images).amax(1)
        if self.fault == "nan":
            return scores * torch.nan
        if self.fault == "no gradient":
            return scores.detach()
        if self.fault == "search" and images.requires_grad:
            raise ArithmeticError("no way down")
        if self.fault == "shape":
            return scores[:, None]
        if self.fault == "raises":
            raise ArithmeticError("two and two\nmake five")
        return scores
