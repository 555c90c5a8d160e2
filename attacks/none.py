"""No perturbation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from oodbench.perturbation import Candidate, Perturbation, SearchObjective


@dataclass(frozen=True)
class NoPerturbation(Perturbation):
    """Images as they are."""

    in_all: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        """Yield nothing: the clean image is always a candidate."""
        yield from ()
