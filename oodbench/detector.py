"""The contract of a detector."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from oodbench.errors import ConformanceError
from oodbench.identity import UNNAMED_AT_DEFAULT
from oodbench.model import TTA, Model
from oodbench.recipe import Plain, Recipe

Objective = Callable[[Model, Tensor], Tensor]
"""A function that an attacker lowers: (model, images [N, 3, H, W]) → [N]."""


@dataclass(frozen=True)
class Anchored:
    """An objective that keeps hold of something about each image before it was attacked.

    Such as the class that was likeliest: lowered with the class fixed, it does not change its aim
    on the way.

    Attributes:
        anchor: (model, images [N, 3, H, W]) → what to keep of each image, [N, ...].
        value: (model, images [N, 3, H, W], what was kept [N, ...]) → [N].
    """

    anchor: Callable[[Model, Tensor], Tensor]
    value: Callable[[Model, Tensor, Tensor], Tensor]


class FitData:
    """In-distribution training data, as far as a detector declares that it needs them."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        pool: Tensor | None,
        seed: int,
        batch_size: int = 256,
    ) -> None:
        self._images = images
        self._labels = labels
        self._pool = pool
        self.seed = seed
        self.batch_size = batch_size

    @property
    def images(self) -> Tensor:
        """Training images, uint8 [N, 3, H, W], never augmented."""
        return self._images

    @property
    def labels(self) -> Tensor:
        """Classes of the training images, int64 [N].

        Raises:
            ConformanceError: If the detector does not declare ``needs_labels``.
        """
        if self._labels is None:
            raise ConformanceError("declared-needs", "fit reads labels without needs_labels = True")
        return self._labels

    @property
    def pool(self) -> Tensor:
        """Auxiliary outliers, uint8 [M, 3, H, W].

        Raises:
            ConformanceError: If the detector does not declare ``needs_pool``.
        """
        if self._pool is None:
            raise ConformanceError("declared-needs", "fit reads the pool without needs_pool = True")
        return self._pool


@dataclass(frozen=True)
class Detector(ABC):
    """Hyper-parameters, a recipe, optional fitted statistics and a score.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, with the published
    values as defaults. A field whose published value depends on the in-distribution set has the
    default None; the suite resolves it. The only method it must have is `score`.

    Attributes:
        tta: Test-time augmentation, which every detector has: views of an image over which the
            outputs of its network are averaged before anything is fitted to them, scored,
            classified or attacked; ``none``, ``mirror`` or ``mirror_shift`` (`Backbone`). Its
            network is taught without.
    """

    version: ClassVar[int] = 1
    has_gradient: ClassVar[bool] = True
    """Whether the score has a useful gradient in the image. Where it has none, and `smooth_score`
    offers none, attacks search without."""
    draws: ClassVar[int] = 1
    """Above 1 the score is random, drawn with torch's generator; attacks and the choice between
    their results average over so many draws (EOT; Athalye et al., ICML 2018)."""
    decision: ClassVar[float | None] = None
    """Score above which the detector itself rejects an image, where it was published with such a
    rule; the figures of the rule go beside those at 95 % TPR."""
    needs_labels: ClassVar[bool] = False
    """Whether `fit` reads the labels."""
    needs_pool: ClassVar[bool] = False
    """Whether `fit` reads the outlier pool."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values to choose from on held-out images (`oodbench.selecting`), of one field."""

    # By keyword alone, so that fields of a subclass need no default and come first.
    tta: TTA = field(default="none", kw_only=True, metadata=UNNAMED_AT_DEFAULT)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "tta" in cls.__dict__ or "tta" in inspect.get_annotations(cls):
            raise TypeError(
                f"{cls.__name__}.tta: every detector has a field of this name; choose another"
            )

    @property
    def recipe(self) -> Recipe:
        """What the network is taught; plain training unless overridden."""
        return Plain()

    def fit(self, model: Model, data: FitData) -> dict[str, Tensor]:
        """Return statistics of the training data, which become ``model.state``."""
        return {}

    @abstractmethod
    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return one score an image, higher = more OOD, differentiable in the images.

        Args:
            model: The trained network and fitted statistics.
            images: Float tensor [N, 3, H, W] in [0, 1].

        Returns:
            Float tensor [N]. It must not saturate: prefer log-odds to a probability.
        """

    def predict(self, model: Model, images: Tensor) -> Tensor:
        """Return the predicted class of each image, int64 [N]: argmax of the first K logits."""
        return model.logits(images)[:, : model.classes].argmax(1)

    def smooth_score(self) -> Objective | None:
        """Return a differentiable stand-in whose gradient is used in place of the score's.

        For a score with steps, look-ups or roundings (BPDA; Athalye et al., ICML 2018). Values
        are still those of the score; only the backward pass goes through the stand-in.
        """
        return None

    def attack_objectives(self) -> Mapping[str, Objective | Anchored]:
        """Return further functions that an attacker should also try to lower, by name."""
        return {}

    def published_objective(self) -> Objective | None:
        """Return what the published evaluation lowers, for the preset ``paper``."""
        return None

    def published_score(self) -> Objective | None:
        """Return the score in its published, possibly saturating form; None if it is `score`."""
        return None


def averaged(objective: Objective, draws: int) -> Objective:
    """Return the mean of several evaluations of a random function; of one, the function itself."""
    if draws == 1:
        return objective
    return lambda model, images: torch.stack([objective(model, images) for _ in range(draws)]).mean(
        0
    )


def detached_sign_step(objective: Objective, model: Model, images: Tensor, size: float) -> Tensor:
    """Move each pixel by ``size`` down the sign of the gradient of ``objective``.

    The input preprocessing of ODIN (Liang et al., 2018, eq. 2): sign(0) counts as +1, the result
    is not clipped, and the shift is a constant for whoever differentiates through it, which is
    exact almost everywhere.

    Returns:
        Float tensor like ``images``; its gradient in ``images`` is the identity.
    """
    if size == 0:
        return images
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model, inputs).sum(), inputs)
    return images - size * torch.where(gradient >= 0, 1.0, -1.0).to(images.dtype)
