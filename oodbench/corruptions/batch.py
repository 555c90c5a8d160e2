"""What all corruptions share: conversions between 8 bits and [0, 1], and draws for each image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.randomness import generator

LEVELS = 255

# Sums that are a whole level in exact arithmetic come out a last bit above or below it, and which
# may depend on the shape of the batch; a cut at that very level would make it a whole level. The
# guard is far above rounding in float64 and far below what a result means.
_GUARD = 1e-6


def unit(images: Tensor) -> Tensor:
    """Turn levels, uint8 of any shape, into float64 in [0, 1]."""
    return images.to(torch.float64) / LEVELS


def truncated(values: Tensor) -> Tensor:
    """Turn values into levels, uint8: clipped to [0, 1], then cut off, not rounded, as published.

    Args:
        values: Float of any shape; it is overwritten.
    """
    return values.clamp_(0, 1).mul_(LEVELS).add_(_GUARD).to(torch.uint8)


@dataclass(frozen=True)
class Draws:
    """Randomness of one corruption of a batch, for each image a function of its id.

    Attributes:
        seed: Seed of the evaluation.
        name: Name of the corruption type.
        severity: 1 to 5; severities draw independently.
        ids: Ids of the images.
        device: Where the images are. Draws are made on the CPU, so that they are the same for
            all devices.
    """

    seed: int
    name: str
    severity: int
    ids: tuple[str, ...]
    device: torch.device

    def generators(self) -> Iterator[np.random.Generator]:
        """Yield the generator of each image."""
        for image_id in self.ids:
            yield generator(self.seed, f"corruption/{self.name}", image_id, self.severity)

    def stack(self, draw: Callable[[np.random.Generator], NDArray[np.generic]]) -> Tensor:
        """Return what a function draws for each image, [N, ...] on the images' device."""
        drawn = np.stack([draw(rng) for rng in self.generators()])
        return torch.from_numpy(drawn).to(self.device)
