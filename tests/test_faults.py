"""Faults F1 to F4 of the published evaluation: there under ``paper``, absent under ``standard``.

Each is shown on logits constructed to lie beyond the point where float32 gives out, and then on
a whole attack through a network that produces such logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from oodbench.attacks.linf import LInf
from oodbench.detector import Detector
from oodbench.detectors.acet import ACET
from oodbench.detectors.atom import ATOM
from oodbench.detectors.ccu import CCU
from oodbench.detectors.mahalanobis import Mahalanobis
from oodbench.detectors.msp import MSP
from oodbench.detectors.ntom import NTOM
from oodbench.detectors.odin import ODIN
from oodbench.detectors.oe import OE
from oodbench.detectors.rowl import ROWL
from oodbench.detectors.sofl import SOFL
from oodbench.judging import Verdict, worst_case
from oodbench.model import Backbone, Model
from oodbench.network import Network
from oodbench.searched import Ledger
from oodbench.subject import Subject

MAX_PROBABILITY = [MSP(), OE(), ACET(), ODIN(noise=0.0), CCU(use_densities=False)]
REJECT = [ATOM(quantile=0.0), NTOM(quantile=0.0), ROWL(background=0.1)]


@dataclass(frozen=True)
class Given:
    """In place of a model: its logits are the images themselves."""

    classes: int

    def logits(self, images: Tensor) -> Tensor:
        return images


def both(detector: Detector, logits: Tensor, classes: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Value and gradient in the logits of what each preset lowers."""
    published = detector.published_objective()
    assert published is not None
    found = {}
    for preset, objective in (("paper", published), ("standard", detector.score)):
        model: Any = Given(classes)
        leaf = logits.clone().requires_grad_()
        values = objective(model, leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        found[preset] = (values.detach(), gradient)
    return found


def named(detectors: list[Any]) -> Any:
    return pytest.mark.parametrize("detector", detectors, ids=lambda d: type(d).__name__)


@named(MAX_PROBABILITY)
def test_f1_the_published_loss_prefers_a_likelier_outlier_over_a_less_likely_one(
    detector: Detector,
) -> None:
    # p_max 0.50 and 0.86: the second fools the detector more.
    logits = torch.tensor([[10.0, 10.0, *[0.0] * 8], [4.0, *[0.0] * 9]])
    found = both(detector, logits, 10)
    assert found["paper"][0][0] < found["paper"][0][1]
    if isinstance(detector, ODIN):
        return  # at T = 1000 its own score is that of the published loss, near enough
    assert found["standard"][0][1] < found["standard"][0][0]


@named(REJECT)
def test_f2_beyond_17_the_published_loss_is_zero_and_blind_to_the_reject_logit(
    detector: Detector,
) -> None:
    leads = torch.tensor([18.0, 30.0, 60.0, 110.0])
    logits = torch.zeros(4, 4)
    logits[:, 1] = 0.5
    logits[:, 3] = leads + 0.5
    found = both(detector, logits, 3)
    values, gradient = found["paper"]
    assert (values == 0).all()
    assert (gradient[:, 3] == 0).all()
    assert (gradient[3] == 0).all()
    values, gradient = found["standard"]
    assert (values.diff() > 0).all()
    assert torch.allclose(gradient[:, 3], torch.ones(4))
    assert (gradient[:, :3].sum(1) < -0.99).all()


@dataclass(frozen=True)
class Steep(Mahalanobis):
    """Mahalanobis with one layer whose distance is the first logit."""

    needs_labels: ClassVar[bool] = False

    def _distances(self, model: Model, images: Tensor, noise: float) -> Tensor:
        return model.logits(images)[:, :1].double()


def test_f3_above_103_the_published_loss_of_mahalanobis_has_no_gradient() -> None:
    logits = torch.tensor([[20.0, 0.0], [80.0, 0.0], [110.0, 0.0], [400.0, 0.0]])
    state = {
        "weights": torch.ones(1, dtype=torch.float64),
        "bias": torch.zeros((), dtype=torch.float64),
        "noise": torch.zeros((), dtype=torch.float64),
    }
    gradients = {}
    plugin = Steep()
    for preset, objective in (("paper", plugin.published_objective()), ("standard", plugin.score)):
        model: Any = Given(2)
        object.__setattr__(model, "state", state)
        leaf = logits.clone().requires_grad_()
        (gradients[preset],) = torch.autograd.grad(objective(model, leaf).sum(), leaf)
    assert (gradients["paper"][:2, 0] != 0).all()
    assert (gradients["paper"][2:, 0] == 0).all()
    assert torch.equal(gradients["standard"][:, 0], torch.ones(4))


def test_f4_the_published_loss_of_sofl_is_infinite_without_a_gradient_once_it_underflows() -> None:
    plugin = SOFL(rejects=2)
    logits = torch.tensor([[0.0, 110.0, 1.0, 0.0], [0.0, 50.0, 1.0, 0.0], [0.0, 0.0, 30.0, 29.0]])
    found = both(plugin, logits, 2)
    values, gradient = found["paper"]
    assert values[0] == -torch.inf
    assert gradient[0].isnan().any()
    assert (gradient[0].nan_to_num(0).sign() == 0).all()  # no pixel moves
    assert gradient[1].isfinite().all()
    assert values[2] == 0
    assert gradient[2, 2:].abs().max() < 1e-6  # the reject logits are lost
    values, gradient = found["standard"]
    assert values.isfinite().all()
    assert gradient.isfinite().all()
    assert torch.allclose(gradient[:, 2:].sum(1), torch.ones(3))
    assert torch.allclose(gradient[:, :2].sum(1), -torch.ones(3))


# Through a whole attack


class Slope(Network):
    """Logits that are linear in the mean level: class 0, class 1, then what is rejected."""

    taps: ClassVar[tuple[str, ...]] = ()
    lead = 0.0
    steepness = 100.0

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        level = images.mean((1, 2, 3))
        logits = [torch.zeros_like(level), level / 10]
        logits += [self.lead + self.steepness * (level - 0.5)] * (self.outputs - 2)
        return {}, torch.stack(logits, 1)


def attacked(detector: Detector, preset: str, lead: float, outputs: int) -> Verdict:
    network = Slope(outputs)
    network.lead = lead
    backbone = Backbone(network, 2)
    subject = Subject(detector, Model(backbone), Model(backbone))
    grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    linf = LInf(preset=preset, budget=20 if preset == "standard" else None)
    return worst_case([subject], [linf], grey, ["grey"], 0, Ledger())[0]


@named([ATOM(quantile=0.0), ROWL(background=0.1)])
def test_f2_the_published_attack_leaves_an_image_that_is_surely_rejected_as_it_is(
    detector: Detector,
) -> None:
    blind = attacked(detector, "paper", lead=40.0, outputs=3)
    assert (blind.images == 128).all()
    seeing = attacked(detector, "standard", lead=40.0, outputs=3)
    assert (seeing.images == 120).all()
    # Where the loss has not given out yet the two agree.
    assert (attacked(detector, "paper", lead=5.0, outputs=3).images == 120).all()


def test_f4_the_published_attack_on_sofl_stops_where_its_loss_gives_out() -> None:
    detector = SOFL(rejects=2)
    seeing = attacked(detector, "standard", lead=-120.0, outputs=4)
    assert (seeing.images == 120).all()
    frozen = attacked(detector, "paper", lead=-120.0, outputs=4)
    assert not (frozen.images == 120).all()
    assert (attacked(detector, "paper", lead=-5.0, outputs=4).images == 120).all()
