"""Gradient searches in an L∞ ball, in grey levels.

Images are float32 tensors [N, 3, H, W] in 0..255 here; a function to be lowered takes them in
[0, 1]. Rows never influence each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.perturbation import SearchObjective
from oodbench.threat import LEVELS

Value = Callable[[Tensor], Tensor]
"""Images [N, 3, H, W] in [0, 1] → values [N]."""
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [N, 3, H, W] in [0, 1] → values [N] and their gradients [N, 3, H, W]."""


_KEPT = 0.75
# Euclidean length of an unsigned step of size 1, in levels.
_UNSIGNED = 20
_LOOK = 8
"""Every so many steps images that no longer move are looked for."""
# Keeps a gradient of zero from being divided by zero.
_TINY = 1e-30


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
        middle = centres.to(torch.float32, memory_format=torch.channels_last)
        return cls(middle, (middle - k).clamp(min=0), (middle + k).clamp(max=LEVELS))

    def rows(self, index: Tensor) -> "Ball":
        """Return the balls of some of the images."""
        return Ball(self.centres[index], self.low[index], self.high[index])

    def project(self, levels: Tensor) -> Tensor:
        """Return the nearest images of the ball."""
        return torch.clamp(levels, self.low, self.high)


class _Best:
    """The lowest value of each row so far, and where it was."""

    def __init__(self, levels: Tensor, values: Tensor) -> None:
        self.levels = levels.clone()
        self.values = values.clone()

    @classmethod
    def unknown(cls, levels: Tensor) -> "_Best":
        """Start from places that are not evaluated yet: whatever is offered first is kept."""
        return cls(levels, torch.full((len(levels),), math.nan, device=levels.device))

    def offer(self, levels: Tensor, values: Tensor) -> None:
        """Keep what is lower. Any number is lower than NaN."""
        lower = (values < self.values) | (self.values.isnan() & ~values.isnan())
        self.values = torch.where(lower, values, self.values)
        self.levels = torch.where(_rows(lower), levels, self.levels)

    def offer_rows(self, rows: Tensor, levels: Tensor, values: Tensor) -> None:
        """Keep what is lower in some of the rows."""
        if len(rows) == len(self.values):
            self.offer(levels, values)
            return
        before = self.values[rows]
        lower = ((values < before) | (before.isnan() & ~values.isnan())).nonzero()[:, 0]
        self.values[rows[lower]] = values[lower]
        self.levels[rows[lower]] = levels[lower]


def _rows(mask: Tensor) -> Tensor:
    return mask[:, None, None, None]


def mixed_directions(gradients: Tensor) -> Tensor:
    """Return signs for every other image, and for the rest the gradient, scaled.

    Its Euclidean length is then 20, where that of the signs of a 32×32 image is 55: steps that
    follow the gradient leave most pixels where they are and move a few of them far.

    Args:
        gradients: float32 [N, 3, H, W].

    Returns:
        float32 [N, 3, H, W].
    """
    directions = gradients.sign()
    along = gradients[1::2]
    length_one = torch.nn.functional.normalize(along.flatten(1)).view_as(along)
    directions[1::2] = _UNSIGNED * length_one
    return directions


def pgd(
    value: Value,
    gradient: Gradient,
    ball: Ball,
    start: Tensor | None,
    sizes: Sequence[float],
    directions: Callable[[Tensor], Tensor] = torch.sign,
) -> tuple[Tensor, Tensor]:
    """Descend with steps of given sizes, keeping the best point of each image.

    Projected gradient descent, by default on the sign of the gradient (Madry et al., ICLR 2018),
    the best taken over the centre, the start and every iterate, each rounded to the 8-bit grid
    before it is evaluated.

    Args:
        value: The function to lower.
        gradient: The same with its gradient.
        ball: Where to search.
        start: First iterate, in levels; None for the centre.
        sizes: Size of each gradient step in levels.
        directions: Gradients [N, 3, H, W] → what a step of size 1 takes away.

    Returns:
        The best images in levels and their values; it costs a gradient a step and two values, of
        which a search from the centre saves one.
    """
    if start is None:
        levels = ball.centres
        best = _Best.unknown(levels)
    else:
        levels = ball.project(start)
        best = _Best(ball.centres, value(ball.centres / LEVELS))
    for size in sizes:
        points = levels.round()
        values, gradients = gradient(points / LEVELS)
        best.offer(points, values)
        levels = ball.project(levels - size * directions(gradients))
    points = levels.round()
    best.offer(points, value(points / LEVELS))
    return best.levels, best.values


