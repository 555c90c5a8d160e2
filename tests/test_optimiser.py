"""Muon for kernels and SGD for all else, against an SVD, torch's own classes and hand sums."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Muon

from oodbench.detectors.atom import MinedAdversarialOutliers
from oodbench.detectors.energy_finetuned import EnergyMargins
from oodbench.identity import parameters
from oodbench.optimiser import StageOptimiser
from oodbench.schedule import Schedule

MUON = Schedule(
    epochs=4,
    learning_rate=0.1,
    policy="step",
    milestones=(0.5,),
    weight_decay=1e-3,
    kernel_rate=0.05,
    kernel_decay=0.02,
)
STEPS = 8


def convolution(out: int, inputs: int, seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(inputs, out, 3)


def with_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        # Gradients lie in memory as the parameters do.
        parameter.grad = torch.empty_like(parameter).copy_(drawn)


@pytest.mark.parametrize(("out", "inputs"), [(6, 4), (40, 2)], ids=["wide", "tall"])
def test_a_step_of_a_kernel_is_as_long_in_all_its_directions(out: int, inputs: int) -> None:
    layer = convolution(out, inputs)
    before = layer.weight.detach().clone()
    optimiser = StageOptimiser([{"params": layer.parameters()}], MUON, STEPS)
    with_gradients(layer, 1)
    assert layer.weight.grad is not None
    left, _, right = torch.linalg.svd(layer.weight.grad.flatten(1), full_matrices=False)
    optimiser.step()
    step = ((1 - 0.05 * 0.02) * before - layer.weight.detach()).flatten(1)
    length = 0.05 * max(1, out / (9 * inputs)) ** 0.5
    # In the basis of the gradient's singular vectors it is diagonal, of about one length: five
    # iterations of Newton and Schulz bring every singular value to between 0.68 and 1.13.
    turned = left.T @ step @ right.T / length
    assert turned.diagonal().min() > 0.6
    assert turned.diagonal().max() < 1.25
    assert (turned - turned.diagonal().diag()).abs().max() < 0.05


def test_kernels_go_by_muon_of_torch_and_all_else_by_its_sgd() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    conv, norm, head = network[0], network[1], network[3]
    matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
    others = [nn.Parameter(p.detach().clone()) for p in (conv.bias, *norm.parameters())]
    others += [nn.Parameter(p.detach().clone()) for p in head.parameters()]
    muon = Muon([matrix], lr=0.05, momentum=0.9, weight_decay=0.02)
    sgd = SGD(others, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)
    # A channels-last kernel lies in memory otherwise, and is the same matrix.
    network = network.to(memory_format=torch.channels_last)
    optimiser = StageOptimiser([{"params": network.parameters()}], MUON, STEPS)
    for step in range(STEPS):
        with_gradients(network, step)
        assert conv.weight.grad is not None
        matrix.grad = conv.weight.grad.flatten(1).clone()
        mine = [conv.bias, *norm.parameters(), *head.parameters()]
        for other, parameter in zip(others, mine, strict=True):
            assert parameter.grad is not None
            other.grad = parameter.grad.clone()
        optimiser.step()
        muon.step()  # type: ignore[no-untyped-call]
        sgd.step()
        assert torch.equal(conv.weight.flatten(1), matrix)
        assert all(torch.equal(a, b) for a, b in zip(others, mine, strict=True))
        if step + 1 == STEPS // 2:  # the milestone
            for group in (*muon.param_groups, *sgd.param_groups):
                group["lr"] /= 10
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(("own", "rate", "decay"), [("lr", 0.5, 0.0), ("weight_decay", 0.1, 0.5)])
def test_a_group_with_a_rate_or_decay_of_its_own_has_no_kernels_for_muon(
    own: str, rate: float, decay: float
) -> None:
    layer = convolution(4, 3)
    groups = [{"params": [nn.Parameter(torch.ones(1))]}, {"params": layer.parameters(), own: 0.5}]
    optimiser = StageOptimiser(groups, replace(MUON, momentum=0.0, weight_decay=0.0), STEPS)
    before = layer.weight.detach().clone()
    with_gradients(layer, 0)
    assert layer.weight.grad is not None
    optimiser.step()
    assert torch.allclose(layer.weight, before - rate * (layer.weight.grad + decay * before))


def test_a_parameter_is_moved_by_one_optimiser_alone() -> None:
    layer = convolution(4, 3)
    groups = [{"params": layer.parameters()}, {"params": [layer.weight], "lr": 0.5}]
    with pytest.raises(ValueError, match="in several groups"):
        StageOptimiser(groups, MUON, STEPS)


def test_rates_of_kernels_follow_the_one_cycle_that_all_others_do() -> None:
    layer = convolution(4, 3)
    schedule = replace(MUON, policy="one_cycle", kernel_decay=0.0, momentum=0.0)
    optimiser = StageOptimiser([{"params": layer.parameters()}], schedule, STEPS)
    matrix = nn.Parameter(layer.weight.detach().flatten(1).clone())
    muon = Muon([matrix], lr=0.0, momentum=0.0, weight_decay=0.0, nesterov=False)
    # Smith & Topin as in torch: cosine from 1/25 of the peak to it at 30 %, then to 1/25e4 of it.
    up, down = 0.3 * STEPS - 1, 0.7 * STEPS
    for step in range(STEPS):
        low, high, share = (
            (1 / 25, 1.0, step / up) if step <= up else (1.0, 1 / 25e4, (step - up) / down)
        )
        muon.param_groups[0]["lr"] = 0.05 * (
            high + (low - high) / 2 * (1 + math.cos(math.pi * share))
        )
        with_gradients(layer, step)
        assert layer.weight.grad is not None
        matrix.grad = layer.weight.grad.flatten(1).clone()
        optimiser.step()
        muon.step()  # type: ignore[no-untyped-call]
        assert torch.allclose(layer.weight.flatten(1), matrix, atol=1e-6)


def test_without_a_rate_for_kernels_all_go_by_sgd() -> None:
    layer = convolution(4, 3)
    schedule = replace(MUON, kernel_rate=0.0, kernel_decay=0.0, momentum=0.0, weight_decay=0.0)
    optimiser = StageOptimiser([{"params": layer.parameters()}], schedule, STEPS)
    before = layer.weight.detach().clone()
    with_gradients(layer, 0)
    assert layer.weight.grad is not None
    optimiser.step()
    assert torch.allclose(layer.weight, before - 0.1 * layer.weight.grad)


def test_weights_put_into_the_kernels_are_those_that_the_next_step_moves() -> None:
    # As where a training goes on from a checkpoint.
    first, second = convolution(4, 3, seed=0), convolution(4, 3, seed=1)
    one, other = (
        StageOptimiser([{"params": layer.parameters()}], MUON, STEPS) for layer in (first, second)
    )
    with_gradients(first, 0)
    one.step()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for layer, optimiser in ((first, one), (second, other)):
        with_gradients(layer, 1)
        optimiser.step()
    assert torch.equal(first.weight, second.weight)
    assert first.bias is not None
    assert second.bias is not None
    assert torch.equal(first.bias, second.bias)


def test_stages_that_go_on_slow_kernels_in_proportion_or_tune_them_by_sgd() -> None:
    again = MinedAdversarialOutliers(weight=4.0, first_weight=6.0).stages(MUON)[0].schedule
    assert (again.learning_rate, again.kernel_rate) == (0.05, 0.025)
    tuned = EnergyMargins(learning_rate=0.001).stages(MUON)[0].schedule
    assert (tuned.learning_rate, tuned.kernel_rate, tuned.kernel_decay) == (0.001, 0, 0)
    assert Schedule().at_rate(0.5) == Schedule(learning_rate=0.5)
    assert Schedule(learning_rate=0.0).at_rate(0.5) == Schedule(learning_rate=0.5)


def test_a_schedule_of_sgd_alone_keeps_the_identity_that_it_had() -> None:
    assert not {"kernel_rate", "kernel_decay"} & parameters(Schedule()).keys()
    found = parameters(MUON)
    assert (found["kernel_rate"], found["kernel_decay"]) == (0.05, 0.02)


def test_a_schedule_for_kernels_alone_or_a_decay_for_none_is_refused() -> None:
    with pytest.raises(ValueError, match="learning_rate must be positive where kernel_rate is"):
        Schedule(learning_rate=0.0, kernel_rate=0.05)
    with pytest.raises(ValueError, match="kernel_decay has no effect without kernel_rate"):
        Schedule(kernel_decay=0.05)


def test_a_network_of_kernels_alone_leaves_sgd_nothing() -> None:
    layer = nn.Conv2d(3, 4, 3, bias=False)
    before = layer.weight.detach().clone()
    optimiser = StageOptimiser([{"params": layer.parameters()}], MUON, STEPS)
    with_gradients(layer, 0)
    optimiser.step()
    assert not torch.equal(layer.weight, before)
