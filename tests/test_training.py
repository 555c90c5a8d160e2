"""The training loop and the recipes against hand calculation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.descent import Ball, falling_sizes, mixed_directions, pgd
from oodbench.detectors.acet import ACET
from oodbench.detectors.atom import ATOM, MinedAdversarialOutliers
from oodbench.detectors.oe import OutlierExposure
from oodbench.detectors.rowl import AdversarialBackground
from oodbench.identity import canonical_json, parameters
from oodbench.images import ArrayImages
from oodbench.network import Network, initialised
from oodbench.networks.conv3 import Conv3
from oodbench.networks.conv6 import Conv6
from oodbench.progress import Progress
from oodbench.randomness import torch_generator
from oodbench.recipe import Batch, Plain, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import reject_class
from oodbench.threat import farthest, to_float
from oodbench.trainer import Trained, TrainingRequest, _Loop, build, train
from oodbench.training import (
    Augmented,
    DeviceImages,
    Training,
    arithmetic,
    enlarged,
    punched,
    shifted,
)

CPU = torch.device("cpu")
FAST = Schedule(epochs=2, learning_rate=0.05, batch_size=8, crop_padding=0, flip=False)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(count: int, classes: int | None = 3, side: int = 16, seed: int = 0) -> ArrayImages:
    """Random images, told apart by the first pixel, brighter for higher classes."""
    pixels = rng(seed).integers(0, 120, (count, 3, side, side)).astype(np.uint8)
    labels = None if classes is None else rng(seed).integers(0, classes, count)
    if labels is not None:
        pixels += (40 * labels)[:, None, None, None].astype(np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return ArrayImages(pixels, [f"{seed}/{i}" for i in range(count)], labels)


def request(recipe: Recipe, schedule: Schedule = FAST, **changes: Any) -> TrainingRequest:
    known = TrainingRequest(recipe, schedule, Conv3, 3, 0, images(20), images(60, None, seed=1))
    return replace(known, **changes)


def which(batch: Tensor) -> list[int]:
    """Numbers of the images in a batch of floats, by their first pixel."""
    return (batch[:, 0, 0, 0] * 255).round().int().tolist()


# Augmentation


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_views_are_crops_and_flips_done_by_hand(padding: int, padding_mode: str) -> None:
    source = images(10, None)
    schedule = Schedule(crop_padding=padding, padding_mode=padding_mode)
    views = Augmented(DeviceImages(source, CPU), schedule, 3, torch_generator(0, "views"))
    assert len(views) == 30
    assert views.different_images == 10
    got = views.batch(torch.arange(30)).numpy()
    seen = set()
    for position in range(30):
        widths = ((0, 0), (padding, padding), (padding, padding))
        picture = source.batch([position % 10])[0]
        padded = (
            np.pad(picture, widths, mode="reflect")
            if padding_mode == "reflect"
            else np.pad(picture, widths)
        )
        matches = [
            (top, left, flip)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flip in (False, True)
            if np.array_equal(
                padded[:, top : top + 16, left : left + 16][:, :, :: -1 if flip else 1],
                got[position],
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {flip for _, _, flip in seen} == {False, True}
    assert len({(top, left) for top, left, _ in seen}) > (1 if padding else 0)


def test_a_view_is_a_function_of_its_position_alone() -> None:
    views = Augmented(
        DeviceImages(images(10, None), CPU), Schedule(), 2, torch_generator(0, "views")
    )
    whole = views.batch(torch.arange(20))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(views.batch(order), whole[order])
    assert torch.equal(views.batch(torch.tensor([13, 13, 2])), whole[[13, 13, 2]])
    assert not torch.equal(whole[:10], whole[10:])


def test_shifting_crops_where_it_is_told() -> None:
    picture = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    moved = shifted(picture, 2, torch.tensor([[0, 1], [4, 2]])).numpy()
    padded = np.pad(picture.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    assert np.array_equal(moved[0], padded[0, :, 0:4, 1:5])
    assert np.array_equal(moved[1], padded[1, :, 4:8, 2:6])
    assert moved.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("side", "centre", "rows", "columns"),
    [
        (9, (16, 10), (12, 20), (6, 14)),
        (9, (0, 31), (0, 4), (27, 31)),
        (9, (2, 4), (0, 6), (0, 8)),
        (1, (5, 7), (5, 5), (7, 7)),
        (4, (8, 8), (6, 9), (6, 9)),
        (99, (0, 0), (0, 31), (0, 31)),
    ],
)
def test_a_hole_is_a_grey_square_about_its_centre_and_may_stick_out(
    side: int, centre: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    pixels = to_float(torch.from_numpy(images(2, None, side=32).batch([0, 1])))
    got = punched(pixels, side, torch.tensor([centre, (31, 31)])).numpy()
    expected = pixels.numpy().copy()
    # First and last row and column are within the hole.
    expected[0, :, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = np.float32(128) / 255
    assert np.array_equal(got[0], expected[0])
    assert not np.array_equal(got[1], expected[1])


def test_holes_differ_by_image_and_by_step_and_a_schedule_without_them_draws_none() -> None:
    training = state(Plain(), schedule=Schedule(cutout_side=9))
    pixels = to_float(torch.from_numpy(images(400, None, side=32).batch(range(400))))
    got = training.with_holes(pixels)
    changed = (pixels != got).any(1)
    assert bool((got.permute(0, 2, 3, 1)[changed] == 128 / 255).all())
    centres = set()
    for which_image in changed.numpy():
        rows, columns = np.nonzero(which_image)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 5 <= height <= 9
        assert 5 <= width <= 9
        assert which_image.sum() == height * width
        centres.add(
            tuple(
                int(place.max() - 4 if place.max() < 31 else place.min() + 4)
                for place in (rows, columns)
            )
        )
    assert len(centres) > 250
    assert {row for row, _ in centres} | {column for _, column in centres} >= set(range(32))
    training.step = 1
    assert not torch.equal(training.with_holes(pixels), got)
    training.step = 0
    assert torch.equal(training.with_holes(pixels), got)
    assert state(Plain(), schedule=Schedule()).with_holes(pixels) is pixels


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 0.0), (0.3, 0.9)], ids=str)
def test_an_enlarged_part_is_that_of_pillow(share: float, place: tuple[float, float]) -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch_generator(0, "e")).byte()
    found = enlarged(pixels, torch.tensor([share, 1.0]), torch.tensor([place, place]))
    assert torch.equal(found[1], pixels[1])
    side, edges = 32 * share, [32 * (1 - share) * at for at in place]
    box = (*edges, *(edge + side for edge in edges))
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    theirs = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR, box=box)).astype(int)
    apart = np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - theirs)
    # Pillow takes nothing from beyond the part: its outermost half pixel differs.
    rim = math.ceil(0.5 / share)
    assert apart[rim:-rim, rim:-rim].max() <= 1


def test_half_of_the_outliers_of_a_step_are_enlarged_parts() -> None:
    # Two ramps: a part of the share s has the slope s, and tells where it was cut out.
    ramp = torch.arange(32).repeat(32, 1) * 8
    pixels = torch.stack([ramp, ramp.T, ramp]).byte().repeat(600, 1, 1, 1)
    training = state(Plain(), schedule=Schedule(pool_zoom=0.25))
    seen = training.with_parts(pixels)
    assert (seen.dtype, seen.shape) == (torch.uint8, pixels.shape)
    whole = (seen == pixels).flatten(1).all(1)
    assert 250 <= int(whole.sum()) <= 350
    middle = seen[~whole].float()
    shares = (middle[:, 0, 16, 24] - middle[:, 0, 16, 8]) / (8 * 16)
    for low, high in ((0.25, 0.4), (0.4, 0.55), (0.55, 0.7), (0.7, 0.85), (0.85, 1)):
        part = ((shares >= low) & (shares <= high)).double().mean()
        assert part == pytest.approx(0.2, abs=0.08)
    assert 0.24 <= shares.min() < shares.max() <= 1
    for edge in (middle[:, 0, 16, 0], middle[:, 1, 0, 16]):
        assert edge.min() < 8
        assert edge.max() > 140
    training.step = 1
    assert not torch.equal(training.with_parts(pixels), seen)
    training.step = 0
    assert torch.equal(training.with_parts(pixels), seen)
    assert state(Plain(), schedule=Schedule()).with_parts(pixels) is pixels


def test_a_schedule_without_holes_has_the_identity_it_had_before_there_were_any() -> None:
    before = (
        '{"batch_size":64,"crop_padding":4,"epochs":100,"flip":true,"learning_rate":0.1,'
        '"milestones":[0.5,0.75,0.9],"momentum":0.9,"policy":"step","pool_views":1,'
        '"precision":"float32","weight_decay":0.0001}'
    )
    assert canonical_json(parameters(Schedule())) == before
    assert parameters(Schedule(cutout_side=9)) == parameters(Schedule()) | {"cutout_side": 9}
    ending = Schedule(cutout_side=9, cutout_share=0.5)
    assert parameters(ending) == parameters(Schedule(cutout_side=9)) | {"cutout_share": 0.5}
    assert parameters(Schedule(pool_padding=0)) == parameters(Schedule()) | {"pool_padding": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"pool_views": 0},
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"weight_decay": -1e-4},
        {"weight_decay": float("inf")},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"policy": "steps"},
        {"padding_mode": "edge"},
        {"precision": "float16"},
        {"milestones": (0.5, 50)},
        {"crop_padding": -1},
        {"cutout_side": -9},
        {"pool_padding": -1},
        {"pool_padding": 0.5},
        {"pool_zoom": 0.0},
        {"pool_zoom": 1.5},
        {"cutout_share": 0.0},
        {"cutout_share": 1.5},
    ],
    ids=str,
)
def test_a_schedule_refuses_what_nobody_can_be_taught_by(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be "):
        Schedule(**wrong)


def test_a_suite_of_a_wrong_schedule_is_told_in_one_line(call: Any, tmp_path: Path) -> None:
    file = tmp_path / "holed.py"
    file.write_text(
        "from dataclasses import dataclass, field\n"
        "from oodbench.images import Suite\n"
        "from oodbench.schedule import Schedule\n"
        "@dataclass(frozen=True)\n"
        "class Holed(Suite):\n"
        "    id_set: str = 'pictures'\n"
        "    ood_sets: tuple = ('page',)\n"
        "    pool: str = 'outliers'\n"
        "    network: str = 'conv3'\n"
        "    schedules: dict = field(default_factory=lambda: {'fast': Schedule(cutout_side=-9)})\n"
    )
    result = call("train", "--suite", file, "--detector", "msp")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "cutout_side must be at least 0, not -9" in result.err


@pytest.mark.parametrize(
    "recipe",
    [OutlierExposure(), MinedAdversarialOutliers(), AdversarialBackground(outliers_per_image=0.5)],
)
def test_holes_are_flat_in_all_that_the_network_learns_from_attacked_or_not(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cut before the attack, holes were flat in what was not attacked alone: the network took a
    # flat hole for in-distribution, and test images, without any, for outliers.
    known = ArrayImages(np.zeros((8, 3, 32, 32), np.uint8), list("abcdefgh"), np.arange(8) % 3)
    pool = ArrayImages(np.full((8, 3, 32, 32), 255, np.uint8), list("ijklmnop"), None)
    attacked: list[Tensor] = []
    learnt: list[Tensor] = []
    attack = Training.attacked
    cut = Training.with_holes

    def attacking(self: Training, images: Tensor, *others: Any, **named: Any) -> Tensor:
        attacked.append(images)
        return attack(self, images, *others, **named)

    def cutting(self: Training, images: Tensor) -> Tensor:
        learnt.append(cut(self, images))
        return learnt[-1]

    monkeypatch.setattr(Training, "attacked", attacking)
    monkeypatch.setattr(Training, "with_holes", cutting)
    train(
        request(recipe, replace(FAST, epochs=1, cutout_side=9), images=known, pool=pool),
        CPU,
    )
    for batch in learnt:
        holes = (batch == 128 / 255).sum((1, 2, 3))
        assert bool(((holes >= 3 * 25) & (holes <= 3 * 81)).all())
        assert bool((holes % 3 == 0).all())
    assert bool(attacked) != isinstance(recipe, OutlierExposure)
    assert not any(bool((batch == 128 / 255).any()) for batch in attacked)


@pytest.mark.parametrize(("share", "holed"), [(1.0, 4), (0.75, 3), (0.7, 3), (0.5, 2), (0.1, 1)])
def test_holes_end_after_their_share_of_the_epochs(
    share: float, holed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Training.with_holes
    changed: dict[int, set[bool]] = {}

    def cutting(self: Training, images: Tensor) -> Tensor:
        seen = cut(self, images)
        changed.setdefault(self.epoch, set()).update((seen != images).flatten(1).any(1).tolist())
        return seen

    monkeypatch.setattr(Training, "with_holes", cutting)
    schedule = replace(FAST, epochs=4, cutout_side=9, cutout_share=share)
    train(request(Plain(), schedule, images=images(20, side=32), pool=None), CPU)
    assert changed == {epoch: {epoch < holed} for epoch in range(4)}


def test_no_share_of_a_hundred_epochs_is_one_too_many() -> None:
    for percent in range(1, 101):
        schedule = Schedule(epochs=100, cutout_side=9, cutout_share=percent / 100)
        assert sum(schedule.cutout_side_of(epoch) == 9 for epoch in range(100)) == percent


def test_images_that_stay_off_the_device_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    on = DeviceImages(images(10), CPU)
    monkeypatch.setattr("oodbench.training._ON_DEVICE_BYTES", 0)
    off = DeviceImages(images(10), CPU)
    indices = torch.tensor([3, 9, 3])
    assert off._all is None
    assert on._all is not None
    assert torch.equal(on.batch(indices), off.batch(indices))


# Losses


def state(recipe: Recipe, **changes: Any) -> Training:
    _, training = build(request(recipe, **changes), CPU)
    return training


LOGITS = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.0, -2.0]])
OUTLIERS = torch.tensor([[1.0, 0.0, 0.0, 3.0], [0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2])


def lse(row: list[float]) -> float:
    return math.log(sum(math.exp(v) for v in row))


def test_the_loss_of_atom_is_two_mean_cross_entropies_over_all_logits() -> None:
    known = [lse(row) - row[y] for row, y in zip(LOGITS.tolist(), [0, 2], strict=True)]
    unknown = [lse(row) - row[3] for row in OUTLIERS.tolist()]
    batch = Batch(torch.empty(0), LABELS, torch.empty(0))
    for weight in (1.0, 0.25):
        recipe = MinedAdversarialOutliers(weight=weight)
        got = recipe.loss(state(recipe), batch, LOGITS, OUTLIERS)
        assert got.item() == pytest.approx(sum(known) / 2 + weight * sum(unknown) / 3, rel=1e-6)


def test_the_loss_of_outlier_exposure_adds_the_distance_from_uniform() -> None:
    known = [lse(row) - row[y] for row, y in zip(LOGITS.tolist(), [0, 2], strict=True)]
    unknown = [lse(row) - sum(row) / 4 for row in OUTLIERS.tolist()]
    batch = Batch(torch.empty(0), LABELS, torch.empty(0))
    recipe = OutlierExposure()
    got = recipe.loss(state(recipe), batch, LOGITS, OUTLIERS)
    assert got.item() == pytest.approx(sum(known) / 2 + 0.5 * sum(unknown) / 3, rel=1e-6)


def test_plain_training_is_cross_entropy() -> None:
    known = [lse(row) - row[y] for row, y in zip(LOGITS.tolist(), [0, 2], strict=True)]
    batch = Batch(torch.empty(0), LABELS, torch.empty(0))
    got = Plain().loss(state(Plain()), batch, LOGITS, LOGITS[:0])
    assert got.item() == pytest.approx(sum(known) / 2, rel=1e-6)


# The attack within training


def prepared(count: int = 12) -> tuple[Training, Batch, Batch]:
    recipe = ATOM(quantile=0.125).recipe
    training = state(recipe)
    training.network.train()
    for start in range(4):  # running statistics of their own, unlike those of a batch
        training.network(to_float(torch.from_numpy(images(20, seed=start + 5).batch(range(20)))))
    outliers = to_float(torch.from_numpy(images(count, None, seed=2).batch(range(count))))
    batch = Batch(torch.empty(0, 3, 16, 16), torch.empty(0), outliers)
    return training, batch, recipe.prepare(training, batch)


def reject_log_odds(training: Training, batch: Tensor) -> Tensor:
    training.network.eval()
    with torch.no_grad():
        result = reject_class(training.network(batch), training.classes)
    training.network.train()
    return result


@pytest.mark.parametrize("count", [12, 13, 1])
def test_atom_leaves_the_first_half_and_attacks_the_second_in_its_ball_on_the_grid(
    count: int,
) -> None:
    _, before, after = prepared(count)
    half = (count + 1) // 2
    assert torch.equal(after.outliers[:half], before.outliers[:half])
    moved = (after.outliers * 255).double() - (before.outliers * 255).double()
    assert after.outliers.min() >= 0
    assert after.outliers.max() <= 1
    assert torch.allclose(moved, moved.round(), atol=1e-4)
    assert moved.abs().max() <= 8 + 1e-4
    if count > 1:
        assert bool((moved[half:].abs().flatten(1).amax(1) > 0).all())
    levels = (after.outliers * 255).round()
    assert torch.equal(after.outliers, to_float(levels.to(torch.uint8)))


def test_atom_trains_on_outliers_that_look_more_in_distribution_to_the_eval_mode_network() -> None:
    training, before, after = prepared(40)
    clean = reject_log_odds(training, before.outliers[20:])
    attacked = reject_log_odds(training, after.outliers[20:])
    assert bool((attacked <= clean + 1e-5).all())
    assert bool((attacked < clean - 1e-3).float().mean() > 0.9)


def test_the_attack_within_training_leaves_the_network_as_it_is() -> None:
    recipe = ATOM(quantile=0.125).recipe
    training = state(recipe)
    training.network.train()
    before = {key: value.clone() for key, value in training.network.state_dict().items()}
    outliers = to_float(torch.from_numpy(images(8, None).batch(range(8))))
    recipe.prepare(training, Batch(outliers[:0], LABELS[:0], outliers))
    assert training.network.training
    after = training.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in training.network.parameters())


def test_a_frozen_objective_is_the_network_in_eval_mode_with_its_gradient() -> None:
    training, before, _ = prepared()
    objective = training.frozen_objective(lambda logits: reject_class(logits, 3))
    values, gradients = objective.gradient(before.outliers)
    expected = reject_log_odds(training, before.outliers)
    assert torch.allclose(values, expected, atol=1e-4)
    assert torch.allclose(objective.value(before.outliers), expected, atol=1e-4)
    training.network.eval()
    inputs = before.outliers.clone().requires_grad_()
    reject_class(training.network(inputs), 3).sum().backward()
    assert inputs.grad is not None
    assert torch.allclose(gradients, inputs.grad, atol=1e-4)


def test_the_attack_differs_from_step_to_step_and_repeats_itself() -> None:
    recipe = MinedAdversarialOutliers(steps=0)  # the start or the clean image alone
    training, before, _ = prepared()

    def attacked(step: int) -> Tensor:
        training.step = step
        return recipe.prepare(training, before).outliers

    assert torch.equal(attacked(1), attacked(1))
    assert not torch.equal(attacked(1), attacked(2))


@pytest.mark.parametrize("detector", [ATOM(quantile=0), ACET()], ids=repr)
def test_a_mixed_attack_is_another_recipe(detector: Any) -> None:
    mixed = replace(detector, mixed=True)
    assert mixed.recipe != detector.recipe
    assert "mixed" not in parameters(detector) | parameters(detector.recipe)
    assert parameters(mixed)["mixed"]
    assert parameters(mixed.recipe)["mixed"]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("detector", [ATOM(quantile=0), ACET()], ids=repr)
def test_a_recipe_attacks_as_it_says(
    detector: Any, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, before, _ = prepared()
    batch = Batch(before.outliers[:2], LABELS[:2], before.outliers)
    asked: list[tuple[bool, list[int], bool]] = []

    def search(
        value: Any, gradient: Any, ball: Ball, start: Tensor | None, sizes: Any, directions: Any
    ) -> tuple[Tensor, Tensor]:
        asked.append((start is None, sizes, directions is mixed_directions))
        return ball.centres, torch.zeros(len(ball.centres))

    monkeypatch.setattr("oodbench.training.pgd", search)
    replace(detector, mixed=mixed).recipe.prepare(training, batch)
    assert asked == [(mixed, [4, 6, 4, 2, 1] if mixed else [2] * 5, mixed)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_mixed_attack_is_the_search_whose_first_value_is_that_of_the_image(
    precision: str,
) -> None:
    training, before, _ = prepared()
    training.schedule = replace(training.schedule, precision=precision)

    def of_logits(logits: Tensor) -> Tensor:
        return reject_class(logits, 3)

    found = training.attacked(before.outliers, of_logits, eps=8, steps=5, step=2, mixed=True)
    objective = training.frozen_objective(of_logits)
    ball = Ball.around((before.outliers * 255).round(), 8)
    expected, _ = pgd(
        objective.value,
        objective.gradient,
        ball,
        ball.centres,
        falling_sizes(8, 5),
        mixed_directions,
    )
    assert torch.equal(found, expected / 255)


def test_a_network_that_knows_noise_is_attacked_by_a_mixed_attack_alone() -> None:
    """What rises with high frequencies and falls with brightness hides from a noisy start."""
    training, before, _ = prepared()

    class Watchful(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            rough = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))
            return torch.stack([torch.zeros(len(images)), 50 * rough - images.mean((1, 2, 3))], 1)

    training.network = Watchful()  # type: ignore[assignment]
    grey = torch.full_like(before.outliers, 100 / 255)

    def lowered(mixed: bool) -> float:
        found = training.attacked(
            grey, lambda logits: logits[:, 1], eps=8, steps=5, step=2, mixed=mixed
        )
        assert farthest((found * 255).round(), grey * 255) <= 8
        return float((Watchful()(grey) - Watchful()(found))[:, 1].mean())

    assert lowered(mixed=False) == 0
    assert lowered(mixed=True) > 0


# The loop


@dataclass(frozen=True)
class Watching(Recipe):
    """Writes down what the loop hands it."""

    ratio: int = 2
    kept: tuple[int, ...] | None = None
    log: list[dict[str, Any]] = field(default_factory=list, compare=False)

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        return (Stage(schedule, self.ratio),)

    def start_epoch(self, training: Training) -> Tensor:
        return super().start_epoch(training) if self.kept is None else torch.tensor(self.kept)

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        self.log.append(
            {
                "epoch": training.epoch,
                "step": training.step,
                "known": which(batch.images),
                "labels": batch.labels.tolist(),
                "outliers": which(batch.outliers),
                "logits": (len(logits), len(outlier_logits)),
                "training": training.network.training,
                "same_pass": logits.grad_fn is not None,
            }
        )
        return F.cross_entropy(logits, batch.labels)


def test_every_image_is_seen_once_an_epoch_with_its_label_and_its_share_of_outliers() -> None:
    recipe = Watching()
    known = images(20)
    train(request(recipe), CPU)
    assert [entry["step"] for entry in recipe.log] == [0, 1, 2, 0, 1, 2]
    orders = []
    for epoch in (0, 1):
        steps = [entry for entry in recipe.log if entry["epoch"] == epoch]
        assert [len(entry["known"]) for entry in steps] == [8, 8, 4]
        assert [len(entry["outliers"]) for entry in steps] == [16, 16, 8]
        assert [entry["logits"] for entry in steps] == [(8, 16), (8, 16), (4, 8)]
        assert all(entry["training"] for entry in steps)
        order = [i for entry in steps for i in entry["known"]]
        labels = [y for entry in steps for y in entry["labels"]]
        assert sorted(order) == list(range(20))
        assert known.labels is not None
        assert labels == known.labels[order].tolist()
        outliers = [i for entry in steps for i in entry["outliers"]]
        assert len(set(outliers)) == 40  # 40 of the 60 there are, none twice
        orders.append((order, outliers))
    assert orders[0][0] != orders[1][0]
    assert orders[0][1] != orders[1][1]


@pytest.mark.parametrize(
    "changed", [{"pool_flip": True}, {"pool_padding": 2}, {"pool_zoom": 0.5}], ids=str
)
def test_outliers_may_be_moved_where_images_are_not(changed: dict[str, Any]) -> None:
    still = replace(FAST, epochs=1, flip=False, crop_padding=0)

    def seen(schedule: Schedule, what: str) -> list[int]:
        recipe = Watching(ratio=3)
        train(request(recipe, schedule), CPU)
        return sorted(i for entry in recipe.log for i in entry[what])

    moved = replace(still, **changed)
    assert seen(still, "outliers") == list(range(60))
    assert seen(moved, "known") == list(range(20))
    assert seen(moved, "outliers") != list(range(60))


def test_outliers_are_mined_as_they_are_and_enlarged_when_they_are_chosen() -> None:
    pool: list[list[int]] = []

    @dataclass(frozen=True)
    class Mining(Watching):
        def start_epoch(self, training: Training) -> Tensor:
            pool.append(which(to_float(training.pool.batch(torch.arange(len(training.pool))))))
            return super().start_epoch(training)

    recipe = Mining(ratio=3)
    schedule = replace(FAST, epochs=1, flip=False, crop_padding=0, pool_zoom=0.5)
    train(request(recipe, schedule), CPU)
    assert pool == [list(range(60))]
    found = [i for entry in recipe.log for i in entry["outliers"]]
    assert 10 <= len(set(range(60)) & set(found)) < 60


def test_digits_stay_as_they_are_and_outliers_do_not() -> None:
    from oodbench.datasets.svhn import Svhn

    for schedule in Svhn().schedules.values():
        assert (schedule.flip, schedule.crop_padding) == (False, 0)
        assert schedule.of_pool.flip
        assert schedule.of_pool.crop_padding > 0


def test_chosen_outliers_go_round_again_where_an_epoch_needs_more() -> None:
    recipe = Watching(ratio=1, kept=(5, 7, 11))
    train(request(recipe, replace(FAST, epochs=1)), CPU)
    used = [i for entry in recipe.log for i in entry["outliers"]]
    assert len(used) == 20
    assert set(used) == {5, 7, 11}
    for start in range(0, 18, 3):
        assert sorted(used[start : start + 3]) == [5, 7, 11]
    assert len({tuple(used[start : start + 3]) for start in range(0, 18, 3)}) > 1


def test_atom_mines_at_every_epoch_and_labels_outliers_with_the_class_after_the_last() -> None:
    recipe = MinedAdversarialOutliers(quantile=0.125)
    trained = train(request(recipe), CPU)
    assert trained.network(torch.zeros(2, 3, 16, 16)).shape == (2, 4)
    assert trained.facts["mining"] == {"scored": 60, "mined": 15, "different_images": 60}
    # The reject class must be class K: with it the loss of a sure reject is nothing.
    sure = torch.tensor([[0.0, 0.0, 0.0, 50.0]])
    batch = Batch(torch.empty(0), LABELS[:1], torch.empty(0))
    loss = recipe.loss(state(recipe), batch, torch.tensor([[50.0, 0.0, 0.0, 0.0]]), sure)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("recipe", [OutlierExposure(), MinedAdversarialOutliers()], ids=["oe", "a"])
def test_a_recipe_with_outliers_without_a_pool_is_told_so(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="outlier pool"):
        train(request(recipe, pool=None), CPU)
    with pytest.raises(ValueError, match="no outliers"):
        _ = state(Plain()).pool


def rates(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    log: list[float] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            log.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr("oodbench.trainer.SGD", Spy)
    train(request(Plain(), schedule), CPU)
    return log


def test_the_step_schedule_divides_by_ten_at_its_milestones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = replace(FAST, epochs=20, learning_rate=0.1, policy="step")
    got = rates(schedule, monkeypatch)
    expected = [0.1] * 30 + [0.01] * 15 + [0.001] * 9 + [0.0001] * 6
    assert got == pytest.approx(expected, rel=1e-6)


def test_the_one_cycle_schedule_rises_to_its_peak_and_falls_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = replace(FAST, epochs=10, learning_rate=0.1, policy="one_cycle")
    got = rates(schedule, monkeypatch)
    # Smith & Topin as in torch: cosine from lr/25 to lr at 30 %, then to lr/25/1e4.
    up, down = 0.3 * 30 - 1, 30 - 0.3 * 30
    expected = []
    for step in range(30):
        low, high, share = (
            (0.1 / 25, 0.1, step / up) if step <= up else (0.1, 0.1 / 25e4, (step - up) / down)
        )
        expected.append(high + (low - high) / 2 * (1 + math.cos(math.pi * share)))
    assert got == pytest.approx(expected, rel=1e-6)
    assert max(got) == pytest.approx(0.1)


class Stop(Exception):
    pass


@dataclass(frozen=True)
class TwoStages(Recipe):
    """Two stages, a module beside the network with a rate of its own, and a constraint."""

    stop_at: tuple[int, int] | None = field(default=None, compare=False)
    log: list[tuple[int, int, int, int]] = field(default_factory=list, compare=False)

    @property
    def start_from(self) -> Recipe:
        return Plain()

    def outputs(self, classes: int) -> int:
        return classes

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        return (
            Stage(schedule),
            Stage(replace(schedule, epochs=3, batch_size=5, policy="one_cycle"), 1),
        )

    def modules(self, training: Training) -> dict[str, nn.Module]:
        scale = nn.Linear(1, 1)
        nn.init.constant_(scale.weight, 2.0)
        nn.init.constant_(scale.bias, 0.0)
        return {"scale": scale}

    def parameter_groups(self, training: Training) -> Iterable[dict[str, Any]]:
        return [
            {"params": list(training.network.parameters())},
            {
                "params": list(training.modules["scale"].parameters()),
                "lr": 1e-3,
                "weight_decay": 0.0,
            },
        ]

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        self.log.append((training.stage, training.epoch, len(logits), len(outlier_logits)))
        if self.stop_at == (training.stage, training.epoch):
            raise Stop
        scale = training.modules["scale"]
        # Pulls the scale up for ever, against the constraint.
        loss = F.cross_entropy(logits * scale.weight, batch.labels) - 100 * scale.weight.sum()
        if len(outlier_logits):
            loss = loss + outlier_logits.square().mean() * scale.weight.detach().item()
        return loss

    def after_step(self, training: Training) -> None:
        with torch.no_grad():
            training.modules["scale"].weight.clamp_(max=2.5)


def start_tensors() -> dict[str, Tensor]:
    return train(request(Plain(), replace(FAST, epochs=1)), CPU).tensors()


def test_stages_modules_rates_and_constraints_go_through_the_one_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = start_tensors()
    rates: list[tuple[float, ...]] = []
    others: list[tuple[Any, ...]] = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(tuple(group["lr"] for group in self.param_groups))
            others.append(
                tuple(
                    (group["momentum"], group["nesterov"], group["weight_decay"])
                    for group in self.param_groups
                )
            )
            return super().step(closure)

    monkeypatch.setattr("oodbench.trainer.SGD", Spy)
    recipe = TwoStages()
    trained = train(request(recipe, start=start), CPU)
    steps = [(8, 0), (8, 0), (4, 0)]
    expected = [(0, e, *s) for e in range(2) for s in steps]
    expected += [(1, e, 5, 5) for e in range(3) for _ in range(4)]
    assert recipe.log == expected
    drops = [1, 1, 1, 0.1, 0.01, 0.001]  # at 3, 4 (4.5 rounded to even) and 5 of 6 steps
    for number, share in enumerate(drops):
        assert rates[number] == pytest.approx((0.05 * share, 1e-3 * share))
    assert max(rate for rate, _ in rates[6:]) == pytest.approx(0.05, rel=0.1)
    for rate, own in rates[6:]:
        assert own == pytest.approx(rate * 1e-3 / 0.05)
    assert set(others) == {((0.9, True, 1e-4), (0.9, True, 0.0))}
    assert trained.modules["scale"].weight.item() == 2.5
    names = trained.tensors()
    assert "modules.scale.weight" in names
    assert any(name.startswith("network.") for name in names)


def test_the_weights_that_a_recipe_starts_from_are_what_it_starts_from() -> None:
    start = start_tensors()
    still = replace(FAST, epochs=1, learning_rate=0.0, momentum=0.0)

    @dataclass(frozen=True)
    class Still(Plain):
        pass

    trained = train(request(Still(), still, start=start), CPU).tensors()
    for name, tensor in start.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(trained[name], tensor)


@pytest.mark.parametrize("stop_at", [(0, 1), (1, 0), (1, 1), (1, 2)])
def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(
    stop_at: tuple[int, int], tmp_path: Path
) -> None:
    start = start_tensors()
    whole = train(request(TwoStages(), start=start), CPU).tensors()
    checkpoint = tmp_path / "x.checkpoint"
    with pytest.raises(Stop):
        train(request(TwoStages(stop_at=stop_at), start=start), CPU, checkpoint)
    assert checkpoint.exists()
    rest = TwoStages()
    resumed = train(request(rest, start=start), CPU, checkpoint).tensors()
    assert rest.log[0][:2] == stop_at  # nothing is done twice
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.parametrize(
    "recipe",
    [
        Plain(),
        OutlierExposure(),
        MinedAdversarialOutliers(),
        MinedAdversarialOutliers(mixed=True, weight=4.0, first_weight=6.0),
    ],
    ids=["plain", "oe", "atom", "atom taught twice"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_recipes_resume_bit_for_bit(recipe: Recipe, precision: str, tmp_path: Path) -> None:
    schedule = replace(
        FAST, epochs=3, policy="one_cycle", crop_padding=2, flip=True, precision=precision
    )
    start = None
    if recipe.start_from is not None:
        # With all that the weights which ship were taught with.
        schedule = replace(schedule, pool_zoom=0.25, cutout_side=5, cutout_share=0.75)
        start = train(request(recipe.start_from, schedule), CPU).tensors()
    asked = request(recipe, schedule, start=start)
    whole = train(asked, CPU).tensors()
    checkpoint = tmp_path / "x.checkpoint"
    cut_short(asked, checkpoint, before=2)
    resumed = went_on(asked, checkpoint, epochs=[2])
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def cut_short(asked: TrainingRequest, checkpoint: Path, before: int) -> None:
    """Stop a training when an epoch begins."""
    run_epoch = _Loop.run_epoch

    def until(self: Any, stage: Any, epoch: int, *rest: Any) -> None:
        if epoch == before:
            raise Stop
        run_epoch(self, stage, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Loop, "run_epoch", until)
        with pytest.raises(Stop):
            train(asked, CPU, checkpoint)


def went_on(asked: TrainingRequest, checkpoint: Path, epochs: list[int]) -> dict[str, Tensor]:
    """Train from a checkpoint, which leaves these epochs to be run, and return what is learnt."""
    run_epoch, ran = _Loop.run_epoch, []

    def noted(self: Any, stage: Any, epoch: int, *rest: Any) -> None:
        ran.append(epoch)
        run_epoch(self, stage, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Loop, "run_epoch", noted)
        trained = train(asked, CPU, checkpoint)
    assert ran == epochs
    return trained.tensors()


def test_what_goes_on_from_another_training_does_not_start_without_it() -> None:
    with pytest.raises(ValueError, match="goes on from another training"):
        train(request(MinedAdversarialOutliers(first_weight=6.0)), CPU)


def test_accuracy_is_the_share_of_classes_that_are_largest_in_eval_mode() -> None:
    trained = train(request(MinedAdversarialOutliers()), CPU)
    held_out = images(1201, seed=2)
    network = trained.network
    network.train()  # as the last step left it
    found = trained.accuracy(held_out, 3)
    network.eval()
    labels = held_out.labels
    assert labels is not None
    with torch.no_grad():
        scores = network(to_float(torch.from_numpy(held_out.batch(range(1201)))))[:, :3].numpy()
    right = sum(row[label] == row.max() for row, label in zip(scores, labels, strict=True))
    assert found == right / 1201
    assert 0 < right < 1201
    assert trained.accuracy(images(8, None), 3) is None
    assert trained.accuracy(images(0), 3) is None


def test_a_truncated_checkpoint_is_thrown_away(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.checkpoint"
    whole = train(request(Plain()), CPU, checkpoint).tensors()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    again = train(request(Plain()), CPU, checkpoint).tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("kind", [Conv3, Conv6])
def test_stored_kernels_have_the_type_their_network_asks_for_and_all_else_its_own(
    kind: type[Network],
) -> None:
    module = nn.Linear(3, 3)
    trained = Trained(initialised(kind, 10, 0), {"density": module})
    kept, exact = trained.kept(), trained.tensors()
    assert list(kept) == list(exact)
    for name, tensor in kept.items():
        kernel = name.startswith("network.") and name.endswith("weight") and tensor.ndim > 1
        assert tensor.dtype == (kind.kept_as if kernel else exact[name].dtype)
        assert torch.equal(tensor, exact[name].to(tensor.dtype))
    trained.load_tensors(kept)
    again = trained.kept()
    assert all(torch.equal(again[name], tensor) for name, tensor in kept.items())
    assert all(p.dtype == torch.float32 for p in trained.network.parameters())


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (train(request(Plain(), seed=s), CPU).tensors() for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    with pytest.raises(ValueError, match="not finite"):
        train(request(Plain(), replace(FAST, learning_rate=1e30)), CPU)


@dataclass
class Counting(Progress):
    total: float = 0.0
    done: float = 0.0

    def task(self, description: str, total: float, done: float = 0) -> Any:
        import contextlib

        self.total, self.done = total, done

        @contextlib.contextmanager
        def opened() -> Any:
            yield self

        return opened()

    def advance(self, amount: float, note: str = "") -> None:
        self.done += amount

    def expect(self, amount: float) -> None:
        self.total += amount


@pytest.mark.parametrize(
    "recipe",
    # The last shows every image twice.
    [Plain(), TwoStages(), AdversarialBackground(outliers_per_image=0.5)],
    ids=["plain", "two-stages", "copies"],
)
def test_progress_ends_at_its_total(recipe: Recipe, tmp_path: Path) -> None:
    progress = Counting()
    checkpoint = tmp_path / "x.checkpoint"
    asked = request(recipe, start=None if recipe.start_from is None else start_tensors())
    train(asked, CPU, checkpoint, progress)
    assert progress.done == progress.total
    train(asked, CPU, checkpoint, progress)  # all is resumed
    assert progress.done == progress.total


def test_progress_goes_by_images_so_that_a_stage_with_outliers_is_foreseen_as_longer() -> None:
    @dataclass(frozen=True)
    class Uneven(TwoStages):
        def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
            return Stage(replace(schedule, epochs=2)), Stage(replace(schedule, epochs=3), 5)

    progress = Counting()
    asked = request(Uneven(), start=start_tensors())
    train(asked, CPU, progress=progress)
    assert progress.total == len(asked.images) * (2 * 1 + 3 * 6)
    assert progress.done == progress.total


def test_a_checkpoint_of_another_kind_of_device_is_left_to_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.checkpoint"
    train(request(Plain()), CPU, checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    rounded = state["facts"] | {"precision": "bfloat16"}
    for changed, place in (
        ({"device": "cuda"}, "cuda in float32"),
        ({"facts": rounded}, "cpu in bfloat16"),
    ):
        torch.save(state | changed, checkpoint)
        with pytest.raises(ValueError, match=f"was written on {place}; go on there, or delete it"):
            train(request(Plain()), CPU, checkpoint)
    assert checkpoint.exists()
    del state["facts"]["precision"]  # as before it was written down
    torch.save(state, checkpoint)
    train(request(Plain()), CPU, checkpoint)
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match="was written on cpu in float32"):
        train(request(Plain(), replace(FAST, precision="bfloat16")), CPU, checkpoint)


def test_a_checkpoint_of_a_time_with_several_optimisers_is_gone_on_from(tmp_path: Path) -> None:
    asked = request(Plain())
    whole = train(asked, CPU).tensors()
    checkpoint = tmp_path / "x.checkpoint"
    cut_short(asked, checkpoint, before=1)
    state = torch.load(checkpoint, weights_only=True)
    state["optimiser"] = {"optimisers": [state["optimiser"]], "rates": [state.pop("scheduler")]}
    torch.save(state, checkpoint)
    resumed = went_on(asked, checkpoint, epochs=[1])
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_what_comes_before_the_first_step_counts_among_the_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    class Slow(Plain):
        def start(self, training: Training) -> None:
            now[0] += 600

    monkeypatch.setattr("oodbench.trainer.time.monotonic", lambda: now[0])
    assert train(request(Slow()), CPU).facts["seconds"] == 600


def test_a_resumed_training_counts_the_seconds_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "x.checkpoint"
    train(request(Plain()), CPU, checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    assert 0 < state["facts"]["seconds"] < 1000
    state["facts"]["seconds"] = 1000.0
    torch.save(state, checkpoint)
    assert 1000 <= train(request(Plain()), CPU, checkpoint).facts["seconds"] < 1100


def test_a_few_epochs_learn_what_can_be_learnt() -> None:
    schedule = replace(FAST, epochs=12, policy="one_cycle")
    trained = train(request(Plain(), schedule), CPU).network.eval()
    known = images(20)
    with torch.no_grad():
        predicted = trained(to_float(torch.from_numpy(known.batch(range(20))))).argmax(1)
    assert known.labels is not None
    assert (predicted.numpy() == known.labels).mean() > 0.9


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    capabilities: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    asked = {
        name: train(request(Plain(), replace(FAST, precision=name)), CPU)
        for name in ("float32", "bfloat16", "auto")
    }
    assert {name: one.facts["precision"] for name, one in asked.items()} == {
        "float32": "float32",
        "bfloat16": "bfloat16",
        "auto": precision,
    }
    weights = {name: one.tensors()["network.head.weight"] for name, one in asked.items()}
    assert not torch.equal(weights["float32"], weights["bfloat16"])
    assert torch.equal(weights["auto"], weights[precision])


def test_auto_is_float32_where_torch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert arithmetic("auto", CPU) == "float32"


def test_auto_is_bfloat16_on_a_gpu() -> None:
    _, training = build(request(Plain(), replace(FAST, precision="auto")), CPU)
    training.device = torch.device("cuda")
    with _meant(training) as asked:
        assert asked == torch.bfloat16


@contextlib.contextmanager
def _meant(training: Training) -> Iterator[torch.dtype]:
    """Stand in for a GPU that is not there: give the type that autocast would be asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda device, dtype: contextlib.nullcontext(dtype))
        with training.autocast() as asked:
            yield asked
