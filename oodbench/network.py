"""The contract of a classifier: logits, named feature taps, a copy fit for attacking."""

import copy
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Network(nn.Module, ABC):
    """A classifier of images in [0, 1]; normalisation is part of it.

    A subclass takes the number of outputs as its only required argument.
    """

    version: ClassVar[int] = 1
    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    """Order in memory of images and weights."""
    taps: ClassVar[tuple[str, ...]]
    """Names of the feature maps, from the image to the logits."""
    kept_as: ClassVar[torch.dtype] = torch.float32
    """Type in which kernels and matrices are stored, rounded once when training ends."""

    @abstractmethod
    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps.

        Args:
            images: Float tensor [N, 3, H, W] in [0, 1].
            until: Name of the last tap that is needed; None runs to the logits.

        Returns:
            Feature maps [N, C, h, w] by tap, and the logits [N, outputs] (with ``until``, an
            empty tensor).
        """

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, outputs] of images [N, 3, H, W] in [0, 1]."""
        return self.tapped(images)[1]

    def for_search(self) -> "Network":
        """Return a frozen copy that is faster and only nearly equal, for searching."""
        return fold_batch_norm(self)


class Normalised(nn.Module):
    """Images in [0, 1] in units of CIFAR's channel statistics, as published networks take them.

    Mean (125.3, 123.0, 113.9)/255 and standard deviation (63.0, 62.1, 66.7)/255 (Chen et al.,
    2021, code: models/densenet.py).
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor([[125.3, 123.0, 113.9], [63.0, 62.1, 66.7]]) / 255
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images normalised, like ``images``."""
        normal: Tensor = (images - self.mean) / self.std
        return normal


def fold_batch_norm(network: Network) -> Network:
    """Return a frozen copy in evaluation mode with batch norm folded into convolutions.

    Every batch norm that follows a convolution directly in an ``nn.Sequential`` is folded; the
    function computed stays the same up to rounding, at about two thirds of the cost.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(folded.modules()):
        # A subclass may run its parts otherwise than one after the other.
        if type(module) is nn.Sequential:
            _fold_sequence(module)
    return folded


def _fold_sequence(sequence: nn.Sequential) -> None:
    for index in range(len(sequence) - 1):
        conv, norm = sequence[index], sequence[index + 1]
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
            continue
        # Without running statistics it normalises by the batch, which no convolution does.
        if norm.running_mean is not None:
            sequence[index] = fuse_conv_bn_eval(conv, norm)
            sequence[index + 1] = nn.Identity()


def initialised(network: type[Network], outputs: int, seed: int) -> Network:
    """Build a network with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(outputs)
