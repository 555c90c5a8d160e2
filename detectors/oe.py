"""Outlier Exposure."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from oodbench.families import MaxProbability
from oodbench.fields import at_least
from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import uniform_cross_entropy
from oodbench.training import Training


@dataclass(frozen=True)
class OutlierExposure(Recipe):
    """Cross entropy, and cross entropy to the uniform distribution on outliers.

    Attributes:
        beta: Weight of the outlier term; no unit; 0.5 (Hendrycks et al., 2019, §4).
        outliers_per_image: Outliers a step for each image; 2 (Chen et al., 2021, code).
    """

    beta: float = 0.5
    outliers_per_image: int = 2

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one stage with random outliers."""
        return (Stage(schedule, self.outliers_per_image),)

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return CE(ID) + β·mean(lse(z) − mean(z)) over the outliers."""
        exposure = uniform_cross_entropy(outlier_logits).mean()
        return F.cross_entropy(logits, batch.labels) + self.beta * exposure


@dataclass(frozen=True)
class OE(MaxProbability):
    """Outlier Exposure: a network taught to be unsure of outliers (Hendrycks et al., ICLR 2019).

    The recipe is that of Chen et al. (2021): from scratch, 64 images and 128 random outliers a
    step. The score is log((1 − p_max)/p_max), which ranks as the published −p_max.

    Attributes:
        beta: Weight of the outlier term; no unit; 0.5 (Hendrycks et al., 2019, §4).
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        at_least(self, 0, "beta")

    @property
    def recipe(self) -> Recipe:
        """Outlier exposure with random outliers."""
        return OutlierExposure(beta=self.beta)
