"""Choosing a hyper-parameter on held-out images, never on test ones.

ATOM's and NTOM's quantile q decides which outliers are trained on. It is chosen as its paper says
it was: by the FPR at 95 % TPR on outliers that no training sees (Chen et al., 2021, section 4),
here on both natural and attacked ones. The attack is the published one, which a network that has
learnt to tell its noise from images evades (`Training.attacked`): of an ATOM taught as published
the attacked half of the choice may say little, of one with ``mixed`` it does.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oodbench import metrics
from oodbench.errors import RequestError
from oodbench.files import write_atomically
from oodbench.foreign import network_name
from oodbench.identity import canonical_json
from oodbench.images import Images
from oodbench.judging import worst_case
from oodbench.perturbation import Perturbation
from oodbench.plan import Request
from oodbench.plugins import PluginSpec, passed_on, with_role, with_settings
from oodbench.registry import entries, load
from oodbench.searched import Ledger
from oodbench.subject import Shown, counted_draws, judged
from oodbench.workbench import Taught, Workbench

_PURPOSE = "selection"


@dataclass(frozen=True)
class Tried:
    """What one value came to on the held-out images.

    Attributes:
        value: The value.
        fpr95: FPR at 95 % TPR on natural outliers, in [0, 1].
        fpr95_attacked: The same on outliers under the published L∞ attack.
        accuracy: In-distribution accuracy on held-out images.
    """

    value: Any
    fpr95: float
    fpr95_attacked: float
    accuracy: float

    @property
    def mean(self) -> float:
        """What is lowest for the value chosen."""
        return (self.fpr95 + self.fpr95_attacked) / 2


@dataclass(frozen=True)
class Selection:
    """A choice among the values of a field.

    Attributes:
        detector: Name of the detector.
        field: Name of its field.
        seed: Training seed.
        tried: What each value came to.
        images: Held-out in-distribution images.
        outliers: Held-out outliers.
        path: File that says all this.
    """

    detector: str
    field: str
    seed: int
    tried: tuple[Tried, ...]
    images: int
    outliers: int
    path: Path

    @property
    def chosen(self) -> Any:
        """The value with the lowest mean; the first of several."""
        return min(self.tried, key=lambda one: one.mean).value


def selections(request: Request, bench: Workbench) -> Iterator[Selection]:
    """Choose for each detector and seed of a request; those with nothing to choose are refused.

    Raises:
        RequestError: If a detector has nothing to choose, or the data are not there.
    """
    suite = bench.suite(request.suite)
    schedule, network = request.schedule or suite.schedule, request.network or suite.network
    bench.schedule(request.suite, schedule)
    bench.network(network)
    named: dict[str, None] = {}
    for name in request.detectors:
        every = (other for other in entries("detectors") if load("detectors", other).choices)
        named |= dict.fromkeys(every if name == "all" else (name,))
    specs = [PluginSpec("detectors", name) for name in named]
    detectors = with_settings(specs, request.settings)
    for spec in detectors:
        if not load("detectors", spec.reference).choices:
            raise RequestError(
                f"--select-q: {spec.name} has no mining quantile; name detectors that have one"
            )
        chosen = set(dict(spec.params)) & set(spec.instance.choices)
        if chosen:
            raise RequestError(f"--select-q chooses {chosen.pop()}; leave it out of --set")
    for spec, seed in itertools.product(detectors, request.seeds):
        yield select(spec, request.suite, schedule, network, seed, bench)


def select(
    detector: PluginSpec, suite: str, schedule: str, network: str, seed: int, bench: Workbench
) -> Selection:
    """Train with each value that a detector says is to be chosen from, and compare.

    Trainings are kept in the store as those of a run are, so one that was stopped goes on, and a
    run with the value chosen trains no more.

    Raises:
        RequestError: If the suite has no images held out.
    """
    ((name, values),) = detector.instance.choices.items()
    found = bench.suite(suite)
    images = bench.images(suite, found.id_set, "val")
    outliers = bench.images(suite, found.pool, "val")
    attack = _attack()
    tried = []
    taught: Taught | None = None
    for value in values:
        spec = detector.replaced(**{name: value})
        taught = bench.taught(spec, suite, schedule, network, seed)
        bench.weights(taught)
        with bench.progress.task(f"{detector.name}, {name} {value:g}, held-out images", 1):
            tried.append(_tried(value, spec, taught, images, outliers, attack, bench))
    assert taught is not None
    folder = bench.settings.store / Path(suite).stem / "selections"
    tta = detector.instance.tta
    # What is chosen with views of an image may be another value, of the same trainings.
    views = "" if tta == "none" else f"-{tta}"
    path = folder / f"{detector.name}-{network_name(network)}-{schedule}-{seed}{views}.json"
    selection = Selection(detector.name, name, seed, tuple(tried), len(images), len(outliers), path)
    _write(selection, bench.training_question(taught) | {"attack": asdict(attack), "tta": tta})
    return selection


def _attack() -> Perturbation:
    """Return the published attack in a ball."""
    found = passed_on(with_role("gradient"), {"preset": "paper"}).instance
    assert isinstance(found, Perturbation)
    return found


def _tried(
    value: Any,
    spec: PluginSpec,
    taught: Taught,
    images: Images,
    outliers: Images,
    attack: Perturbation,
    bench: Workbench,
) -> Tried:
    subject = bench.subject(spec, taught, "float32")
    known, right, natural, attacked = [], [], [], []
    labels = images.labels
    assert labels is not None
    for rows in _batches(images, bench):
        pixels = bench.pixels(images, rows)
        shown = Shown.of(pixels)
        with counted_draws(_PURPOSE, [images.ids[i] for i in rows]):
            known.append(judged(subject.detector.score, subject.model, shown).cpu().numpy())
        with torch.no_grad():
            classes = subject.detector.predict(subject.model, shown.inputs)[: len(rows)]
        right.append(classes.cpu().numpy() == labels[rows])
    for rows in _batches(outliers, bench):
        pixels = bench.pixels(outliers, rows)
        ids = [outliers.ids[i] for i in rows]
        with counted_draws(_PURPOSE, ids):
            natural.append(
                judged(subject.detector.score, subject.model, Shown.of(pixels)).cpu().numpy()
            )
        (verdict,) = worst_case([subject], [attack], pixels, ids, 0, Ledger())
        with counted_draws(_PURPOSE, ids):
            scores = judged(subject.detector.score, subject.model, Shown.of(verdict.images))
        attacked.append(scores.cpu().numpy())
    of_id = np.concatenate(known)
    return Tried(
        value,
        metrics.fpr95(of_id, np.concatenate(natural)),
        metrics.fpr95(of_id, np.concatenate(attacked)),
        float(np.concatenate(right).mean()),
    )


def _batches(images: Images, bench: Workbench) -> Sequence[list[int]]:
    size = bench.settings.batch_size
    return [list(range(s, min(s + size, len(images)))) for s in range(0, len(images), size)]


def _write(selection: Selection, question: dict[str, Any]) -> None:
    told = {
        **question,
        "detector": selection.detector,
        "field": selection.field,
        "chosen": selection.chosen,
        "images": selection.images,
        "outliers": selection.outliers,
        "tried": [asdict(one) | {"mean": one.mean} for one in selection.tried],
    }
    text = json.dumps(json.loads(canonical_json(told)), indent=1, ensure_ascii=False) + "\n"
    write_atomically(selection.path, partial(_write_text, text))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
