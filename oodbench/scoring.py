"""Is this image out-of-distribution? Scores and verdicts of single pictures."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench import metrics
from oodbench.api import Places, names
from oodbench.cells import Subjected
from oodbench.data.named import Picture, Unread, find_pictures, read_picture
from oodbench.errors import CellError, RequestError
from oodbench.identity import PROTOCOL, digest_bytes
from oodbench.plan import Request, chosen_detectors, subjected
from oodbench.progress import Progress
from oodbench.store import TensorStore
from oodbench.subject import Shown, Subject, judged, judged_by_count
from oodbench.work import with_memory
from oodbench.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

OUT, IN = "out-of-distribution", "in-distribution"

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


@dataclass(frozen=True)
class Scored:
    """What a detector says of a picture.

    Attributes:
        image: Path of the picture.
        detector: Name of the detector.
        seed: Training seed.
        verdict: ``out-of-distribution`` if the score is above the threshold, else
            ``in-distribution``.
        score: Higher = more OOD; in units of the detector's own.
        threshold: Lowest score that accepts at least 95 % of the held-out images.
        margin: Score − threshold.
        id_share: Share of held-out in-distribution images that score at least as high; at most
            0.05 exactly where the verdict is ``out-of-distribution``.
        p_value: (1 + number of those) / (1 + n): a p-value of the hypothesis that the image is
            drawn as the held-out ones were (Vovk et al., 2005).
        n_id: Number n of held-out images.
        predicted: Class that the network takes it for.
        size: Width and height of the picture.
        prepared: What was done to it; empty for nothing.
        suite: Name of the suite.
        network: Name of the network.
    """

    image: str
    detector: str
    seed: int
    verdict: str
    score: float
    threshold: float
    margin: float
    id_share: float
    p_value: float
    n_id: int
    predicted: str
    size: tuple[int, int]
    prepared: tuple[str, ...]
    suite: str
    network: str

    def told(self) -> dict[str, Any]:
        """Return it as plain data for JSON; what is not finite as a text."""
        return {
            name: value if not isinstance(value, float) or math.isfinite(value) else str(value)
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Failed:
    """What a detector could not score.

    Attributes:
        name: Detector and picture, or the detector alone.
        reason: Why.
    """

    name: str
    reason: str


@dataclass
class Scorer:
    """Detectors of a request, each with its threshold.

    Attributes:
        bench: Where they work.
        suite: Name or path of the suite.
        subjects: The detectors.
        held_out: What each says of held-out images.
        failed: Detectors that cannot say anything.
    """

    bench: Workbench
    suite: str
    subjects: list[Subjected]
    held_out: dict[Subjected, HeldOut] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, bench: Workbench) -> "Scorer":
        """Make the detectors of a request ready: train, fit and set thresholds where needed.

        Raises:
            RequestError: If something asked for is not there or does not fit.
        """
        detectors, _ = chosen_detectors(request, bench)
        found = cls(
            bench,
            request.suite,
            [
                subjected(request, bench, detector, seed)
                for detector in detectors
                for seed in request.seeds
            ],
        )
        for subject in found.subjects:
            try:
                found.held_out[subject] = held_out(subject, bench)
            except CellError as error:
                found.failed.append(Failed(subject.title, str(error)))
        return found

    def scored(self, given: Sequence[str | Path]) -> Iterator[Scored | Unread | Failed]:
        """Score pictures and folders of them, in their order, a batch at a time."""
        found = find_pictures(given)
        size = self.bench.settings.batch_size
        with self.bench.progress.task("scoring", len(found)) as task:
            for start in range(0, len(found), size):
                some = found[start : start + size]
                yield from self._batch(some)
                task.advance(len(some))

    def _batch(self, found: Sequence[Path | Unread]) -> Iterator[Scored | Unread | Failed]:
        resampling = self.bench.suite(self.suite).resampling
        read = [
            one if isinstance(one, Unread) else read_picture(one, self._side, resampling)
            for one in found
        ]
        pictures = [item for item in read if isinstance(item, Picture)]
        columns = [iter(self._verdicts(subject, pictures)) for subject in self.held_out]
        for item in read:
            if isinstance(item, Unread):
                yield item
            else:
                yield from (next(column) for column in columns)

    @cached_property
    def _side(self) -> int:
        """Height and width of the suite's images."""
        images = self.bench.images(self.suite, self.bench.suite(self.suite).id_set, "val")
        height, width = images.batch([0]).shape[2:]
        if height != width:
            raise RequestError(f"images of {self.suite} are {width}×{height}, no squares")
        return int(height)

    def _verdicts(self, subject: Subjected, pictures: Sequence[Picture]) -> list[Scored | Failed]:
        if not pictures:
            return []
        try:
            return self._together(subject, pictures)
        except CellError as error:
            if len(pictures) == 1:
                return [Failed(f"{subject.title}, {pictures[0].name}", str(error))]
        # One that cannot be scored does not take the others along.
        return [verdict for one in pictures for verdict in self._verdicts(subject, [one])]

    def _together(self, subject: Subjected, pictures: Sequence[Picture]) -> list[Scored | Failed]:
        pixels = torch.from_numpy(np.stack([one.pixels for one in pictures]))
        # The same pixels have the same score, whatever their file is called.
        ids = [digest_bytes([one.pixels.tobytes()]) for one in pictures]
        ready = self.bench.subject(subject.detector, subject.taught, "judge")
        scores, classes = _looked_at(ready, pixels.to(self.bench.device), ids)
        known = self.held_out[subject]
        id_set = self.bench.suite(self.suite).id_set
        labels = self.bench.image_set(self.suite, id_set).classes or ()
        network = self.bench.training_question(subject.taught)["network"]["name"]
        n = len(known.scores)
        result: list[Scored | Failed] = []
        for one, score, label in zip(pictures, scores.tolist(), classes.tolist(), strict=True):
            higher = known.at_least(score)
            result.append(
                Scored(
                    image=one.name,
                    detector=subject.detector.name,
                    seed=subject.taught.seed,
                    verdict=OUT if score > known.threshold else IN,
                    score=score,
                    threshold=known.threshold,
                    margin=score - known.threshold,
                    id_share=higher / n,
                    p_value=(1 + higher) / (1 + n),
                    n_id=n,
                    predicted=labels[label],
                    size=one.size,
                    prepared=one.prepared,
                    suite=Path(self.suite).stem,
                    network=network,
                )
            )
        return result


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
            some, predicted = _looked_at(ready, bench.pixels(images, rows), ids)
            scores.append(some)
            classes.append(predicted)
            task.advance(len(rows))
    found = {"scores": torch.from_numpy(np.concatenate(scores))}
    if images.labels is not None:
        right = np.concatenate(classes) == images.labels
        found["correct"] = torch.from_numpy(right)
    return found


