"""NTOM: outlier mining without attacked outliers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from oodbench.families import RejectClass
from oodbench.fields import at_least
from oodbench.mining import QUANTILES, MinedOutliers, check_quantile
from oodbench.recipe import Recipe


@dataclass(frozen=True)
class NTOM(RejectClass):
    """Natural Training with informative Outlier Mining (Chen et al., ECML-PKDD 2021).

    ATOM without its attack: every outlier of a step is natural, all else is the same.

    Attributes:
        quantile: q, alg. 1; no unit, in [0, 0.75]. Published per in-distribution set: SVHN 0,
            CIFAR-10 0.125, CIFAR-100 0.5.
        weight: λ, weight of the outlier term; no unit; 1.
    """

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"quantile": QUANTILES}

    quantile: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_quantile(self.quantile)
        at_least(self, 0, "weight")

    @property
    def recipe(self) -> Recipe:
        """Mined outliers, all of them natural."""
        if self.quantile is None:
            raise ValueError("quantile (q) has no value for this suite; set ntom.quantile")
        return MinedOutliers(quantile=self.quantile, weight=self.weight)
