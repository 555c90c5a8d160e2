"""ATOM: adversarial training with informative outlier mining."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from oodbench.families import RejectClass
from oodbench.fields import at_least, attack_in_training
from oodbench.identity import UNNAMED_AT_DEFAULT
from oodbench.mining import QUANTILES, MinedOutliers, check_quantile
from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import reject_class
from oodbench.training import Training


@dataclass(frozen=True)
class MinedAdversarialOutliers(MinedOutliers):
    """A K+1-class network taught to reject mined outliers, half of them attacked.

    Attributes are those of `ATOM`.
    """

    eps: int = 8
    steps: int = 5
    step: int = 2
    mixed: bool = field(default=False, metadata=UNNAMED_AT_DEFAULT)
    first_weight: float | None = field(default=None, metadata=UNNAMED_AT_DEFAULT)
    first_steps: int = field(default=5, metadata=UNNAMED_AT_DEFAULT)

    @property
    def start_from(self) -> Recipe | None:
        """The training that this one goes on from, where it has a first."""
        if self.first_weight is None:
            return None
        return replace(
            self,
            weight=self.first_weight,
            steps=self.first_steps,
            first_weight=None,
            first_steps=type(self).first_steps,
        )

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one stage, at a rate that falls from half the schedule's where it goes on."""
        if self.first_weight is not None:
            # The rates of a new start would undo much of what the first training did.
            rate = schedule.learning_rate / 2
            schedule = replace(schedule, policy="cosine", learning_rate=rate)
        return super().stages(schedule)

    def prepare(self, training: Training, batch: Batch) -> Batch:
        """Attack the second half of the outliers away from the reject class."""
        natural, second = batch.outliers.tensor_split(2)
        adversarial = training.attacked(
            second,
            lambda logits: reject_class(logits, training.classes),
            eps=self.eps,
            steps=self.steps,
            step=self.step,
            mixed=self.mixed,
        )
        return Batch(batch.images, batch.labels, torch.cat([natural, adversarial]))


@dataclass(frozen=True)
class ATOM(RejectClass):
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
        step: Its step size in grey levels, unless it is mixed; 2.
        mixed: Whether it starts at the image, with steps that become smaller, along signs for half
            of the images and along the gradient for half (`Training.attacked`), in place of fixed
            ones from uniform noise as published, which a small network may learn to tell from
            images.
        first_weight: λ of a whole training before this one, by the same schedule, from whose
            weights it goes on with a learning rate that falls from half the schedule's along a
            cosine, and shows what that one showed in the same order; None for none.
        first_steps: Gradient steps of that training's attack; 5.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"quantile": QUANTILES}

    quantile: float | None = None
    weight: float = 1.0
    eps: int = 8
    steps: int = 5
    step: int = 2
    mixed: bool = field(default=False, metadata=UNNAMED_AT_DEFAULT)
    first_weight: float | None = field(default=None, metadata=UNNAMED_AT_DEFAULT)
    first_steps: int = field(default=5, metadata=UNNAMED_AT_DEFAULT)

    def __post_init__(self) -> None:
        check_quantile(self.quantile)
        at_least(self, 0, "weight", "first_weight")
        at_least(self, 1, "first_steps")
        if self.first_weight is None and self.first_steps != type(self).first_steps:
            raise ValueError("first_steps is of a training before this one: set first_weight too")
        attack_in_training(self)

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
            mixed=self.mixed,
            first_weight=self.first_weight,
            first_steps=self.first_steps,
        )
