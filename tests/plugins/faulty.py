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
        if self.fault == "nan when attacked":
            # Attacks search with folded batch norm in a model of their own; noise is not drawn
            # textures, so let the pixels tell: one of the OOD sets has no flat areas.
            busy = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3)) > 0.1
            return torch.where(busy, torch.nan, scores)
        if self.fault == "shape":
            return scores[:, None]
        if self.fault == "raises":
            raise ArithmeticError("two and two\nmake five")
        return scores
