"""Searches on functions whose minimum is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.descent import Ball, Steps, falling_sizes, mixed_directions, momentum_descent, pgd
from oodbench.threat import LEVELS

SHAPE = (3, 4, 4)


class Counted:
    """A function to be lowered, its calls counted and its arguments kept.

    Of images that were set aside, the last that was seen is kept as seen again.
    """

    differentiable = True

    def __init__(self, function: object, whole: Counted | None = None, index: Tensor | None = None):
        self.function = function
        self.whole = whole or self
        self.index = index
        self.gradients = self.values = self.rows_seen = 0
        self.seen: list[Tensor] = []

    def rows(self, index: Tensor) -> Counted:
        index = index if self.index is None else self.index[index]
        return Counted(self.function, self.whole, index)

    def look(self, images: Tensor) -> None:
        self.whole.rows_seen += len(images)
        if self.index is not None:
            all_images = self.whole.seen[-1].clone()
            all_images[self.index] = images
            images = all_images
        self.whole.seen.append(images)

    def value(self, images: Tensor) -> Tensor:
        self.whole.values += 1
        self.look(images)
        return self.function(images)  # type: ignore[operator, no-any-return]

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.whole.gradients += 1
        self.look(images)
        inputs = images.detach().requires_grad_()
        values = self.function(inputs)  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(values.sum(), inputs)
        return values.detach(), gradient


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centres(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=rng(seed), dtype=torch.uint8)


def linear(seed: int) -> object:
    weights = torch.randn(SHAPE, generator=rng(seed))
    weights[weights.abs() < 1e-3] = 1.0
    return lambda x: (x * weights.to(x)).sum((1, 2, 3)), weights


def bumpy(x: Tensor) -> Tensor:
    return ((7 * x).sin() * torch.linspace(-1, 2, x[0].numel()).view(SHAPE)).sum((1, 2, 3))


def falling(
    counted: Counted, ball: Ball, start: Tensor, steps: int, step: float
) -> tuple[Tensor, Tensor]:
    return momentum_descent(counted, ball, start, Steps(steps, step, 0.2))


def plain(
    counted: Counted, ball: Ball, start: Tensor, steps: int, step: float
) -> tuple[Tensor, Tensor]:
    return pgd(counted.value, counted.gradient, ball, start, [step] * steps)


def run(
    search: object, counted: Counted, ball: Ball, start: Tensor, steps: int, step: float = 4.0
) -> tuple[Tensor, Tensor]:
    return search(counted, ball, start, steps, step)  # type: ignore[operator, no-any-return]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 255), st.integers(1, 12))
def test_momentum_descent_reaches_the_exact_optimum_of_a_linear_score_from_its_first_step(
    seed: int, k: int, steps: int
) -> None:
    function, weights = linear(seed)
    middle = centres(3, seed)
    ball = Ball.around(middle, k)
    expected = (middle.int() - k * weights.sign().int()).clamp(0, LEVELS)
    found, values = run(falling, Counted(function), ball, ball.centres, steps, 2.0 * k)
    assert torch.equal(found, expected.float())
    assert torch.allclose(values, function(expected / LEVELS), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 16), st.integers(1, 4))
def test_pgd_reaches_the_exact_optimum_of_a_linear_score_when_its_steps_suffice(
    seed: int, k: int, step: int
) -> None:
    function, weights = linear(seed)
    middle = centres(3, seed)
    ball = Ball.around(middle, k)
    expected = (middle.int() - k * weights.sign().int()).clamp(0, LEVELS)
    start = ball.centres + torch.randint(-k, k + 1, middle.shape, generator=rng(seed))
    found, _ = run(plain, Counted(function), ball, start, math.ceil(2 * k / step), step)
    assert torch.equal(found, expected.float())


@pytest.mark.parametrize("which", ["centre", "start"])
def test_pgd_keeps_the_centre_or_the_start_where_nothing_is_lower(which: str) -> None:
    middle = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    ball = Ball.around(middle, 8)
    start = ball.centres + 3
    wanted = ball.centres if which == "centre" else start

    def value(images: Tensor) -> Tensor:
        return (images * LEVELS - wanted).abs().amax((1, 2, 3)).round()

    def away(images: Tensor) -> tuple[Tensor, Tensor]:
        return value(images), -torch.ones_like(images)  # leads off both

    found, values = pgd(value, away, ball, start, [1] * 5)
    assert torch.equal(found, wanted)
    assert values.item() == 0


def test_pgd_judges_its_last_iterate_too() -> None:
    middle = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    ball = Ball.around(middle, 8)
    counted = Counted(lambda x: x.sum((1, 2, 3)))
    found, _ = run(plain, counted, ball, ball.centres, 1, 2.0)
    assert torch.equal(found, ball.centres - 2)


@pytest.mark.parametrize("search", [plain, falling])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_a_run_costs_as_many_gradients_as_it_has_steps(search: object, steps: int) -> None:
    counted = Counted(bumpy)
    ball = Ball.around(centres(2), 8)
    run(search, counted, ball, ball.centres, steps)
    assert counted.gradients == steps or (search is falling and counted.rows_seen < 2 * steps)
    assert counted.values == (2 if search is plain else 1)


@pytest.mark.parametrize("search", [plain, falling])
def test_no_image_that_is_ever_tried_leaves_ball_or_box_or_grid(search: object) -> None:
    counted = Counted(bumpy)
    ball = Ball.around(centres(4), 8)
    start = ball.centres + torch.randint(-20, 21, ball.centres.shape, generator=rng(2))
    found, values = run(search, counted, ball, start, 30)
    for levels in [*(seen * LEVELS for seen in counted.seen), found]:
        whole = levels.round()
        assert torch.allclose(levels, whole, atol=1e-3)
        assert bool(((whole >= ball.low) & (whole <= ball.high)).all())
        assert bool(((whole - ball.centres).abs() <= 8).all())
    assert torch.equal(values, bumpy(found / LEVELS))


@pytest.mark.parametrize("search", [plain, falling])
def test_the_result_is_the_lowest_of_all_that_was_tried(search: object) -> None:
    counted = Counted(bumpy)
    ball = Ball.around(centres(4), 8)
    _, values = run(search, counted, ball, ball.centres, 25)
    tried = torch.stack([bumpy(seen) for seen in counted.seen])
    assert torch.equal(values, tried.amin(0))


@pytest.mark.parametrize("search", [plain, falling])
def test_images_do_not_influence_each_other(search: object) -> None:
    middle = centres(6)
    start = middle + torch.randint(-5, 6, middle.shape, generator=rng(3))

    def searched(rows: list[int]) -> Tensor:
        ball = Ball.around(middle[rows], 8)
        return run(search, Counted(bumpy), ball, start[rows].float(), 40)[0]

    whole = searched(list(range(6)))
    order = [4, 2, 0, 5, 1, 3]
    assert torch.equal(searched(order), whole[order])
    for row in range(6):
        assert torch.equal(searched([row])[0], whole[row])


def plain_descent(center: Tensor, k: int, start: Tensor, steps: Steps) -> list[Tensor]:
    """MI-FGSM for one image, written down from the paper; every point that is evaluated."""
    low, high = (center - k).clamp(min=0), (center + k).clamp(max=LEVELS)
    x, velocity, points = start.clamp(low, high), torch.zeros_like(center), []
    for t in range(steps.number):
        points.append(x.round())
        leaf = (x.round() / LEVELS)[None].requires_grad_()
        (gradient,) = torch.autograd.grad(bumpy(leaf).sum(), leaf)
        velocity = 0.75 * velocity + gradient[0] / gradient[0].abs().mean()
        share = 0.5 * (1 + math.cos(math.pi * t / (steps.number - 1)))
        size = share * steps.first + (1 - share) * steps.last
        x = (x - size * velocity.sign()).clamp(low, high)
    return [*points, x.round()]


@pytest.mark.parametrize("number", [10, 50])
def test_momentum_descent_visits_the_points_of_a_plain_one_image_version(number: int) -> None:
    middle = centres(6)
    start = (middle + torch.randint(-5, 6, middle.shape, generator=rng(6))).float()
    counted, steps = Counted(bumpy), Steps(number, 16.0, 0.2)
    momentum_descent(counted, Ball.around(middle, 8), start, steps)
    visited = torch.stack(counted.seen) * LEVELS
    assert len(visited) == number + 1
    for row in range(6):
        points = torch.stack(plain_descent(middle[row].float(), 8, start[row], steps))
        # Where a velocity is nearly zero its sign hangs on the last bit.
        same = (visited[:, row].round() == points).flatten(1).float().mean(1)
        assert same[:5].min() == 1
        assert same.min() > 0.9


def test_steps_fall_from_the_first_to_the_last_size() -> None:
    sizes = [Steps(5, 8.0, 1.0).size(step) for step in range(5)]
    expected = [8.0, 1 + 7 * (1 + math.sqrt(0.5)) / 2, 4.5, 1 + 7 * (1 - math.sqrt(0.5)) / 2, 1.0]
    assert sizes == pytest.approx(expected)
    assert Steps(1, 8.0, 1.0).size(0) == 8.0


def test_momentum_descent_settles_in_a_narrow_valley() -> None:
    middle = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    ball = Ball.around(middle, 8)
    goal = ball.centres + torch.randint(-7, 8, middle.shape, generator=rng(4))

    def distance(x: Tensor) -> Tensor:
        return (x * LEVELS - goal).square().sum((1, 2, 3))

    found, _ = run(falling, Counted(distance), ball, ball.centres, 100, 16.0)
    fixed, _ = run(plain, Counted(distance), ball, ball.centres, 100, 16.0)
    assert distance(found / LEVELS) < 0.1 * distance(fixed / LEVELS)
    assert bool(((found - goal).abs() <= 1).all())


def test_images_that_can_go_no_lower_are_set_aside() -> None:
    middle = centres(4)
    ball = Ball.around(middle, 8)
    weights = linear(0)[1]  # type: ignore[index]
    flat = [1, 3]

    kinds = torch.tensor([row in flat for row in range(4)])

    class Mixed(Counted):
        """Linear in some images, where one step reaches the bound, wavy in the others."""

        def rows(self, index: Tensor) -> Counted:
            part = super().rows(index)
            kept = kinds[part.index]
            part.function = lambda x: self.mixed(x, kept)
            return part

        def mixed(self, x: Tensor, kept: Tensor = kinds) -> Tensor:
            return torch.where(kept, (x * weights).sum((1, 2, 3)), bumpy(20 * x))

    mixed = Mixed(None)
    mixed.function = mixed.mixed
    found, values = momentum_descent(mixed, ball, ball.centres, Steps(40, 32.0, 0.2))
    assert 2 * 41 < mixed.rows_seen <= 2 * 41 + 2 * 9
    assert torch.equal(found[flat], (ball.centres - 8 * weights.sign())[flat].clamp(0, LEVELS))
    wavy = Counted(lambda x: bumpy(20 * x))
    alone, _ = run(falling, wavy, ball, ball.centres, 40, 32.0)
    assert torch.equal(found[[0, 2]], alone[[0, 2]])
    assert torch.allclose(values[flat], (found[flat] / LEVELS * weights).sum((1, 2, 3)))


@pytest.mark.parametrize("search", [plain, falling])
@pytest.mark.parametrize("what", ["gradient", "value", "centre", "start", "both"])
def test_a_row_of_nan_neither_spreads_nor_loses_what_it_had(search: object, what: str) -> None:
    middle = centres(4)
    ball = Ball.around(middle, 8)
    start = ball.project(ball.centres + torch.randint(-5, 6, middle.shape, generator=rng(5)))
    healthy, healthy_values = run(search, Counted(bumpy), ball, start, 12)

    class Broken(Counted):
        def spoilt(self, values: Tensor, images: Tensor) -> Tensor:
            at = ball.centres if what == "centre" else start
            here = torch.equal((images[1] * LEVELS).round(), at[1])
            late = what in ("value", "both") and len(self.seen) > 4
            if late or (what in ("centre", "start") and here):
                values = values.clone()
                values[1] = math.nan
            return values

        def value(self, images: Tensor) -> Tensor:
            return self.spoilt(super().value(images), images)

        def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
            values, gradients = super().gradient(images)
            if what in ("gradient", "both") and len(self.seen) > 3:
                gradients[1] = math.nan
            return self.spoilt(values, images), gradients

    found, values = run(search, Broken(bumpy), ball, start, 12)
    others = [0, 2, 3]
    assert torch.equal(found[others], healthy[others])
    assert torch.equal(values[others], healthy_values[others])
    assert bool(found.isfinite().all())
    assert values[1].item() == bumpy(found / LEVELS)[1].item()
    assert values[1] <= bumpy(start / LEVELS)[1] or what == "start"


def test_a_start_outside_is_projected_first() -> None:
    ball = Ball.around(centres(2), 3)
    found, _ = run(plain, Counted(bumpy), ball, ball.centres + 300, 1, 1.0)
    assert bool(((found - ball.centres).abs() <= 3).all())


def test_mixed_directions_are_signs_and_gradients_of_length_20_in_turn() -> None:
    gradients = (
        torch.randn(5, *SHAPE, generator=rng(0)) * torch.logspace(-6, 6, 5)[:, None, None, None]
    )
    gradients[3] = 0
    found = mixed_directions(gradients).flatten(1)
    flat = gradients.flatten(1)
    assert torch.equal(found[0::2], flat[0::2].sign())
    assert found[1].norm().item() == pytest.approx(20)
    assert torch.nn.functional.cosine_similarity(found[1], flat[1], 0).item() == pytest.approx(1)
    assert not found[3].any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 16))
def test_mixed_pgd_stays_on_whole_levels_of_the_ball_and_keeps_values_of_what_it_returns(
    seed: int, k: int
) -> None:
    ball = Ball.around(centres(4, seed), k)
    counted = Counted(bumpy)
    found, values = pgd(
        counted.value, counted.gradient, ball, ball.centres, falling_sizes(k, 5), mixed_directions
    )
    assert all(torch.equal(seen * LEVELS, (seen * LEVELS).round()) for seen in counted.seen)
    assert bool(((found - ball.centres).abs() <= k).all())
    assert torch.equal(values, bumpy(found / LEVELS))
    assert bool((values <= bumpy(ball.centres / LEVELS)).all())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 6), st.booleans())
def test_pgd_from_the_centre_finds_the_same_without_a_value_of_it(
    seed: int, steps: int, flat: bool
) -> None:
    ball = Ball.around(centres(4, seed), 8)

    def nothing(x: Tensor) -> Tensor:
        return 0 * x.sum((1, 2, 3)) + torch.tensor([0, 0, math.nan, 0])

    function = nothing if flat else bumpy
    given, none = Counted(function), Counted(function)
    sizes = [2] * steps
    expected = pgd(given.value, given.gradient, ball, ball.centres, sizes)
    found = pgd(none.value, none.gradient, ball, None, sizes)
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1], rtol=0, atol=0, equal_nan=True)
    assert len(given.seen) - len(none.seen) == 1
    assert not flat or torch.equal(found[0], ball.centres)


@given(st.integers(1, 255), st.integers(1, 40))
def test_falling_sizes_are_whole_never_grow_and_stay_in_the_ball(radius: int, count: int) -> None:
    sizes = falling_sizes(radius, count)
    assert len(sizes) == count
    assert all(isinstance(size, int) and 1 <= size <= radius for size in sizes)
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert falling_sizes(8, 5) == [4, 6, 4, 2, 1]
