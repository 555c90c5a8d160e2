"""What the recipes teach, against hand calculation from given logits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.detectors.acet import ACET, AdversarialConfidence
from oodbench.detectors.atom import ATOM
from oodbench.detectors.energy_finetuned import EnergyFinetuned, EnergyMargins
from oodbench.detectors.ntom import NTOM
from oodbench.detectors.rowl import ROWL, AdversarialBackground
from oodbench.detectors.sofl import SOFL, SelfLabelledOutliers
from oodbench.images import ArrayImages
from oodbench.mining import MinedOutliers
from oodbench.networks.conv3 import Conv3
from oodbench.recipe import Batch, Plain, Recipe, Stage
from oodbench.schedule import PAPER, Schedule
from oodbench.scores import uniform_cross_entropy
from oodbench.threat import to_float
from oodbench.trainer import TrainingRequest, _Loop, build, train
from oodbench.training import Training

CPU = torch.device("cpu")
FAST = Schedule(epochs=2, learning_rate=0.05, batch_size=8, crop_padding=0, flip=False)
LOGITS = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.0, -2.0]])
OUTLIERS = torch.tensor([[1.0, 0.0, 0.0, 3.0], [0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2])
NOTHING = Batch(torch.empty(0), LABELS, torch.empty(0))


def images(count: int, classes: int | None = 3, seed: int = 0) -> ArrayImages:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 16, 16)).astype(np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    labels = None if classes is None else np.arange(count) % classes
    return ArrayImages(pixels, [f"{seed}/{i}" for i in range(count)], labels)


def request(recipe: Recipe, **changes: Any) -> TrainingRequest:
    known = TrainingRequest(recipe, FAST, Conv3, 3, 0, images(24), images(60, None, seed=1))
    return replace(known, **changes)


def state(recipe: Recipe) -> Training:
    _, training = build(request(recipe), CPU)
    return training


def lse(row: list[float]) -> float:
    return math.log(sum(math.exp(v) for v in row))


KNOWN = [lse(row) - row[y] for row, y in zip(LOGITS.tolist(), [0, 2], strict=True)]


def test_acet_is_outlier_exposure_with_weight_one() -> None:
    unknown = [lse(row) - sum(row) / 4 for row in OUTLIERS.tolist()]
    recipe = ACET().recipe
    got = recipe.loss(state(recipe), NOTHING, LOGITS, OUTLIERS)
    assert got.item() == pytest.approx(sum(KNOWN) / 2 + sum(unknown) / 3, rel=1e-6)


def test_ntom_has_the_loss_of_atom_and_attacks_nothing() -> None:
    unknown = [lse(row) - row[3] for row in OUTLIERS.tolist()]
    recipe = NTOM(quantile=0.125).recipe
    got = recipe.loss(state(recipe), NOTHING, LOGITS, OUTLIERS)
    assert got.item() == pytest.approx(sum(KNOWN) / 2 + sum(unknown) / 3, rel=1e-6)
    assert type(recipe).prepare is Recipe.prepare
    assert recipe.prepare(state(recipe), NOTHING) is NOTHING
    assert recipe.outputs(3) == 4
    assert recipe.stages(PAPER) == (Stage(PAPER, 2),)


@pytest.mark.parametrize("way", [{"step": 1}, {"mixed": True}], ids=str)
def test_atom_with_a_first_training_goes_on_from_it_at_rates_that_only_fall(
    way: dict[str, Any],
) -> None:
    first = ATOM(quantile=0.25, weight=6, eps=7, steps=3, **way).recipe
    recipe = ATOM(
        quantile=0.25, weight=4, eps=7, steps=9, first_weight=6, first_steps=3, **way
    ).recipe
    assert recipe.start_from == first
    assert isinstance(recipe, MinedOutliers)
    more = replace(recipe, outliers_per_image=3)
    assert more.start_from == replace(first, outliers_per_image=3)
    assert first.start_from is None
    assert first.stages(PAPER) == (Stage(PAPER, 2),)
    (stage,) = recipe.stages(PAPER)
    assert stage == Stage(replace(PAPER, policy="cosine", learning_rate=0.05), 2)


def test_atom_goes_on_from_the_weights_and_not_from_random_ones() -> None:
    recipe = ATOM(quantile=0.25, weight=4, steps=2, first_weight=6, first_steps=1).recipe
    assert recipe.start_from is not None
    first = train(request(recipe.start_from), CPU).tensors()
    still = replace(FAST, learning_rate=1e-9, epochs=1, weight_decay=0.0)
    after = train(request(recipe, schedule=still, start=first), CPU).tensors()
    kernels = [name for name in first if first[name].ndim == 4]
    assert kernels
    assert all(torch.allclose(after[name], first[name], atol=1e-6) for name in kernels)
    moved = train(request(recipe, start=first), CPU).tensors()
    assert not any(torch.allclose(moved[name], first[name], atol=1e-4) for name in kernels)


def test_steps_of_a_first_training_that_there_is_not_are_refused() -> None:
    with pytest.raises(ValueError, match="set first_weight too"):
        ATOM(first_steps=7)


def test_sofl_labels_outliers_with_their_likeliest_reject_class_else_a_random_one() -> None:
    recipe = SOFL(rejects=2).recipe
    assert isinstance(recipe, SelfLabelledOutliers)
    training = state(recipe)
    logits = torch.tensor(
        [[0.0, 0, 0, 1, 2], [0, 0, 0, 3, 2], [5, 0, 0, 1, 2], [0, 6, 0, 9, 2]]
    ).repeat(50, 1)
    labels = recipe.own_labels(training, logits)
    assert labels[0::4].eq(4).all()
    assert labels[1::4].eq(3).all()
    assert labels[3::4].eq(3).all()
    drawn = labels[2::4]
    assert set(drawn.tolist()) == {3, 4}
    assert abs(drawn.eq(3).float().mean() - 0.5) < 0.25
    training.step += 1
    assert not torch.equal(recipe.own_labels(training, logits)[2::4], drawn)
    hand = [lse(row) - row[y] for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    training.step -= 1
    known = torch.tensor([[2.0, 0.0, -1.0, 0.5, 0.0], [0.0, 1.0, 0.0, -2.0, 0.0]])
    ours = [lse(row) - row[y] for row, y in zip(known.tolist(), [0, 2], strict=True)]
    leaf = logits.clone().requires_grad_()
    got = recipe.loss(training, NOTHING, known, leaf)
    assert got.item() == pytest.approx(sum(ours) / 2 + 5 * sum(hand) / 200, rel=1e-5)
    # The labels are constants: the gradient is that of cross entropy to fixed labels.
    (gradient,) = torch.autograd.grad(got, leaf)
    fixed = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(5 * F.cross_entropy(fixed, labels), fixed)
    assert torch.allclose(gradient, expected)


def test_sofl_runs_the_whole_schedule_without_outliers_and_again_with_five_an_image() -> None:
    recipe = SOFL(rejects=5).recipe
    assert recipe.stages(PAPER) == (Stage(PAPER), Stage(PAPER, 5))
    assert recipe.outputs(10) == 15
    first = recipe.loss(state(recipe), NOTHING, LOGITS, LOGITS[:0])
    assert first.item() == pytest.approx(sum(KNOWN) / 2, rel=1e-6)


def test_energy_margins_penalise_squares_beyond_them_and_nothing_within() -> None:
    recipe = EnergyFinetuned(margin_in=-2.0, margin_out=-1.8).recipe
    training = state(recipe)
    energies = [-lse(row) for row in LOGITS.tolist()]
    others = [-lse(row) for row in OUTLIERS.tolist()]
    assert min(energies) < -2 < max(energies)
    assert min(others) < -1.8 < max(others)
    above = [max(0.0, e + 2.0) ** 2 for e in energies]
    below = [max(0.0, -1.8 - e) ** 2 for e in others]
    expected = sum(KNOWN) / 2 + 0.1 * (sum(above) / 2 + sum(below) / 3)
    got = recipe.loss(training, NOTHING, LOGITS, OUTLIERS)
    assert got.item() == pytest.approx(expected, rel=1e-5)
    within = EnergyMargins(margin_in=10.0, margin_out=-10.0)
    assert within.loss(training, NOTHING, LOGITS, OUTLIERS).item() == pytest.approx(
        sum(KNOWN) / 2, rel=1e-6
    )


def test_energy_fine_tuning_is_ten_epochs_from_the_plain_network_as_published() -> None:
    recipe = EnergyFinetuned(margin_in=-23.0).recipe
    assert recipe.start_from == Plain()
    (stage,) = recipe.stages(PAPER)
    assert stage.outliers_per_image == 2
    tuning = stage.schedule
    assert (tuning.epochs, tuning.learning_rate, tuning.batch_size) == (10, 0.001, 128)
    assert (tuning.policy, tuning.weight_decay) == ("cosine", 5e-4)
    assert recipe.margin_out == -5.0  # type: ignore[attr-defined]


def test_the_cosine_schedule_falls_from_its_rate_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import oodbench.trainer as trainer

    rates: list[float] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(trainer, "SGD", Spy)
    train(request(Plain(), schedule=replace(FAST, policy="cosine")), CPU)
    expected = [0.025 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert rates == pytest.approx(expected)


# Attacks within training


def warm(training: Training) -> None:
    training.network.train()
    with torch.no_grad():
        for seed in range(4):
            batch = images(24, seed=seed + 5).batch(range(24))
            training.network(to_float(torch.from_numpy(batch)))


def batch_of(known: int, outliers: int) -> Batch:
    ours, theirs = images(known), images(max(outliers, 1), None, seed=2)
    assert ours.labels is not None
    return Batch(
        to_float(torch.from_numpy(ours.batch(range(known)))),
        torch.from_numpy(ours.labels),
        to_float(torch.from_numpy(theirs.batch(range(outliers)))),
    )


def logits_of(training: Training, batch: Tensor) -> Tensor:
    training.network.eval()
    with torch.no_grad():
        result: Tensor = training.network(batch)
    return result


def test_acet_makes_the_network_surer_of_the_second_half_within_the_ball() -> None:
    recipe = ACET().recipe
    training = state(recipe)
    warm(training)
    batch = batch_of(8, 12)
    after = recipe.prepare(training, batch)
    assert torch.equal(after.images, batch.images)
    assert torch.equal(after.outliers[:6], batch.outliers[:6])
    moved = ((after.outliers[6:] - batch.outliers[6:]) * 255).abs()
    assert 7.9 < moved.max() <= 8 + 1e-3
    assert (moved - moved.round()).abs().max() < 1e-3
    gained = uniform_cross_entropy(logits_of(training, after.outliers[6:])) - uniform_cross_entropy(
        logits_of(training, batch.outliers[6:])
    )
    assert (gained > 0).all()


def test_acet_takes_doubled_batches_with_as_many_outliers_as_images() -> None:
    (stage,) = AdversarialConfidence().stages(PAPER)
    assert (stage.schedule.batch_size, stage.outliers_per_image) == (128, 1)


@pytest.mark.parametrize(
    ("own", "doubled"), [(8, 16), (64, 128), (100, 128), (128, 128), (256, 256)]
)
def test_a_doubled_batch_is_at_most_the_published_one(own: int, doubled: int) -> None:
    schedule = replace(PAPER, batch_size=own)
    for recipe in (AdversarialConfidence(), EnergyMargins(), AdversarialBackground()):
        (stage,) = recipe.stages(schedule)
        assert stage.schedule.batch_size == doubled


def test_rowl_adds_copies_that_lean_to_another_class() -> None:
    recipe = ROWL(background=1 / 3).recipe
    training = state(recipe)
    warm(training)
    batch = batch_of(9, 3)
    after = recipe.prepare(training, batch)
    assert torch.equal(after.images[:9], batch.images)
    assert torch.equal(after.outliers[:3], batch.outliers)
    assert torch.equal(after.labels, torch.cat([batch.labels, batch.labels]))
    labels = torch.cat([batch.labels, torch.full((3,), 3)])
    clean = torch.cat([batch.images, batch.outliers])
    copies = torch.cat([after.images[9:], after.outliers[3:]])
    moved = ((copies - clean) * 255).abs().flatten(1).amax(1)
    assert (moved <= 8 + 1e-3).all()
    # A targeted attack succeeds: a drawn other class is likelier than before.
    before, now = (logits_of(training, x).softmax(1) for x in (clean, copies))
    others = torch.ones_like(before).scatter(1, labels[:, None], 0.0).bool()
    assert ((now - before)[others].reshape(12, 3).amax(1) > 0).all()
    assert (moved > 4).all()


def test_without_its_adversary_rowl_trains_on_the_images_twice_as_published() -> None:
    recipe = ROWL(background=1 / 3, adversary=False).recipe
    batch = batch_of(6, 2)
    after = recipe.prepare(state(recipe), batch)
    assert torch.equal(after.images, torch.cat([batch.images, batch.images]))
    assert torch.equal(after.outliers, torch.cat([batch.outliers, batch.outliers]))


def test_the_loss_of_rowl_is_a_mean_over_the_union_for_images_and_for_copies() -> None:
    recipe = AdversarialBackground(weight=0.25)
    known = torch.tensor([[2.0, 0, -1, 0.5], [0, 1, 0, -2], [1, 1, 0, 0], [0, 0, 3, 1]])
    outliers = torch.tensor([[1.0, 0, 0, 3], [0, 2, 0, -1]])
    labels = torch.tensor([0, 2, 0, 2])
    batch = Batch(torch.empty(0), labels, torch.empty(0))
    terms = [lse(row) - row[y] for row, y in zip(known.tolist(), labels.tolist(), strict=True)]
    unknown = [lse(row) - row[3] for row in outliers.tolist()]
    natural = (terms[0] + terms[1] + unknown[0]) / 3
    copies = (terms[2] + terms[3] + unknown[1]) / 3
    got = recipe.loss(state(recipe), batch, known, outliers)
    assert got.item() == pytest.approx(natural + 0.25 * copies, rel=1e-5)


def test_the_background_of_rowl_is_the_same_images_in_every_epoch() -> None:
    recipe = ROWL(background=1 / 3).recipe
    whole = request(recipe)
    _, training = build(whole, CPU)
    (stage,) = recipe.stages(FAST)
    assert stage.schedule.batch_size == 12  # 12 images and 4 of the background: 16
    loop = _Loop(whole, training, (stage,), CPU)
    loop.start_stage(0)
    seen = []
    for epoch in range(2):
        training.epoch = epoch
        batches = list(loop._batches(stage))
        assert [len(b.outliers) for b in batches] == [4, 4]
        shown = torch.cat([b.outliers for b in batches])[:, 0, 0, 0]
        seen.append(sorted((shown * 255).round().int().tolist()))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 8


def test_a_share_of_outliers_that_is_not_whole_comes_to_the_right_number() -> None:
    stage = Stage(FAST, 50 / 64)
    assert stage.outliers_beside(64) == 50
    assert [stage.outliers_beside(n) for n in (0, 1, 2)] == [0, 0, 1]
    for k in range(1, 200):
        assert Stage(FAST, 1 / k).outliers_beside(5 * k) == 5


def test_detectors_with_the_same_recipe_share_weights_and_others_do_not() -> None:
    assert NTOM(quantile=0.125).recipe == MinedOutliers(quantile=0.125)
    assert ROWL(background=0.1).recipe != ROWL(background=0.1, adversary=False).recipe
    assert (
        EnergyFinetuned(margin_in=-23.0).recipe
        == EnergyFinetuned(margin_in=-23.0, temperature=2.0).recipe
    )


@pytest.mark.parametrize(
    "plugin", [NTOM(), SOFL(), ROWL(), EnergyFinetuned()], ids=lambda p: type(p).__name__
)
def test_what_the_suite_has_to_say_is_asked_for(plugin: Any) -> None:
    with pytest.raises(ValueError, match=r"no value for this suite; set \w+\.\w+"):
        _ = plugin.recipe
