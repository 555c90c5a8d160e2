"""The wide residual network that the paper uses as its second one."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.network import Network, Normalised

_WIDTHS = (16, 64, 128, 256)
_BLOCKS = 6


class _Block(nn.Module):
    """A pre-activation block of two 3×3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.same = inputs == outputs
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        if not self.same:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.before(x)
        kept = x if self.same else self.shortcut(active)
        total: Tensor = kept + self.convolutions(active)
        return total


class WideResNet(Network):
    """WRN-40-4 for 32×32 images (Zagoruyko & Komodakis, BMVC 2016), without dropout.

    8.9 million parameters. The taps are the first convolution and the three groups of blocks, the
    last one after its batch norm and ReLU.
    """

    taps: ClassVar[tuple[str, ...]] = ("conv1", "group1", "group2", "group3")

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.normalised = Normalised()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        groups = []
        for number in range(1, len(_WIDTHS)):
            inputs, outputs_of_group = _WIDTHS[number - 1], _WIDTHS[number]
            stride = 1 if number == 1 else 2
            groups.append(
                nn.Sequential(
                    _Block(inputs, outputs_of_group, stride),
                    *(_Block(outputs_of_group, outputs_of_group, 1) for _ in range(_BLOCKS - 1)),
                )
            )
        self.groups = nn.ModuleList(groups)
        self.last = nn.Sequential(nn.BatchNorm2d(_WIDTHS[-1]), nn.ReLU(inplace=True))
        self.head = nn.Linear(_WIDTHS[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps; see `Network.tapped`."""
        maps: dict[str, Tensor] = {}
        x = maps["conv1"] = self.conv1(self.normalised(images))
        if until == "conv1":
            return maps, x.new_empty(0)
        for tap, group in zip(self.taps[1:], self.groups, strict=True):
            x = group(x)
            if tap == self.taps[-1]:
                x = self.last(x)
            maps[tap] = x
            if until == tap:
                return maps, x.new_empty(0)
        return maps, self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
