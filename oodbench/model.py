"""The trained network as a detector sees it."""

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oodbench.network import Network


class Backbone:
    """A frozen network in evaluation mode, its last forward pass shared by all detectors.

    Only passes without gradients are kept: a graph could be freed by whoever uses it first.

    Attributes:
        network: The network.
        classes: Number of in-distribution classes K; the logits may have more columns.
        modules: Further trained modules of the recipe, by name.
        dtype: Floating type of the computation.
    """

    def __init__(
        self,
        network: Network,
        classes: int,
        modules: Mapping[str, nn.Module] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(dtype)
        self.network = self.network.to(memory_format=network.memory_format)
        self.classes = classes
        self.modules = dict(modules or {})
        for module in self.modules.values():
            module.eval().requires_grad_(False)
        self.dtype = dtype
        self._key: tuple[weakref.ref[Tensor], int] | None = None
        self._kept: tuple[dict[str, Tensor], Tensor] | None = None

    def for_search(self, dtype: torch.dtype) -> "Backbone":
        """Return a copy that is faster and only nearly equal, for the search of an attack."""
        return Backbone(self.network.for_search(), self.classes, self.modules, dtype)

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network as far as the tap ``until``, or reuse the pass over the same tensor."""
        kept = self._kept
        if self._key is not None and kept is not None:
            reference, version = self._key
            if reference() is images and images._version == version and not _with_graph(images):
                return kept
        inputs = images.to(self.dtype).contiguous(memory_format=self.network.memory_format)
        maps, logits = self.network.tapped(inputs, until)
        at_least_float32 = torch.promote_types(self.dtype, torch.float32)
        result = (
            {tap: value.to(at_least_float32) for tap, value in maps.items()},
            logits.to(at_least_float32),
        )
        if until is None and not _with_graph(images):
            self._key, self._kept = (weakref.ref(images), images._version), result
        return result


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
