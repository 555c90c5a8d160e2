"""A small network for the embedded suite."""

from typing import ClassVar

from torch import Tensor, nn

from oodbench.network import Network


def _block(inputs: int, outputs: int) -> nn.Sequential:
    # ReLU and max pooling commute; the rectifier costs a quarter on the smaller map.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )


class Conv3(Network):
    """Three 3×3 convolutions of 16, 32 and 64 channels, global max pooling, a linear layer.

    Each convolution is followed by batch norm, ReLU and 2×2 max pooling. Global pooling takes
    the maximum: with the average, adversarially trained detectors lose much of their accuracy.
    """

    taps: ClassVar[tuple[str, ...]] = ("block1", "block2", "block3")

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.block1 = _block(3, 16)
        self.block2 = _block(16, 32)
        self.block3 = _block(32, 64)
        self.head = nn.Linear(64, outputs)

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps; see `Network.tapped`."""
        maps: dict[str, Tensor] = {}
        x = images
        for tap, block in zip(self.taps, (self.block1, self.block2, self.block3), strict=True):
            x = maps[tap] = block(x)
            if tap == until:
                return maps, x.new_empty(0)
        return maps, self.head(x.amax((2, 3)))
