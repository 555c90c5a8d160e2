"""Sign-gradient searches in an L∞ ball, in grey levels.

Images are float32 tensors [N, 3, H, W] in 0..255 here; a function to be lowered takes them in
[0, 1]. Rows never influence each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.threat import LEVELS

Value = Callable[[Tensor], Tensor]
"""Images [N, 3, H, W] in [0, 1] → values [N]."""
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [N, 3, H, W] in [0, 1] → values [N] and their gradients [N, 3, H, W]."""


@dataclass(frozen=True)
class Ball:
    """The images within ``k`` levels of the centres and inside the pixel box.

    Attributes:
        centres: float32 [N, 3, H, W], whole levels.
        low: Lower bound of each pixel.
        high: Upper bound of each pixel.
    """

    centres: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, centres: Tensor, k: int) -> "Ball":
        """Return the ball of radius ``k`` about ``centres``, uint8 [N, 3, H, W]."""
        middle = centres.to(torch.float32)
        return cls(middle, (middle - k).clamp(min=0), (middle + k).clamp(max=LEVELS))

    def project(self, levels: Tensor) -> Tensor:
        """Return the nearest images of the ball."""
        return torch.minimum(torch.maximum(levels, self.low), self.high)


class _Best:
    """The lowest value of each row so far, and where it was."""

    def __init__(self, levels: Tensor, values: Tensor) -> None:
        self.levels = levels.clone()
        self.values = values.clone()

    def offer(self, levels: Tensor, values: Tensor) -> Tensor:
        """Keep what is lower; return which rows were. Any number is lower than NaN."""
        lower = (values < self.values) | (self.values.isnan() & ~values.isnan())
        self.values = torch.where(lower, values, self.values)
        self.levels = torch.where(_rows(lower), levels, self.levels)
        return lower


def _rows(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]


def pgd(
    value: Value, gradient: Gradient, ball: Ball, start: Tensor, steps: int, step: float
) -> tuple[Tensor, Tensor]:
    """Descend with a fixed step, keeping the best point of each image.

    Projected gradient descent on the sign of the gradient (Madry et al., ICLR 2018), the best
    taken over the centre, the start and every iterate. With a whole step and a whole start all
    points lie on the 8-bit grid.

    Args:
        value: The function to lower.
        gradient: The same with its gradient.
        ball: Where to search.
        start: First iterate, in levels.
        steps: Number of gradient steps.
        step: Step size in levels.

    Returns:
        The best images in levels and their values; it costs ``steps`` gradients and two values.
    """
    best = _Best(ball.centres, value(ball.centres / LEVELS))
    levels = ball.project(start)
    for _ in range(steps):
        values, gradients = gradient(levels / LEVELS)
        best.offer(levels, values)
        levels = ball.project(levels - step * gradients.sign())
    best.offer(levels, value(levels / LEVELS))
    return best.levels, best.values


def checkpoints(steps: int) -> list[int]:
    """Return the iterations after which `apgd` reconsiders its step size.

    Periods of 22 % of the steps, then 3 % shorter each time down to 6 % (Croce & Hein, ICML
    2020, §3).
    """
    period, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    marks: list[int] = []
    mark = period
    while mark < steps:
        marks.append(mark)
        period = max(period - shrink, least)
        mark += period
    return marks


def apgd(
    value: Value, gradient: Gradient, ball: Ball, start: Tensor, steps: int, step: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Descend with momentum and a step size that adapts to each image.

    Auto-PGD (Croce & Hein, ICML 2020, algorithm 1). Every point is evaluated after rounding to
    the 8-bit grid, so that a value is that of a real image.

    Args:
        value: The function to lower.
        gradient: The same with its gradient.
        ball: Where to search.
        start: First iterate, in levels.
        steps: Number of gradient evaluations.
        step: First step size in levels, a number or a tensor [N].

    Returns:
        The best images in levels, whole numbers, and their values; it costs ``steps`` gradients
        and one value.
    """
    levels = previous = ball.project(start)
    values, gradients = gradient(levels.round() / LEVELS)
    best = _Best(levels.round(), values)
    best_gradients = gradients
    size = torch.as_tensor(step, dtype=levels.dtype, device=levels.device).expand(len(levels))
    marks = set(checkpoints(steps))
    improved = torch.zeros_like(values)
    since = 0
    best_at_mark = best.values
    halved_at_mark = torch.ones_like(values, dtype=torch.bool)
    for iteration in range(1, steps + 1):
        target = ball.project(levels - _rows(size) * gradients.sign())
        momentum = 0.75 if iteration > 1 else 1.0
        moved = levels + momentum * (target - levels) + (1 - momentum) * (levels - previous)
        previous, levels = levels, ball.project(moved)
        last_values = values
        if iteration == steps:
            best.offer(levels.round(), value(levels.round() / LEVELS))
            break
        values, gradients = gradient(levels.round() / LEVELS)
        better = best.offer(levels.round(), values)
        best_gradients = torch.where(_rows(better), gradients, best_gradients)
        improved += values < last_values
        since += 1
        if iteration in marks:
            stuck = (best.values >= best_at_mark) & ~halved_at_mark
            halve = (improved <= 0.75 * since) | stuck
            size = torch.where(halve, size / 2, size)
            levels = torch.where(_rows(halve), best.levels, levels)
            previous = torch.where(_rows(halve), best.levels, previous)
            gradients = torch.where(_rows(halve), best_gradients, gradients)
            values = torch.where(halve, best.values, values)
            best_at_mark, halved_at_mark = best.values, halve
            improved = torch.zeros_like(improved)
            since = 0
    return best.levels, best.values
