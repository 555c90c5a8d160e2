"""ACET: outlier exposure with attacked outliers."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.families import MaxProbability
from oodbench.fields import at_least, attack_in_training
from oodbench.identity import UNNAMED_AT_DEFAULT
from oodbench.recipe import Batch, Recipe, Stage, doubled_batch
from oodbench.schedule import Schedule
from oodbench.scores import uniform_cross_entropy
from oodbench.training import Training


@dataclass(frozen=True)
class AdversarialConfidence(Recipe):
    """Cross entropy, and cross entropy to the uniform distribution on half attacked outliers.

    Attributes are those of `ACET`.
    """

    weight: float = 1.0
    eps: int = 8
    steps: int = 5
    step: int = 2
    mixed: bool = field(default=False, metadata=UNNAMED_AT_DEFAULT)

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one stage of doubled batches, with as many random outliers as images."""
        return (Stage(replace(schedule, batch_size=doubled_batch(schedule)), 1),)

    def prepare(self, training: Training, batch: Batch) -> Batch:
        """Make the network confident on the second half of the outliers."""
        natural, second = batch.outliers.tensor_split(2)
        adversarial = training.attacked(
            second,
            lambda logits: -uniform_cross_entropy(logits),
            eps=self.eps,
            steps=self.steps,
            step=self.step,
            mixed=self.mixed,
        )
        return Batch(batch.images, batch.labels, torch.cat([natural, adversarial]))

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return CE(ID) + λ·mean(lse(z) − mean(z)) over all outliers."""
        exposure = uniform_cross_entropy(outlier_logits).mean()
        return F.cross_entropy(logits, batch.labels) + self.weight * exposure


@dataclass(frozen=True)
class ACET(MaxProbability):
    """Adversarial Confidence Enhancing Training (Hein et al., CVPR 2019), on an outlier pool.

    The variant of Chen et al. (2021), whose table it is compared in: 128 images and 128 random
    outliers a step, half of these attacked, all pulled to the uniform distribution. The original
    attacks smoothed noise instead, with 40 steps in a ball of 0.3, and lowers the largest
    log-confidence (difference D3).

    Attributes:
        weight: λ, weight of the outlier term; no unit; 1.
        eps: Radius of the training attack in grey levels; 8.
        steps: Gradient steps of the training attack; 5.
        step: Its step size in grey levels, unless it is mixed; 2.
        mixed: Whether it starts at the image, with steps that become smaller, along signs for half
            of the images and along the gradient for half (`Training.attacked`), in place of fixed
            ones from uniform noise as published, which a small network may learn to tell from
            images.
    """

    weight: float = 1.0
    eps: int = 8
    steps: int = 5
    step: int = 2
    mixed: bool = field(default=False, metadata=UNNAMED_AT_DEFAULT)

    def __post_init__(self) -> None:
        at_least(self, 0, "weight")
        attack_in_training(self)

    @property
    def recipe(self) -> Recipe:
        """Outliers pulled to the uniform distribution, half of them attacked."""
        return AdversarialConfidence(
            weight=self.weight,
            eps=self.eps,
            steps=self.steps,
            step=self.step,
            mixed=self.mixed,
        )
