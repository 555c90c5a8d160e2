"""The judge: what counts, what is refused, what is written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from oodbench.detector import Detector, Objective
from oodbench.errors import CellError, ConformanceError
from oodbench.judging import final_scores, worst_case
from oodbench.model import Backbone, Model
from oodbench.network import initialised
from oodbench.networks.conv3 import Conv3
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.searched import FORWARD_COST, Ledger, health, searched_objectives
from oodbench.subject import Shown, Subject, judged

BACKBONE = Backbone(initialised(Conv3, 3, 0), 3)
IDS = ["a", "b", "c"]
GREY = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)


@dataclass(frozen=True)
class Brightness(Detector):
    """Scores the mean level; the published objective looks at the first channel only."""

    has_gradient: ClassVar[bool] = True
    sign: float = 1.0

    def score(self, model: Model, images: Tensor) -> Tensor:
        return self.sign * 255 * images.mean((1, 2, 3))

    def published_objective(self) -> Objective:
        return lambda model, images: -255 * images[:, 0].mean((1, 2))

    def published_score(self) -> Objective:
        return lambda model, images: 255 * images[:, 1].mean((1, 2))


@dataclass(frozen=True)
class Fixed(Detector):
    """Returns whatever it is given."""

    function: Callable[[Tensor], Tensor] = field(default=lambda x: x.mean((1, 2, 3)))

    def score(self, model: Model, images: Tensor) -> Tensor:
        return self.function(images)


@dataclass(frozen=True)
class Offered(Perturbation):
    """Moves all images by each of some numbers of levels."""

    moves: tuple[int, ...] = ()
    calls: list[Any] = field(default_factory=list)

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        self.calls.append((sorted(objectives), centres.clone(), list(ids), seed))
        for number, move in enumerate(self.moves):
            images = (centres.int() + move).clamp(0, 255).to(torch.uint8)
            yield Candidate(images, f"{number}:{move}")


@dataclass(frozen=True)
class Shared(Offered):
    shared: ClassVar[bool] = True


@dataclass(frozen=True)
class InBall(Offered):
    eps: int = 8


@dataclass(frozen=True)
class Given(Perturbation):
    """Offers given images."""

    offers: tuple[tuple[Tensor, Any], ...] = ()
    eps: int = 8

    def search(
        self,
        objectives: Mapping[str, SearchObjective],
        centres: Tensor,
        ids: Sequence[str],
        seed: int,
    ) -> Iterator[Candidate]:
        for images, tags in self.offers:
            yield Candidate(images, tags)


def subject(detector: Detector) -> Subject:
    return Subject(detector, Model(BACKBONE), Model(BACKBONE))


def judge(detector: Detector, *stages: Perturbation, images: Tensor = GREY) -> Any:
    return worst_case([subject(detector)], stages, images, IDS, 7, Ledger())[0]


def test_candidates_that_fool_less_are_ignored_and_the_clean_image_counts() -> None:
    verdict = judge(Brightness(), Offered(moves=(5, 1, 2)))
    assert torch.equal(verdict.images, GREY)
    assert verdict.tags == ["clean"] * 3
    assert verdict.values.tolist() == pytest.approx([100.0] * 3)


def test_a_tie_keeps_the_clean_image_then_the_earlier_candidate() -> None:
    flat = Fixed(lambda x: torch.zeros(len(x)))
    assert judge(flat, Offered(moves=(3, -3))).tags == ["clean"] * 3
    twice = judge(Brightness(), Offered(moves=(-2, -5, -5)))
    assert twice.tags == ["1:-5"] * 3


def test_each_image_keeps_its_own_lowest_candidate_and_its_tag() -> None:
    first = GREY.clone()
    first[0] -= 4
    second = GREY.clone()
    second[1] -= 3
    second[0] -= 2
    verdict = judge(
        Brightness(), Given(offers=((first, ["p", "q", "r"]), (second, ["s", "t", "u"])))
    )
    assert verdict.tags == ["p", "t", "clean"]
    assert verdict.values.tolist() == pytest.approx([96.0, 97.0, 100.0])
    assert verdict.images[:, 0, 0, 0].tolist() == [96, 97, 100]


@pytest.mark.parametrize("seed", range(5))
def test_the_verdict_is_the_minimum_over_clean_and_all_candidates(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, 8, 8), generator=rng, dtype=torch.uint8)
    offers = [
        (images.int() + torch.randint(-8, 9, images.shape, generator=rng))
        .clamp(0, 255)
        .to(torch.uint8)
        for _ in range(6)
    ]
    verdict = judge(
        Brightness(), Given(offers=tuple((o, str(i)) for i, o in enumerate(offers))), images=images
    )
    means = torch.stack([o.double().mean((1, 2, 3)) for o in [images, *offers]])
    assert verdict.values.tolist() == pytest.approx(means.amin(0).tolist(), rel=1e-5)
    assert torch.allclose(verdict.images.double().mean((1, 2, 3)), means.amin(0))


def test_images_outside_the_ball_are_refused() -> None:
    judge(Brightness(), InBall(moves=(-8, 8)))
    for move in (-9, 9):
        with pytest.raises(ConformanceError, match=r"ball.*moved a pixel by 9.*radius is 8"):
            judge(Brightness(), InBall(moves=(-8, move)))


@pytest.mark.parametrize(
    "images",
    [GREY.float(), GREY.float() / 255, GREY.int(), GREY[:2], GREY[:, :, :4], GREY[:, :1]],
    ids=["levels", "float", "int32", "fewer", "cropped", "grey"],
)
def test_what_is_no_8_bit_image_of_the_batch_is_refused(images: Tensor) -> None:
    with pytest.raises(ConformanceError, match="8-bit-grid"):
        judge(Brightness(), Given(offers=((images, "x"),)))


def test_shared_candidates_are_made_once_for_all_detectors() -> None:
    shared = Shared(moves=(-5, 5))
    subjects = [subject(Brightness()), subject(Brightness(sign=-1.0))]
    dark, bright = worst_case(subjects, [shared], GREY, IDS, 7, Ledger())
    assert len(shared.calls) == 1
    objectives, centres, ids, seed = shared.calls[0]
    assert (objectives, ids, seed) == ([], IDS, 7)
    assert torch.equal(centres, GREY)
    assert dark.tags == ["0:-5"] * 3
    assert bright.tags == ["1:5"] * 3
    own = Offered(moves=(-5,))
    worst_case(subjects, [own], GREY, IDS, 7, Ledger())
    assert len(own.calls) == 2


def test_a_composition_searches_about_the_first_result_and_its_ball_is_there() -> None:
    first, second = Shared(moves=(-50,)), InBall(moves=(-8,))
    verdict = judge(Brightness(), first, second)
    assert torch.equal(second.calls[0][1], GREY - 50)
    assert verdict.tags == ["0:-50 > 0:-8"] * 3
    assert (GREY.int() - verdict.images.int() == 58).all()
    with pytest.raises(ConformanceError, match="ball"):
        judge(Brightness(), first, InBall(moves=(+20,)))


def test_in_a_composition_each_detector_goes_on_from_its_own_first_result() -> None:
    first, second = Shared(moves=(-50, 50)), InBall(moves=(-8, 8))
    subjects = [subject(Brightness()), subject(Brightness(sign=-1.0))]
    dark, bright = worst_case(subjects, [first, second], GREY, IDS, 7, Ledger())
    assert (dark.images == 42).all()
    assert (bright.images == 158).all()
    assert len(second.calls) == 2


def test_a_second_stage_that_finds_nothing_keeps_the_first() -> None:
    verdict = judge(Brightness(), Shared(moves=(-50,)), InBall(moves=(4,)))
    assert verdict.tags == ["0:-50 > clean"] * 3
    assert (verdict.images == 50).all()


def test_under_paper_the_published_loss_chooses_and_the_score_is_reported() -> None:
    # Redder is lower for the published objective, though the image gets brighter by it.
    red, dark = GREY.clone(), GREY - 5
    red[:, 0] += 5
    given = Given(preset="paper", offers=((dark, "dark"), (red, "red")))
    verdict = judge(Brightness(), given)
    assert verdict.tags == ["red"] * 3
    assert verdict.values.tolist() == pytest.approx([-105.0] * 3)
    scores = final_scores(subject(Brightness()), given, verdict, ["a"])
    assert scores.tolist() == pytest.approx([100 + 5 / 3] * 3)


def test_under_paper_shared_candidates_are_chosen_by_the_published_score() -> None:
    shared = Shared(preset="paper", moves=(-5, 5))
    verdict = judge(Brightness(sign=-1.0), shared)
    # published_score is the second channel, whatever the sign of the score.
    assert verdict.tags == ["0:-5"] * 3
    scores = final_scores(subject(Brightness(sign=-1.0)), shared, verdict, ["a"])
    assert scores.tolist() == pytest.approx([-95.0] * 3)


def test_under_standard_the_reported_scores_are_what_decided() -> None:
    verdict = judge(Brightness(), Offered(moves=(-5,)))
    reported = final_scores(subject(Brightness()), Offered(), verdict, ["a"])
    assert torch.equal(reported, verdict.values)


def test_paper_without_a_published_objective_is_refused() -> None:
    with pytest.raises(CellError, match="no published objective"):
        judge(Fixed(), Offered(preset="paper", moves=(1,)))


@dataclass(frozen=True)
class NoGradient(Brightness):
    has_gradient: ClassVar[bool] = False


@dataclass(frozen=True)
class Steep(Offered):
    """A search by gradients, with nothing to fall back to."""

    gradient_steps: int = 5  # type: ignore[assignment]


@dataclass(frozen=True)
class WithSquare(Steep):
    fallback: ClassVar[str] = "square"
    eps: int = 8
    queries: int = 300  # type: ignore[assignment]


def test_a_score_without_a_gradient_is_not_searched_by_one_that_has_no_fallback() -> None:
    with pytest.raises(CellError, match="no gradient, and the attack has no fallback"):
        judge(NoGradient(), Steep(moves=(-1,)))
    assert judge(NoGradient(), Shared(moves=(-1,))).tags == ["0:-1"] * 3
    assert judge(NoGradient(), Offered(moves=(-1,))).tags == ["0:-1"] * 3


def test_images_without_a_sound_gradient_are_searched_by_the_fallback_too() -> None:
    # Brighter than 150 the gradient is cut off; the score falls all the same.
    def function(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.where(mean > 150 / 255, mean.detach() + 0 * mean, mean)

    images = torch.tensor([100, 200, 120], dtype=torch.uint8)[:, None, None, None]
    images = images.expand(-1, 3, 8, 8).contiguous()
    stage = WithSquare(moves=(-2,))
    unforeseen: list[float] = []
    ledger = Ledger(expect=unforeseen.append)
    (verdict,) = worst_case([subject(Fixed(function))], [stage], images, IDS, 7, ledger)
    assert [tag.partition(":")[0] for tag in verdict.tags] == ["0", "square", "0"]
    assert ledger.checks["zero"] == 1
    assert ledger.checks["images"] == 3
    assert dict(ledger.fallback) == {"images": 1}
    # Five steps more of its own and 300 queries.
    assert unforeseen == [5 + 300 * FORWARD_COST]
    assert (images.int() - verdict.images.int()).abs().amax((1, 2, 3))[1] <= 8
    # Alone in a batch it is found the same.
    (alone,) = worst_case([subject(Fixed(function))], [stage], images[1:2], IDS[1:2], 7, Ledger())
    assert torch.equal(alone.images[0], verdict.images[1])


def test_in_distribution_images_are_attacked_upwards() -> None:
    raised = replace(subject(Brightness()), raised=True)
    (verdict,) = worst_case([raised], [Offered(moves=(-5, 3, 9, 2))], GREY, IDS, 7, Ledger())
    assert verdict.tags == ["2:9"] * 3
    objective = searched_objectives(raised, "standard", GREY, Ledger(), True)["score"]
    values, gradients = objective.gradient(GREY.float() / 255)
    assert torch.allclose(values, torch.full((3,), -100.0))
    assert bool((gradients < 0).all())


@dataclass(frozen=True)
class Drawn(Brightness):
    """Brightness with noise of one level, declared."""

    draws: ClassVar[int] = 16

    def score(self, model: Model, images: Tensor) -> Tensor:
        return super().score(model, images) + torch.randn(len(images))


def test_a_random_score_is_averaged_to_choose_and_drawn_anew_to_report() -> None:
    target = subject(Drawn())
    ids = [f"image {i}" for i in range(200)]
    images = torch.full((200, 3, 4, 4), 100, dtype=torch.uint8)
    stage = Offered(moves=(-2,))
    (verdict,) = worst_case([target], [stage], images, ids, 7, Ledger())
    # The mean of 16 draws of each: the difference of 2 levels is 5.7 of its standard deviations.
    assert set(verdict.tags) == {"0:-2"}
    reported = final_scores(target, stage, verdict, ids)
    assert reported.std().item() == pytest.approx(1, abs=0.2)
    assert reported.mean().item() == pytest.approx(98, abs=0.3)  # luck was not kept
    assert torch.equal(reported, final_scores(target, stage, verdict, ids))
    before = torch.random.get_rng_state()
    worst_case([target], [stage], images, ids, 7, Ledger())
    assert torch.equal(before, torch.random.get_rng_state())


@dataclass(frozen=True)
class Secret(Drawn):
    """The same, undeclared."""

    draws: ClassVar[int] = 1


@dataclass(frozen=True)
class Looked(Offered):
    """Like a search along gradients, which are looked at first."""

    budget: int = 1

    @property
    def gradient_steps(self) -> int:
        return self.budget


def test_a_score_that_is_random_in_secret_is_averaged_all_the_same() -> None:
    ids = [f"image {i}" for i in range(200)]
    images = torch.full((200, 3, 4, 4), 100, dtype=torch.uint8)
    ledger, stage = Ledger(), Looked(moves=(-2,))
    (verdict,) = worst_case([subject(Secret())], [stage], images, ids, 7, ledger)
    # A single draw of each would have a deviation of 1, and keep every sixth image clean by luck.
    assert verdict.values.std().item() == pytest.approx(1 / math.sqrt(8), abs=0.08)
    assert verdict.tags.count("clean") <= 1
    assert ledger.checks["random"] > 190
    assert ledger.checks["images"] == 200
    assert final_scores(subject(Secret()), stage, verdict, ids).std().item() > 0.8


def test_a_score_cut_off_from_the_image_is_told_so() -> None:
    cut = subject(Fixed(lambda x: x.detach().mean((1, 2, 3))))
    objective = searched_objectives(cut, "standard", GREY, Ledger(), True)["score"]
    with pytest.raises(CellError, match="no gradient in the image"):
        objective.gradient(torch.rand(3, 3, 8, 8))


@pytest.mark.parametrize(
    "function",
    [lambda x: x.mean(), lambda x: x.mean((2, 3)), lambda x: x.mean((1, 2, 3))[:-1]],
    ids=["scalar", "matrix", "short"],
)
def test_a_score_of_the_wrong_shape_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(CellError, match="shape"):
        judged(Fixed(function).score, Model(BACKBONE), Shown.of(GREY))


def test_a_score_that_is_nan_is_refused_and_infinity_is_not() -> None:
    def one(value: float) -> Callable[[Tensor], Tensor]:
        return lambda x: x.mean((1, 2, 3)).index_fill(0, torch.tensor([1]), value)

    with pytest.raises(CellError, match="NaN on 1 of 3"):
        judge(Fixed(one(math.nan)), Offered())
    assert judge(Fixed(one(math.inf)), Offered()).values[1] == math.inf


def test_nan_on_a_candidate_is_refused_too() -> None:
    def function(x: Tensor) -> Tensor:
        values = x.mean((1, 2, 3))
        return torch.where(values < 99.5 / 255, math.nan, values)

    with pytest.raises(CellError, match="NaN"):
        judge(Fixed(function), Offered(moves=(-5,)))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 40])
def test_rows_added_for_small_batches_are_never_seen(count: int) -> None:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    shown = Shown.of(images)
    assert len(shown.inputs) == max(count, 16)
    values = judged(Brightness().score, Model(BACKBONE), shown)
    assert values.tolist() == pytest.approx(list(range(count)), abs=1e-4)
    ledger = Ledger()
    of = subject(Brightness())
    objective = searched_objectives(of, "standard", images, ledger, True)["score"]
    values, gradients = objective.gradient(shown.inputs[:count])
    assert len(values) == len(gradients) == ledger.gradient_images == count
    assert len(objective.value(shown.inputs[:count])) == count


def test_a_fault_on_the_way_is_known_by_the_place_of_its_image() -> None:
    def function(x: Tensor) -> Tensor:
        values = x.sum((1, 2, 3))
        # An infinite gradient where the first pixel is white, none where the second one is.
        values = torch.where(x[:, 0, 0, 0] == 1, values * 1e30 * 1e30, values)
        return torch.where(x[:, 0, 0, 1] == 1, 0 * values, values)

    centres = torch.zeros((20, 3, 4, 4), dtype=torch.uint8)
    ledger = Ledger()
    whole = searched_objectives(subject(Fixed(function)), "standard", centres, ledger, True)[
        "score"
    ]
    part = whole.rows(torch.tensor([3, 7, 11, 19])).rows(torch.tensor([1, 3]))
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0, 0, 1] = 1
    images[1, 0, 0, 0] = 1
    for _ in range(2):
        part.gradient(images)
        assert whole.faults["zero"].nonzero()[:, 0].tolist() == [7]
        assert whole.faults["nonfinite"].nonzero()[:, 0].tolist() == [19]
        images.zero_()


def test_the_ledger_counts_gradients_and_the_health_of_first_ones() -> None:
    # Image 0 has no gradient, image 1 an infinite one, image 2 one in its first channel alone.
    def function(x: Tensor) -> Tensor:
        values = x[:, 0].sum((1, 2))
        factor = torch.ones(len(x))
        factor[0] = 0
        values = values * factor
        return torch.cat([values[:1], (x[1:2].sum((1, 2, 3)) * 1e30) * 1e30, values[2:]])

    ticks: list[float] = []
    ledger = Ledger(tick=ticks.append)
    images = torch.rand(16, 3, 4, 4)
    centres = torch.zeros(images.shape, dtype=torch.uint8)
    objective = searched_objectives(subject(Fixed(function)), "standard", centres, ledger, True)[
        "score"
    ]
    for _ in range(3):
        objective.gradient(images)
    assert objective.faults["zero"].nonzero()[:, 0].tolist() == [0]
    assert objective.faults["nonfinite"].nonzero()[:, 0].tolist() == [1]
    objective.value(images)
    assert ledger.gradient_images == 48
    assert ticks == pytest.approx([16, 16, 16, 16 * FORWARD_COST])
    counts = ledger.first["score"]
    assert counts["images"] == 16
    assert counts["zero"] == 1
    assert counts["nonfinite"] == 1
    assert counts["entries"] == 16 * 48
    assert counts["zero_entries"] == 48 + 14 * 32
    report = health(ledger.first)["score"]
    assert report == {
        "zero_gradient": 1 / 16,
        "nonfinite_gradient": 1 / 16,
        "zero_entries": (48 + 14 * 32) / (16 * 48),
    }
