"""Images kept of a cell: those OOD images whose score fell most, as they were and as attacked.

They stand beside the record and outside it. Which they are follows from the stored scores, so the
images of a cell that was computed long ago are had by searching these few again: a search does
not depend on what else is in the batch. They change neither a figure nor an identity.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.cells import Cell
from oodbench.errors import DamagedFileError
from oodbench.files import locked
from oodbench.images import Images, Part
from oodbench.judging import final_scores, worst_case
from oodbench.plan import Plan
from oodbench.records import Arrays, ids_array, read_arrays, read_scores, write_arrays
from oodbench.searched import Ledger
from oodbench.sides import does_nothing
from oodbench.subject import Shown, Subject, judged, judged_by_count
from oodbench.work import with_memory

SUFFIX = ".kept.npz"

_SAME = 1e-4
"""Difference of two scores, of their size or of one unit, that rounding explains."""


@dataclass(frozen=True)
class Kept:
    """The kept images of a cell, the one whose score fell most first.

    Attributes:
        ids: Ids of the images [N].
        original: The images as they are in the set, uint8 [N, 3, H, W].
        attacked: What the perturbation made of them, uint8 [N, 3, H, W].
        before: Their scores, float32 [N].
        after: The judged scores of the attacked images, float32 [N].
        tags: What made each attacked image, such as the corruption or the objective [N].
    """

    ids: NDArray[np.str_]
    original: NDArray[np.uint8]
    attacked: NDArray[np.uint8]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    tags: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def arrays(self) -> Arrays:
        """The arrays by name."""
        return dict(vars(self))


def kept_path(record: Path) -> Path:
    """Return the file of the kept images of a record, given the record's file."""
    return record.with_name(record.name.removesuffix(".json") + SUFFIX)


def read_kept(record_file: Path, record: Mapping[str, Any]) -> Kept | None:
    """Return the images kept of a record; None where there are none of it as it is now.

    Raises:
        DamagedFileError: If the file is truncated, edited or foreign.
    """
    found = _stored(record_file, record)
    return None if found is None else found[0]


def _stored(record_file: Path, record: Mapping[str, Any]) -> tuple[Kept, int] | None:
    """Return what is kept of a record, and how many images were asked for."""
    path = kept_path(record_file)
    if not path.exists():
        return None
    arrays, meta = read_arrays(path)
    if (meta.get("identity"), meta.get("scores")) != _of(record):
        return None
    try:
        return Kept(**arrays), int(meta["asked"])
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} holds no kept images; delete it") from error


