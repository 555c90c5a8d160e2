"""A compact network for 32×32 natural images that trains on a CPU."""

import math
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def opponent_cosines() -> Tensor:
    """Return an orthonormal basis of 3×3 patches in colour, from low to high frequency.

    Cosines of the DCT-II of both axes times opponent colours (grey, red against blue, green
    against both). Natural patches are nearly decorrelated in it, as in their principal components,
    but it needs no data.

    Returns:
        float32 [27, 3, 3, 3]: pattern, colour, row, column.
    """
    places = (torch.arange(3) + 0.5) * math.pi / 3
    cosines = F.normalize(torch.stack([torch.cos(places * k) for k in range(3)]), dim=1)
    colours = F.normalize(torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]), dim=1)
    # Colour varies less than brightness: a colour counts as that much higher a frequency.
    handicap = (0, 1.5, 3)
    order = sorted(
        product(range(3), repeat=3), key=lambda p: p[1] ** 2 + p[2] ** 2 + handicap[p[0]]
    )
    return torch.stack(
        [torch.einsum("c,i,j->cij", colours[c], cosines[u], cosines[v]) for c, u, v in order]
    )


class Conv6(Network):
    """Six 3×3 convolutions of 24, 48, 96, 96, 192 and 192 channels, global max pooling, linear.

    Each convolution is followed by batch norm and ReLU, the first, second and fourth by 2×2 max
    pooling besides: about 0.64 million weights and 19 million multiplications an image. Pooling
    this early leaves most of them to small maps of many channels, on which a CPU is several times
    as fast as on large maps of few. Global pooling takes the maximum, with which adversarially
    trained detectors keep their accuracy.

    The first kernels are plus and minus the twelve smoothest of `opponent_cosines`: with batch
    norm behind it, the layer starts out whitening patches. Every further convolution passes its
    inputs on at first, in as many of its outputs; the kernels of its other outputs are random
    (Jordan, "94 % on CIFAR-10 in 3.29 seconds", 2024, with the first layer taken from data).
    """

    version: ClassVar[int] = 2
    taps: ClassVar[tuple[str, ...]] = ("block1", "block2", "block3")
    channels: ClassVar[tuple[int, ...]] = (24, 48, 96, 96, 192, 192)
    """Output channels of each convolution, in order."""
    # Reference weights of several recipes ship with the package.
    kept_as: ClassVar[torch.dtype] = torch.float16

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.normalised = Normalised()
        c1, c2, c3, c4, c5, c6 = self.channels
        self.block1 = nn.Sequential(*_layer(3, c1, pooled=True), *_layer(c1, c2, pooled=True))
        self.block2 = nn.Sequential(*_layer(c2, c3, pooled=False), *_layer(c3, c4, pooled=True))
        self.block3 = nn.Sequential(*_layer(c4, c5, pooled=False), *_layer(c5, c6, pooled=False))
        self.head = nn.Linear(c6, outputs)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        first, *later = (layer for layer in self.modules() if isinstance(layer, nn.Conv2d))
        patterns = opponent_cosines()[: first.out_channels // 2]
        first.weight.copy_(torch.cat([patterns, -patterns]))
        for layer in later:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.dirac_(layer.weight[: layer.in_channels])

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps; see `Network.tapped`."""
        maps: dict[str, Tensor] = {}
        x = self.normalised(images)
        for tap, block in zip(self.taps, (self.block1, self.block2, self.block3), strict=True):
            x = maps[tap] = block(x)
            if tap == until:
                return maps, x.new_empty(0)
        return maps, self.head(x.amax((2, 3)))
