"""The worst of the corruptions of CIFAR-C."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from oodbench.perturbation import Candidate, Perturbation, SearchObjective


@dataclass(frozen=True)
class Corruption(Perturbation):
    """Try 19 corruption types at every severity, each drawn once (Chen et al., 2021, code).

    Types and parameters are those of CIFAR-C (Hendrycks & Dietterich, ICLR 2019). The published
    attack is the same, but for draws that nobody can repeat; ours are functions of the seed, the
    image's id, the type and the severity, independent of each other.

    Attributes:
        severity: The highest severity, 1 to 5; all up to it are tried, as published. 5.
    """

    in_all: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    note: ClassVar[str] = (
        "corruption: frost, motion blur, snow and spatter are approximations of CIFAR-C's"
    )

    severity: int = SEVERITIES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.severity not in range(1, SEVERITIES + 1):
            raise ValueError(f"severity must be 1 to {SEVERITIES}")

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield one corruption after the other, the mildest severity first."""
        for severity in range(1, self.severity + 1):
            for name in CORRUPTIONS:
                images = corrupt(centres, ids, name, severity, seed)
                yield Candidate(images, f"{name}/{severity}")

    @property
    def queries(self) -> int:
        """Number of types times that of severities."""
        return self.severity * len(CORRUPTIONS)
