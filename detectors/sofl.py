"""SOFL: several reject classes that label themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector, Objective
from oodbench.fields import at_least
from oodbench.model import Model
from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import reject_class
from oodbench.training import Training


@dataclass(frozen=True)
class SelfLabelledOutliers(Recipe):
    """K+R classes: first the K alone, then outliers of the reject class that likes them best.

    Attributes are those of `SOFL`.
    """

    rejects: int = 5
    weight: float = 5.0
    outliers_per_image: int = 5

    def outputs(self, classes: int) -> int:
        """Return K+R: the last R logits are the reject classes."""
        return classes + self.rejects

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return the whole schedule twice: without outliers, then with them."""
        return Stage(schedule), Stage(schedule, self.outliers_per_image)

    def own_labels(self, training: Training, outlier_logits: Tensor) -> Tensor:
        """Return the likeliest class of each outlier where it is a reject class, else a random one.

        Returns:
            int64 [M] in K..K+R−1, without a gradient.
        """
        likeliest = outlier_logits.detach().argmax(1)
        drawn = torch.randint(
            self.rejects, (len(likeliest),), generator=training.generator("sofl/labels")
        )
        drawn = drawn.to(likeliest) + training.classes
        return torch.where(likeliest >= training.classes, likeliest, drawn)

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return CE(ID, y), plus β·CE(outliers, own labels) in the second stage."""
        known = F.cross_entropy(logits, batch.labels)
        if len(outlier_logits) == 0:
            return known
        labels = self.own_labels(training, outlier_logits)
        return known + self.weight * F.cross_entropy(outlier_logits, labels)


@dataclass(frozen=True)
class SOFL(Detector):
    """Self-supervised Outlier Feature Learning (Mohseni et al., AAAI 2020).

    As re-implemented by Chen et al. (2021); no code of the authors is public. The score is the
    log-odds lse(z_{K+1}..z_{K+R}) − lse(z_1..z_K), which ranks as the published sum of the R
    reject probabilities. It is trained twice as long as the others (difference D5).

    Attributes:
        rejects: R, reject classes; published per in-distribution set: CIFAR-10 and SVHN 5,
            CIFAR-100 10.
        weight: β, weight of the outlier term; no unit; 5.
        outliers_per_image: Outliers a step for each image; 5 (64 and 320).
    """

    rejects: int | None = None
    weight: float = 5.0
    outliers_per_image: int = 5

    def __post_init__(self) -> None:
        at_least(self, 1, "rejects", "outliers_per_image")
        at_least(self, 0, "weight")

    @property
    def recipe(self) -> Recipe:
        """Two stages: K classes, then R more for outliers."""
        if self.rejects is None:
            raise ValueError("rejects (R) has no value for this suite; set sofl.rejects")
        return SelfLabelledOutliers(
            rejects=self.rejects,
            weight=self.weight,
            outliers_per_image=self.outliers_per_image,
        )

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return the log-odds of the reject classes together."""
        return reject_class(model.logits(images), model.classes)

    def published_objective(self) -> Objective:
        """Return log Σ reject p in float32: fault F4.

        Where the reject probabilities underflow it is −∞ and its gradient NaN, which moves no
        pixel; where they sum to 1 the gradient in their own logits is lost.
        """

        def objective(model: Model, images: Tensor) -> Tensor:
            return model.logits(images).softmax(1)[:, model.classes :].sum(1).log()

        return objective

    def published_score(self) -> Objective:
        """Return Σ reject p in float32, which saturates."""
        return lambda model, images: model.logits(images).softmax(1)[:, model.classes :].sum(1)
