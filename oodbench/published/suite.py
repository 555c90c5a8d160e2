"""What the three suites of the paper have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from oodbench.images import Suite
from oodbench.schedule import PAPER, Schedule

FAST = Schedule(
    epochs=8,
    batch_size=128,
    policy="one_cycle",
    weight_decay=5e-4,
    pool_views=4,
    precision="auto",
)
"""One cycle of eight epochs: a twelfth of the published training, for some points of accuracy."""

_STAND_INS = {
    "places365": "miniplaces",
    "lsun_c": "lsun_c_standin",
    "lsun_r": "lsun_r_standin",
}
_GROUPS = {
    "others": ("svhn", "cifar10", "textures"),
    "scenes": (*_STAND_INS, *_STAND_INS.values()),
    "isun": ("isun",),
}


@dataclass(frozen=True)
class PublishedSuite(Suite):
    """An in-distribution set against digits or objects, textures and scenes.

    Where Places365 or LSUN is not there, scenes of MiniPlaces take its place and are counted as
    stand-ins.
    """

    ood_sets: tuple[str, ...] = ("svhn", "textures", "places365", "lsun_c", "lsun_r", "isun")
    pool: str = "tinyimagenet"
    network: str = "conv6"
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: {"fast": FAST, "paper": PAPER}
    )
    stand_ins: Mapping[str, str] = field(default_factory=lambda: dict(_STAND_INS))
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(_GROUPS))
