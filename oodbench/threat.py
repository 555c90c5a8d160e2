"""The threat model: an L∞ ball on the 8-bit grid, counted in grey levels."""

import re
from fractions import Fraction

import torch
from torch import Tensor

from oodbench.errors import RequestError

LEVELS = 255


def parse_eps(text: str) -> int:
    """Read a radius in [0, 1] such as ``8/255`` or ``0.03`` as the whole grey levels within it.

    Args:
        text: A fraction or a decimal number, in units of the pixel range.

    Returns:
        k = ⌊255·ε + 10⁻⁶⌋ in 1..255: images of whole levels lie no farther.

    Raises:
        RequestError: If the text is no number or the radius is outside [1/255, 1].
    """
    k = int(exact_levels(text) + Fraction(1, 1_000_000))
    if k < 1:
        raise RequestError(f"--eps {text}: less than one grey level; 1/255 is the smallest radius")
    return k


def exact_levels(text: str) -> Fraction:
    """Read a radius in [0, 1] as grey levels, 0 to 255, not rounded.

    Raises:
        RequestError: If the text is no number or the radius is outside [0, 1].
    """
    match = re.fullmatch(
        r"\s*([+-]?\d*\.?\d+(?:e[+-]?\d{1,3})?)\s*(?:/\s*(\d*\.?\d+))?\s*", text, re.I
    )
    if match is None:
        raise RequestError(f"--eps {text}: not a number; give a radius such as 8/255 or 0.03")
    numerator, denominator = Fraction(match[1]), Fraction(match[2] or 1)
    if denominator == 0:
        raise RequestError(f"--eps {text}: division by zero; give a radius such as 8/255")
    eps = numerator / denominator
    if eps < 0:
        raise RequestError(f"--eps {text}: the radius is negative; give one such as 8/255")
    if eps > 1:
        hint = (
            f"did you mean {int(eps)}/255?"
            if eps.denominator == 1 and eps <= LEVELS
            else "give one such as 8/255"
        )
        raise RequestError(f"--eps {text}: the pixel range is [0, 1], so 1 is the largest; {hint}")
    return LEVELS * eps


def format_eps(k: int) -> str:
    """Write a radius of ``k`` grey levels as ``k/255``, unreduced."""
    return f"{k}/{LEVELS}"


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [0, 1]; every k/255 is the nearest float32."""
    return images.to(torch.float32) / LEVELS


def to_grid(levels: Tensor, centres: Tensor, k: int) -> Tensor:
    """Round images to 8 bits inside the ball and the box, in integers.

    Args:
        levels: Images in grey levels, float [N, 3, H, W], anywhere.
        centres: Centres of the balls, uint8 [N, 3, H, W].
        k: Radius in grey levels.

    Returns:
        uint8 [N, 3, H, W] with |image − centre| ≤ k.
    """
    middle = centres.to(torch.int16)
    # Clamped before the cast: what an int16 cannot hold would come back with the other sign.
    delta = (levels - centres.to(levels.dtype)).nan_to_num(0.0).round().clamp(-k, k)
    return (middle + delta.to(torch.int16)).clamp(0, LEVELS).to(torch.uint8)


def farthest(images: Tensor, centres: Tensor) -> int:
    """Return the largest distance of a pixel from its centre, in grey levels."""
    if images.numel() == 0:
        return 0
    return int((images.to(torch.int16) - centres.to(torch.int16)).abs().max())
