"""One signed gradient step: against autograd by hand and the closed form of a linear score."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oodbench.attacks.fgsm import FGSM
from oodbench.network import initialised
from oodbench.networks.conv3 import Conv3
from oodbench.threat import to_float

Score = Callable[[Tensor], Tensor]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, side: int = 8, seed: int = 0) -> tuple[Tensor, list[str]]:
    images = torch.randint(0, 256, (count, 3, side, side), generator=rng(seed))
    return images.to(torch.uint8), [f"image/{i}" for i in range(count)]


WEIGHTS = torch.randn(3, 8, 8, generator=rng(1))


def linear(images: Tensor) -> Tensor:
    return (images * WEIGHTS).sum((1, 2, 3))


class Differentiated:
    """An objective with the gradient of autograd, and a count of how often it was asked."""

    def __init__(self, score: Score, differentiable: bool = True) -> None:
        self.score = score
        self.differentiable = differentiable
        self.asked: list[int] = []

    def value(self, images: Tensor) -> Tensor:
        return self.score(images)

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert self.differentiable
        self.asked.append(len(images))
        inputs = images.clone().requires_grad_()
        values = self.score(inputs)
        (gradients,) = torch.autograd.grad(values.sum(), inputs)
        return values.detach(), gradients

    def rows(self, index: Tensor) -> Differentiated:
        return self


def stepped(fgsm: FGSM, score: Score, images: Tensor, tag: str = "score/clean") -> Tensor:
    ids = [str(i) for i in range(len(images))]
    objective = Differentiated(score)
    (candidate,) = fgsm.search({tag.split("/")[0]: objective}, images, ids, 0)
    assert candidate.tags == tag
    assert objective.asked == [len(images)]
    return candidate.images


@pytest.mark.parametrize("k", [1, 8, 200, 255])
def test_a_linear_score_reaches_its_exact_minimum(k: int) -> None:
    images, _ = pictures(6)
    images[0], images[1] = 0, 255
    expected = (images.int() - k * WEIGHTS.sign().int()).clamp(0, 255)
    result = stepped(FGSM(eps=k), linear, images)
    assert result.dtype == torch.uint8
    assert torch.equal(result.int(), expected)


def test_the_step_equals_one_made_by_hand_on_a_network() -> None:
    images, _ = pictures(12, side=32)
    network = initialised(Conv3, 5, seed=0).eval()

    def score(x: Tensor) -> Tensor:
        return network(x).logsumexp(1)

    result = stepped(FGSM(eps=8), score, images)
    moved = 0
    for index in range(len(images)):
        inputs = (images[index : index + 1].float() / 255).requires_grad_()
        score(inputs).sum().backward()
        assert inputs.grad is not None
        step = -8 * inputs.grad[0].sign().int()
        expected = (images[index].int() + step).clamp(0, 255)
        # A gradient entry may round to another sign in a batch of another size.
        assert float((result[index].int() == expected).float().mean()) > 0.999
        moved += int((step != 0).sum())
    assert moved > 0.5 * images.numel()
    with torch.no_grad():
        assert bool((score(to_float(result)) < score(to_float(images))).all())


def test_a_pixel_without_gradient_stays() -> None:
    images, _ = pictures(5)

    def left_half(x: Tensor) -> Tensor:
        return linear(torch.cat([x[..., :4], torch.zeros_like(x[..., 4:])], 3))

    result = stepped(FGSM(), left_half, images)
    assert torch.equal(result[..., 4:], images[..., 4:])
    assert not torch.equal(result[..., :4], images[..., :4])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_leaves_a_real_image_of_the_ball(bad: float) -> None:
    images, _ = pictures(3)

    def broken(x: Tensor) -> Tensor:
        return linear(x) + bad * x[:, 0, 0, 0]

    result = stepped(FGSM(), broken, images)
    assert int((result.int() - images.int()).abs().max()) <= 8


@settings(max_examples=60, deadline=None)
@given(
    eps=st.integers(1, 255),
    level=st.sampled_from([0, 1, 128, 254, 255, None]),
    seed=st.integers(0, 1000),
)
def test_the_step_is_to_the_end_of_ball_or_box_against_the_sign(
    eps: int, level: int | None, seed: int
) -> None:
    images, _ = pictures(2, seed=seed)
    if level is not None:
        images[:] = level
    kept = images.clone()

    def wavy(x: Tensor) -> Tensor:
        return ((20 * x).sin() * WEIGHTS).sum((1, 2, 3))

    result = stepped(FGSM(eps=eps), wavy, images).int()
    assert torch.equal(images, kept)
    slope = (20 * to_float(images)).cos() * WEIGHTS
    clear = slope.abs() > 1e-4
    end = torch.where(
        slope > 0, (images.int() - eps).clamp(min=0), (images.int() + eps).clamp(max=255)
    )
    assert torch.equal(result[clear], end[clear])
    assert int((result - images.int()).abs().max()) <= eps


def test_the_attack_on_an_image_does_not_depend_on_the_batch() -> None:
    images, _ = pictures(9)
    whole = stepped(FGSM(), linear, images)
    assert torch.equal(stepped(FGSM(), linear, images[[7, 2]]), whole[[7, 2]])


def test_under_paper_it_lowers_the_published_loss() -> None:
    images, _ = pictures(4)
    result = stepped(FGSM(preset="paper"), linear, images, "published/clean")
    assert torch.equal(result, stepped(FGSM(), linear, images))


def test_a_score_without_gradient_is_replaced_by_an_objective_that_has_one() -> None:
    images, ids = pictures(4)
    other = Differentiated(lambda x: -linear(x))
    objectives = {"score": Differentiated(linear, differentiable=False), "other": other}
    (candidate,) = FGSM().search(objectives, images, ids, 0)
    assert candidate.tags == "other/clean"
    assert torch.equal(candidate.images, stepped(FGSM(), lambda x: -linear(x), images))


def test_the_record_says_what_it_is() -> None:
    assert FGSM().gradient_steps == 1
    assert FGSM().queries == 0
    assert FGSM().restarts(["score", "other"]) == 1
    assert not FGSM.in_all
    assert not FGSM.shared


@pytest.mark.parametrize("eps", [0, -1, 256])
def test_a_radius_outside_the_pixel_range_is_refused(eps: int) -> None:
    with pytest.raises(ValueError, match="eps"):
        FGSM(eps=eps)
