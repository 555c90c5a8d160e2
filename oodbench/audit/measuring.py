"""What an audit tries on a sample of a cell's images: the same search again, and others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench import metrics
from oodbench.audit import checks
from oodbench.audit.checks import Check, Values
from oodbench.cells import Cell
from oodbench.detector import averaged
from oodbench.identity import parameters
from oodbench.images import Subset
from oodbench.judging import worst_case
from oodbench.perturbation import Perturbation
from oodbench.plugins import PluginSpec, field_types, passed_on, version_of, with_role
from oodbench.records import Arrays
from oodbench.searched import FORWARD_COST, Ledger, gradient_checks
from oodbench.subject import Shown, counted_draws, judged
from oodbench.threat import LEVELS
from oodbench.workbench import Workbench

RADII = (1, 2, 4, 8, 16, LEVELS)
"""Radii in grey levels at which the search is done, beside its own."""
MOST_DRAWS = 300
"""Draws of noise at most; more hardly lower it."""

_SAME = 1e-5
# What a search costs of its gradients alone, with the values that it asks for besides.
_VALUES = 1.05
_PURPOSE = "audit"
Tick = Callable[[float], None]


@dataclass(frozen=True)
class Settings:
    """How thorough an audit is.

    Attributes:
        sample: Images of each cell, spread over its set.
        queries: Scores an image of the search without gradients; 500 keep the audit of linf on
            all of mini under a quarter of an hour.
    """

    sample: int = 20
    queries: int = 500


@dataclass(frozen=True)
class Found:
    """What an attack made of the sample.

    Attributes:
        images: uint8 [N, 3, H, W].
        values: Their scores [N]; of a random score the mean, with the same draws for any attack.
        chosen: The values that chose them [N].
        ledger: What the search did.
    """

    images: Tensor
    values: Values
    chosen: Values
    ledger: Ledger


def last_stage(cell: Cell) -> PluginSpec:
    """Return the stage whose search is audited."""
    return cell.stages[-1]


def why_not(cell: Cell) -> str:
    """Return why a cell has nothing to audit; empty where it has."""
    last: Perturbation = last_stage(cell).instance
    if getattr(cell, "side", "ood") != "ood":
        return "in-distribution images are attacked; only attacks on OOD images are audited"
    if last.shared:
        return "its candidates are the same for every detector; there is no search to audit"
    return ""


def tried_plugins(cell: Cell) -> dict[str, Any]:
    """Return versions of the attacks that an audit of a cell tries, or digests of their source."""
    last = last_stage(cell)
    names = [with_role("floor"), with_role("black_box")]
    if last.instance.fallback:
        names.append(last.instance.fallback)
    specs = [last, *(PluginSpec("attacks", name) for name in names)]
    return {spec.name: version_of(type(spec.instance)) for spec in specs}


class Sample:
    """Some images of a cell, and its detector with what may be tried on it.

    Of a composition they are the images that the stages before the last made for this detector.
    """

    def __init__(
        self, cell: Cell, bench: Workbench, size: int, batch_size: int, tick: Tick | None = None
    ) -> None:
        subject = cell.subject
        images = Subset(bench.limited(subject.taught.suite, cell.image_set, subject.limit), size)
        self.cell = cell
        self.ids: Sequence[str] = images.ids
        self._subject = bench.subject(subject.detector, subject.taught, cell.precision)
        self._batch_size = batch_size
        self._tick = tick
        self._centres = bench.pixels(images, range(len(images)))
        for stage in cell.stages[:-1]:
            self._centres = self.attacked(stage.instance).images
        self.clean = self.values(self._centres)

    @property
    def repeatable(self) -> bool:
        """Whether the detector declares no randomness."""
        return self._subject.detector.draws == 1

    def attacked(self, perturbation: Perturbation) -> Found:
        """Do a perturbation about the images."""
        ledger = Ledger(tick=self._tick)
        found = [
            worst_case([self._subject], [perturbation], images, ids, 0, ledger)[0]
            for images, ids in self._batches(self._centres)
        ]
        images = torch.cat([verdict.images for verdict in found])
        chosen = _plain(torch.cat([verdict.values for verdict in found]))
        return Found(images, self.values(images), chosen, ledger)

    def values(self, images: Tensor) -> Values:
        """Return the scores of images of the sample."""
        detector = self._subject.detector
        score = averaged(detector.score, detector.draws)
        parts = []
        for part, ids in self._batches(images):
            with counted_draws(_PURPOSE, ids):
                parts.append(judged(score, self._subject.model, Shown.of(part)))
        return _plain(torch.cat(parts))

    def _batches(self, images: Tensor) -> list[tuple[Tensor, Sequence[str]]]:
        size = self._batch_size
        starts = range(0, len(images), size)
        return [(images[i : i + size], self.ids[i : i + size]) for i in starts]


def _plain(values: Tensor) -> Values:
    result: Values = values.cpu().numpy().astype(np.float64)
    return result


def searched_again(
    cell: Cell, bench: Workbench, size: int, tick: Tick | None, batch_size: int
) -> tuple[Sample, Found]:
    """Return a cell's sample, and what its own search makes of it."""
    sample = Sample(cell, bench, size, batch_size, tick)
    return sample, sample.attacked(last_stage(cell).instance)


