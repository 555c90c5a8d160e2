"""Maximum softmax probability."""

from dataclasses import dataclass

from torch import Tensor

from oodbench.detector import Detector, Objective
from oodbench.model import Model
from oodbench.scores import max_probability, negative_max_softmax, uniform_cross_entropy


@dataclass(frozen=True)
class MSP(Detector):
    """Maximum softmax probability of a plain network (Hendrycks & Gimpel, ICLR 2017).

    The score is log((1 − p_max)/p_max), which ranks as the published −p_max without its ties at
    p_max = 1 in float32.
    """

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return the log-odds against the likeliest class."""
        return max_probability(model.logits(images))

    def published_objective(self) -> Objective:
        """Return mean(z) − lse(z), not the score: fault F1 of the published evaluation."""
        return lambda model, images: -uniform_cross_entropy(model.logits(images))

    def published_score(self) -> Objective:
        """Return −p_max in float32, which saturates."""
        return lambda model, images: negative_max_softmax(model.logits(images))
