"""Cells, the units that bear a number, and what makes two of them the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.identity import PROTOCOL, digest, question
from oodbench.perturbation import Perturbation
from oodbench.plugins import PluginSpec, fallback_spec
from oodbench.threat import format_eps
from oodbench.workbench import Taught, Workbench


@dataclass(frozen=True)
class Subjected:
    """A detector with trained weights, on some of a suite's test images.

    Attributes:
        detector: The detector, its parameters resolved.
        taught: The training behind it.
        limit: Images of each test set; None for all.
    """

    detector: PluginSpec
    taught: Taught
    limit: int | None

    @property
    def title(self) -> str:
        """Short name for people."""
        return f"{self.detector.name}, seed {self.taught.seed}"

    def __reduce__(self) -> tuple[Any, ...]:
        # The recipe's class may stand in a file that another process has not imported; the
        # reference to the detector brings it there.
        taught = self.taught
        where = (taught.suite, taught.schedule, taught.network, taught.seed, taught.weights)
        return _subjected, (self.detector, *where, self.limit)


def _subjected(
    detector: PluginSpec,
    suite: str,
    schedule: str,
    network: str,
    seed: int,
    weights: str | None,
    limit: int | None,
) -> Subjected:
    taught = Taught(suite, detector.instance.recipe, schedule, network, seed, weights)
    return Subjected(detector, taught, limit)


@dataclass(frozen=True)
class Cell:
    """One number-bearing unit, or a search that several of them stand on; see `oodbench.sides`.

    Attributes:
        subject: The detector.
        perturbation: What happens to the images that are attacked.
        stages: The perturbations of a composition; the perturbation itself otherwise.
        image_set: Name of the OOD set; the in-distribution set where this is the search on it.
        precision: Type of the search's arithmetic; float32 where nothing is searched.
        side: Which images are attacked: ``ood``, ``id`` or ``both``.
    """

    subject: Subjected
    perturbation: PluginSpec
    stages: tuple[PluginSpec, ...]
    image_set: str
    precision: str
    side: str = "ood"

    @property
    def title(self) -> str:
        """Short name for people."""
        side = "" if self.side == "ood" else f", side {self.side}"
        return f"{self.subject.title}, {self.perturbation.name} on {self.image_set}{side}"

    @property
    def raised(self) -> bool:
        """Whether work on its images raises the score: in-distribution ones, to be rejected."""
        return self.side == "id"

    @property
    def shared(self) -> bool:
        """Whether the first candidates are the same for all detectors."""
        return bool(self.stages[0].instance.shared)

    @property
    def notes(self) -> list[str]:
        """What a table has to say of the perturbation and its stages."""
        return [spec.instance.note for spec in (self.perturbation, *self.stages)]


class Identities:
    """Identities of a run's cells, with the digests that they need."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._subjects: dict[Subjected, dict[str, Any]] = {}
        self._cells: dict[Cell, dict[str, Any]] = {}

    def subject(self, subject: Subjected) -> dict[str, Any]:
        """Return what determines the scores of the in-distribution test images."""
        if subject not in self._subjects:
            bench, taught = self._bench, subject.taught
            suite = bench.suite(taught.suite)
            weights = bench.weights_identity(taught)
            test = bench.images(taught.suite, suite.id_set, "test").digest
            fitted = {}
            if subject.detector.instance.needs_pool:
                fitted["pool"] = bench.images(taught.suite, suite.pool, "train").digest
            self._subjects[subject] = {
                "protocol": PROTOCOL,
                "suite": Path(taught.suite).stem,
                "limit": subject.limit,
                "detector": subject.detector.identity(),
                **bench.training_question(taught),
                "digests": {**weights["digests"], **fitted, "id": test, "start": weights["start"]},
            }
        return self._subjects[subject]

    def cell(self, cell: Cell) -> dict[str, Any]:
        """Return what determines a cell, or a search."""
        if cell not in self._cells:
            self._cells[cell] = self._of_cell(cell)
        return self._cells[cell]

    def _of_cell(self, cell: Cell) -> dict[str, Any]:
        subject = self.subject(cell.subject)
        images = self._bench.images(cell.subject.taught.suite, cell.image_set, "test")
        return {
            **subject,
            "digests": {**subject["digests"], "set": images.digest},
            "set": cell.image_set,
            "side": cell.side,
            "perturbation": cell.perturbation.identity(),
            "stages": [_stage_identity(stage) for stage in cell.stages],
            "precision": cell.precision,
        }


def _stage_identity(stage: PluginSpec) -> dict[str, Any]:
    """Return the identity of a stage, with what it falls back to where it does."""
    fallback = fallback_spec(stage.instance)
    if fallback is None or stage.instance.preset == "paper":
        return stage.identity()
    return stage.identity() | {"fallback": fallback.identity()}


def described_cell(cell: Cell, identities: Identities) -> dict[str, Any]:
    """Return the fields of a cell's record that say what was asked."""
    identity = identities.cell(cell)
    perturbation: Perturbation = cell.perturbation.instance
    radius = getattr(perturbation, "eps", None)
    return {
        "identity": digest(identity),
        "cell_key": digest(question(identity)),
        "suite": identity["suite"],
        "detector": cell.subject.detector.name,
        "params": identity["detector"]["params"],
        "recipe": identity["recipe"],
        "schedule": identity["schedule"],
        "network": identity["network"]["name"],
        "seed": cell.subject.taught.seed,
        "perturbation": cell.perturbation.name,
        "preset": perturbation.preset,
        "eps": None if radius is None else format_eps(radius),
        "side": identity["side"],
        "kind": "empirical",
        "precision": identity["precision"],
        "set": cell.image_set,
        "protocol": PROTOCOL,
        "digests": dict(identity["digests"]),
    }
