"""Every plugin keeps its contract, and the check notices one that does not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from imported_data import write_registered
from torch import Tensor

from oodbench.detector import Detector, FitData
from oodbench.errors import ConformanceError
from oodbench.model import Model
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.registry import KINDS, entries
from oodbench.scores import max_probability
from oodbench.testing import check, check_detector, check_perturbation

REGISTERED = [(kind, name) for kind in KINDS for name in entries(kind)]


# The suite of a user's own images is none before there are any.
TEMPLATES = [("datasets", "imported")]


@pytest.fixture(scope="module")
def image_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_registered(root)
    return root


@pytest.mark.parametrize(("kind", "name"), [x for x in REGISTERED if x not in TEMPLATES])
def test_every_registered_plugin_keeps_its_contract(kind, name, image_data):
    assert check(kind, name, root=image_data)


@pytest.mark.parametrize(
    ("name", "tta"), [("atom", "mirror_shift"), ("mahalanobis", "mirror"), ("odin", "mirror")]
)
def test_detectors_keep_their_contract_with_test_time_augmentation(name, tta):
    assert check("detectors", name, tta=tta)


def test_the_published_attack_keeps_the_contract_too():
    assert check("attacks", "linf", preset="paper")


@dataclass(frozen=True)
class Honest(Detector):
    def score(self, model: Model, images: Tensor) -> Tensor:
        return max_probability(model.logits(images))


class WrongShape(Honest):
    def score(self, model, images):
        return super().score(model, images)[:, None]


class NotANumber(Honest):
    def score(self, model, images):
        scores = super().score(model, images)
        return torch.where(images.amax((1, 2, 3)) == 0, math.nan, scores)


class SeesItsNeighbours(Honest):
    def score(self, model, images):
        scores = super().score(model, images)
        return scores - scores.mean()


class CountsItsRows(Honest):
    def score(self, model, images):
        return super().score(model, images) + len(images)


class StopsTheGradient(Honest):
    def score(self, model, images):
        return super().score(model, images.detach())


class LiesAboutTheGradient(Honest):
    def score(self, model, images):
        scores = super().score(model, images)
        return scores.detach() + 2 * (scores - scores.detach())


class FlatGradient(Honest):
    def score(self, model, images):
        scores = super().score(model, images)
        return scores.detach() + 0 * scores


class Saturates(Honest):
    def score(self, model, images):
        return -model.logits(images).softmax(1).amax(1)


class Rounded(Honest):
    has_gradient: ClassVar[bool] = False

    def score(self, model, images):
        return super().score(model, images).round(decimals=0)


class NotFrozen(Detector):
    temperature: float = 2.0

    def score(self, model, images):
        return max_probability(model.logits(images))


class Random(Honest):
    has_gradient: ClassVar[bool] = False

    def score(self, model, images):
        return super().score(model, images) + torch.rand(len(images))


class Crashes(Honest):
    def score(self, model, images):
        raise RuntimeError("no")


class ReadsLabels(Honest):
    def fit(self, model, data: FitData):
        return {"labels": data.labels}


class ReadsThePool(Honest):
    def fit(self, model, data: FitData):
        return {"pool": data.pool}


class FitsANumber(Honest):
    def fit(self, model, data: FitData):
        return {"number": 3.0}


class BadObjective(Honest):
    def attack_objectives(self):
        return {"mean": lambda model, images: model.logits(images).mean()}


@pytest.mark.parametrize(
    ("detector", "property_name", "words"),
    [
        (WrongShape(), "shape", "(24, 1)"),
        (Crashes(), "shape", "RuntimeError: no"),
        (NotANumber(), "finiteness", "nan on image 0"),
        (SeesItsNeighbours(), "batch-independence", "image"),
        (CountsItsRows(), "batch-independence", "smaller batches"),
        (StopsTheGradient(), "gradient", "no gradient"),
        (LiesAboutTheGradient(), "gradient", "finite differences"),
        (FlatGradient(), "gradient", "zero gradient"),
        (Saturates(), "saturation", "log-odds"),
        (Rounded(), "saturation", "differ in float32"),
        (NotFrozen(), "frozen-dataclass", "temperature"),
        (Random(), "determinism", "two calls"),
        (ReadsLabels(), "declared-needs", "needs_labels"),
        (ReadsThePool(), "declared-needs", "needs_pool"),
        (FitsANumber(), "fit", "number"),
        (BadObjective(), "shape", "mean of"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Detector) else None,
)
def test_a_detector_that_breaks_its_contract_is_told_what_it_breaks(detector, property_name, words):
    with pytest.raises(ConformanceError) as caught:
        check_detector(detector)
    assert caught.value.check == property_name
    assert words in str(caught.value)


def test_an_honest_detector_passes_every_check():
    assert "saturation" in check_detector(Honest())


def test_a_detector_that_declares_no_gradient_is_not_asked_for_one():
    @dataclass(frozen=True)
    class Lookup(Honest):
        has_gradient: ClassVar[bool] = False

        def score(self, model, images):
            return super().score(model, images.detach())

    assert "gradient" not in check_detector(Lookup())


@dataclass(frozen=True)
class Shift(Perturbation):
    """Adds two levels; subclasses break it."""

    eps: int = 2
    budget: int | None = None

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        yield Candidate((centres.short() + 2).clamp(0, 255).to(torch.uint8), "shift")


class LeavesTheBall(Shift):
    def search(self, objectives, centres, ids, seed):
        yield Candidate((centres.short() + 3).clamp(0, 255).to(torch.uint8), "shift")


class WrapsAround(Shift):
    def search(self, objectives, centres, ids, seed):
        yield Candidate(centres + 2, "shift")


class ReturnsFloats(Shift):
    def search(self, objectives, centres, ids, seed):
        yield Candidate(centres / 255, "shift")


class ForgetsTags(Shift):
    def search(self, objectives, centres, ids, seed):
        yield Candidate(centres, ["only one"])


class StreamsItsDraws(Shift):
    def search(self, objectives, centres, ids, seed):
        torch.manual_seed(seed)
        step = torch.randint(0, 3, centres.shape)
        yield Candidate((centres.short() + step).clamp(0, 255).to(torch.uint8), "shift")


class DrawsAnew(Shift):
    def search(self, objectives, centres, ids, seed):
        step = torch.randint(0, 3, centres.shape)
        yield Candidate((centres.short() + step).clamp(0, 255).to(torch.uint8), "shift")


class WritesIntoItsInput(Shift):
    def search(self, objectives, centres, ids, seed):
        centres[:, :, 0, 0] = 7
        yield Candidate(centres.clone(), "shift")


class Overspends(Shift):
    def search(self, objectives, centres, ids, seed):
        for _ in range(11):
            objectives["score"].gradient(centres / 255)
        yield Candidate(centres, "shift")


@pytest.mark.parametrize(
    ("perturbation", "property_name"),
    [
        (LeavesTheBall(), "ball"),
        (WrapsAround(), "ball"),
        (ReturnsFloats(), "8-bit-grid"),
        (ForgetsTags(), "tags"),
        (StreamsItsDraws(), "batch-independence"),
        (DrawsAnew(), "determinism"),
        (WritesIntoItsInput(), "centres-unchanged"),
        (Overspends(budget=10), "budget"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Perturbation) else None,
)
def test_a_perturbation_that_breaks_its_contract_is_told_what_it_breaks(
    perturbation, property_name
):
    with pytest.raises(ConformanceError) as caught:
        check_perturbation(perturbation)
    assert caught.value.check == property_name


def test_an_honest_perturbation_passes_every_check():
    assert "ball" in check_perturbation(Shift())
