"""Outlier mining: which auxiliary outliers an epoch is trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import reject_class
from oodbench.training import Training

POOL_FACTOR = 8
"""Pool images scored for each in-distribution training image (Chen et al., 2021, code)."""
MINED_SHARE = 4
"""One in this many of the scored pool images is trained on."""
QUANTILES = (0.0, 0.125, 0.25, 0.5, 0.75)
"""Values of q that the paper chooses from."""


@dataclass(frozen=True)
class MinedOutliers(Recipe):
    """A K+1-class network taught to reject outliers that it takes for in-distribution.

    Attributes:
        quantile: q in [0, 0.75]; 0 trains on the hardest quarter of the pool.
        weight: λ, weight of the outlier term; no unit.
        outliers_per_image: Outliers a step for each image; 2 (Chen et al., 2021, code).
    """

    quantile: float = 0.125
    weight: float = 1.0
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

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return CE(ID, y) + λ·CE(outliers, K+1), each a mean, over K+1 logits."""
        reject = torch.full((len(outlier_logits),), training.classes, device=logits.device)
        return F.cross_entropy(logits, batch.labels) + self.weight * F.cross_entropy(
            outlier_logits, reject
        )


def check_quantile(quantile: float | None) -> None:
    """Refuse a quantile that leaves less than the quarter of the pool that is kept.

    Raises:
        ValueError: If it is not in [0, 0.75]; None, which a suite resolves, passes.
    """
    if quantile is not None and not 0 <= quantile <= 1 - 1 / MINED_SHARE:
        raise ValueError("quantile must be in [0, 0.75]: a quarter of the pool is kept")


def mined_ranks(scores: Tensor, quantile: float, count: int) -> Tensor:
    """Return the positions of ``count`` outliers from the ``quantile`` on, hardest first.

    Args:
        scores: OOD scores [N], higher = more OOD; the lowest are the hardest. Ties keep their
            order.
        quantile: q in [0, 1 − count/N]; 0 keeps the hardest.
        count: How many to keep.

    Returns:
        Positions of ranks ⌊qN⌋ … ⌊qN⌋ + count − 1, int64 [count] (Chen et al., 2021, alg. 1).

    Raises:
        ValueError: If the ranks run past the end.
    """
    # 0.29 · 100 is 28.999… in floating point.
    first = int(quantile * len(scores) + 1e-6)
    if quantile < 0 or first + count > len(scores):
        raise ValueError(
            f"quantile {quantile} with {count} of {len(scores)} outliers runs past the end; "
            f"the largest is {1 - count / len(scores):g}"
        )
    return scores.argsort(stable=True)[first : first + count]


def mine(training: Training, quantile: float) -> Tensor:
    """Score the pool with the current network and keep the ranks from ``quantile`` on.

    N = 8·|D| augmented pool images, or all where there are fewer, are ranked by the log-odds of
    the reject class; n = N/4 are kept.

    Returns:
        Indices into ``training.pool``, int64 [n].
    """
    available = len(training.pool)
    wanted = min(POOL_FACTOR * training.images_in_distribution, available)
    chosen = torch.arange(available)
    if wanted < available:
        chosen = torch.randperm(available, generator=training.generator("mining/pool"))[:wanted]
    scores = training.score_pool(chosen, lambda logits: reject_class(logits, training.classes))
    mined = wanted // MINED_SHARE
    training.facts["mining"] = {
        "scored": wanted,
        "mined": mined,
        "different_images": training.pool.different_images,
    }
    return chosen[mined_ranks(scores, quantile, mined)]
