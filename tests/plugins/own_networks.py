"""Networks as users write them."""

import torch
from torch import nn


def _block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )


class Net(nn.Module):
    """What oodbench calls conv3, knowing nothing of oodbench."""

    taps = ("block1", "block2", "block3")

    def __init__(self, num_classes):
        super().__init__()
        self.block1 = _block(3, 16)
        self.block2 = _block(16, 32)
        self.block3 = _block(32, 64)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.block3(self.block2(self.block1(x))).amax((2, 3)))


class Untapped(Net):
    @property
    def taps(self):
        raise AttributeError("taps")


class Flat(nn.Module):
    """Reshapes with view, which needs the usual order in memory."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, stride=4)
        self.fc1 = nn.Linear(4 * 7 * 7, 8)
        self.fc2 = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.fc2(self.fc1(x.view(-1, 4 * 7 * 7)).relu())


class Skipping(nn.Module):
    """Uses a convolution apart from the batch norm that stands behind it."""

    def __init__(self, num_classes):
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.parts[0](x)
        return self.head((self.parts[1](x.relu()) + x).mean((2, 3)))


class InPlace(nn.Module):
    """Taps what the next layer writes over."""

    taps = ("norm", "pool")

    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.act, self.pool = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.pool(self.act(self.norm(self.conv(x)))).flatten(1))


def no_arguments():
    return Net(3)


def wrapped(num_classes):
    return nn.Sequential(nn.Identity(), Net(num_classes))


def with_keywords(**kwargs):
    return Net(kwargs["num_classes"])


def ten(num_classes):
    return Net(10)


def fails(num_classes):
    raise RuntimeError("no such\nluck")


def a_number(num_classes):
    return 7


def bad_taps(num_classes):
    net = Net(num_classes)
    net.taps = ("block9",)
    return net


class Wants64(Flat):
    def forward(self, x):
        return self.fc2(x.flatten(1)[:, : 64 * 64 * 3 - 1].unflatten(1, (1, -1, 7)))


class Random(Net):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


class Batchwise(Net):
    def forward(self, x):
        return super().forward(x) * (x - x.mean(0)).std()


class Maps(Net):
    taps = ("block1",)

    def forward(self, x):
        return self.block1(x)


INSTANCE = Net(3)


class Untouched(Net):
    def forward(self, x):
        return self.head(self.block2(self.block1(x)).amax((2, 3)).repeat(1, 2))
