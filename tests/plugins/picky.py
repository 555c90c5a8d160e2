"""A perturbation that fails on the in-distribution images of the tiny suite."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from oodbench.perturbation import Candidate, Perturbation, SearchObjective


@dataclass(frozen=True)
class Picky(Perturbation):
    """Inverts images, but none of stripes."""

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        if any(image.startswith("stripes") for image in ids):
            raise ArithmeticError("no stripes")
        yield Candidate(255 - centres, "inverted")

    @property
    def queries(self) -> int:
        return 1
