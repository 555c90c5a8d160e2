"""ODIN: temperature scaling and input preprocessing."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, Objective, detached_sign_step
from oodbench.fields import at_least, positive
from oodbench.model import Model
from oodbench.scores import negative_max_softmax, tempered_max_probability, uniform_cross_entropy


@dataclass(frozen=True)
class ODIN(Detector):
    """Tempered softmax after a step towards the predicted class (Liang et al., ICLR 2018).

    The score is T·log((1 − p_max)/((K − 1) p_max)) of softmax(z(x̃)/T), which ranks as the
    published −p_max. Its gradient is taken through x̃ with the step held constant.

    Attributes:
        temperature: T, eq. 1; no unit; 1000 for every data set (Liang et al., §3).
        noise: η, eq. 2; in units of the pixel range. Published per in-distribution set, for
            DenseNet: CIFAR-10 0.0016, CIFAR-100 0.0012, SVHN 0.0006 (Chen et al., 2021, code).
    """

    temperature: float = 1000.0
    noise: float | None = None

    def __post_init__(self) -> None:
        positive(self, "temperature")
        at_least(self, 0, "noise")

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return the tempered log-odds against the likeliest class at x̃."""
        logits = model.logits(self._preprocessed(model, images))
        return tempered_max_probability(logits, self.temperature)

    def _preprocessed(self, model: Model, images: Tensor) -> Tensor:
        def confidence_loss(model: Model, inputs: Tensor) -> Tensor:
            logits = model.logits(inputs) / self.temperature
            return F.cross_entropy(logits, logits.argmax(1), reduction="none")

        if self.noise is None:
            raise ValueError("noise (η) has no value for this suite; set odin.noise")
        return detached_sign_step(confidence_loss, model, images, self.noise)

    def published_objective(self) -> Objective:
        """Return mean(z) − lse(z) at x, not x̃: fault F1 of the published evaluation."""
        return lambda model, images: -uniform_cross_entropy(model.logits(images))

    def published_score(self) -> Objective:
        """Return −p_max of softmax(z(x̃)/T) in float32."""

        def score(model: Model, images: Tensor) -> Tensor:
            logits = model.logits(self._preprocessed(model, images))
            return negative_max_softmax(logits.to(torch.float32) / self.temperature)

        return score
