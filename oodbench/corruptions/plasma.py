"""Plasma fractals: random height maps by the diamond-square algorithm on a torus."""

import numpy as np
import torch
from torch import Tensor

_AMPLITUDE = 100.0


def plasma_side(height: int, width: int) -> int:
    """Return the side of the smallest map that covers an image: a power of two."""
    return int(2 ** np.ceil(np.log2(max(height, width, 2))))


def plasma_draws(side: int) -> int:
    """Return the number of draws that a map takes: one for each of its points but the first."""
    return side**2 - 1


def plasma(draws: Tensor, side: int, decay: float) -> Tensor:
    """Make maps that wrap around at their borders.

    From a lattice of one point, each level first sets the middle of every square to the mean of
    its four corners plus noise, then the middle of every edge to the mean of its four neighbours
    plus noise. Noise is w · U(−w, w), with w = 100 at first and divided by ``decay`` a level.

    Args:
        draws: Float64 [N, side² − 1] in [0, 1), used level by level: middles of squares, middles
            of horizontal edges, middles of vertical edges.
        side: A power of two.
        decay: Divisor of w.

    Returns:
        Float64 [N, side, side], scaled to [0, 1] in each map.
    """
    count = len(draws)
    height = torch.zeros((count, side, side), dtype=draws.dtype, device=draws.device)
    step, w, used = side, _AMPLITUDE, 0
    while step >= 2:
        half, points = step // 2, side // step
        part = draws[:, used : used + 3 * points**2].reshape(count, 3, points, points)
        noise = w * ((2 * part - 1) * w)
        used += 3 * points**2
        corners = height[:, ::step, ::step]
        sums = corners + corners.roll(-1, 1)
        middles = (sums + sums.roll(-1, 2)) / 4 + noise[:, 0]
        height[:, half::step, half::step] = middles
        across = middles + middles.roll(1, 1) + (corners + corners.roll(-1, 2))
        height[:, ::step, half::step] = across / 4 + noise[:, 1]
        along = middles + middles.roll(1, 2) + (corners + corners.roll(-1, 1))
        height[:, half::step, ::step] = along / 4 + noise[:, 2]
        step, w = half, w / decay
    height -= height.amin((1, 2), keepdim=True)
    return height / height.amax((1, 2), keepdim=True)
