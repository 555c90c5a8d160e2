"""Carries out a plan: trains, scores, attacks, stores, and goes on where it was stopped."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonschema import ValidationError

from oodbench import intervals, metrics
from oodbench.errors import CellError, DamagedFileError, OodbenchError, RequestError
from oodbench.files import locked
from oodbench.identity import digest, parameters
from oodbench.images import Images
from oodbench.judging import THEN
from oodbench.plan import Cell, Plan, Subjected, described_cell
from oodbench.plugins import fallback_of
from oodbench.records import (
    SCHEMA,
    Arrays,
    arrays_digest,
    ids_array,
    read_arrays,
    read_record,
    write_arrays,
    write_named,
    write_record,
)
from oodbench.searched import FORWARD_COST, Ledger, gradient_checks, health
from oodbench.subject import Shown, judged
from oodbench.work import Piece, Work, joined, run_work, with_memory
from oodbench.workbench import versions

_RANGE = 500
"""Images of a piece of work; what is lost when a run is killed is at most one piece."""


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        records: Records of all cells that are there now, in the order of the plan.
        computed: How many of them this run computed.
        failures: A line for each cell that failed.
        errors: The exceptions behind them.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    computed: int = 0
    failures: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


def execute(plan: Plan) -> Outcome:
    """Compute the missing cells of a plan and store each as soon as it is there.

    Returns:
        All records; a cell that failed has none and is named among the failures.
    """
    run = _Run(plan)
    run.all_cells()
    outcome = run.outcome
    outcome.records = [plan.done[cell] for cell in plan.cells if cell in plan.done]
    return outcome


class _Run:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bench = plan.bench
        self.outcome = Outcome()
        self._id_scores: dict[Subjected, Arrays] = {}
        self._broken: set[Subjected] = set()

    def all_cells(self) -> None:
        for subject in dict.fromkeys(cell.subject for cell in self.plan.missing):
            self._prepare(subject)
        self._look_again()
        missing = [cell for cell in self.plan.missing if cell.subject not in self._broken]
        groups: dict[Any, list[Cell]] = {}
        for cell in missing:
            key = (cell.stages[0], cell.image_set) if cell.shared else cell
            groups.setdefault(key, []).append(cell)
        if not groups:
            return
        total = sum(self._cost(cells) for cells in groups.values())
        with self.bench.progress.task("scoring", total) as task:
            for cells in groups.values():
                title = cells[0].title if len(cells) == 1 else cells[0].image_set
                self._group(tuple(cells), partial(task.advance, note=title))

    def _look_again(self) -> None:
        """Use records whose weights were not there when the plan was made, but are the same now."""
        for cell in self.plan.missing:
            folder = self.plan.record_path(cell).parent
            if cell.subject in self._broken or not folder.exists():
                continue
            with locked(folder):
                record = self.plan.look_up(cell)
            if record is not None:
                self.plan.done[cell] = record

    def _cost(self, cells: Sequence[Cell]) -> float:
        """Return how much work is ticked for cells of one group."""
        first = cells[0].stages[0].instance
        detectors = len({cell.subject for cell in cells})
        steps = sum(1 + stage.instance.gradient_steps for cell in cells for stage in cell.stages)
        each: float = steps + FORWARD_COST * first.queries * detectors
        return each * len(self._images(cells[0]))

    def _images(self, cell: Cell) -> Images:
        subject = cell.subject
        return self.bench.limited(subject.taught.suite, cell.image_set, subject.limit)

    def _fail(self, title: str, error: Exception) -> None:
        reason = (
            str(error) if isinstance(error, OodbenchError) else f"{type(error).__name__}: {error}"
        )
        self.outcome.failures.append(f"{title}: {reason}")
        self.outcome.errors.append(error)

    # What a cell stands on

    def _prepare(self, subject: Subjected) -> None:
        """Train, fit and score the in-distribution images, once for all cells of a detector."""
        try:
            self.bench.weights(subject.taught)
            self.bench.state(subject.detector, subject.taught)
            self._id_scores[subject] = self._scores_of_id(subject)
        except (RequestError, DamagedFileError):
            raise
        except Exception as error:
            self._broken.add(subject)
            self._fail(subject.title, error)

    def _scores_of_id(self, subject: Subjected) -> Arrays:
        path = self.plan.id_path(subject)
        weights = self.bench.weights(subject.taught).digest
        # Another process may be scoring the same images: wait, then use what it made.
        with locked(path.parent):
            known = self.plan.id_scores(subject, weights)
            if known is None:
                known = with_memory(self.bench, partial(self._score_id, subject))
                identity = digest(self.plan.identities.subject(subject))
                meta = {"identity": identity, "weights": weights}
                suite = self.bench.suite(subject.taught.suite)
                folder = self.plan.place(subject).suite_folder
                write_named(path, known, meta, folder, suite.id_set)
        return known

    def _score_id(self, subject: Subjected, batch_size: int) -> Arrays:
        suite = self.bench.suite(subject.taught.suite)
        images = self.bench.limited(subject.taught.suite, suite.id_set, subject.limit)
        ids, labels = images.ids, images.labels
        if labels is None:
            raise CellError("the in-distribution test images have no labels")
        ready = self.bench.subject(subject.detector, subject.taught, "judge")
        published = ready.detector.published_score()
        parts: list[Arrays] = []
        for begin in range(0, len(images), batch_size):
            indices = np.arange(begin, min(begin + batch_size, len(images)))
            shown = Shown.of(self.bench.pixels(images, indices))
            with torch.no_grad():
                predicted = ready.detector.predict(ready.model, shown.inputs)[: shown.rows]
            part: Arrays = {
                "ids": ids_array([ids[i] for i in indices.tolist()]),
                "scores": judged(ready.detector.score, ready.model, shown).cpu().numpy(),
                "correct": predicted.cpu().numpy() == labels[indices],
            }
            if published is not None:
                part["published"] = judged(published, ready.model, shown).cpu().numpy()
            parts.append(part)
        return joined(parts)

    # Cells

    def _group(self, cells: tuple[Cell, ...], tick: Callable[[float], None]) -> None:
        count = len(self._images(cells[0]))
        failed: set[Cell] = set()
        pieces: dict[Cell, list[Piece]] = {cell: [] for cell in cells}
        for start in range(0, count, _RANGE):
            stop = min(start + _RANGE, count)
            todo = []
            for cell in cells:
                kept = None if cell in failed else self._kept(cell, start, stop)
                if kept is not None:
                    pieces[cell].append(kept)
                    tick(self._cost([cell]) * (stop - start) / count)
                elif cell not in failed:
                    todo.append(cell)
            if not todo:
                continue
            results = run_work(Work(tuple(todo), start, stop), self.bench, tick)
            for cell, result in zip(todo, results, strict=True):
                if isinstance(result, Exception):
                    failed.add(cell)
                    self._fail(cell.title, result)
                    continue
                pieces[cell].append(result)
                if stop < count or start > 0:
                    self._keep(cell, start, stop, result)
        for cell in cells:
            if cell not in failed:
                self._store(cell, pieces[cell])

    def _store(self, cell: Cell, pieces: list[Piece]) -> None:
        path = self.plan.record_path(cell)
        # Another process may have stored the same cell meanwhile: then its files stay.
        with locked(path.parent):
            record = self.plan.look_up(cell)
            if record is None:
                try:
                    write_record(path, *self._record(cell, pieces))
                except (ValueError, ValidationError) as error:
                    self._fail(cell.title, error)
                    return
                record = read_record(path)
                self.outcome.computed += 1
        self.plan.done[cell] = record
        shutil.rmtree(self._parts_folder(cell), ignore_errors=True)

    def _parts_folder(self, cell: Cell) -> Path:
        path = self.plan.record_path(cell)
        return path.parent / f".{path.stem}.parts"

    def _part_meta(self, cell: Cell) -> dict[str, str]:
        return {
            "identity": digest(self.plan.identities.cell(cell)),
            "weights": self.bench.weights(cell.subject.taught).digest,
            "id_scores": arrays_digest(self._id_scores[cell.subject]),
        }

    def _keep(self, cell: Cell, start: int, stop: int, piece: Piece) -> None:
        path = self._parts_folder(cell) / f"{start}-{stop}.npz"
        meta = self._part_meta(cell) | {"ledger": piece.ledger, "seconds": piece.seconds}
        # Another process that has finished the cell takes the folder away.
        with suppress(FileNotFoundError):
            write_arrays(path, piece.arrays, meta)

    def _kept(self, cell: Cell, start: int, stop: int) -> Piece | None:
        path = self._parts_folder(cell) / f"{start}-{stop}.npz"
        if self.plan.force or not path.exists():
            return None
        try:
            arrays, meta = read_arrays(path)
        except DamagedFileError:
            # It holds nothing that computing again does not bring back.
            return None
        if any(meta.get(key) != value for key, value in self._part_meta(cell).items()):
            return None
        return Piece(arrays, meta["ledger"], meta["seconds"])

    # Records

    def _record(self, cell: Cell, pieces: list[Piece]) -> tuple[dict[str, Any], Arrays]:
        arrays = joined([piece.arrays for piece in pieces])
        known = self._id_scores[cell.subject]
        id_scores, ood_scores = known["scores"], arrays["scores"]
        values = metrics.compute(id_scores, ood_scores)
        bounds = intervals.intervals(id_scores, ood_scores)
        right, rejected = int(known["correct"].sum()), values["fnr"] * len(id_scores)
        bounds["accuracy"] = intervals.proportion_interval(right, len(id_scores))
        bounds["fnr"] = intervals.proportion_interval(round(rejected), len(id_scores))
        suite = self.bench.suite(cell.subject.taught.suite)
        note = suite.image_set(cell.image_set).card.note
        told = described_cell(cell, self.plan.identities)
        told["digests"] |= {
            "weights": self.bench.weights(cell.subject.taught).digest,
            "id_scores": arrays_digest(known),
        }
        threshold = values.pop("threshold")
        record = {
            "schema": SCHEMA,
            **told,
            "n_id": len(id_scores),
            "n_ood": len(ood_scores),
            **values,
            "accuracy": right / len(id_scores),
            "threshold": threshold if np.isfinite(threshold) else str(threshold),
            "intervals": {name: list(pair) for name, pair in bounds.items()},
            "attack": self._attack(cell, pieces, arrays),
            "versions": versions() | {"plugins": _plugin_versions(self.plan.identities.cell(cell))},
            "device": device_name(self.bench.device),
            "seconds": round(sum(piece.seconds for piece in pieces), 3),
            "notes": [
                *dict.fromkeys(text for text in (note, *cell.notes) if text),
                *metrics.notes(id_scores, ood_scores),
            ],
            "extras": self._extras(cell, known, arrays),
        }
        return record, arrays

    def _attack(self, cell: Cell, pieces: list[Piece], arrays: Arrays) -> dict[str, Any] | None:
        stages = [stage.instance for stage in cell.stages]
        budget = sum(stage.gradient_steps for stage in stages)
        queries = sum(stage.queries for stage in stages)
        if not budget and not queries:
            return None
        ledger = Ledger()
        for piece in pieces:
            ledger.add(piece.ledger)
        first = ledger.first
        attack = {
            "params": parameters(cell.perturbation.instance),
            "budget": budget,
            "queries": queries,
            "steps": ledger.gradient_images / len(arrays["ids"]),
            "restarts": sum(stage.restarts(sorted(first)) for stage in stages),
            "objectives": sorted(first),
            "won": _won(cell, arrays["tags"].tolist()),
            "health": health(first),
        }
        if ledger.checks["images"]:
            attack["gradient"] = gradient_checks(ledger.checks)
        fallback = fallback_of(stages[-1])
        if ledger.fallback["images"] and fallback is not None:
            attack["fallback"] = {
                "name": stages[-1].fallback,
                "images": ledger.fallback["images"],
                "queries": fallback.queries,
            }
        return attack

    def _extras(self, cell: Cell, known: Arrays, arrays: Arrays) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        decision = cell.subject.detector.instance.decision
        if decision is not None:
            extras["decision"] = metrics.at_threshold(known["scores"], arrays["scores"], decision)
        if cell.perturbation.instance.preset == "paper":
            ours, theirs = (a.get("published", a["scores"]) for a in (known, arrays))
            extras |= metrics.published(ours, theirs)
            extras["auroc_published"] = metrics.auroc(ours, theirs)
            if decision is not None:
                # Fault Q3: published figures of such a detector are those of its decision.
                extras["fpr95_published"] = extras["decision"]["fpr"]
                extras["auroc_published"] = extras["decision"]["auroc"]
        return extras


def _plugin_versions(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions of a cell's plugins, or the digests of the source of others' plugins."""
    plugins = [identity[kind] for kind in ("detector", "recipe", "network", "perturbation")]
    stages = identity["stages"]
    fallbacks = [stage["fallback"] for stage in stages if "fallback" in stage]
    return {
        plugin["name"]: plugin.get("version", plugin.get("source"))
        for plugin in [*plugins, *stages, *fallbacks]
    }


def _won(cell: Cell, tags: Sequence[str]) -> dict[str, Any]:
    """Count what made the chosen images; by stage where there are several.

    Candidates that all detectors share are counted by kind, such as the type of a corruption; the
    scores' file has every image's whole tag.
    """
    by_stage = zip(*(tag.split(THEN) for tag in tags), strict=True)
    counts = {}
    for stage, column in zip(cell.stages, by_stage, strict=True):
        kinds = [tag.partition("/")[0] if stage.instance.shared else tag for tag in column]
        counts[stage.name] = dict(sorted(Counter(kinds).items()))
    return counts if len(counts) > 1 else counts[cell.stages[0].name]


def device_name(device: torch.device) -> str:
    """Return the name of a device for a record."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {torch.get_num_threads()} threads"
