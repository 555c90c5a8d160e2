"""A suite whose sets have to be imported; its images are those of CIFAR-10's classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oodbench.datasets.cifar10 import Cifar10
from oodbench.schedule import Schedule

FAST = Schedule(epochs=1, batch_size=32, crop_padding=0)


@dataclass(frozen=True)
class Pooled(Cifar10):
    """CIFAR-10 against SVHN alone, taught in a moment."""

    ood_sets: tuple[str, ...] = ("svhn",)
    near: tuple[str, ...] = ()
    network: str = "conv3"
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: {
            "fast": FAST,
            "zoom": replace(FAST, pool_zoom=0.5),
            "long": replace(FAST, epochs=2),
        }
    )
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
