"""Outlier mining: which auxiliary outliers an epoch is trained on."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oodbench.scores import reject_class

if TYPE_CHECKING:
    from oodbench.training import Training

POOL_FACTOR = 8
"""Pool images scored for each in-distribution training image (Chen et al., 2021, code)."""
MINED_SHARE = 4
"""One in this many of the scored pool images is trained on."""


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


def mine(training: "Training", quantile: float) -> Tensor:
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
