"""A compact network for 32×32 natural images that trains on a CPU."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from oodbench.network import Network, Normalised


def _layer(inputs: int, outputs: int, *, pooled: bool) -> list[nn.Module]:
    layers = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if pooled:
        # ReLU and max pooling commute; the rectifier costs a quarter on the smaller map.
        layers.append(nn.MaxPool2d(2))
    return [*layers, nn.ReLU(inplace=True)]


class Conv6(Network):
    """Six 3×3 convolutions of 24, 48, 96, 96, 192 and 192 channels, global max pooling, linear.

    Each convolution is followed by batch norm and ReLU, the first, second and fourth by 2×2 max
    pooling besides: about 0.64 million weights and 19 million multiplications an image. Pooling
    this early leaves most of them to small maps of many channels, on which a CPU is several times
    as fast as on large maps of few. Global pooling takes the maximum, with which adversarially
    trained detectors keep their accuracy.
    """

    taps: ClassVar[tuple[str, ...]] = ("block1", "block2", "block3")
    # Reference weights of nine recipes ship with the package.
    kept_as: ClassVar[torch.dtype] = torch.float16

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.normalised = Normalised()
        self.block1 = nn.Sequential(*_layer(3, 24, pooled=True), *_layer(24, 48, pooled=True))
        self.block2 = nn.Sequential(*_layer(48, 96, pooled=False), *_layer(96, 96, pooled=True))
        self.block3 = nn.Sequential(*_layer(96, 192, pooled=False), *_layer(192, 192, pooled=False))
        self.head = nn.Linear(192, outputs)

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps; see `Network.tapped`."""
        maps: dict[str, Tensor] = {}
        x = self.normalised(images)
        for tap, block in zip(self.taps, (self.block1, self.block2, self.block3), strict=True):
            x = maps[tap] = block(x)
            if tap == until:
                return maps, x.new_empty(0)
        return maps, self.head(x.amax((2, 3)))
