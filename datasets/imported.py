"""The suite of a user's own images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oodbench.datasets.cifar10 import FAST
from oodbench.images import Suite
from oodbench.schedule import PAPER, Schedule


@dataclass(frozen=True)
class Imported(Suite):
    """The suite of any imported set with classes: --suite NAME, its OOD sets by --ood."""

    template = True

    id_set: str = ""
    ood_sets: tuple[str, ...] = ()
    pool: str = "tinyimagenet"
    network: str = "conv6"
    schedule: str = "fast"
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: {"fast": FAST, "paper": PAPER}
    )
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, classes: int) -> "Imported":
        """Return the suite of an imported set: the values published for CIFAR-10."""
        return cls(
            id_set=name,
            published={
                "odin": {"noise": 0.0016},
                "atom": {"quantile": 0.125},
                "ntom": {"quantile": 0.125},
                "sofl": {"rejects": 5},
                "rowl": {"background": 1 / classes},
                "energy_finetuned": {"margin_in": -23.0},
            },
        )
