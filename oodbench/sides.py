"""Which test images are attacked: out-of-distribution ones, in-distribution ones, or both.

On the side ``ood`` the OOD images are attacked to be accepted. On the side ``id`` the
in-distribution (ID) images are attacked to be rejected, and the OOD images stay clean; on the
side ``both`` each are attacked. The threshold is that of the clean ID images on all three.

The ID images are searched once for all OOD sets. A cell of side ``id`` or ``both`` computes
nothing itself: it puts the scores of that search together with those of a cell of side ``ood``,
clean or attacked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oodbench.cells import Cell
from oodbench.detector import Detector
from oodbench.plugins import PluginSpec
from oodbench.records import SIDES, Arrays

CLEAN = "none"
"""Name of the perturbation that leaves images as they are; a run does it if none is named."""


@dataclass(frozen=True)
class AttackedId:
    """The attacked ID test images of a detector.

    Attributes:
        arrays: ``ids``, ``scores`` and ``tags`` of the chosen images.
        attack: Facts of the search, as in the field of a record.
        seconds: Time it took.
        device: Where it was done.
    """

    arrays: Arrays
    attack: dict[str, Any] | None
    seconds: float
    device: str


def sides_of(asked: str, stages: Sequence[PluginSpec]) -> tuple[str, ...]:
    """Return the sides to plan of a perturbation, the ones that others stand on first.

    ``both`` means all three, since the third costs nothing once the others are there; what does
    nothing to an image has no sides.
    """
    if asked == "ood" or does_nothing(stages):
        return ("ood",)
    return SIDES if asked == "both" else (asked,)


def does_nothing(stages: Sequence[PluginSpec]) -> bool:
    """Whether no candidate is ever tried."""
    means = [stage.instance for stage in stages]
    return not any(stage.gradient_steps or stage.queries for stage in means)


def id_search(cell: Cell, id_set: str) -> Cell:
    """Return the search on ID images that a cell of side ``id`` or ``both`` stands on."""
    return replace(cell, image_set=id_set, side="id")


def ood_source(cell: Cell) -> Cell:
    """Return the cell of side ``ood`` whose OOD scores a cell of side ``id`` or ``both`` has.

    That of the side ``id`` is what a run of no perturbation asks for, so that either finds what
    the other has stored.
    """
    if cell.side == "both":
        return replace(cell, side="ood")
    clean = PluginSpec("attacks", CLEAN).replaced(preset="standard")
    return replace(cell, perturbation=clean, stages=(clean,), precision="float32", side="ood")


def with_clean_floor(detector: Detector, attacked: Arrays, clean: Arrays) -> Arrays:
    """Return attacked ID scores that are nowhere below the clean ones that set the threshold.

    The clean image is a candidate, but the search judged it in another batch, where its score
    may round otherwise, and the threshold is the very score of an image. Of a random score every
    evaluation is a draw of its own, and the higher of two would be too high.

    Args:
        detector: The detector.
        attacked: Arrays of the search.
        clean: Arrays of the same images as they are.
    """
    if detector.draws > 1:
        return attacked
    return attacked | {"scores": np.maximum(attacked["scores"], clean["scores"])}
