"""ROWL: a background class, and adversarial training of all classes."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.families import RejectClass
from oodbench.fields import at_least, attack_in_training
from oodbench.model import Model
from oodbench.randomness import torch_generator
from oodbench.recipe import Batch, Recipe, Stage, doubled_batch
from oodbench.schedule import Schedule
from oodbench.scores import log_odds_against
from oodbench.training import Training


@dataclass(frozen=True)
class AdversarialBackground(Recipe):
    """K+1 classes, the last a fixed sample of outliers, trained on images and attacked copies.

    A step has about 128 images of the K+1 classes together, and as many copies. Attributes are
    those of `ROWL`.
    """

    weight: float = 1.0
    adversary: bool = True
    eps: int = 8
    steps: int = 5
    step: int = 2
    outliers_per_image: float = 0.0

    def outputs(self, classes: int) -> int:
        """Return K+1: the last logit is the background class."""
        return classes + 1

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one stage of doubled batches, background included."""
        share = 1 / (1 + self.outliers_per_image)
        size = round(doubled_batch(schedule) * share)
        return (Stage(replace(schedule, batch_size=size), self.outliers_per_image),)

    def start_epoch(self, training: Training) -> Tensor:
        """Return the background images, the same in every epoch, augmented anew."""
        count = training.pool.different_images
        chosen = torch.randperm(count, generator=torch_generator(training.seed, "background"))
        return chosen[: round(self.outliers_per_image * training.images_in_distribution)]

    def prepare(self, training: Training, batch: Batch) -> Batch:
        """Add a copy of every image, attacked towards another class that is drawn for it."""
        known = len(batch.images)
        images = torch.cat([batch.images, batch.outliers])
        if self.adversary:
            classes = training.classes + 1
            labels = F.pad(batch.labels, (0, len(batch.outliers)), value=training.classes)
            further = torch.randint(
                1, classes, (len(labels),), generator=training.generator("rowl/targets")
            )
            target = (labels + further.to(labels.device)) % classes
            copies = training.attacked(
                images,
                lambda logits: log_odds_against(logits, target),
                eps=self.eps,
                steps=self.steps,
                step=self.step,
            )
        else:
            copies = images
        return Batch(
            torch.cat([batch.images, copies[:known]]),
            torch.cat([batch.labels, batch.labels]),
            torch.cat([batch.outliers, copies[known:]]),
        )

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return the mean cross entropy of the images plus λ times that of the copies."""
        background = torch.full((len(outlier_logits),), training.classes, device=logits.device)
        known = F.cross_entropy(logits, batch.labels, reduction="none")
        unknown = F.cross_entropy(outlier_logits, background, reduction="none")
        halves = zip(known.tensor_split(2), unknown.tensor_split(2), strict=True)
        natural, attacked = (torch.cat(half).mean() for half in halves)
        return natural + self.weight * attacked


@dataclass(frozen=True)
class ROWL(RejectClass):
    """Robust Open-World Learning (Sehwag et al., AISec 2019), as compared by Chen et al. (2021).

    K+1 classes, the last a background class of as many outliers as a class has images, trained
    adversarially. Published is the decision "background is the likeliest class"; the score here
    is its margin z_{K+1} − max(z_1..z_K), whose sign is that decision, so that the threshold can
    be set at 95 % TPR as for the others. The record's extras have the figures of the decision.

    Attributes:
        background: Share of the in-distribution training images that the background class has
            beside them; None takes 1/K. Published: 5000 of CIFAR-10's 50000, 500 of CIFAR-100's.
        weight: λ, weight of the attacked copies; no unit; 1.
        adversary: Whether the copies are attacked, towards a class drawn once for each. In the
            published code the attack returned the image itself (difference D2): False.
        eps: Radius of the training attack in grey levels; 8.
        steps: Gradient steps of the training attack; 5.
        step: Its step size in grey levels; 2.
    """

    decision: ClassVar[float | None] = 0.0

    background: float | None = None
    weight: float = 1.0
    adversary: bool = True
    eps: int = 8
    steps: int = 5
    step: int = 2

    def __post_init__(self) -> None:
        if self.background is not None and not 0 < self.background <= 1:
            raise ValueError("background must be in (0, 1]: a share of the training images")
        at_least(self, 0, "weight")
        attack_in_training(self)

    @property
    def recipe(self) -> Recipe:
        """A background class, all classes attacked."""
        if self.background is None:
            raise ValueError("background has no value for this suite; set rowl.background")
        return AdversarialBackground(
            weight=self.weight,
            adversary=self.adversary,
            eps=self.eps,
            steps=self.steps,
            step=self.step,
            outliers_per_image=self.background,
        )

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return z_{K+1} − max(z_1..z_K)."""
        logits = model.logits(images)
        return logits[:, model.classes] - logits[:, : model.classes].amax(1)

    def predict(self, model: Model, images: Tensor) -> Tensor:
        """Return the likeliest of all K+1 classes, int64 [N]: rejecting an image is an error."""
        return model.logits(images).argmax(1)
