"""The Square attack: against a plain loop, a closed form and the schedule of AutoAttack."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from oodbench.attacks import square as module
from oodbench.attacks.square import Square, share, side_length
from oodbench.randomness import generator
from oodbench.testing import check
from oodbench.threat import to_float

Score = Callable[[Tensor], Tensor]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(
    count: int, height: int = 8, width: int = 8, seed: int = 0
) -> tuple[Tensor, list[str]]:
    images = torch.randint(0, 256, (count, 3, height, width), generator=rng(seed))
    return images.to(torch.uint8), [f"image/{i}" for i in range(count)]


def weights(height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(3, height, width, generator=rng(1), dtype=torch.float64)


def linear(images: Tensor) -> Tensor:
    return (images.double() * weights(*images.shape[2:])).sum((1, 2, 3))


def wavy(images: Tensor) -> Tensor:
    return ((40 * images.double()).sin() * weights(*images.shape[2:])).sum((1, 2, 3))


def rounded(images: Tensor) -> Tensor:
    return linear(images).round(decimals=0)


class Counted:
    """An objective that looks at every image it is asked about."""

    differentiable = False

    def __init__(self, score: Score, centres: Tensor | None = None, eps: int = 255) -> None:
        self.score = score
        self.centres = centres
        self.eps = eps
        self.scored: list[int] = []
        self.farthest = 0

    def value(self, images: Tensor) -> Tensor:
        self.scored.append(len(images))
        if self.centres is not None:
            levels = (images * 255).round().to(torch.uint8)
            assert torch.equal(images, to_float(levels)), "not on the 8-bit grid"
            distance = int((levels.int() - self.centres.int()).abs().max())
            self.farthest = max(self.farthest, distance)
            assert distance <= self.eps
        return self.score(images)

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("a black box has no gradient")

    def rows(self, index: Tensor) -> Counted:
        return self


def found(square: Square, score: Score, centres: Tensor, ids: list[str], seed: int = 0) -> Tensor:
    name = "published" if square.preset == "paper" else "score"
    (candidate,) = square.search({name: Counted(score)}, centres, ids, seed)
    assert candidate.tags == "square"
    assert candidate.images.dtype == torch.uint8
    return candidate.images


def plain(
    score: Score,
    centre: NDArray[np.uint8],
    image_id: str,
    eps: int,
    queries: int,
    seed: int = 0,
    ties: bool = True,
) -> NDArray[np.int64]:
    """The attack on one image in integers, one query at a time, ±2ε added and clipped."""
    channels, height, width = centre.shape
    middle = centre.astype(np.int64)

    def clipped(levels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.clip(np.clip(levels, middle - eps, middle + eps), 0, 255)

    def value(levels: NDArray[np.int64]) -> float:
        return float(score(to_float(torch.from_numpy(levels))[None])[0])

    best, lowest = middle, value(middle)
    stripes = generator(seed, "square/start", image_id).random((width, channels))
    proposed = clipped(middle + np.where(stripes.T[:, None, :] < 0.5, eps, -eps))
    draws = generator(seed, "square/squares", image_id)
    for query in range(queries):
        if query:
            side = max(round(math.sqrt(by_hand(query / queries) * height * width)), 1)
            side = min(side, height, width)
            row = int(draws.random() * (height - side + 1))
            column = int(draws.random() * (width - side + 1))
            delta = np.zeros_like(middle)
            for channel in range(channels):
                up = draws.random() < 0.5
                delta[channel, row : row + side, column : column + side] = (
                    2 * eps if up else -2 * eps
                )
            proposed = clipped(best + delta)
        reached = value(proposed)
        if reached < lowest or (ties and reached == lowest):
            best, lowest = proposed, reached
    return best


def by_hand(progress: float) -> float:
    """The share of the pixels after a share of the queries, as published."""
    p = 0.8
    for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if int(progress * 10_000 + 1e-6) > mark:
            p /= 2
    return p


@pytest.mark.parametrize("score", [linear, wavy, rounded])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 11)])
def test_the_attack_equals_a_plain_loop_over_images_and_queries(
    score: Score, height: int, width: int
) -> None:
    images, ids = pictures(4, height, width)
    images[0], images[1] = 0, 255
    result = found(Square(eps=20, queries=300), score, images, ids, seed=3)
    for index, image_id in enumerate(ids):
        expected = plain(score, images[index].numpy(), image_id, 20, 300, seed=3)
        assert np.array_equal(result[index].numpy(), expected)


AUTOATTACK = [
    # share, side on 32 x 32, last query of 10 000 and of 5000 that has them
    (0.8, 29, 10, 5),
    (0.4, 20, 50, 25),
    (0.2, 14, 200, 100),
    (0.1, 10, 500, 250),
    (0.05, 7, 1000, 500),
    (0.025, 5, 2000, 1000),
    (0.0125, 4, 4000, 2000),
    (0.00625, 3, 6000, 3000),
    (0.003125, 2, 8000, 4000),
    (0.0015625, 1, 9999, 4999),
]


def test_the_squares_shrink_as_in_autoattack() -> None:
    for column, queries in ((2, 10_000), (3, 5000)):
        first = 1
        for row in AUTOATTACK:
            last = int(row[column])
            for query in (first, last):
                assert share(query, queries) == pytest.approx(row[0], rel=1e-12)
                assert side_length(query, queries, 32, 32) == row[1]
            first = last + 1
        assert first == queries


def test_a_square_never_exceeds_a_narrow_image() -> None:
    assert side_length(1, 5000, 4, 100) == 4
    assert side_length(4999, 5000, 1, 1) == 1


def test_a_linear_score_nearly_reaches_its_exact_minimum() -> None:
    # On 8 x 8 the squares are single pixels after a tenth of the queries. One of them picks a
    # given pixel and the best ends of its three channels with probability 1 / (64 * 8), and is
    # kept for good; after 4500 a pixel is still short of them with probability below
    # (1 - 1/512)^4500 < 2e-4. One of 384 pixels or less is therefore almost certain.
    images, ids = pictures(6)
    images[0], images[1] = 0, 255
    best = (images.int() - 8 * weights().sign().int()).clamp(0, 255)
    result = found(Square(queries=5000), linear, images, ids).int()
    short = (result != best).any(1).sum()
    assert int(short) <= 1


def test_every_query_is_an_8_bit_image_of_the_ball_and_all_are_counted() -> None:
    images, ids = pictures(5)
    objective = Counted(wavy, images, eps=8)
    list(Square(queries=200).search({"score": objective}, images, ids, 0))
    assert objective.farthest == 8
    assert objective.scored == [5] * (1 + 200)  # the clean image is no candidate


@settings(max_examples=40, deadline=None)
@given(
    eps=st.integers(1, 255),
    level=st.sampled_from([0, 1, 127, 254, 255, None]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    queries=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_no_query_leaves_ball_box_or_grid(
    eps: int, level: int | None, shape: tuple[int, int, int], queries: int, seed: int
) -> None:
    images, ids = pictures(*shape, seed=seed)
    if level is not None:
        images[:] = level
    kept = images.clone()
    objective = Counted(wavy, images, eps)
    (candidate,) = Square(eps=eps, queries=queries).search({"score": objective}, images, ids, seed)
    assert torch.equal(images, kept)
    assert int((candidate.images.int() - images.int()).abs().max()) <= eps
    assert bool((wavy(to_float(candidate.images)) <= wavy(to_float(images))).all())


def test_the_attack_on_an_image_does_not_depend_on_the_batch() -> None:
    images, ids = pictures(20)
    square = Square(queries=150)
    whole = found(square, wavy, images, ids)
    for rows in ([3], [19, 0], list(range(19, -1, -1))):
        assert torch.equal(found(square, wavy, images[rows], [ids[i] for i in rows]), whole[rows])


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_draws_do_not_depend_on_how_many_are_made_at_a_time(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, ids = pictures(5)
    before = found(Square(queries=300), wavy, images, ids)
    monkeypatch.setattr(module, "_CHUNK", chunk)
    assert torch.equal(found(Square(queries=300), wavy, images, ids), before)


def test_the_draws_follow_the_seed_and_the_id() -> None:
    images, ids = pictures(4)
    square = Square(queries=50)
    base = found(square, wavy, images, ids)
    assert torch.equal(found(square, wavy, images, ids), base)
    assert not torch.equal(found(square, wavy, images, ids, seed=1), base)
    assert not torch.equal(found(square, wavy, images, [f"x{i}" for i in ids]), base)


def test_squares_reach_every_pixel_the_last_row_and_column_too() -> None:
    # AutoAttack's positions leave out the last; on a constant score all proposals are taken.
    images, ids = pictures(40)
    images[:] = 128
    start = found(Square(queries=1), lambda x: torch.zeros(len(x)), images, ids)
    end = found(Square(queries=400), lambda x: torch.zeros(len(x)), images, ids)
    moved = (start != end).float().mean((0, 1))
    # Where it ends is a coin for each channel: half of 120 differ, give or take 5.5.
    assert bool(((moved - 0.5).abs() < 5 * 5.5 / 120).all())


def test_the_start_is_stripes() -> None:
    images, ids = pictures(300)
    images[:] = 128
    start = found(Square(eps=5, queries=1), lambda x: torch.zeros(len(x)), images, ids).int() - 128
    assert set(start.unique().tolist()) == {-5, 5}
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    ups = (start[:, :, 0] > 0).float().mean(0)  # 24 coins of 300 throws
    assert bool(((ups - 0.5).abs() < 5 * 0.5 / math.sqrt(300)).all())
    across = (start[:, :, 0, :-1] == start[:, :, 0, 1:]).float().mean()
    assert abs(float(across) - 0.5) < 0.05


def test_a_start_that_is_worse_than_the_clean_image_is_dropped() -> None:
    images, ids = pictures(4)
    clean = to_float(images)
    result = found(Square(queries=60), lambda x: (x - clean).abs().sum((1, 2, 3)), images, ids)
    assert torch.equal(result, images)


def test_a_rounded_score_is_lowered_further_than_by_strict_descent() -> None:
    images, ids = pictures(3)

    def coarse(x: Tensor) -> Tensor:
        return (linear(x) / 0.5).round()

    result = found(Square(queries=600), coarse, images, ids)
    for index, image_id in enumerate(ids):
        strict = plain(coarse, images[index].numpy(), image_id, 8, 600, ties=False)
        assert coarse(to_float(result[index])[None]) < coarse(
            to_float(torch.from_numpy(strict))[None]
        )


def test_a_value_that_is_not_a_number_is_never_taken() -> None:
    images, ids = pictures(6)

    def holey(x: Tensor) -> Tensor:
        values = wavy(x)
        return torch.where((values * 7).floor() % 2 == 0, math.nan, values)

    result = found(Square(queries=200), holey, images, ids)
    here, clean = holey(to_float(result)), holey(to_float(images))
    assert bool(clean.isnan().any())
    assert bool((~here.isnan()).all())
    assert bool((here <= clean)[~clean.isnan()].all())


def test_infinite_values_are_ordered() -> None:
    images, ids = pictures(4)
    clean = to_float(images)

    def cliff(x: Tensor) -> Tensor:
        same = (x == clean).flatten(1).all(1)
        return torch.where(same, torch.tensor(math.inf, dtype=torch.float64), wavy(x))

    result = found(Square(queries=20), cliff, images, ids)
    assert bool(cliff(to_float(result)).isfinite().all())


def test_it_drifts_over_a_plateau_of_infinite_values() -> None:
    images, ids = pictures(4)
    square = Square(queries=30)
    expected = found(square, lambda x: torch.zeros(len(x)), images, ids)
    for level in (math.inf, -math.inf):
        assert torch.equal(
            found(square, lambda x, v=level: torch.full((len(x),), v), images, ids), expected
        )


def test_under_paper_it_lowers_the_published_loss() -> None:
    images, ids = pictures(4)
    published = found(Square(preset="paper", queries=100), wavy, images, ids)
    assert torch.equal(published, found(Square(queries=100), wavy, images, ids))


def test_the_record_says_what_it_is() -> None:
    square = Square(queries=1000)
    assert square.queries == 1000
    assert Square().queries == 5000
    assert square.gradient_steps == 0
    assert square.restarts(["score", "other"]) == 1
    assert square.role == "black_box"
    assert not square.in_all
    assert not square.shared


def test_it_keeps_the_contract() -> None:
    assert "batch-independence" in check("attacks", "square", queries=40)


@pytest.mark.parametrize("eps", [0, -1, 256])
def test_a_radius_outside_the_pixel_range_is_refused(eps: int) -> None:
    with pytest.raises(ValueError, match="eps"):
        Square(eps=eps)


def test_a_search_without_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="queries"):
        Square(queries=0)