class Trials:
    """What is tried on the sample of one cell against its own search."""

    def __init__(
        self, sample: Sample, own: Found, id_scores: NDArray[np.float32], settings: Settings
    ) -> None:
        self._sample = sample
        self._own = own
        self._id_scores = id_scores
        self._settings = settings
        self._spec = last_stage(sample.cell)
        self._last: Perturbation = self._spec.instance
        self._iterates = self._last.gradient_steps > 1 or self._last.queries > 0

    def checks(self, attack: Mapping[str, Any], others: Mapping[str, Tensor] | None) -> list[Check]:
        """Make all checks, in the order of `oodbench.audit.checks.NAMES`.

        Args:
            attack: Field of the record. One from before gradients were looked at is completed
                with what the search of the sample saw.
            others: Images of the sample made against other detectors, by name; None where they
                are not about the same centres.
        """
        seen = self._own.ledger.checks
        if "gradient" not in attack and seen["images"]:
            attack = {**attack, "gradient": gradient_checks(seen)}
        return [
            *checks.free_checks(attack, self._spec.name),
            self._floor(),
            self._black_box(),
            self._transfer(others),
            self._radius(),
            self._budget(),
        ]

    def _auroc(self, found: Found) -> float:
        return metrics.auroc(self._id_scores, found.values)

    def _rival(self, role: str, effort: int) -> tuple[str, Perturbation]:
        """Return another perturbation in the same ball, with so many draws or queries."""
        name = with_role(role)
        spec = passed_on(name, parameters(self._last))
        known = [field for field in ("budget", "queries") if field in field_types(spec)]
        return name, spec.replaced(**dict.fromkeys(known, effort)).instance

    def _both(self, other: Found) -> dict[str, float]:
        return {"search": self._auroc(self._own), "other": self._auroc(other)}

    def _floor(self) -> Check:
        draws = min(self._last.gradient_steps or self._last.queries, MOST_DRAWS)
        name, noise = self._rival("floor", draws)
        other = self._sample.attacked(noise)
        own, clean = self._own.values, self._sample.clean
        return checks.floor(name, draws, clean, own, other.values, self._both(other))

    def _black_box(self) -> Check:
        if self._last.role == "black_box":
            return checks.skipped("black_box", "the attack is itself a search without gradients")
        if self._fell_back:
            return checks.skipped(
                "black_box", "the search itself went on without gradients, on most images"
            )
        queries = self._settings.queries
        name, search = self._rival("black_box", queries)
        other = self._sample.attacked(search)
        own, clean = self._own.values, self._sample.clean
        return checks.black_box(name, queries, clean, own, other.values, self._both(other))

    def _transfer(self, others: Mapping[str, Tensor] | None) -> Check:
        if others is None:
            return checks.skipped(
                "transfer", "in a composition every detector's images have centres of their own"
            )
        if not others:
            return checks.skipped("transfer", "no other detector's record of this attack is there")
        values = np.stack([self._sample.values(images) for images in others.values()])
        return checks.transfer(list(others), self._sample.clean, self._own.values, values)

    def _radius(self) -> Check:
        if "eps" not in field_types(self._spec):
            return checks.skipped("radius", "the attack has no radius")
        if not self._iterates:
            return checks.skipped("radius", "a single step does not use all of a larger ball")
        aurocs, fprs = {0: metrics.auroc(self._id_scores, self._sample.clean)}, {}
        fprs[0] = metrics.fpr95(self._id_scores, self._sample.clean)
        own_radius = parameters(self._last)["eps"]
        for radius in sorted({*RADII, own_radius}):
            found = (
                self._own
                if radius == own_radius
                else self._sample.attacked(self._spec.replaced(eps=radius).instance)
            )
            aurocs[radius] = self._auroc(found)
            fprs[radius] = metrics.fpr95(self._id_scores, found.values)
        return checks.radius(aurocs, fprs, LEVELS)

    @property
    def _fell_back(self) -> bool:
        """Whether the fallback searched most images of the sample."""
        return 2 * self._own.ledger.fallback["images"] > len(self._own.values)

    def _budget(self) -> Check:
        if self._fell_back:
            return checks.skipped(
                "budget", "the fallback searched most images, with a budget of its own"
            )
        known = parameters(self._last)
        for field, unit in (("budget", "gradient steps"), ("queries", "queries")):
            steps = known.get(field)
            if steps:
                found = self._sample.attacked(self._spec.replaced(**{field: 2 * steps}).instance)
                return checks.budget(self._auroc(self._own), self._auroc(found), steps, unit)
        return checks.skipped("budget", "the attack has no budget")


