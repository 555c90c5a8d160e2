"""What a network is taught: the contract of a recipe, and plain training."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.schedule import Schedule

if TYPE_CHECKING:
    from oodbench.training import Training


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes:
        images: In-distribution images, float32 [B, 3, H, W] in [0, 1].
        labels: Their classes, int64 [B].
        outliers: Auxiliary outliers, float32 [M, 3, H, W] in [0, 1]; M may be 0.
    """

    images: Tensor
    labels: Tensor
    outliers: Tensor


@dataclass(frozen=True)
class Stage:
    """A part of the training with an optimiser and a schedule of its own.

    Attributes:
        schedule: How long and how fast.
        outliers_per_image: Outliers for each in-distribution image; need not be whole, a step
            then has one more or fewer.
    """

    schedule: Schedule
    outliers_per_image: float = 0

    def outliers_beside(self, images: int) -> int:
        """Return how many outliers go with the first ``images`` of an epoch, rounded down."""
        # (1/49)·49 is 0.999… in floating point.
        return int(self.outliers_per_image * images + 1e-9)


def doubled_batch(schedule: Schedule) -> int:
    """Return the batch of a recipe that was published with 128 images a step, most with 64.

    It is twice the schedule's, up to the published one: where a schedule's own batch is as large,
    such a recipe is not left with half as many steps as the others.
    """
    published = 128
    return max(schedule.batch_size, min(2 * schedule.batch_size, published))


@dataclass(frozen=True)
class Recipe(ABC):
    """What is learnt; detectors whose recipes are equal share weights.

    A subclass is a frozen dataclass whose fields are its hyper-parameters. The only method it
    must have is `loss`; the others say where it differs from plain training.
    """

    version: ClassVar[int] = 1

    @property
    def start_from(self) -> "Recipe | None":
        """The recipe whose trained weights this one starts from."""
        return None

    def outputs(self, classes: int) -> int:
        """Return the number of logits for ``classes`` in-distribution classes."""
        return classes

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return the stages of the training under a schedule."""
        return (Stage(schedule),)

    def uses_outliers(self, schedule: Schedule) -> bool:
        """Whether any stage of the training under a schedule has outliers."""
        return any(stage.outliers_per_image for stage in self.stages(schedule))

    def modules(self, training: "Training") -> dict[str, nn.Module]:
        """Build modules that are trained and stored beside the network."""
        return {}

    def parameter_groups(self, training: "Training") -> Iterable[dict[str, Any]]:
        """Return the optimiser's parameter groups; a group may have ``lr``, ``weight_decay``."""
        return [{"params": list(training.network.parameters())}]

    def start(self, training: "Training") -> None:
        """Do what comes before the first step, such as fitting ``training.modules`` to images.

        Not called where a training goes on from a checkpoint, which holds the modules.
        """
        return

    def start_epoch(self, training: "Training") -> Tensor:
        """Choose the outliers of an epoch.

        Returns:
            Indices into ``training.pool``, int64 [n]. The loop shuffles them and, where an
            epoch needs more, goes round again.
        """
        return torch.arange(len(training.pool))

    def prepare(self, training: "Training", batch: Batch) -> Batch:
        """Change the images of a step, by attacking some of them for instance.

        The holes that a schedule asks for are cut afterwards, in all images alike.
        """
        return batch

    @abstractmethod
    def loss(
        self, training: "Training", batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return the loss of a step, a scalar.

        Args:
            training: State of the training.
            batch: The images.
            logits: Logits of ``batch.images``, float32 [B, outputs].
            outlier_logits: Logits of ``batch.outliers``, float32 [M, outputs], of the same pass.
        """

    def after_step(self, training: "Training") -> None:
        """Do what a step must be followed by, such as enforcing a constraint."""
        return


@dataclass(frozen=True)
class Plain(Recipe):
    """Cross entropy on the in-distribution images alone."""

    def loss(
        self, training: "Training", batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return the mean cross entropy."""
        return F.cross_entropy(logits, batch.labels)
