"""Descent on the loss of a training: SGD, and Muon for convolution kernels where asked for."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Muon, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from oodbench.schedule import Schedule


class StageOptimiser:
    """What moves the parameters of a stage of a training, at the rates of its schedule.

    Args:
        groups: Parameter groups; one with ``lr`` or ``weight_decay`` goes by SGD, kernels too.
        schedule: Schedule of the stage.
        steps: Steps of the whole stage.

    Raises:
        ValueError: If a parameter is in several groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], schedule: Schedule, steps: int) -> None:
        groups = [{**group, "params": list(group["params"])} for group in groups]
        self._parameters = [p for group in groups for p in group["params"]]
        if len(set(map(id, self._parameters))) < len(self._parameters):
            raise ValueError("a parameter is in several groups of the optimiser")
        kernels: list[nn.Parameter] = []
        if schedule.kernel_rate:
            for group in groups:
                if not {"lr", "weight_decay"} & group.keys():
                    kernels += filter(_is_kernel, group["params"])
                    group["params"] = [p for p in group["params"] if not _is_kernel(p)]
        self._sgd = SGD(
            groups,
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            nesterov=schedule.momentum > 0,
        )
        self._optimisers: list[Optimizer] = [self._sgd]
        self._kernels = _KernelMuon(kernels, schedule) if kernels else None
        if self._kernels is not None:
            self._optimisers.append(self._kernels.muon)
        self._rates = [_rates(optimiser, schedule, steps) for optimiser in self._optimisers]

    def step(self) -> None:
        """Move all parameters along their gradients, and go on to the next rate."""
        if self._kernels is not None:
            self._kernels.step()
        self._sgd.step()
        for rates in self._rates:
            rates.step()

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, but for the parameters."""
        return {
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "rates": [rates.state_dict() for rates in self._rates],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for optimiser, its in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(its)
        for rates, its in zip(self._rates, state["rates"], strict=True):
            rates.load_state_dict(its)


class _KernelMuon:
    """Muon (Jordan et al., 2024) on convolution kernels.

    It is of matrices, and a kernel [out, in, h, w] is one of out × in·h·w.
    """

    def __init__(self, kernels: Sequence[nn.Parameter], schedule: Schedule) -> None:
        self._kernels = kernels
        self._matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
        self.muon = Muon(
            self._matrices,
            lr=schedule.kernel_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.kernel_decay,
            nesterov=schedule.momentum > 0,
        )

    @torch.no_grad()
    def step(self) -> None:
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            # Weights that a checkpoint holds are put into the kernels alone.
            matrix.copy_(kernel.flatten(1))
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        self.muon.step()  # type: ignore[no-untyped-call]
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            kernel.copy_(matrix.view_as(kernel))


def _is_kernel(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 4


def _rates(optimiser: Optimizer, schedule: Schedule, steps: int) -> LRScheduler:
    if schedule.policy == "cosine":
        return CosineAnnealingLR(optimiser, steps)
    if schedule.policy == "one_cycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        return OneCycleLR(optimiser, peaks, total_steps=steps, cycle_momentum=False)
    marks = [round(share * steps) for share in schedule.milestones]
    return MultiStepLR(optimiser, marks, gamma=0.1)
