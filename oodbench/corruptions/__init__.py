"""The 19 corruptions of CIFAR-C at five severities, batched (Hendrycks & Dietterich, ICLR 2019).

Parameters and formulas are those of the published CIFAR-C, whose scale is pixels of 32×32 images;
where a parameter is a length it stays that many pixels at any size. Image, id, type, severity
and seed determine a result; the batch does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from oodbench.corruptions import blur, digital, noise, weather
from oodbench.corruptions.batch import Draws

SEVERITIES = 5


@dataclass(frozen=True)
class CorruptionType:
    """One way of corrupting images.

    Attributes:
        name: Name in CIFAR-C.
        apply: Function of images uint8 [N, 3, H, W], their draws and the parameters of one
            severity; returns uint8 [N, 3, H, W].
        parameters: Arguments of `apply` for severities 1 to 5.
        approximate: Whether results are only like CIFAR-C's: its textures may not be shipped, or
            it is made by functions of libraries that are not used here.
    """

    name: str
    apply: Callable[..., Tensor]
    parameters: tuple[tuple[float, ...], ...]
    approximate: bool = False


_TYPES = (
    CorruptionType(
        "gaussian_noise", noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))
    ),
    CorruptionType("shot_noise", noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    CorruptionType(
        "impulse_noise", noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))
    ),
    CorruptionType(
        "defocus_blur",
        blur.defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    CorruptionType(
        "glass_blur", blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
    ),
    CorruptionType(
        "motion_blur",
        blur.motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        approximate=True,
    ),
    # The number of zoom factors 1.00, 1.01, …: up to 1.06, 1.11, 1.15, 1.20, 1.25.
    CorruptionType("zoom_blur", blur.zoom_blur, ((7,), (12,), (16,), (21,), (26,))),
    CorruptionType(
        "snow",
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        approximate=True,
    ),
    CorruptionType(
        "frost",
        weather.frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        approximate=True,
    ),
    CorruptionType("fog", weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    CorruptionType("brightness", digital.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    CorruptionType("contrast", digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    CorruptionType(
        "elastic_transform",
        digital.elastic_transform,
        ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    ),
    CorruptionType("pixelate", digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    CorruptionType(
        "jpeg_compression", digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))
    ),
    CorruptionType(
        "speckle_noise", noise.speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,))
    ),
    CorruptionType("gaussian_blur", blur.gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1.0,))),
    CorruptionType(
        "spatter",
        weather.spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
        approximate=True,
    ),
    CorruptionType(
        "saturate", digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
    ),
)

CORRUPTIONS: dict[str, CorruptionType] = {each.name: each for each in _TYPES}
"""The types by name, in the published order: fifteen common ones, then four extra."""


def corrupt(images: Tensor, ids: Sequence[str], name: str, severity: int, seed: int) -> Tensor:
    """Corrupt images.

    Args:
        images: uint8 [N, 3, H, W], on any device; they are left as they are.
        ids: Their ids; each draw is a function of seed, id, type and severity.
        name: Name of the corruption type, a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Seed of the evaluation.

    Returns:
        uint8 [N, 3, H, W] on the same device.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name}; there are {', '.join(CORRUPTIONS)}")
    if severity not in range(1, SEVERITIES + 1):
        raise ValueError(f"severity must be 1 to {SEVERITIES}")
    if len(images) == 0:
        return images.clone()
    kind = CORRUPTIONS[name]
    draws = Draws(seed, name, severity, tuple(ids), images.device)
    corrupted: Tensor = kind.apply(images, draws, *kind.parameters[severity - 1])
    return corrupted