def _of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return what kept images belong to: the record, and the scores that chose them."""
    return record["identity"], record["digests"]["scores"]


def keeps_images(cell: Cell) -> bool:
    """Whether a cell changes OOD images at all."""
    return cell.side == "ood" and not does_nothing(cell.stages)


def keep_images(plan: Plan, count: int, failed: Callable[[str, Exception], None]) -> None:
    """Keep the OOD images of each stored cell of a plan whose score fell most.

    What is kept of a record already, as many or more, stays; fewer are made anew.

    Args:
        plan: The plan, carried out.
        count: Images of each cell.
        failed: Told of a cell whose images cannot be had, and why.
    """
    cells = [cell for cell in plan.cells if cell in plan.done and keeps_images(cell)]
    progress = plan.bench.progress
    if not cells:
        progress.note("--keep-images means nothing here: no OOD image is changed")
        return
    with progress.task("keeping images", len(cells)) as task:
        for cell in cells:
            try:
                _keep(plan, cell, count)
            except Exception as error:
                failed(f"keeping images of {cell.title}", error)
            task.advance(1, cell.title)


def _keep(plan: Plan, cell: Cell, count: int) -> None:
    path, record = plan.record_path(cell), plan.done[cell]
    try:
        stored = _stored(path, record)
    except DamagedFileError:
        # It holds nothing that searching again does not bring back.
        stored = None
    if stored is not None and stored[1] >= count and not plan.force:
        return
    scores = read_scores(path, record)
    kept, apart = with_memory(plan.bench, partial(_searched, plan, cell, scores, count))
    if apart:
        plan.bench.progress.note(
            f"{cell.title}: {apart} of {len(kept)} kept images score otherwise than in the record,"
            " since the search does not repeat itself exactly here; the scores beside them are"
            " those of the images kept"
        )
    identity, digest = _of(record)
    meta = {"identity": identity, "scores": digest, "asked": count}
    with locked(path.parent):
        write_arrays(kept_path(path), kept.arrays, meta)


def _searched(
    plan: Plan, cell: Cell, scores: Arrays, count: int, batch_size: int
) -> tuple[Kept, int]:
    """Search the images again whose score fell most; also return how many differ from the record.

    Args:
        plan: The plan.
        cell: The cell.
        scores: What is stored of it.
        count: How many images.
        batch_size: Images at once.
    """
    bench, subject = plan.bench, cell.subject
    images = bench.limited(subject.taught.suite, cell.image_set, subject.limit)
    ready = bench.subject(subject.detector, subject.taught, cell.precision)
    before = torch.cat([_clean(ready, part) for part in _batches(plan, images, batch_size)]).cpu()
    stored = dict(zip(scores["ids"].tolist(), scores["scores"].tolist(), strict=True))
    after = np.array([stored[name] for name in images.ids], dtype=np.float32)
    chosen = most_damaged(before.numpy(), after, images.ids, count)
    part = Part(images, chosen)
    found: list[tuple[Tensor, Tensor, list[str]]] = []
    stages = [stage.instance for stage in cell.stages]
    for ids, pixels in _batches(plan, part, batch_size):
        (verdict,) = worst_case([ready], stages, pixels, ids, 0, Ledger())
        values = final_scores(ready, stages[-1], verdict, ids)
        found.append((verdict.images.cpu(), values.cpu(), verdict.tags))
    attacked = [one[0] for one in found] or [bench.pixels(part, []).cpu()]
    values = torch.cat([one[1] for one in found]) if found else torch.empty(0)
    expected = torch.from_numpy(after[chosen])
    apart = (values - expected).abs() > _SAME * expected.abs().clamp(min=1)
    kept = Kept(
        ids=ids_array(part.ids),
        original=part.batch(range(len(part))),
        attacked=torch.cat(attacked).numpy(),
        before=before.numpy()[chosen],
        after=values.numpy(),
        tags=ids_array([tag for one in found for tag in one[2]]),
    )
    return kept, int(apart.sum())


def _batches(plan: Plan, images: Images, size: int) -> Iterator[tuple[Sequence[str], Tensor]]:
    """Yield ids and pixels of some images at a time."""
    names = images.ids
    for begin in range(0, len(images), size):
        indices = np.arange(begin, min(begin + size, len(images)))
        yield [names[i] for i in indices.tolist()], plan.bench.pixels(images, indices)


def _clean(subject: Subject, part: tuple[Sequence[str], Tensor]) -> Tensor:
    """Return the scores of images as they are, float32 [N]."""
    ids, pixels = part
    score = subject.detector.score
    if subject.detector.draws == 1:
        return judged(score, subject.model, Shown.of(pixels))
    return judged_by_count(score, subject.model, pixels, "final", ids)


def most_damaged(
    before: NDArray[np.float32], after: NDArray[np.float32], ids: Sequence[str], count: int
) -> NDArray[np.int64]:
    """Return the positions of those images whose score fell most, the largest fall first.

    Args:
        before: Scores of the clean images [N].
        after: Scores of the attacked images [N].
        ids: Their ids; of equal falls the first id goes first.
        count: How many at most; images whose score did not fall are none of them.

    Returns:
        int64 [n] with n ≤ ``count``.
    """
    with np.errstate(invalid="ignore"):
        falls = before.astype(np.float64) - after
    order = np.lexsort((np.asarray(ids), -falls))
    return order[falls[order] > 0][:count]