def _looked_at(
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


def score_images(
    images: str | Path | Sequence[str | Path],
    detector: str | Sequence[str] = "all",
    suite: str = "mini",
    *,
    seed: int | Sequence[int] = 0,
    schedule: str | None = None,
    network: str | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    params: Sequence[str] = (),
    device: str | None = None,
    batch_size: int | None = None,
    data_root: str | Path | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Say of pictures whether they are out-of-distribution.

    Args:
        images: Paths of pictures or of folders of them.
        detector: Names, comma lists or paths of plugin files; ``all`` for every one.
        suite: Name of the suite, whose in-distribution images set the thresholds.
        seed: Training seeds.
        schedule: Name of the training schedule.
        network: Name of the network.
        model: ``module:factory`` that makes a network of your own.
        weights: File of its weights.
        params: Texts such as ``odin.temperature=100``.
        device: Device such as ``cuda:0``.
        batch_size: Images at once.
        data_root: Folder of image data.
        store: Folder of weights.
        progress: Where to report.

    Returns:
        A row for each picture and detector, with the fields of `Scored` and ``error``: why a
        picture could not be read, None where it was; then the other fields are missing.

    Raises:
        RequestError: If what is asked for is wrong.
        CellError: If a detector could not score.
    """
    import pandas as pd

    request = Request(
        suite=suite,
        detectors=names(detector),
        seeds=(seed,) if isinstance(seed, int) else tuple(seed),
        schedule=schedule,
        network=network,
        model=model,
        weights=None if weights is None else str(weights),
        settings=tuple(params),
    )
    places = Places(device, batch_size, data_root, store=store)
    scorer = Scorer.of(request, places.workbench(progress))
    rows = []
    failed = list(scorer.failed)
    for one in scorer.scored([images] if isinstance(images, str | Path) else images):
        if isinstance(one, Scored):
            rows.append(asdict(one) | {"error": None})
        elif isinstance(one, Unread):
            rows.append({"image": one.name, "error": one.reason})
        else:
            failed.append(one)
    if failed:
        raise CellError("; ".join(f"{one.name}: {one.reason}" for one in failed))
    columns = [*Scored.__dataclass_fields__, "error"]
    return pd.DataFrame(rows, columns=columns)
