"""The random floor: its draws, their number and their distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from oodbench.attacks.noise import MOST_DRAWS, Noise
from oodbench.perturbation import Candidate
from oodbench.testing import check


def grey(count: int, level: int = 128, side: int = 8) -> tuple[Tensor, list[str]]:
    images = torch.full((count, 3, side, side), level, dtype=torch.uint8)
    return images, [f"image/{i}" for i in range(count)]


def drawn(noise: Noise, images: Tensor, ids: list[str], seed: int = 0) -> list[Candidate]:
    return list(noise.search({}, images, ids, seed))


def steps(found: list[Candidate], tag: str, images: Tensor) -> Tensor:
    """Return the steps of all candidates with a tag, int32 [draws, N, 3, H, W]."""
    return torch.stack([c.images.int() - images.int() for c in found if c.tags == tag])


@pytest.mark.parametrize(
    ("budget", "draws"), [(1, 1), (2, 2), (100, 100), (300, 300), (301, 300), (5000, 300)]
)
def test_there_are_as_many_draws_as_gradient_steps_but_not_above_300(
    budget: int, draws: int
) -> None:
    images, ids = grey(1, side=2)
    noise = Noise(budget=budget)
    tags = [candidate.tags for candidate in drawn(noise, images, ids)]
    assert len(tags) == noise.queries == draws
    assert tags == ["uniform", "corner"] * (draws // 2) + ["uniform"] * (draws % 2)
    assert MOST_DRAWS == 300
    assert noise.gradient_steps == 0


@pytest.mark.parametrize("eps", [1, 8, 100])
def test_uniform_steps_are_uniform_on_the_whole_levels(eps: int) -> None:
    images, ids = grey(20)
    found = steps(drawn(Noise(eps=eps, budget=20), images, ids), "uniform", images)
    counts = torch.bincount((found + eps).flatten(), minlength=2 * eps + 1)
    assert len(counts) == 2 * eps + 1
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("eps", [1, 8, 100])
def test_corners_are_fair_coins_for_each_pixel_and_channel(eps: int) -> None:
    images, ids = grey(20)
    found = steps(drawn(Noise(eps=eps, budget=20), images, ids), "corner", images)
    assert set(found.unique().tolist()) == {-eps, eps}
    ups = (found > 0).flatten(0, 1).sum(0).flatten()  # of 200 throws each
    assert stats.chisquare(torch.stack([ups.sum(), 200 * ups.numel() - ups.sum()])).pvalue > 1e-3
    spread = ((ups - 100) ** 2 / 50).sum()
    assert 1e-3 < stats.chi2.sf(float(spread), ups.numel()) < 1 - 1e-3


@pytest.mark.parametrize("tag", ["uniform", "corner"])
def test_draws_of_neighbours_images_and_times_are_unrelated(tag: str) -> None:
    images, ids = grey(40)
    found = steps(drawn(Noise(budget=40), images, ids), tag, images).float()
    found /= found.std()
    for first, second in (
        (found[:-1], found[1:]),
        (found[:, :-1], found[:, 1:]),
        (found[:, :, :-1], found[:, :, 1:]),
        (found[..., :-1, :], found[..., 1:, :]),
        (found[..., :-1], found[..., 1:]),
    ):
        product = (first * second).flatten()
        assert abs(float(product.mean())) < 4 / len(product) ** 0.5
    both = torch.stack(
        [c.images.int() - images.int() for c in drawn(Noise(budget=40), images, ids)]
    ).float()
    product = (both[0::2] * both[1::2]).flatten()
    assert abs(float(product.mean() / product.std())) < 4 / len(product) ** 0.5


@settings(max_examples=60, deadline=None)
@given(eps=st.integers(1, 255), budget=st.integers(1, 8), seed=st.integers(0, 1000))
def test_every_draw_is_in_the_ball_and_a_corner_is_one_where_the_box_allows(
    eps: int, budget: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, 4, 5), generator=generator).to(torch.uint8)
    images[0], images[1, :, 0] = 0, 255
    kept = images.clone()
    for candidate in drawn(Noise(eps=eps, budget=budget), images, ["a", "b", "c"], seed):
        assert candidate.images.dtype == torch.uint8
        step = candidate.images.int() - images.int()
        assert int(step.abs().max()) <= eps
        if candidate.tags == "corner":
            up, down = (images.int() + eps).clamp(max=255), (images.int() - eps).clamp(min=0)
            assert bool(((candidate.images == up) | (candidate.images == down)).all())
    assert torch.equal(images, kept)


def test_the_draws_of_an_image_follow_its_id_and_the_seed_alone() -> None:
    images, ids = grey(6)
    noise = Noise(budget=7)
    whole = drawn(noise, images, ids)
    for rows in ([4], [5, 0, 2]):
        part = drawn(noise, images[rows], [ids[i] for i in rows])
        for one, other in zip(part, whole, strict=True):
            assert torch.equal(one.images, other.images[rows])
    for one, other in zip(drawn(noise, images, ids, seed=1), whole, strict=True):
        assert not torch.equal(one.images, other.images)
    assert len({candidate.images.numpy().tobytes() for candidate in whole}) == 7


def test_a_larger_budget_only_adds_draws() -> None:
    images, ids = grey(3)
    few, many = (drawn(Noise(budget=b), images, ids) for b in (4, 9))
    for one, other in zip(few, many, strict=False):
        assert torch.equal(one.images, other.images)


def test_the_record_says_what_it_is() -> None:
    assert Noise.shared
    assert Noise.role == "floor"
    assert not Noise.in_all
    assert Noise().queries == 0


def test_it_keeps_the_contract() -> None:
    assert "batch-independence" in check("attacks", "noise")


@pytest.mark.parametrize("eps", [0, -1, 256])
def test_a_radius_outside_the_pixel_range_is_refused(eps: int) -> None:
    with pytest.raises(ValueError, match="eps"):
        Noise(eps=eps)


def test_a_budget_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        Noise(budget=0)
    images, ids = grey(1)
    with pytest.raises(ValueError, match="set --budget"):
        drawn(Noise(), images, ids)
