"""Corruptions by noise that is independent for each pixel and channel."""

import numpy as np
import torch
from torch import Tensor

from oodbench.corruptions.batch import Draws, truncated, unit


def gaussian_noise(images: Tensor, draws: Draws, std: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``std``, in units of the pixel range."""
    shape = tuple(images.shape[1:])
    return truncated(
        unit(images).add_(draws.stack(lambda rng: rng.standard_normal(shape)), alpha=std)
    )


def speckle_noise(images: Tensor, draws: Draws, std: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``std`` times the pixel's value."""
    shape = tuple(images.shape[1:])
    noise = draws.stack(lambda rng: rng.standard_normal(shape))
    return truncated(unit(images).mul_(noise.mul_(std).add_(1)))


def shot_noise(images: Tensor, draws: Draws, photons: float) -> Tensor:
    """Count photons: a Poisson variable whose mean at full brightness is ``photons``."""
    # A Poisson draw depends on its mean, so it is made image by image on the CPU.
    means = unit(images.cpu()).mul_(photons).numpy()
    counts = np.stack(
        [rng.poisson(mean) for rng, mean in zip(draws.generators(), means, strict=True)]
    )
    return truncated(torch.from_numpy(counts).to(images.device).double() / photons)


def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """Replace a ``share`` of the values by black or white, as often one as the other."""
    chance = draws.stack(lambda rng: rng.random(tuple(images.shape[1:])))
    # Given that it is below the share, it is below half of it half of the time.
    extreme = (chance < share / 2).to(torch.uint8) * 255
    return torch.where(chance < share, extreme, images)
