"""Corruptions by digital processing: light, colour, geometry, resolution, compression."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from oodbench.corruptions.batch import LEVELS, Draws, truncated, unit
from oodbench.corruptions.operators import gaussian, sample


def brightness(images: Tensor, draws: Draws, amount: float) -> Tensor:
    """Add ``amount`` to V in HSV, in units of the pixel range."""
    values = unit(images)
    old = values.amax(1, keepdim=True)
    new = (old + amount).clamp_(max=1)
    # At constant hue and saturation RGB is proportional to V; black has neither and turns grey.
    return truncated(torch.where(old > 0, values * (new / old.clamp(min=1 / LEVELS)), new))


def contrast(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Bring each channel nearer to its mean over the image, to a ``share`` of the distance."""
    # The sum of integers is exact, whatever the order.
    total = images.sum((2, 3), keepdim=True, dtype=torch.int64)
    mean = total.double() / (LEVELS * images[0, 0].numel())
    return truncated((unit(images) - mean) * share + mean)


def saturate(images: Tensor, draws: Draws, factor: float, shift: float) -> Tensor:
    """Turn S in HSV into ``factor`` · S + ``shift``, clipped."""
    values = unit(images)
    value = values.amax(1, keepdim=True)
    spread = value - values.amin(1, keepdim=True)
    old = spread / value.clamp(min=1 / LEVELS)
    new = (old * factor + shift).clamp_(0, 1)
    # At constant V and hue the distances from V are proportional to S. Grey has no hue; by
    # convention its hue is that of red, which keeps its channel.
    grey = spread == 0
    scaled = value - (value - values) * (new / torch.where(grey, 1, old))
    reddened = torch.cat((value, (value * (1 - new)).expand(-1, 2, -1, -1)), 1)
    return truncated(torch.where(grey, reddened, scaled))


def affine_to_source(shifts: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return the affine maps from places of the warped images to places of the images.

    Args:
        shifts: Pixels [N, 3, 2] by which three points about the middle move, (column, row).
        height: Rows of an image.
        width: Columns.

    Returns:
        [N, 3, 2]: (column, row, 1) of the warped image times it is (column, row) of the image.
    """
    x, y, reach = width // 2, height // 2, min(height, width) // 3
    points = np.array([(x + reach, y + reach), (x + reach, y - reach), (x - reach, y - reach)])
    moved = np.concatenate((points + shifts, np.ones((*shifts.shape[:2], 1))), axis=2)
    inverse: NDArray[np.float64] = np.linalg.solve(
        moved, np.broadcast_to(points.astype(np.float64), shifts.shape)
    )
    return inverse


def elastic_transform(
    images: Tensor, draws: Draws, strength: float, sigma: float, jitter: float
) -> Tensor:
    """Warp by a random affine map, then by a smooth random displacement.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Make both.
        strength: Factor of the smoothed displacement in pixels; 0 for none.
        sigma: Standard deviation of its smoothing in pixels.
        jitter: The most that the three points of the affine map move, in pixels.
    """
    height, width = images.shape[-2:]
    shifts, fields = [], []
    for rng in draws.generators():
        shifts.append(rng.uniform(-jitter, jitter, (3, 2)))
        if strength:
            fields.append(rng.uniform(-1, 1, (2, height, width)))
    matrix = affine_to_source(np.stack(shifts), height, width)
    maps = torch.from_numpy(matrix)[:, :, :, None, None].to(images.device)
    rows = torch.arange(height, dtype=torch.float64, device=images.device)[:, None]
    columns = torch.arange(width, dtype=torch.float64, device=images.device)
    x, y = (
        maps[:, 0, axis] * columns + maps[:, 1, axis] * rows + maps[:, 2, axis] for axis in (0, 1)
    )
    warped = sample(unit(images), y, x, mode="mirror")
    if strength:
        field = torch.from_numpy(np.stack(fields)).to(images.device)
        dx, dy = (strength * gaussian(field, sigma, mode="reflect", truncate=3)).unbind(1)
        warped = sample(warped, rows + dy, columns + dx, mode="reflect")
    return truncated(warped)


def _each_picture(images: Tensor) -> list[Image.Image]:
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(each) for each in pixels]


def _stacked(pictures: list[Image.Image], device: torch.device) -> Tensor:
    pixels = np.stack([np.asarray(each) for each in pictures])
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()


def pixelate(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Shrink the sides to a ``share`` by averaging, and enlarge again the same way."""
    height, width = images.shape[-2:]
    small = (int(width * share), int(height * share))
    box = Image.Resampling.BOX
    pictures = [
        each.resize(small, box).resize((width, height), box) for each in _each_picture(images)
    ]
    return _stacked(pictures, images.device)


def jpeg_compression(images: Tensor, draws: Draws, quality: int) -> Tensor:
    """Encode as JPEG of a ``quality`` with halved colour resolution, and decode."""
    pictures: list[Image.Image] = []
    for each in _each_picture(images):
        buffer = io.BytesIO()
        each.save(buffer, "JPEG", quality=quality)
        pictures.append(Image.open(buffer))
    return _stacked(pictures, images.device)
