"""Searches on functions whose minimum is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.descent import Ball, apgd, checkpoints, pgd
from oodbench.threat import LEVELS

SHAPE = (3, 4, 4)


class Counted:
    """A function to be lowered, its calls counted and its arguments kept."""

    def __init__(self, function: object) -> None:
        self.function = function
        self.gradients = self.values = 0
        self.seen: list[Tensor] = []

    def value(self, images: Tensor) -> Tensor:
        self.values += 1
        self.seen.append(images)
        return self.function(images)  # type: ignore[operator, no-any-return]

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += 1
        self.seen.append(images)
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


def run(
    search: object, counted: Counted, ball: Ball, start: Tensor, steps: int, step: float = 4.0
) -> tuple[Tensor, Tensor]:
    return search(counted.value, counted.gradient, ball, start, steps, step)  # type: ignore


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 255), st.integers(1, 12))
def test_apgd_reaches_the_exact_optimum_of_a_linear_score_from_its_first_step(
    seed: int, k: int, steps: int
) -> None:
    function, weights = linear(seed)
    middle = centres(3, seed)
    ball = Ball.around(middle, k)
    expected = (middle.int() - k * weights.sign().int()).clamp(0, LEVELS)
    found, values = run(apgd, Counted(function), ball, ball.centres, steps, 2.0 * k)
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
    found, _ = run(pgd, Counted(function), ball, start, math.ceil(2 * k / step), step)
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

    found, values = pgd(value, away, ball, start, steps=5, step=1)
    assert torch.equal(found, wanted)
    assert values.item() == 0


def test_pgd_judges_its_last_iterate_too() -> None:
    middle = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    ball = Ball.around(middle, 8)
    counted = Counted(lambda x: x.sum((1, 2, 3)))
    found, _ = run(pgd, counted, ball, ball.centres, 1, 2.0)
    assert torch.equal(found, ball.centres - 2)


@pytest.mark.parametrize("search", [pgd, apgd])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_a_run_costs_as_many_gradients_as_it_has_steps(search: object, steps: int) -> None:
    counted = Counted(bumpy)
    ball = Ball.around(centres(2), 8)
    run(search, counted, ball, ball.centres, steps)
    assert counted.gradients == steps
    assert counted.values == (2 if search is pgd else 1)


@pytest.mark.parametrize("search", [pgd, apgd])
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


@pytest.mark.parametrize("search", [pgd, apgd])
def test_the_result_is_the_lowest_of_all_that_was_tried(search: object) -> None:
    counted = Counted(bumpy)
    ball = Ball.around(centres(4), 8)
    _, values = run(search, counted, ball, ball.centres, 25)
    tried = torch.stack([bumpy(seen) for seen in counted.seen])
    assert torch.equal(values, tried.amin(0))


@pytest.mark.parametrize("search", [pgd, apgd])
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


def test_checkpoints_are_the_published_ones() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@given(st.integers(1, 5000))
def test_checkpoints_equal_the_rule_of_auto_attack_and_end_before_the_run(steps: int) -> None:
    # The counters of autopgd_base.py, walked through iteration by iteration.
    period = max(int(0.22 * steps), 1)
    least, shrink = max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    marks, counter = [], 0
    for iteration in range(1, steps):
        counter += 1
        if counter == period:
            marks.append(iteration)
            counter = 0
            period = max(period - shrink, least)
    assert checkpoints(steps) == marks
    assert all(0 < mark < steps for mark in marks)


def plain_apgd(center: Tensor, k: int, start: Tensor, steps: int, step: float) -> list[Tensor]:
    """Auto-PGD for one image, written down from the paper; every point that is evaluated."""
    low, high = (center - k).clamp(min=0), (center + k).clamp(max=LEVELS)

    def evaluated(levels: Tensor) -> tuple[float, Tensor]:
        leaf = (levels.round() / LEVELS)[None].requires_grad_()
        value = bumpy(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.item(), gradient[0]

    x = before = start.clamp(low, high)
    f, g = evaluated(x)
    points, history = [x.round()], [f]
    best_x, best_f, best_g = x.round(), f, g
    f_at_mark, halved_before = best_f, True
    for i in range(1, steps + 1):
        z = (x - step * g.sign()).clamp(low, high)
        share = 1.0 if i == 1 else 0.75
        x, before = (x + share * (z - x) + (1 - share) * (x - before)).clamp(low, high), x
        f, g = evaluated(x)
        points.append(x.round())
        history.append(f)
        if f < best_f:
            best_x, best_f, best_g = x.round(), f, g
        if i in checkpoints(steps):
            fallen = sum(b < a for a, b in pairwise(history))
            halve = fallen <= 0.75 * (len(history) - 1) or (
                not halved_before and best_f >= f_at_mark
            )
            if halve:
                step, x, before, f, g = step / 2, best_x, best_x, best_f, best_g
            f_at_mark, halved_before, history = best_f, halve, [f]
    return points


@pytest.mark.parametrize("steps", [10, 50, 100])
def test_apgd_visits_the_points_of_a_plain_one_image_version(steps: int) -> None:
    middle = centres(6)
    start = (middle + torch.randint(-5, 6, middle.shape, generator=rng(6))).float()
    counted = Counted(bumpy)
    run(apgd, counted, Ball.around(middle, 8), start, steps, 16.0)
    visited = torch.stack(counted.seen) * LEVELS
    assert len(visited) == steps + 1
    for row in range(6):
        points = plain_apgd(middle[row].float(), 8, start[row], steps, 16.0)
        assert torch.equal(visited[:, row].round(), torch.stack(points))


def test_apgd_halves_its_step_until_it_sits_in_a_narrow_valley() -> None:
    middle = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    ball = Ball.around(middle, 8)
    goal = ball.centres + torch.randint(-7, 8, middle.shape, generator=rng(4))

    def distance(x: Tensor) -> Tensor:
        return (x * LEVELS - goal).square().sum((1, 2, 3))

    found, _ = run(apgd, Counted(distance), ball, ball.centres, 100, 16.0)
    fixed, _ = run(pgd, Counted(distance), ball, ball.centres, 100, 16.0)
    assert distance(found / LEVELS) < 0.1 * distance(fixed / LEVELS)
    assert bool(((found - goal).abs() <= 1).all())


@pytest.mark.parametrize("search", [pgd, apgd])
@pytest.mark.parametrize("what", ["gradient", "value", "centre", "start", "both"])
def test_a_row_of_nan_neither_spreads_nor_loses_what_it_had(search: object, what: str) -> None:
    middle = centres(4)
    ball = Ball.around(middle, 8)
    start = ball.project(ball.centres + torch.randint(-5, 6, middle.shape, generator=rng(5)))
    healthy, healthy_values = run(search, Counted(bumpy), ball, start, 12)
    calls = 0

    def broken(values: Tensor, images: Tensor) -> Tensor:
        at = ball.centres if what == "centre" else start
        here = torch.equal((images[1] * LEVELS).round(), at[1])
        late = what in ("value", "both") and calls > 4
        if late or (what in ("centre", "start") and here):
            values = values.clone()
            values[1] = math.nan
        return values

    def value(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return broken(bumpy(images), images)

    def gradient(images: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        values, gradients = Counted(bumpy).gradient(images)
        if what in ("gradient", "both") and calls > 3:
            gradients[1] = math.nan
        return broken(values, images), gradients

    found, values = search(value, gradient, ball, start, 12, 4.0)  # type: ignore[operator]
    others = [0, 2, 3]
    assert torch.equal(found[others], healthy[others])
    assert torch.equal(values[others], healthy_values[others])
    assert bool(found.isfinite().all())
    assert values[1].item() == bumpy(found / LEVELS)[1].item()
    assert values[1] <= bumpy(start / LEVELS)[1] or what == "start"


def test_a_start_outside_is_projected_first() -> None:
    ball = Ball.around(centres(2), 3)
    found, _ = run(pgd, Counted(bumpy), ball, ball.centres + 300, 1, 1.0)
    assert bool(((found - ball.centres).abs() <= 3).all())
