"""Corruptions by weather and dirt."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.exposure import equalize_hist
from skimage.feature import canny
from torch import Tensor

from oodbench.corruptions.batch import LEVELS, Draws, truncated, unit
from oodbench.corruptions.operators import correlate, gaussian, line_blur, line_taps, zoom
from oodbench.corruptions.plasma import plasma, plasma_draws, plasma_side
from oodbench.randomness import generator

_LUMA = (0.299, 0.587, 0.114)

FROST_TEXTURES = 5
_FROST_SIDE = 128
_FROST_DECAY = 1.15
_FROST_COLOUR = (146.0, 167.0, 179.0)
_FROST_CONTRAST = 30.0

_MUD = (63, 42, 20)
_WATER = (175, 238, 238)
_FARTHEST = 20.0
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float64)


def fog(images: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """Add ``amount`` of plasma, the same in all channels, and scale back to the old maximum.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Make the plasma.
        amount: Its maximum in units of the pixel range.
        decay: How fast its fine structure falls off; see `plasma`.
    """
    height, width = images.shape[-2:]
    side = plasma_side(height, width)
    noise = draws.stack(lambda rng: rng.random(plasma_draws(side)))
    cloud = plasma(noise, side, decay)[:, None, :height, :width]
    values = unit(images)
    brightest = values.amax((1, 2, 3), keepdim=True)
    return truncated((values + amount * cloud) * (brightest / (brightest + amount)))


@lru_cache(maxsize=1)
def frost_textures() -> NDArray[np.float64]:
    """Return the textures, levels [5, 3, 128, 128], that wrap around at their borders.

    Bright ridges where plasma crosses its middle height, on bluish white. The mean and the spread
    of the colours are about those of the photographs that CIFAR-C takes, which do not ship here.
    """
    draws = np.stack(
        [
            generator(0, "corruption/frost/texture", draw=number).random(plasma_draws(_FROST_SIDE))
            for number in range(FROST_TEXTURES)
        ]
    )
    height = plasma(torch.from_numpy(draws), _FROST_SIDE, _FROST_DECAY).numpy()
    ridges = 1 - np.abs(height - np.median(height, axis=(1, 2), keepdims=True)) ** 0.5
    ridges -= ridges.mean((1, 2), keepdims=True)
    ridges /= ridges.std((1, 2), keepdims=True)
    colour = np.array(_FROST_COLOUR)[:, None, None]
    textures: NDArray[np.float64] = np.clip(colour + _FROST_CONTRAST * ridges[:, None], 0, LEVELS)
    return textures


def _frost_crop(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    textures = frost_textures()
    texture = textures[rng.integers(len(textures))]
    top, left = rng.integers(_FROST_SIDE, size=2)
    rows = (top + np.arange(height)) % _FROST_SIDE
    columns = (left + np.arange(width)) % _FROST_SIDE
    crop: NDArray[np.float64] = texture[:, rows[:, None], columns]
    return crop


def frost(images: Tensor, draws: Draws, image_share: float, frost_share: float) -> Tensor:
    """Lay a random part of a frost texture over the image, as a weighted sum.

    CIFAR-C takes photographs of frost; ours are made, so figures are not comparable with it.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Choose the texture and its part.
        image_share: Weight of the image.
        frost_share: Weight of the texture.
    """
    height, width = images.shape[-2:]
    texture = draws.stack(lambda rng: _frost_crop(rng, height, width))
    return truncated(image_share * unit(images) + texture.mul_(frost_share / LEVELS))


def snow(
    images: Tensor,
    draws: Draws,
    loc: float,
    scale: float,
    factor: float,
    threshold: float,
    radius: int,
    sigma: float,
    mix: float,
) -> Tensor:
    """Whiten the image and add flakes that fall in a line, and the same upside down.

    CIFAR-C calls ImageMagick for the smear of the flakes; see `motion_blur`.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Make the flakes and the angle at which they fall, −135° to −45°.
        loc: Mean of the Gaussian field that flakes are cut from.
        scale: Its standard deviation.
        factor: Zoom of the field.
        threshold: Where the field is above, there is snow.
        radius: Half the length of the smear in pixels.
        sigma: Standard deviation of its weights in pixels.
        mix: Share of the image that is not whitened.
    """
    height, width = images.shape[-2:]
    fields, taps = [], []
    for rng in draws.generators():
        fields.append(rng.normal(loc, scale, (1, height, width)))
        taps.append(line_taps(rng.uniform(-135, -45), radius))
    layer = zoom(torch.from_numpy(np.stack(fields)).to(images.device), factor)
    layer[layer < threshold] = 0
    offsets = torch.from_numpy(np.stack(taps)).to(images.device)
    layer = line_blur(truncated(layer).double(), offsets, sigma).round_() / LEVELS
    values = unit(images)
    red, green, blue = values.unbind(1)
    grey = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]
    whitened = torch.maximum(values, grey * 1.5 + 0.5)
    return truncated(mix * values + (1 - mix) * whitened + (layer + layer.flip(2, 3)))


def _relief(liquid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a map that rises with the distance to the rims of drops, levels [H, W]."""
    edges = canny(  # type: ignore[no-untyped-call]
        np.minimum(LEVELS * liquid, LEVELS).astype(np.uint8),
        sigma=0,
        low_threshold=50,
        high_threshold=150,
        mode="nearest",
    )
    distance = np.full(liquid.shape, _FARTHEST)
    if edges.any():
        distance = np.minimum(ndimage.distance_transform_edt(~edges), _FARTHEST)
    mean = ndimage.uniform_filter(distance, 3, mode="mirror")
    # A whole number may come out a last bit below itself.
    levels = (mean + 1e-6).astype(np.uint8)
    relief: NDArray[np.float64] = equalize_hist(levels)  # type: ignore[no-untyped-call]
    return np.floor(LEVELS * relief)


def spatter(
    images: Tensor,
    draws: Draws,
    loc: float,
    scale: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Tensor:
    """Spatter with drops of water, or with mud.

    Drops follow the published recipe with functions of scikit-image and SciPy in place of
    OpenCV's; they look alike and are not the same.

    Args:
        images: uint8 [N, 3, H, W].
        draws: Make the field that drops are cut from.
        loc: Mean of the Gaussian field.
        scale: Its standard deviation before smoothing.
        sigma: Standard deviation of the smoothing in pixels.
        threshold: Where the field is above, there is liquid.
        strength: Water: the most that a drop adds, in units of its colour. Mud: standard
            deviation in pixels of the smoothing of blots.
        mud: Whether it is mud.
    """
    shape = (1, *images.shape[-2:])
    field = gaussian(draws.stack(lambda rng: rng.normal(loc, scale, shape)), sigma)
    values = unit(images)
    colour = torch.tensor(_MUD if mud else _WATER, dtype=torch.float64, device=images.device)
    colour = colour[:, None, None] / LEVELS
    if mud:
        mask = gaussian((field > threshold).double(), strength)
        mask[mask < 0.8] = 0
        return truncated(values * (1 - mask) + mask * colour)
    liquid = torch.where(field < threshold, 0, field)
    relief = np.stack([_relief(each) for each in liquid[:, 0].cpu().numpy()])[:, None]
    embossed = correlate(torch.from_numpy(relief).to(images.device), _EMBOSS).clamp_(0, LEVELS)
    smooth = correlate(embossed, np.full((3, 3), 1 / 9))
    mask = liquid * smooth
    highest = mask.amax((1, 2, 3), keepdim=True)
    # Without any liquid the mask is 0 everywhere, and stays so.
    mask = mask / torch.where(highest > 0, highest, 1) * strength
    return truncated(values + mask * colour)
