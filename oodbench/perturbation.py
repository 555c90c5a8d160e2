"""The contract of a perturbation: what happens to images before they are scored."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

PRESETS = ("standard", "paper")


@dataclass(frozen=True)
class Candidate:
    """Images that a search offers; the harness judges which of them count.

    Attributes:
        images: uint8 [N, 3, H, W], one for each centre.
        tags: What made each, such as the corruption or the objective; one for all or one each.
    """

    images: Tensor
    tags: str | Sequence[str]

    def tag(self, index: int) -> str:
        """Return the tag of one image."""
        return self.tags if isinstance(self.tags, str) else self.tags[index]


class SearchObjective(Protocol):
    """A function of images in [0, 1], float32 [N, 3, H, W], that the search lowers.

    Its rows belong to the centres of the batch, since it may depend on them, such as on their
    likeliest class. The harness counts the gradients and keeps an eye on their health.
    """

    @property
    def differentiable(self) -> bool:
        """Whether `gradient` may be called."""

    def value(self, images: Tensor) -> Tensor:
        """Return the values [N], without a gradient."""

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values [N] and their gradients [N, 3, H, W]."""

    def rows(self, index: Tensor) -> "SearchObjective":
        """Return the same for some of the centres, int64 [M]."""


@dataclass(frozen=True)
class Perturbation(ABC):
    """What an attacker may do to an image.

    A subclass is a frozen dataclass whose fields are its parameters. A field ``eps`` (whole grey
    levels) makes it an L∞ ball, a field ``budget`` a search of so many gradient steps an image;
    the command line sets them by these names.

    Attributes:
        preset: ``standard``, the strongest honest evaluation, or ``paper``, as published with
            its faults.
    """

    version: ClassVar[int] = 1
    stages: ClassVar[tuple[str, ...]] = ()
    """Names of perturbations to be done one about the result of the other, in place of a search."""
    in_all: ClassVar[bool] = False
    """Whether ``--attack all`` means this one too: the four of the published comparison."""
    shared: ClassVar[bool] = False
    """Whether the candidates are the same for all detectors, so that they are made once."""
    note: ClassVar[str] = ""
    """What a table that uses it has to say of it, such as in what it is an approximation."""
    fallback: ClassVar[str] = ""
    """Name of the perturbation to use on images where the score has no gradient, or a wrong one."""
    role: ClassVar[str] = ""
    """What it is used for: ``floor`` or ``black_box`` by an audit, ``gradient`` as the attack that
    parameters are chosen under."""

    preset: str = "standard"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}")

    def fallback_parameters(self) -> Mapping[str, Any]:
        """Return parameters of the fallback besides those of the same name as its own."""
        return {}

    @abstractmethod
    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield candidates for a batch of images.

        It must treat every image on its own: the result for an image may depend on its pixels,
        its id and the seed, never on the rest of the batch.

        Args:
            objectives: Functions to lower. ``score`` is always there under ``standard``, with
                those that the detector adds; under ``paper`` ``published`` is the only one.
                Where in-distribution images are attacked they stand for what is to be raised,
                with the sign changed. Empty where `shared`.
            centres: uint8 [N, 3, H, W].
            ids: Ids of the images.
            seed: Seed of the evaluation, for `oodbench.randomness`.
        """

    @property
    def gradient_steps(self) -> int:
        """Gradient steps an image that a search takes, for the record and for progress."""
        return 0

    @property
    def queries(self) -> int:
        """Candidates an image that are scored without a gradient, for the record and progress."""
        return 0

    def restarts(self, objectives: Sequence[str]) -> int:
        """Return how many runs a search makes for each image, for the record."""
        return 0


@dataclass(frozen=True)
class Composition(Perturbation):
    """Perturbations done one about the result of the other, each judged about its own centre.

    A subclass names them in `stages` and repeats those of their fields that it passes on.
    """

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Refuse: the harness searches each stage on its own.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{type(self).__name__} is carried out stage by stage, not searched")
