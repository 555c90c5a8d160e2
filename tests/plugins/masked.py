"""A detector that hides its gradient in the way that its field says; nothing else is wrong."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oodbench.detector import Detector
from oodbench.model import Model
from oodbench.scores import max_probability


@dataclass(frozen=True)
class Masked(Detector):
    """Maximum softmax probability behind a mask."""

    mask: str = "none"
    level: float = 0.0
    steepness: float = 40.0

    def score(self, model: Model, images: Tensor) -> Tensor:
        if self.mask == "shift":
            row, column = torch.randint(0, 8, (2,)).tolist()
            images = images.roll((row, column), (2, 3))
        if self.mask == "scrambled":
            images = _Scrambled.apply(images)
        if self.mask == "patchy":
            images = _Patchy.apply(images)
        score = max_probability(model.logits(images))
        if self.mask == "stopped":
            return score.detach()
        if self.mask == "rounded":
            return (100 * score).round() / 100
        if self.mask == "saturated":
            return (self.steepness * (score + self.level)).sigmoid()
        if self.mask == "bait":
            # A wave in each pixel, of four grey levels: the gradient is right, and leads nowhere.
            phase = math.pi / 4 + images * (255 * math.pi / 2)
            return score + self.level * phase.sin().mean((1, 2, 3))
        return score


class _Scrambled(torch.autograd.Function):
    """The identity, with the gradient of another pixel and signs of nothing."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> Tensor:
        signs = torch.rand(gradients[0].shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return gradients.flip(1, 2, 3) * signs.sign()


class _Patchy(torch.autograd.Function):
    """The identity, its gradient right in a tenth of the pixels, next to nothing in the others."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> Tensor:
        draws = torch.rand(gradients[0].shape, generator=torch.Generator().manual_seed(0))
        return torch.where(draws < 0.1, gradients, 1e-12 * (draws - 0.55).sign())
