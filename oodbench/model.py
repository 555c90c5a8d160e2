"""The trained network as a detector sees it."""

import weakref
from collections.abc import Mapping
from functools import reduce
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from oodbench.network import Network

TTA = Literal["none", "mirror", "mirror_shift"]
"""Test-time augmentation: the views of an image over which a network's outputs are averaged."""
_SHIFTS: Mapping[TTA, tuple[int, ...]] = {"none": (0,), "mirror": (0,), "mirror_shift": (0, -1, 1)}
"""Pixels along both axes by which views are moved."""
_Outputs = tuple[dict[str, Tensor], Tensor]
"""Feature maps by tap, and logits."""


def check_tta(tta: str) -> None:
    """Refuse what is no test-time augmentation.

    Raises:
        ValueError: If it is none.
    """
    if tta not in _SHIFTS:
        raise ValueError(f"tta must be one of {', '.join(_SHIFTS)}, not {tta!r}")


class Backbone:
    """A frozen network in evaluation mode, its last forward pass shared by all detectors.

    Only passes without gradients are kept: a graph could be freed by whoever uses it first.

    Attributes:
        network: The network.
        classes: Number of in-distribution classes K; the logits may have more columns.
        modules: Further trained modules of the recipe, by name.
        dtype: Floating type of the computation.
        tta: Views over which feature maps and logits are averaged: of the image alone (``none``),
            of it and its mirror image (``mirror``), or of these two in place and moved by a pixel
            to the upper left and the lower right, the border mirrored (``mirror_shift``): 1, 2 or
            6 passes of the network. Further modules see the image alone.

    Raises:
        ValueError: If ``tta`` is none of these.
    """

    def __init__(
        self,
        network: Network,
        classes: int,
        modules: Mapping[str, nn.Module] | None = None,
        dtype: torch.dtype = torch.float32,
        tta: TTA = "none",
    ) -> None:
        check_tta(tta)
        self.network = network.eval().requires_grad_(False).to(dtype)
        self.network = self.network.to(memory_format=network.memory_format)
        self.classes = classes
        self.modules = dict(modules or {})
        for module in self.modules.values():
            module.eval().requires_grad_(False)
        self.dtype = dtype
        self.tta = tta
        self._key: tuple[weakref.ref[Tensor], int] | None = None
        self._kept: tuple[dict[str, Tensor], Tensor] | None = None

    def for_search(self, dtype: torch.dtype) -> "Backbone":
        """Return a copy that is faster and only nearly equal, for the search of an attack."""
        return Backbone(self.network.for_search(), self.classes, self.modules, dtype, self.tta)

    def with_tta(self, tta: TTA) -> "Backbone":
        """Return the same network with other views."""
        return Backbone(self.network, self.classes, self.modules, self.dtype, tta)

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network as far as the tap ``until``, or reuse the pass over the same tensor."""
        kept = self._kept
        if self._key is not None and kept is not None:
            reference, version = self._key
            if reference() is images and images._version == version and not _with_graph(images):
                return kept
        result = self._averaged(images, until)
        if until is None and not _with_graph(images):
            self._key, self._kept = (weakref.ref(images), images._version), result
        return result

    def _averaged(self, images: Tensor, until: str | None) -> _Outputs:
        """Return the mean of the network's outputs over the views of the images."""
        mirrored = (False,) if self.tta == "none" else (False, True)
        views = list(product(_SHIFTS[self.tta], mirrored))
        maps, logits = reduce(_sum, (self._pass(images, *view, until) for view in views))
        if len(views) == 1:
            return maps, logits
        return {tap: x / len(views) for tap, x in maps.items()}, logits / len(views)

    def _pass(self, images: Tensor, pixels: int, mirrored: bool, until: str | None) -> _Outputs:
        """Return the outputs of the network, at least float32, for one view of the images."""
        # Only the view is rounded: gradients of several add up in the type of the images.
        view = _moved(images, pixels)
        view = (view.flip(3) if mirrored else view).to(self.dtype)
        maps, logits = self.network.tapped(
            view.contiguous(memory_format=self.network.memory_format), until
        )
        wide = torch.promote_types(self.dtype, torch.float32)
        maps = {tap: x.to(wide) for tap, x in maps.items()}
        return {tap: x.flip(3) for tap, x in maps.items()} if mirrored else maps, logits.to(wide)


def _sum(one: _Outputs, other: _Outputs) -> _Outputs:
    return {tap: x + other[0][tap] for tap, x in one[0].items()}, one[1] + other[1]


def _moved(images: Tensor, pixels: int) -> Tensor:
    """Move images by ``pixels``, -1, 0 or 1, along both axes; 1 is to the lower right.

    The row and the column that come in are the second ones, as if mirrored at the border. Padding
    would do the same, but its backward pass on a GPU adds in no fixed order.
    """
    for axis in (2, 3) if pixels else ():
        size = images.shape[axis]
        parts = (1, 1), (0, size - 1)
        if pixels < 0:
            parts = (1, size - 1), (size - 2, 1)
        images = torch.cat([images.narrow(axis, *part) for part in parts], axis)
    return images


def _with_graph(images: Tensor) -> bool:
    return torch.is_grad_enabled() and images.requires_grad


class Model:
    """A trained network together with the statistics that a detector fitted on it.

    Attributes:
        classes: Number of in-distribution classes K.
        taps: Names of the feature maps, from the image to the logits.
        state: Tensors that the detector's ``fit`` returned.
        modules: Further trained modules of the recipe, by name.
    """

    def __init__(self, backbone: Backbone, state: Mapping[str, Tensor] | None = None) -> None:
        self.backbone = backbone
        self.classes = backbone.classes
        self.taps = backbone.network.taps
        self.modules = backbone.modules
        self.state = dict(state or {})

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits [N, outputs], at least float32, of images [N, 3, H, W] in [0, 1]."""
        return self.backbone.tapped(images)[1]

    def features(self, images: Tensor, tap: str) -> Tensor:
        """Return the feature map [N, C, h, w] at ``tap``, running the network no further.

        With test-time augmentation it is a mean over views. Maps of mirrored ones are mirrored
        back (tokens are not), those of moved ones are not moved back.

        Raises:
            KeyError: If the network has no such tap.
        """
        if tap not in self.taps:
            raise KeyError(f"the network has no tap {tap!r}; it has {', '.join(self.taps)}")
        return self.backbone.tapped(images, until=tap)[0][tap]

    def outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return all feature maps by tap, and the logits, of one forward pass."""
        return self.backbone.tapped(images)


def input_gradient(values: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of the sum of ``values`` in ``images`` alone, never in weights.

    Raises:
        RuntimeError: If ``values`` does not depend on ``images`` differentiably.
    """
    (gradient,) = torch.autograd.grad(values.sum(), images)
    return gradient