def falling_sizes(radius: int, count: int) -> list[int]:
    """Return sizes of steps that fall from about a radius to a level, whole levels ≥ 1.

    radius·(1 − i/count)^1.5 for step i, and half the radius for the first, so that a descent from
    the centre does not start at a corner of the ball.
    """
    sizes = [radius * (1 - i / count) ** 1.5 for i in range(count)]
    return [max(1, round(size)) for size in (radius / 2, *sizes[1:])]


@dataclass(frozen=True)
class Steps:
    """Step sizes of a descent, falling along half a cosine.

    Attributes:
        number: Number of gradient steps.
        first: First step size in levels.
        last: Last step size in levels.
    """

    number: int
    first: float
    last: float

    def size(self, step: int) -> float:
        """Return the size of a step, counted from 0."""
        done = step / max(self.number - 1, 1)
        return self.last + (self.first - self.last) * (1 + math.cos(math.pi * done)) / 2


def momentum_descent(
    objective: SearchObjective, ball: Ball, start: Tensor, steps: Steps
) -> tuple[Tensor, Tensor]:
    """Descend on the sign of an accumulated gradient, with steps that become smaller.

    MI-FGSM (Dong et al., CVPR 2018, algorithm 1: each gradient divided by its L1
    norm, then added to what is kept of the ones before) with three quarters kept and falling
    steps. Every point is evaluated after rounding to the 8-bit grid, so that a value is that of
    a real image. An image that neither the accumulated nor the last gradient moves any more,
    every pixel being at a bound or without a gradient, can go no lower this way: it is set aside
    and takes no more steps.

    Args:
        objective: The function to lower.
        ball: Where to search.
        start: First iterate, in levels.
        steps: How many gradients, and how far each moves.

    Returns:
        The best images in levels, whole numbers, and their values; it costs at most
        ``steps.number`` gradients and one value.
    """
    levels = ball.project(start)
    velocity = torch.zeros_like(levels)
    best = _Best.unknown(levels.round())
    rows = torch.arange(len(levels), device=levels.device)
    whole = ball
    for step in range(steps.number):
        points = levels.round()
        values, gradients = objective.gradient(points / LEVELS)
        best.offer_rows(rows, points, values)
        norms = torch.linalg.vector_norm(gradients, 1, (1, 2, 3), keepdim=True)
        if not bool(norms.isfinite().all()):
            # What is not finite would stay in the velocity, and stop the image for good.
            gradients = gradients.nan_to_num(0.0, 0.0, 0.0)
            norms = torch.linalg.vector_norm(gradients, 1, (1, 2, 3), keepdim=True)
        velocity.mul_(_KEPT).addcdiv_(gradients, norms.clamp(min=_TINY))
        size = steps.size(step)
        before = levels
        levels = ball.project(torch.sub(levels, velocity.sign(), alpha=size))
        if step % _LOOK or step + 1 == steps.number:
            continue
        onward = ball.project(torch.sub(levels, gradients.sign(), alpha=size))
        going = ((levels != before) | (onward != before)).flatten(1).any(1)
        if not bool(going.all()):
            # Where it stands was evaluated already.
            kept = going.nonzero()[:, 0]
            rows, levels, velocity = rows[kept], levels[kept], velocity[kept]
            objective, ball = objective.rows(kept), whole.rows(rows)
            if len(rows) == 0:
                return best.levels, best.values
    points = levels.round()
    best.offer_rows(rows, points, objective.value(points / LEVELS))
    return best.levels, best.values
