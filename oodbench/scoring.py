"""Is this image out-of-distribution? Scores and verdicts of single pictures."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from oodbench.api import Places, names
from oodbench.cells import Subjected
from oodbench.chosen import chosen_detectors, subjected
from oodbench.data.named import Picture, Unread, find_pictures, read_picture
from oodbench.errors import CellError, RequestError
from oodbench.held_out import HeldOut, held_out, looked_at
from oodbench.identity import digest_bytes
from oodbench.plan import Request
from oodbench.progress import Progress
from oodbench.workbench import Workbench

if TYPE_CHECKING:
    import pandas as pd

OUT, IN = "out-of-distribution", "in-distribution"


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
        held_out: What each says of held-out images, as far as it was asked for.
    """

    bench: Workbench
    suite: str
    subjects: list[Subjected]
    held_out: dict[Subjected, HeldOut] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, bench: Workbench) -> "Scorer":
        """Choose the detectors of a request; none is trained or fitted yet.

        Raises:
            RequestError: If something asked for is not there or does not fit.
        """
        detectors, _ = chosen_detectors(request, bench)
        subjects = [
            subjected(request, bench, detector, seed)
            for detector in detectors
            for seed in request.seeds
        ]
        return cls(bench, request.suite, subjects)

    def scored(self, given: Sequence[str | Path]) -> Iterator[Scored | Unread | Failed]:
        """Score pictures and folders of them, in their order, a batch at a time.

        Detectors are trained and fitted, and thresholds set, where that is needed and there is a
        picture to score.

        Raises:
            RequestError: If the suite has no images to set thresholds by.
        """
        found = find_pictures(given)
        if any(isinstance(one, Path) for one in found):
            yield from self._make_ready()
        size = self.bench.settings.batch_size
        with self.bench.progress.task("scoring", len(found)) as task:
            for start in range(0, len(found), size):
                some = found[start : start + size]
                yield from self._batch(some)
                task.advance(len(some))

    def _make_ready(self) -> Iterator[Failed]:
        for subject in self.subjects:
            try:
                self.held_out[subject] = held_out(subject, self.bench)
            except CellError as error:
                yield Failed(subject.title, str(error))

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
        scores, classes = looked_at(ready, pixels.to(self.bench.device), ids)
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
    failed = []
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
