"""A detector under attack, and what it says of real images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.detector import Detector, Objective, averaged
from oodbench.errors import CellError
from oodbench.model import Model
from oodbench.perturbation import Perturbation
from oodbench.randomness import generator
from oodbench.threat import to_float

# Below this many rows libraries switch to other kernels, whose rounding differs.
_MIN_ROWS = 16


@dataclass(frozen=True)
class Subject:
    """A detector under attack.

    Attributes:
        detector: The detector.
        model: Its model in float32, for judging.
        search_model: A faster, nearly equal model for searching.
        raised: Whether the attacker raises the score, as on in-distribution images that are to
            be rejected, and not lowers it.
        draws: Draws over which its score is averaged; above the detector's own where it was found
            to be random without saying so.
    """

    detector: Detector
    model: Model
    search_model: Model
    raised: bool = False
    draws: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", max(self.draws, self.detector.draws))

    @property
    def sign(self) -> int:
        """1 where the score is lowered, -1 where it is raised: an attacker lowers sign x score."""
        return -1 if self.raised else 1

    def selection(self, perturbation: Perturbation) -> Objective:
        """Return what decides between candidates: the score, or under ``paper`` what was used.

        Of a random score it is the mean of several draws, so that luck does not decide.
        """
        if perturbation.preset == "paper":
            choice = (
                self.detector.published_score()
                if perturbation.shared
                else self.detector.published_objective()
            )
            if choice is not None:
                return choice
        return averaged(self.detector.score, self.draws)


def padded(rows: Tensor) -> Tensor:
    """Repeat the last row of a small batch, so that its rounding is that of a large one."""
    missing = _MIN_ROWS - len(rows)
    if missing <= 0:
        return rows
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


@dataclass(frozen=True)
class Shown:
    """Real images made ready to be judged once for all detectors.

    Attributes:
        inputs: float32 [M, 3, H, W] in [0, 1], with rows added where there are few.
        rows: How many of them count.
    """

    inputs: Tensor
    rows: int

    @classmethod
    def of(cls, images: Tensor) -> "Shown":
        """Make uint8 images [N, 3, H, W] ready."""
        return cls(padded(to_float(images)), len(images))


def judged(objective: Objective, model: Model, shown: Shown) -> Tensor:
    """Evaluate a score on real images and check what comes back.

    Returns:
        float32 [N].

    Raises:
        CellError: If a value has the wrong shape or is NaN.
    """
    with torch.no_grad():
        values = objective(model, shown.inputs)
    if tuple(values.shape) != (len(shown.inputs),):
        raise CellError(
            f"the score of {len(shown.inputs)} images has shape {tuple(values.shape)}; it must "
            f"be ({len(shown.inputs)},)"
        )
    values = values[: shown.rows].float()
    if bool(values.isnan().any()):
        count = int(values.isnan().sum())
        raise CellError(f"the score is NaN on {count} of {shown.rows} images")
    return values


# Change of a score between two evaluations, of its size or of one unit, above which it is random.
_REPEAT_TOLERANCE = 1e-3


def differs(again: Tensor, before: Tensor) -> Tensor:
    """Return which scores [N] are others than before by more than rounding, bool [N]."""
    return (again - before).abs() > _REPEAT_TOLERANCE * before.abs().clamp(min=1)


def judged_by_count(
    objective: Objective, model: Model, images: Tensor, purpose: str, ids: Sequence[str]
) -> Tensor:
    """Evaluate a random score, the draws of each image a function of purpose and id alone.

    One image at a time, since what a score draws for a batch cannot be taken apart.

    Returns:
        float32 [N].
    """
    values = []
    for row, name in enumerate(ids):
        with _drawing(purpose, name):
            values.append(judged(objective, model, Shown.of(images[row : row + 1])))
    return torch.cat(values)


@contextmanager
def _drawing(purpose: str, name: str) -> Iterator[None]:
    """Let torch draw numbers that are a function of a purpose and an id."""
    with torch.random.fork_rng():
        torch.manual_seed(int(generator(0, purpose, name).integers(2**63)))
        yield


@contextmanager
def counted_draws(purpose: str, ids: Sequence[str]) -> Iterator[None]:
    """Let a random score draw the same numbers whenever the same batch is searched.

    They are a function of the purpose and the batch's first id, so a search against a random score
    depends on the batch; what it ends with is scored by `judged_by_count`.
    """
    with _drawing(purpose, ids[0] if ids else ""):
        yield
