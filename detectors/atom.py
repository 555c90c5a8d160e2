"""ATOM: adversarial training with informative outlier mining."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.descent import Ball, pgd
from oodbench.detector import Detector, Objective
from oodbench.mining import mine
from oodbench.model import Model
from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import reject_class
from oodbench.threat import LEVELS
from oodbench.training import Training


@dataclass(frozen=True)
class MinedAdversarialOutliers(Recipe):
    """A K+1-class network taught to reject mined outliers, half of them attacked.

    Attributes are those of `ATOM`.
    """

    quantile: float = 0.125
    weight: float = 1.0
    eps: int = 8
    steps: int = 5
    step: int = 2
    outliers_per_image: int = 2

    def outputs(self, classes: int) -> int:
        """Return K+1: the last logit is the reject class."""
        return classes + 1

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one stage with mined outliers."""
        return (Stage(schedule, self.outliers_per_image),)

    def start_epoch(self, training: Training) -> Tensor:
        """Mine the pool anew with the current network."""
        return mine(training, self.quantile)

    def prepare(self, training: Training, batch: Batch) -> Batch:
        """Attack the second half of the outliers away from the reject class."""
        natural, attacked = batch.outliers.tensor_split(2)
        objective = training.frozen_objective(lambda logits: reject_class(logits, training.classes))
        centres = (attacked * LEVELS).round()
        noise = torch.rand(attacked.shape, generator=training.generator("attack/start"))
        start = ((2 * noise - 1) * self.eps).round().to(centres)
        adversarial, _ = pgd(
            objective.value,
            objective.gradient,
            Ball.around(centres, self.eps),
            centres + start,
            steps=self.steps,
            step=self.step,
        )
        return Batch(batch.images, batch.labels, torch.cat([natural, adversarial / LEVELS]))

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return CE(ID, y) + λ·CE(outliers, K+1), each a mean, over K+1 logits."""
        reject = torch.full((len(outlier_logits),), training.classes, device=logits.device)
        return F.cross_entropy(logits, batch.labels) + self.weight * F.cross_entropy(
            outlier_logits, reject
        )


@dataclass(frozen=True)
class ATOM(Detector):
    """Adversarial Training with informative Outlier Mining (Chen et al., ECML-PKDD 2021).

    Every epoch the outlier pool is scored anew and the ranks from the quantile q on are trained
    on, half of them under an L∞ attack. The score is the log-odds z_{K+1} − lse(z_1..z_K) of the
    reject class, which ranks as the published p_{K+1}. The training attack lowers the same
    log-odds: the published cross entropy has the same sign gradient until it saturates in
    float32.

    Attributes:
        quantile: q, alg. 1; no unit, in [0, 0.75]. Published per in-distribution set: SVHN 0,
            CIFAR-10 0.125, CIFAR-100 0.5.
        weight: λ, weight of the outlier term; no unit; 1.
        eps: Radius of the training attack in grey levels; 8.
        steps: Gradient steps of the training attack; 5.
        step: Its step size in grey levels; 2.
    """

    quantile: float | None = None
    weight: float = 1.0
    eps: int = 8
    steps: int = 5
    step: int = 2

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 <= self.quantile <= 0.75:
            raise ValueError("quantile must be in [0, 0.75]: a quarter of the pool is kept")

    @property
    def recipe(self) -> Recipe:
        """Mined outliers, half of them attacked."""
        if self.quantile is None:
            raise ValueError("quantile (q) has no value for this suite; set atom.quantile")
        return MinedAdversarialOutliers(
            quantile=self.quantile,
            weight=self.weight,
            eps=self.eps,
            steps=self.steps,
            step=self.step,
        )

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
