"""Log-odds against arbitrary precision, and the saturation that they avoid."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.nn import functional as F

from oodbench import scores

mpmath.mp.dps = 60
GAPS = (0.0, 1e-3, 10.0, 50.0, 300.0)
TEMPERATURES = (0.5, 1.0, 10.0, 1000.0)

logit_rows = arrays(
    np.float64, (6, 5), elements=st.floats(-40, 40).map(lambda value: round(value, 3))
)


def spread(gap: float, columns: int = 10) -> list[float]:
    return [gap + 0.25, *(0.1 * i - 0.7 for i in range(columns - 1))]


def exact_log_odds(row: list[float], chosen: int, temperature: float = 1.0) -> mpmath.mpf:
    z = [mpmath.mpf(value) / temperature for value in row]
    others = mpmath.fsum(mpmath.exp(v) for i, v in enumerate(z) if i != chosen)
    return mpmath.log(others / mpmath.exp(z[chosen]))


def close(ours: Tensor, exact: mpmath.mpf, dtype: torch.dtype) -> bool:
    scale = max(1.0, abs(float(exact)))
    return abs(ours.item() - float(exact)) <= 16 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", GAPS)
def test_max_probability_is_the_log_odds_in_arbitrary_precision(
    gap: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([spread(gap)], dtype=dtype)
    row = [float(v) for v in logits[0].tolist()]
    best = int(logits.argmax())
    assert close(scores.max_probability(logits)[0], exact_log_odds(row, best), dtype)


@pytest.mark.parametrize("gap", [-300.0, -50.0, 0.0, 10.0, 50.0, 300.0])
def test_reject_class_is_the_log_odds_in_arbitrary_precision(gap: float) -> None:
    row = [0.5, -1.0, 0.25, gap, gap - 1]
    z = [mpmath.mpf(v) for v in row]
    exact = mpmath.log(mpmath.fsum(map(mpmath.exp, z[3:])) / mpmath.fsum(map(mpmath.exp, z[:3])))
    assert close(scores.reject_class(torch.tensor([row]), 3)[0], exact, torch.float32)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("gap", GAPS)
def test_tempered_log_odds_are_the_closed_form_in_arbitrary_precision(
    gap: float, temperature: float
) -> None:
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([spread(gap)], dtype=dtype)
        row = [float(v) for v in logits[0].tolist()]
        best = int(logits.argmax())
        exact = temperature * (exact_log_odds(row, best, temperature) - mpmath.log(len(row) - 1))
        ours = scores.tempered_max_probability(logits, temperature)[0]
        # The gap itself is rounded to the precision of the logits, hence their magnitude.
        scale = max(abs(float(exact)), gap, 1.0)
        assert abs(ours.item() - float(exact)) <= 32 * torch.finfo(dtype).eps * scale


@settings(deadline=None)
@given(logit_rows)
def test_log_odds_rank_as_the_probability_in_float64(logits: np.ndarray) -> None:
    z = torch.from_numpy(logits)
    p = torch.softmax(z, 1)
    pairs = [
        (scores.max_probability(z), -p.amax(1)),
        (scores.reject_class(z, 3), p[:, 3:].sum(1)),
        *(
            (scores.tempered_max_probability(z, t), -torch.softmax(z / t, 1).amax(1))
            for t in TEMPERATURES
        ),
    ]
    for ours, probability in pairs:
        apart = (probability[:, None] - probability) > 1e-12
        assert bool((ours[:, None] > ours)[apart].all())


@settings(deadline=None)
@given(logit_rows, st.floats(-30, 30))
def test_a_common_shift_of_the_logits_changes_nothing(logits: np.ndarray, shift: float) -> None:
    z = torch.from_numpy(logits)
    for score in (
        scores.max_probability,
        lambda v: scores.reject_class(v, 4),
        lambda v: scores.tempered_max_probability(v, 10.0),
        scores.uniform_cross_entropy,
    ):
        assert torch.allclose(score(z), score(z + shift), atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_gradients_equal_finite_differences(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    z = (3 * torch.randn(3, 5, generator=rng, dtype=torch.float64)).requires_grad_()
    top = z.detach().topk(2, 1).values
    if bool((top[:, 0] - top[:, 1] < 1e-3).any()):
        return  # a kink of the maximum
    target = torch.tensor([0, 2, 4])
    for score in (
        scores.max_probability,
        scores.uniform_cross_entropy,
        lambda v: scores.log_odds_against(v, target),
        lambda v: scores.reject_class(v, 3),
        *((lambda v, t=t: scores.tempered_max_probability(v, t)) for t in TEMPERATURES),
    ):
        assert torch.autograd.gradcheck(score, (z,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("lead", [17.0, 60.0, 200.0, 1000.0])
def test_gradients_do_not_vanish_or_lose_a_term_however_sure_the_network_is(lead: float) -> None:
    z = torch.tensor([[0.0, -1.0, 0.5, lead]], requires_grad=True)
    for score in (
        lambda v: scores.reject_class(v, 3),
        lambda v: -scores.max_probability(v),
        lambda v: -scores.tempered_max_probability(v, 1.0),
    ):
        (gradient,) = torch.autograd.grad(score(z).sum(), z)
        assert gradient[0, 3].item() == pytest.approx(1, abs=1e-4)
        assert gradient[0, :3].sum().item() == pytest.approx(-1, abs=1e-4)


def test_softmax_saturates_beyond_a_gap_of_16_6_where_log_odds_stay_apart() -> None:
    gaps = torch.tensor([16.7, 18.0, 25.0, 80.0])
    z = torch.stack([gaps, torch.zeros(4)], 1)
    assert (scores.negative_max_softmax(z) == -1).all()
    assert len(scores.max_probability(z).unique()) == 4
    assert scores.max_probability(z).tolist() == pytest.approx((-gaps).tolist())
    below = torch.tensor([[16.5, 0.0]])
    assert scores.negative_max_softmax(below).item() > -1


def test_cross_entropy_of_the_reject_class_is_exactly_zero_where_its_log_odds_still_differ() -> (
    None
):
    z = torch.tensor([[0.0, 0.0, 18.0], [0.0, 0.0, 30.0], [0.0, 0.0, 90.0]], requires_grad=True)
    loss = F.cross_entropy(z, torch.full((3,), 2), reduction="none")
    assert (loss == 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert (gradient[:, 2] == 0).all()
    assert len(scores.reject_class(z, 2).unique()) == 3


def test_cross_entropy_to_uniform_does_not_rank_as_the_maximum_probability() -> None:
    unsure = torch.tensor([[10.0, 10.0, *[0.0] * 8]])
    sure = torch.tensor([[4.0, *[0.0] * 9]])
    assert scores.uniform_cross_entropy(unsure).item() == pytest.approx(8.69, abs=0.01)
    assert scores.uniform_cross_entropy(sure).item() == pytest.approx(3.75, abs=0.01)
    assert -scores.negative_max_softmax(unsure).item() == pytest.approx(0.50, abs=0.01)
    assert -scores.negative_max_softmax(sure).item() == pytest.approx(0.86, abs=0.01)


def test_cross_entropy_to_uniform_is_that_up_to_log_k() -> None:
    z = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.full((7, 6), 1 / 6, dtype=torch.float64)
    expected = F.cross_entropy(z, target, reduction="none")
    assert torch.allclose(scores.uniform_cross_entropy(z), expected)
