"""L∞ attack by random search, without gradients."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.randomness import generator
from oodbench.threat import LEVELS, to_float

FIRST_SHARE = 0.8
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of `FULL_LENGTH` after which the share of changed pixels is halved."""
FULL_LENGTH = 10_000
_CHUNK = 64


@dataclass(frozen=True)
class Square(Perturbation):
    """Lower the score by random squares (Andriushchenko et al., ECCV 2020, algorithms 1 and 2).

    The start adds ±ε to each column of each channel. Every further query moves one square, in
    each channel to one end of the ball, and is kept unless the score rises. It needs no gradient;
    where it finds more than a gradient search, the gradient is masked. The side of the square
    follows the schedule of AutoAttack (Croce & Hein, ICML 2020, code). Unlike there a square may
    touch the last row and column, an equal score is kept, so that the search drifts over plateaus
    of a rounded score instead of standing still, and a start that is worse than the clean image
    is not. Under ``paper`` it lowers the published loss.

    Attributes:
        eps: Radius in grey levels (1/255); 8.
        queries: Scores an image, that of the start included; 5000, as in AutoAttack.
    """

    role: ClassVar[str] = "black_box"

    eps: int = 8
    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.eps <= LEVELS:
            raise ValueError(f"eps must be 1 to {LEVELS} grey levels")
        if self.queries < 1:
            raise ValueError("queries must be at least 1 score an image")

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield the lowest image found."""
        value = objectives["published" if self.preset == "paper" else "score"].value
        channels, height, width = centres.shape[1:]
        # Channels last, as networks want it. Both ends of the ball are whole grey levels, so
        # an image made of their pixels is on the grid and nothing is ever rounded.
        pixels = centres.permute(0, 2, 3, 1).contiguous()
        low, high = _ends(pixels, self.eps)
        current = to_float(pixels)
        values = value(current.permute(0, 3, 1, 2)).nan_to_num(math.inf, math.inf, -math.inf)

        up = _stripes(seed, ids, width, channels).to(centres.device)
        start = torch.where(up, high, low)
        found = value(start.permute(0, 3, 1, 2))
        kept = found <= values
        current = torch.where(kept[:, None, None, None], start, current)
        values = torch.where(kept, found, values)

        images = current.permute(0, 3, 1, 2)
        current, low, high = (x.view(-1, channels) for x in (current, low, high))
        for side, corners, ups in _squares(seed, ids, self.queries, (height, width, channels)):
            steps = torch.arange(side)
            window = (steps[:, None] * width + steps).flatten().to(centres.device)
            for corner, up in zip(corners.to(centres.device), ups.to(centres.device), strict=True):
                # Only the square is written, in place: a whole copy would cost more.
                where = corner[:, None] + window
                before = current[where]
                after = torch.where(up[:, None], high[where], low[where])
                current[where] = after
                found = value(images)
                kept = found <= values  # false for NaN
                values = torch.where(kept, found, values)
                current[where] = torch.where(kept[:, None, None], after, before)
        yield Candidate((images * LEVELS).round().to(torch.uint8).contiguous(), "square")

    def restarts(self, objectives: Sequence[str]) -> int:
        """Return 1: there is one start."""
        return 1


def share(query: int, queries: int) -> float:
    """Return the share of the pixels that a query changes: 0.8, halved nine times.

    Args:
        query: Number of the query; 0 is the start.
        queries: Number of queries, to which the schedule is rescaled.
    """
    halved = bisect_left(HALVINGS, query * FULL_LENGTH // queries)
    return math.ldexp(FIRST_SHARE, -halved)


def side_length(query: int, queries: int, height: int, width: int) -> int:
    """Return the side of the square that a query changes, in pixels."""
    side = round(math.sqrt(share(query, queries) * height * width))
    return min(max(side, 1), height, width)


def _ends(pixels: Tensor, eps: int) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest image of the ball and the box, float32 in [0, 1]."""
    middle = pixels.to(torch.int16)
    return to_float((middle - eps).clamp(min=0)), to_float((middle + eps).clamp(max=LEVELS))


def _stripes(seed: int, ids: Sequence[str], width: int, channels: int) -> Tensor:
    """Draw for each image which columns go up at the start, bool [N, 1, width, channels]."""
    up = np.empty((len(ids), 1, width, channels), dtype=np.bool_)
    for index, image_id in enumerate(ids):
        up[index, 0] = generator(seed, "square/start", image_id).random((width, channels)) < 0.5
    return torch.from_numpy(up)


def _squares(
    seed: int, ids: Sequence[str], queries: int, shape: tuple[int, int, int]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Draw the squares of all queries after the start, those of one side and chunk at a time.

    An image has a generator of its own, of which each query takes the same number of draws:
    they depend on the query's number, and on nothing that came before.

    Yields:
        The side; the upper left pixels, int64 [Q, N], counted through the batch; and whether
        each channel goes up, bool [Q, N, channels].
    """
    height, width, channels = shape
    generators = [generator(seed, "square/squares", image_id) for image_id in ids]
    first_pixels = torch.arange(len(ids)) * (height * width)
    query = 1
    while query < queries:
        side = side_length(query, queries, height, width)
        stop = query + 1
        while stop < min(query + _CHUNK, queries) and side == side_length(
            stop, queries, height, width
        ):
            stop += 1
        draws = np.empty((stop - query, len(ids), 2 + channels))
        for index, rng in enumerate(generators):
            draws[:, index] = rng.random((stop - query, 2 + channels))
        rows = (draws[..., 0] * (height - side + 1)).astype(np.int64)
        columns = (draws[..., 1] * (width - side + 1)).astype(np.int64)
        corners = first_pixels + torch.from_numpy(rows * width + columns)
        yield side, corners, torch.from_numpy(draws[..., 2:] < 0.5)
        query = stop
