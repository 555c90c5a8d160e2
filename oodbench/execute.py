"""Carries out a plan: trains, scores, attacks, stores, and goes on where it was stopped."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonschema import ValidationError

from oodbench.cells import Cell, Subjected
from oodbench.errors import CellError, DamagedFileError, OodbenchError, RequestError
from oodbench.files import locked
from oodbench.identity import digest
from oodbench.images import Images
from oodbench.plan import Plan
from oodbench.progress import Foresight
from oodbench.recording import Evidence, device_name, facts_of_search, record_of
from oodbench.records import (
    Arrays,
    arrays_digest,
    ids_array,
    read_arrays,
    read_record,
    read_scores,
    write_arrays,
    write_named,
    write_record,
)
from oodbench.searched import FORWARD_COST
from oodbench.sides import AttackedId, ood_source, with_clean_floor
from oodbench.subject import Shown, judged, judged_by_count
from oodbench.work import Piece, Work, joined, run_work, with_memory

_RANGE = 500
"""Images of a piece of work; what is lost when a run is killed is at most one piece."""


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        records: Records of all cells that are there now, in the order of the plan.
        computed: How many records this run computed.
        failures: A line for each cell that failed.
        errors: The exceptions behind them.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    computed: int = 0
    failures: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def fail(self, title: str, error: Exception) -> None:
        """Take note of what failed, and why."""
        reason = (
            str(error) if isinstance(error, OodbenchError) else f"{type(error).__name__}: {error}"
        )
        self.failures.append(f"{title}: {reason}")
        self.errors.append(error)


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
        self._attacked: dict[Cell, AttackedId] = {}
        self._broken: set[Subjected] = set()

    def all_cells(self) -> None:
        for subject in dict.fromkeys(cell.subject for cell in self.plan.missing):
            self._prepare(subject)
        self._look_again()
        missing = [cell for cell in self.plan.missing if cell.subject not in self._broken]
        self._score(self._to_score(missing))
        self._combine([cell for cell in missing if cell.side != "ood"])

    def _look_again(self) -> None:
        """Use records whose weights were not there when the plan was made, but are the same now."""
        for cell in self.plan.missing:
            if cell.subject not in self._broken:
                self.plan.find(cell)

    def _to_score(self, missing: Iterable[Cell]) -> list[Cell]:
        """Return what has to be scored or searched, each once: the cells, or what they stand on."""
        found: dict[Cell, None] = {}
        for cell in missing:
            if cell.side == "ood":
                found[cell] = None
                continue
            source, search = ood_source(cell), self.plan.id_search(cell)
            if source not in self.plan.done:
                found[source] = None
            known = self._attacked.get(search) or self._stored_search(search)
            if known is None:
                found[search] = None
            else:
                self._attacked[search] = known
        return list(found)

    def _score(self, cells: Iterable[Cell]) -> None:
        groups: dict[Any, list[Cell]] = {}
        for cell in cells:
            key = (cell.stages[0], cell.image_set, cell.side) if cell.shared else cell
            groups.setdefault(key, []).append(cell)
        if not groups:
            return
        total = sum(self._cost(cells) for cells in groups.values())
        with self.bench.progress.task("scoring", total) as task:
            for group in groups.values():
                title = group[0].title if len(group) == 1 else group[0].image_set
                self._group(tuple(group), partial(task.advance, note=title), task.expect)

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
            self.outcome.fail(subject.title, error)

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
            pixels = self.bench.pixels(images, indices)
            shown = Shown.of(pixels)
            names = [ids[i] for i in indices.tolist()]
            with torch.no_grad():
                predicted = ready.detector.predict(ready.model, shown.inputs)[: shown.rows]
            if ready.detector.draws == 1:
                scores = judged(ready.detector.score, ready.model, shown)
            else:
                scores = judged_by_count(ready.detector.score, ready.model, pixels, "id", names)
            part: Arrays = {
                "ids": ids_array(names),
                "scores": scores.cpu().numpy(),
                "correct": predicted.cpu().numpy() == labels[indices],
            }
            if published is not None:
                part["published"] = judged(published, ready.model, shown).cpu().numpy()
            parts.append(part)
        return joined(parts)

    # Cells

    def _group(
        self,
        cells: tuple[Cell, ...],
        tick: Callable[[float], None],
        expect: Callable[[float], None],
    ) -> None:
        count = len(self._images(cells[0]))
        failed: set[Cell] = set()
        ahead = Foresight(expect, count)
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
                ahead.kept(stop - start)
                continue
            results = run_work(Work(tuple(todo), start, stop), self.bench, tick, ahead)
            for cell, result in zip(todo, results, strict=True):
                if isinstance(result, Exception):
                    failed.add(cell)
                    self.outcome.fail(cell.title, result)
                    continue
                pieces[cell].append(result)
                if stop < count or start > 0:
                    self._keep(cell, start, stop, result)
        ahead.end()
        for cell in cells:
            if cell not in failed:
                self._store_pieces(cell, pieces[cell])

    def _store_pieces(self, cell: Cell, pieces: list[Piece]) -> None:
        arrays = joined([piece.arrays for piece in pieces])
        attack = facts_of_search(cell, pieces, arrays)
        seconds = sum(piece.seconds for piece in pieces)
        device = device_name(self.bench.device)
        clean = self._id_scores[cell.subject]
        if cell.side == "id":
            arrays = with_clean_floor(cell.subject.detector.instance, arrays, clean)
            self._store_search(cell, AttackedId(arrays, attack, seconds, device))
        else:
            self._store(cell, Evidence(clean, arrays, attack, seconds, device))
        if cell in self.plan.done or cell in self._attacked:
            shutil.rmtree(self._parts_folder(cell), ignore_errors=True)

    def _store(self, cell: Cell, evidence: Evidence) -> None:
        path = self.plan.record_path(cell)
        # Another process may have stored the same cell meanwhile: then its files stay.
        with locked(path.parent):
            record = self.plan.look_up(cell)
            if record is None:
                try:
                    made = record_of(cell, self.bench, self.plan.identities, evidence)
                    write_record(path, made, evidence.ood)
                except (ValueError, ValidationError) as error:
                    self.outcome.fail(cell.title, error)
                    return
                record = read_record(path)
                self.outcome.computed += 1
        self.plan.done[cell] = record

    def _store_search(self, search: Cell, attacked: AttackedId) -> None:
        path = self.plan.search_path(search)
        with locked(path.parent):
            known = self._stored_search(search)
            if known is None:
                known = attacked
                meta = self._part_meta(search) | {
                    "attack": attacked.attack,
                    "seconds": attacked.seconds,
                    "device": attacked.device,
                }
                folder = self.plan.place(search.subject).suite_folder
                write_named(path, attacked.arrays, meta, folder, search.image_set)
        self._attacked[search] = known

    def _stored_search(self, search: Cell) -> AttackedId | None:
        meta = self._part_meta(search)
        return self.plan.attacked_id(search, meta["weights"], meta["id_scores"])

    def _combine(self, cells: Sequence[Cell]) -> None:
        """Make the records of sides ``id`` and ``both`` of what they stand on, as far as it is."""
        with self.bench.progress.task("combining sides", len(cells)) as task:
            for cell in cells:
                source, search = ood_source(cell), self.plan.id_search(cell)
                # What failed has been told.
                if source in self.plan.done and search in self._attacked:
                    record = self.plan.done[source]
                    evidence = Evidence(
                        clean=self._id_scores[cell.subject],
                        ood=read_scores(self.plan.record_path(source), record),
                        attack=record["attack"],
                        seconds=record["seconds"],
                        device=record["device"],
                        attacked=self._attacked[search],
                    )
                    self._store(cell, evidence)
                task.advance(1, cell.title)

    def _parts_folder(self, cell: Cell) -> Path:
        path = self.plan.search_path(cell) if cell.side == "id" else self.plan.record_path(cell)
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
