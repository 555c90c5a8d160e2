"""Linear operators on batches, with the border conventions of SciPy.

Borders: ``nearest`` repeats the outermost pixel, ``reflect`` mirrors about the image's edge (the
outermost pixel comes twice), ``mirror`` about the centre of the outermost pixel (it comes once).
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]


def separable(values: Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Tensor:
    """Apply one matrix along the rows' axis and one along the columns'.

    Args:
        values: float64 [..., H, W].
        rows: [H', H].
        columns: [W', W].

    Returns:
        float64 [..., H', W'].
    """
    left = torch.from_numpy(rows).to(values.device)
    right = torch.from_numpy(columns).to(values.device)
    return left @ (values @ right.T)


@lru_cache(maxsize=64)
def _gaussian_matrix(side: int, sigma: float, mode: Border, truncate: float) -> NDArray[np.float64]:
    # A filter is linear, so its results for the unit vectors are its matrix, borders included.
    return ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0, mode=mode, truncate=truncate)


def gaussian(
    values: Tensor, sigma: float, mode: Border = "nearest", truncate: float = 4.0
) -> Tensor:
    """Filter with a Gaussian cut off at ``truncate`` standard deviations.

    Args:
        values: float64 [..., H, W].
        sigma: Standard deviation in pixels.
        mode: Border.
        truncate: Radius of the kernel in standard deviations.
    """
    height, width = values.shape[-2:]
    return separable(
        values,
        _gaussian_matrix(height, sigma, mode, truncate),
        _gaussian_matrix(width, sigma, mode, truncate),
    )


@lru_cache(maxsize=128)
def _zoom_matrix(side: int, factor: float) -> NDArray[np.float64]:
    crop = math.ceil(side / factor)
    start = (side - crop) // 2
    zoomed = ndimage.zoom(np.eye(crop), (factor, 1), order=1)
    offset = (len(zoomed) - side) // 2
    matrix = np.zeros((side, side))
    matrix[:, start : start + crop] = zoomed[offset : offset + side]
    return matrix


def zoom(values: Tensor, factor: float) -> Tensor:
    """Zoom into the middle, bilinearly, as `scipy.ndimage.zoom` does; the size stays.

    Args:
        values: float64 [..., H, W].
        factor: At least 1.
    """
    height, width = values.shape[-2:]
    return separable(values, _zoom_matrix(height, factor), _zoom_matrix(width, factor))


def correlate(values: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Correlate with a small kernel; border ``mirror``.

    Args:
        values: float64 [N, C, H, W].
        kernel: [2 r + 1, 2 r + 1].
    """
    radius = len(kernel) // 2
    height, width = values.shape[-2:]
    padded = torch.nn.functional.pad(values, (radius,) * 4, mode="reflect")
    # A sum of shifted images: float64 convolutions are slow on a CPU, and this rounds the same
    # way whatever the batch.
    total = torch.zeros_like(values)
    for (row, column), weight in np.ndenumerate(kernel):
        if weight:
            shifted = padded[..., row : row + height, column : column + width]
            total.add_(shifted, alpha=float(weight))
    return total


def gather(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take from each image the pixels at its own places, for all channels the same.

    Args:
        values: [N, C, H, W].
        rows: int64 [N, H', W'] or what broadcasts with ``columns`` to it, 0 ≤ row < H.
        columns: int64 likewise, 0 ≤ column < W.

    Returns:
        [N, C, H', W'].
    """
    width = values.shape[-1]
    index = rows * width + columns
    count, channels = values.shape[:2]
    flat = index.flatten(1)[:, None].expand(count, channels, -1)
    return values.flatten(2).gather(2, flat).reshape(count, channels, *index.shape[1:])


def fold(index: Tensor, side: int, mode: Border) -> Tensor:
    """Map indices beyond the border to those within.

    Args:
        index: int64 of any shape.
        side: Number of pixels along the axis.
        mode: ``reflect`` or ``mirror``.
    """
    if mode == "mirror":
        period = 2 * (side - 1)
        index = index.remainder(period)
        return torch.minimum(index, period - index)
    period = 2 * side
    index = index.remainder(period)
    return torch.minimum(index, period - 1 - index)


def sample(values: Tensor, rows: Tensor, columns: Tensor, mode: Border) -> Tensor:
    """Interpolate bilinearly at places of each image.

    Args:
        values: float64 [N, C, H, W].
        rows: float64 [N, H', W'] in pixels; 0 is the centre of the first row.
        columns: float64 likewise.
        mode: Border, ``reflect`` or ``mirror``.

    Returns:
        float64 [N, C, H', W'].
    """
    height, width = values.shape[-2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    first_row, first_column = top.long(), left.long()
    near_row, far_row = (fold(first_row + step, height, mode) for step in (0, 1))
    near_column, far_column = (fold(first_column + step, width, mode) for step in (0, 1))
    upper = torch.lerp(
        gather(values, near_row, near_column), gather(values, near_row, far_column), right
    )
    lower = torch.lerp(
        gather(values, far_row, near_column), gather(values, far_row, far_column), right
    )
    return torch.lerp(upper, lower, down)


def line_taps(angle: float, radius: int) -> NDArray[np.int64]:
    """Return the offsets (row, column) of the taps of a one-sided line, int64 [2 radius + 1, 2].

    Args:
        angle: Degrees, from the direction of columns towards that of rows.
        radius: Half the number of taps.
    """
    steps = range(2 * radius + 1)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    return np.array(
        [(-math.ceil(i * sine - 0.5), -math.ceil(i * cosine - 0.5)) for i in steps], np.int64
    )


def line_blur(values: Tensor, taps: Tensor, sigma: float) -> Tensor:
    """Smear each image along its own line, with weights of a half Gaussian; border ``nearest``.

    Args:
        values: Float64 [N, C, H, W].
        taps: Offsets int64 [N, T, 2] of `line_taps`, on the CPU or the images' device; the image
            is moved by each and the results are averaged.
        sigma: Standard deviation in pixels.
    """
    height, width = values.shape[-2:]
    weights = np.exp(-(np.arange(taps.shape[1]) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    rows = torch.arange(height, device=values.device)
    columns = torch.arange(width, device=values.device)
    # The published filter stops where a line has left an image that is shorter than itself.
    inside = (taps.abs() < torch.tensor([height, width], device=taps.device)).all(2).to(values)
    total = torch.zeros_like(values)
    for number, weight in enumerate(weights.tolist()):
        row = (rows - taps[:, number, :1]).clamp_(0, height - 1)
        column = (columns - taps[:, number, 1:]).clamp_(0, width - 1)
        moved = gather(values, row[:, :, None], column[:, None, :])
        total += moved * (weight * inside[:, number, None, None, None])
    return total