def differing(sample: Sample, own: Found, stored: Arrays) -> list[str]:
    """Say where the search, done again, does not end with the score of the record.

    Of a score that declares itself random it says nothing.
    """
    if not sample.repeatable:
        return []
    by_id = dict(zip(stored["ids"].tolist(), stored["scores"].tolist(), strict=True))
    before = np.array([by_id[name] for name in sample.ids], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(before == own.chosen, 0.0, np.abs(own.chosen - before))
        count = int((apart > _SAME * np.maximum(np.abs(before), 1)).sum())
    if not count:
        return []
    return [
        f"done again, the search ends with another score on {count} of {len(before)} images, by up"
        f" to {apart.max():.2g}: other versions, threads or hardware than the record's, or a score"
        " that cannot be repeated"
    ]


def cost(cell: Cell, images: int, settings: Settings, record: Mapping[str, Any]) -> float:
    """Return about how much work the trials of a cell are, in gradients of one image."""
    last: Perturbation = last_stage(cell).instance
    # Its own radius is searched already; twice the budget counts twice.
    searches = len({*RADII} | {parameters(last).get("eps")}) - 1 + 2
    if last.gradient_steps <= 1 and not last.queries:
        searches = 0
    rivals = min(last.gradient_steps or last.queries, MOST_DRAWS) + settings.queries
    return images * (searches * _each(last, record) + FORWARD_COST * rivals)


def search_cost(cell: Cell, images: int, record: Mapping[str, Any]) -> float:
    """Return about how much work a cell's own search is, earlier stages included."""
    earlier = [stage.instance for stage in cell.stages[:-1]]
    before = sum(s.gradient_steps + FORWARD_COST * s.queries for s in earlier)
    work: float = images * (before + _each(last_stage(cell).instance, record))
    return work


def _each(last: Perturbation, record: Mapping[str, Any]) -> float:
    """Return how much work a search is for one image, with what it falls back to."""
    work: float = _VALUES * last.gradient_steps + FORWARD_COST * last.queries
    fallback = (record["attack"] or {}).get("fallback")
    if fallback:
        again = last.gradient_steps + FORWARD_COST * fallback["queries"]
        work += again * fallback["images"] / record["n_ood"]
    return work
