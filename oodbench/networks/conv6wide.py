"""The compact network with a third to a half more channels."""

from typing import ClassVar

from oodbench.networks.conv6 import Conv6


class Conv6Wide(Conv6):
    """`Conv6` of 32, 64, 144, 144, 288 and 288 channels.

    About 1.41 million weights and 41 million multiplications an image; a step of ATOM takes 1.6
    times as long on a CPU (benchmarks/training_speed.md). It is for detectors that have to
    withstand an attack: ATOM and ACET do not even fit what they are taught with `Conv6`
    (docs/reproduction.md, "How far can a network of this size go?").
    """

    version: ClassVar[int] = 1
    channels: ClassVar[tuple[int, ...]] = (32, 64, 144, 144, 288, 288)
