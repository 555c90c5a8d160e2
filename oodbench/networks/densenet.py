"""The published network: DenseNet-BC of depth 100 and growth 12."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.network import Network, Normalised

_GROWTH = 12
_LAYERS = 16
_BLOCKS = 3
# Standard deviation of every convolution's first weights. Chen et al. (2021, code) divide by the
# number of layers of a block where the fan-out was meant; kept, since it sets the pace of training.
_STD = (2 / _LAYERS) ** 0.5


class _Layer(nn.Module):
    """A bottleneck layer, whose output is put beside its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 4 * _GROWTH, 1, bias=False),
            nn.BatchNorm2d(4 * _GROWTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * _GROWTH, _GROWTH, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


class DenseNet(Network):
    """DenseNet-BC-100-12 for 32×32 images (Huang et al., CVPR 2017), as Chen et al. (2021) use it.

    Depth 100, growth 12, reduction 0.5, no dropout; 769,162 parameters for 10 outputs. The taps
    are the four of the Mahalanobis detector: the first convolution, both transitions, the end.
    """

    taps: ClassVar[tuple[str, ...]] = ("conv1", "transition1", "transition2", "final")

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.normalised = Normalised()
        channels = 2 * _GROWTH
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks, transitions = [], []
        for block in range(_BLOCKS):
            layers = [_Layer(channels + i * _GROWTH) for i in range(_LAYERS)]
            blocks.append(nn.Sequential(*layers))
            channels += _LAYERS * _GROWTH
            if block < _BLOCKS - 1:
                transitions.append(_transition(channels))
                channels //= 2
        self.blocks = nn.ModuleList(blocks)
        self.transitions = nn.ModuleList(transitions)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = nn.Linear(channels, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, _STD)
        nn.init.zeros_(self.head.bias)

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps; see `Network.tapped`."""
        maps: dict[str, Tensor] = {}
        first, *others = self.blocks
        x = maps["conv1"] = self.conv1(self.normalised(images))
        if until == "conv1":
            return maps, x.new_empty(0)
        x = first(x)
        for number, (transition, block) in enumerate(
            zip(self.transitions, others, strict=True), start=1
        ):
            tap = f"transition{number}"
            x = maps[tap] = transition(x)
            if until == tap:
                return maps, x.new_empty(0)
            x = block(x)
        x = maps["final"] = self.last(x)
        if until == "final":
            return maps, x.new_empty(0)
        return maps, self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
