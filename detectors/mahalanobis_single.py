"""Mahalanobis distance in the last layer alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.class_gaussians import class_distance, fit_class_gaussians
from oodbench.detector import Detector, FitData, detached_sign_step
from oodbench.fields import at_least
from oodbench.model import Model


@dataclass(frozen=True)
class MahalanobisSingle(Detector):
    """Mahalanobis distance to the nearest class in one layer (Lee et al., NeurIPS 2018).

    The form that later comparisons use, the last layer without an ensemble (Liu et al., 2020,
    code). The score is ½ min_c (f − μ_c)ᵀ Λ (f − μ_c) after a step of the image towards the
    nearest class. It was not attacked when published, so no search of ``--preset paper`` can attack
    it.

    Attributes:
        noise: η of the step, in units of the pixel range; 0 for none.
    """

    needs_labels: ClassVar[bool] = True

    noise: float = 0.0

    def __post_init__(self) -> None:
        at_least(self, 0, "noise")

    def fit(self, model: Model, data: FitData) -> dict[str, Tensor]:
        """Fit class means and the covariance of the last layer; float64."""
        return fit_class_gaussians(model, data, model.taps[-1:])

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return the distance, float64, never negative."""
        distance = class_distance(model.taps[-1])
        return distance(model, detached_sign_step(distance, model, images, self.noise))
