"""What detectors say of held-out in-distribution images, by which thresholds are set."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench import metrics
from oodbench.cells import Subjected
from oodbench.errors import CellError, RequestError
from oodbench.identity import PROTOCOL
from oodbench.store import TensorStore
from oodbench.subject import Shown, Subject, judged, judged_by_count
from oodbench.work import with_memory
from oodbench.workbench import Workbench

_PURPOSE = "score"


@dataclass(frozen=True)
class HeldOut:
    """What a detector says of held-out in-distribution images.

    Attributes:
        scores: float32 [n], ascending.
        accuracy: Share of them that are classified right; None where they have no labels.
    """

    scores: NDArray[np.float32]
    accuracy: float | None

    @property
    def threshold(self) -> float:
        """Lowest of their scores that accepts at least 95 % of them."""
        return metrics.threshold95(self.scores)

    def at_least(self, score: float) -> int:
        """Return how many of them have at least a score."""
        return len(self.scores) - int(np.searchsorted(self.scores, np.float32(score), "left"))


def held_out(subject: Subjected, bench: Workbench) -> HeldOut:
    """Return what a detector says of the suite's validation images, which no training sees.

    It is kept in the store of weights, if that can be written.

    Raises:
        RequestError: If the suite has no such images.
        CellError: If they cannot be scored.
    """
    taught = subject.taught
    suite = bench.suite(taught.suite)
    images = bench.images(taught.suite, suite.id_set, "val")
    if not len(images):
        raise RequestError(f"{suite.id_set} has no validation images to set a threshold by")
    identity = {
        "protocol": PROTOCOL,
        "statistics": bench.state_identity(subject.detector, taught),
        "network": bench.training_question(taught)["network"],
        "images": images.digest,
        "device": bench.device.type,
    }
    store = TensorStore(bench.settings.store)
    stem = (Path(taught.suite).stem, "held-out", subject.detector.name, str(taught.seed))
    path = store.path(stem, identity)
    found = store.load(path, identity)
    if found is None:
        tensors = with_memory(bench, partial(_score_held_out, subject, bench))
        with suppress(OSError):
            store.save(path, tensors, identity, {})
    else:
        tensors = found.tensors
    right = tensors.get("correct")
    return HeldOut(
        np.sort(tensors["scores"].numpy()),
        None if right is None else float(right.double().mean()),
    )


def _score_held_out(subject: Subjected, bench: Workbench, batch_size: int) -> dict[str, Tensor]:
    taught = subject.taught
    images = bench.images(taught.suite, bench.suite(taught.suite).id_set, "val")
    ready = bench.subject(subject.detector, taught, "judge")
    scores, classes = [], []
    title = f"held-out images, {subject.title}"
    with bench.progress.task(title, len(images)) as task:
        for start in range(0, len(images), batch_size):
            rows = range(start, min(start + batch_size, len(images)))
            ids = [images.ids[i] for i in rows]
            some, predicted = looked_at(ready, bench.pixels(images, rows), ids)
            scores.append(some)
            classes.append(predicted)
            task.advance(len(rows))
    found = {"scores": torch.from_numpy(np.concatenate(scores))}
    if images.labels is not None:
        right = np.concatenate(classes) == images.labels
        found["correct"] = torch.from_numpy(right)
    return found


def looked_at(
    ready: Subject, pixels: Tensor, ids: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scores, float32 [N], and classes, int64 [N], of images uint8 [N, 3, H, W].

    Raises:
        CellError: If they cannot be scored.
    """
    shown = Shown.of(pixels)
    try:
        with torch.no_grad():
            classes = ready.detector.predict(ready.model, shown.inputs)[: shown.rows]
        if ready.detector.draws == 1:
            scores = judged(ready.detector.score, ready.model, shown)
        else:
            scores = judged_by_count(ready.detector.score, ready.model, pixels, _PURPOSE, ids)
    except (CellError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CellError(f"{type(error).__name__}: {error}") from error
    return scores.cpu().numpy(), classes.cpu().numpy()
