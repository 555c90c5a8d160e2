"""Families of detectors that share a score, and the way it was attacked when published."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, Objective
from oodbench.model import Model
from oodbench.scores import (
    max_probability,
    negative_max_softmax,
    reject_class,
    uniform_cross_entropy,
)


@dataclass(frozen=True)
class MaxProbability(Detector):
    """Detectors that trust an image by the probability of its likeliest class.

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


@dataclass(frozen=True)
class RejectClass(Detector):
    """Detectors whose network has a class for outliers, after the K in-distribution ones.

    The score is the log-odds z_{K+1} − lse(z_1..z_K) of the reject class, which ranks as the
    published p_{K+1}.
    """

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return the log-odds of the reject class."""
        return reject_class(model.logits(images), model.classes)

    def published_objective(self) -> Objective:
        """Return −CE(z, K+1) in float32, which is exactly 0 once z_{K+1} leads by 17: fault F2."""

        def objective(model: Model, images: Tensor) -> Tensor:
            logits = model.logits(images)
            reject = torch.full((len(logits),), model.classes, device=logits.device)
            return -F.cross_entropy(logits, reject, reduction="none")

        return objective

    def published_score(self) -> Objective:
        """Return p_{K+1} in float32, which saturates."""
        return lambda model, images: model.logits(images).softmax(1)[:, model.classes]
