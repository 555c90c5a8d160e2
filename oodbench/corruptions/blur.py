"""Corruptions by blur."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.corruptions.batch import Draws, truncated, unit
from oodbench.corruptions.operators import (
    correlate,
    gather,
    gaussian,
    line_blur,
    line_taps,
    zoom,
)


def gaussian_blur(images: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Filter with a Gaussian of ``sigma`` pixels, border nearest."""
    return truncated(gaussian(unit(images), sigma))


def _defocus_kernel(radius: float, alias: float) -> NDArray[np.float64]:
    offsets = np.arange(-2, 3)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    weights = np.exp(-(np.arange(-1, 2) ** 2) / (2 * alias**2))
    weights /= weights.sum()
    smooth = sum(
        weight * np.eye(len(offsets), k=shift)
        for shift, weight in zip((-1, 0, 1), weights, strict=True)
    )
    return np.asarray(smooth @ disk @ smooth, dtype=np.float64)


def defocus_blur(images: Tensor, draws: Draws, radius: float, alias: float) -> Tensor:
    """Correlate with a disk, border mirror.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Not used.
        radius: Radius of the disk in pixels, below 2; below 1 it is the central pixel alone.
        alias: Standard deviation in pixels of the 3-tap Gaussian that smooths the disk.
    """
    return truncated(correlate(unit(images), _defocus_kernel(radius, alias)))


def glass_offsets(
    rng: np.random.Generator, passes: int, height: int, width: int
) -> NDArray[np.int8]:
    """Draw where each pixel copies from: −1 or 0, int8 [passes, 2 (row, column), H − 2, W − 2]."""
    return rng.integers(-1, 1, (passes, 2, height - 2, width - 2), dtype=np.int8)


def glass_pass(levels: Tensor, offsets: Tensor) -> Tensor:
    """Replace each pixel, but for the first two rows and columns, by one up or left of it.

    The published loop was meant to swap the two but copies one over the other. It goes from the
    last pixel to the first, so that what a pixel copies has never been replaced before: all
    can be copied at once.

    Args:
        levels: [N, C, H, W].
        offsets: int8 [N, 2, H − 2, W − 2], −1 or 0.
    """
    height, width = levels.shape[-2:]
    rows = torch.arange(2, height, device=levels.device)[:, None] + offsets[:, 0]
    columns = torch.arange(2, width, device=levels.device) + offsets[:, 1]
    result = levels.clone()
    result[..., 2:, 2:] = gather(levels, rows, columns)
    return result


def glass_blur(images: Tensor, draws: Draws, sigma: float, passes: int) -> Tensor:
    """Blur, let pixels copy a neighbour, blur again.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Decide which neighbour.
        sigma: Standard deviation of both blurs in pixels, border nearest.
        passes: How often pixels copy.
    """
    height, width = images.shape[-2:]
    offsets = draws.stack(lambda rng: glass_offsets(rng, passes, height, width))
    levels = truncated(gaussian(unit(images), sigma))
    for number in range(passes):
        levels = glass_pass(levels, offsets[:, number])
    return truncated(gaussian(unit(levels), sigma))


def motion_blur(images: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Smear along a line at −45° to 45° from the rows.

    CIFAR-C calls ImageMagick; this follows its kernel and may differ by some levels.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Give the angle.
        radius: Half the length of the line in pixels.
        sigma: Standard deviation of its weights in pixels.
    """
    taps = draws.stack(lambda rng: line_taps(rng.uniform(-45, 45), radius))
    return line_blur(images.double(), taps, sigma).round_().to(torch.uint8)


def zoom_blur(images: Tensor, draws: Draws, count: int) -> Tensor:
    """Average the image and ``count`` copies zoomed by 1.00, 1.01, 1.02, …."""
    values = unit(images)
    total = values.clone()
    for number in range(count):
        total += zoom(values, 1 + number / 100)
    return truncated(total / (count + 1))
