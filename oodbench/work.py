"""Work: some images of some cells, a picklable pure function of plain data.

One process, several, or a cluster can carry out the same plan; results are put together by image.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from oodbench.cells import Cell
from oodbench.judging import Verdict, final_scores, first_stage, next_stage
from oodbench.progress import Foresight
from oodbench.records import Arrays, ids_array
from oodbench.searched import Ledger
from oodbench.subject import Shown, Subject, judged
from oodbench.workbench import Settings, Workbench

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """A piece of work: some images of cells whose first perturbation is the same.

    It is plain data; with the same weights and images its result is the same wherever it is
    done, and results are put together by image.

    Attributes:
        cells: The cells, on the same set; they differ in the detector and in later stages. On an
            OOD set they are of side ``ood`` and the score is lowered; on the in-distribution set
            they are the searches of side ``id``, and the score is raised.
        start: First image.
        stop: Image after the last.
    """

    cells: tuple[Cell, ...]
    start: int
    stop: int


@dataclass
class Piece:
    """The result of a piece of work for one cell.

    Attributes:
        arrays: ``ids``, ``scores``, ``tags`` and, under ``paper``, ``published`` scores.
        ledger: What the search did, as plain data.
        seconds: Time it took.
    """

    arrays: Arrays
    ledger: dict[str, Any]
    seconds: float


def run_work(
    work: Work,
    bench: Workbench,
    tick: Callable[[float], None] | None = None,
    ahead: Foresight | None = None,
) -> list[Piece | Exception]:
    """Do a piece of work; a detector that fails does not take the others along.

    Args:
        work: What to do.
        bench: Where it is done.
        tick: Called with the work done, in gradients of one image.
        ahead: Told of the images that are begun, and of work that nobody could foresee.

    Returns:
        A piece or the error for each cell, in order.
    """
    groups = [work.cells] if work.cells[0].shared else [(cell,) for cell in work.cells]
    results: list[Piece | Exception] = []
    for group in groups:
        try:
            results += with_memory(bench, partial(_attempt, group, work, bench, tick, ahead))
        except Exception as error:
            results += [error] * len(group)
    return results


def with_memory(bench: Workbench, work: Callable[[int], T]) -> T:
    """Do something with the batch size asked for, halved as often as memory runs out."""
    batch_size = bench.settings.batch_size
    while True:
        try:
            return work(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        # Outside the handler nothing holds on to the tensors of the attempt that failed.
        batch_size = max(batch_size // 2, 1)
        torch.cuda.empty_cache()
        bench.progress.note(f"memory ran out; going on with --batch-size {batch_size}")


def _attempt(
    cells: tuple[Cell, ...],
    work: Work,
    bench: Workbench,
    tick: Callable[[float], None] | None,
    ahead: Foresight | None,
    batch_size: int,
) -> list[Piece | Exception]:
    pending = [
        _Pending(cell, Ledger(tick=tick, expect=ahead.meet if ahead else None)) for cell in cells
    ]
    subject = cells[0].subject
    images = bench.limited(subject.taught.suite, cells[0].image_set, subject.limit)
    all_ids = images.ids
    for begin in range(work.start, work.stop, batch_size):
        indices = np.arange(begin, min(begin + batch_size, work.stop))
        ids = [all_ids[i] for i in indices.tolist()]
        if ahead is not None:
            ahead.begin(len(indices))
        _one_batch(pending, bench, bench.pixels(images, indices), ids)
        if tick is not None:
            tick(len(indices) * len(cells))
    return [one.piece() for one in pending]


@dataclass
class _Pending:
    """What is known of a cell while its batches are being worked on."""

    cell: Cell
    ledger: Ledger
    parts: list[Arrays] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None

    def piece(self) -> Piece | Exception:
        if self.error is not None:
            return self.error
        return Piece(joined(self.parts), self.ledger.told(), self.seconds)


def _one_batch(
    pending: Sequence[_Pending], bench: Workbench, pixels: torch.Tensor, ids: Sequence[str]
) -> None:
    """Do all stages of all cells for some images; the first stage once for each detector."""
    started = time.monotonic()
    going = [one for one in pending if one.error is None]
    if not going:
        return
    subjects = {one.cell.subject: _subject(bench, one.cell) for one in going}
    first = going[0]
    # Where several detectors share the first stage it takes no gradients, so any ledger will do.
    found = first_stage(
        list(subjects.values()),
        first.cell.stages[0].instance,
        pixels,
        ids,
        0,
        first.ledger,
    )
    verdicts = dict(zip(subjects, found, strict=True))
    shared_seconds = (time.monotonic() - started) / len(going)
    for one in going:
        started = time.monotonic()
        verdict = verdicts[one.cell.subject]
        if isinstance(verdict, Exception):
            one.error = verdict
            continue
        # Cells of one detector may search in different precisions.
        subject = _subject(bench, one.cell)
        try:
            for stage in one.cell.stages[1:]:
                verdict = next_stage(subject, stage.instance, verdict, ids, 0, one.ledger)
            one.parts.append(_final(subject, one.cell, verdict, ids))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            one.error = error
        one.seconds += shared_seconds + time.monotonic() - started


def _subject(bench: Workbench, cell: Cell) -> Subject:
    return bench.subject(cell.subject.detector, cell.subject.taught, cell.precision, cell.raised)


def _final(subject: Subject, cell: Cell, verdict: Verdict, ids: Sequence[str]) -> Arrays:
    last = cell.stages[-1].instance
    part: Arrays = {
        "ids": ids_array(ids),
        "scores": final_scores(subject, last, verdict, ids).cpu().numpy(),
        "tags": ids_array(verdict.tags),
    }
    published = subject.detector.published_score()
    if last.preset == "paper" and published is not None:
        shown = Shown.of(verdict.images)
        part["published"] = judged(published, subject.model, shown).cpu().numpy()
    return part


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Return arrays of several parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_in_process(work: Work, settings: Settings) -> list[Piece]:
    """Do a piece of work with nothing but plain data, as another process or machine would.

    Raises:
        Exception: Whatever a cell failed with.
    """
    results = run_work(work, Workbench(settings))
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, Piece)]
