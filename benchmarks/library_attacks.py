"""L∞ attacks of torchattacks, foolbox and ART, made to lower the score of a detector.

Each takes a classifier, or a loss, of its own. What it is given here has the exact gradient of
−score, each image's own, unscaled and never saturated; where an attack also compares values of
its loss, it is given −score itself. Images come back as the library leaves them.

- torchattacks PGD and MI-FGSM build their cross entropy inside: they get the two logits
  n·(s − s₀) and 50 with s₀ the value of s, of the first class. Its mean over the n images has the
  gradient −∇s to the last bit of a softmax of 50. The value is always 50, but they never look at
  it. They return the last iterate and have no other choice.
- torchattacks APGD takes its loss from a method, overridden here to −s. ``perturb`` with
  ``best_loss=True`` is its own way of keeping the best iterate of every image; without it an image
  counts only once its class changes. After n steps it takes a further gradient that nothing uses,
  so that n + 1 are counted.
- foolbox takes its loss from ``get_loss_fn``, "can be overridden by users": −s. All its L∞
  gradient descents return the last iterate; ``repeat`` keeps what changes the class, not what
  lowers a score. PGD's gradient is reduced to its sign before Adam and momentum see it.
- ART takes a loss: −s. PGD returns the last iterate. Auto-PGD returns the last iterate where the
  class has changed and its random start elsewhere; what it keeps as the best, ``x_max``, is taken
  in place of that. It evaluates each iterate a second time without a gradient, and computes in
  numpy: that is its time.

Left out: foolbox's DeepFool, FMN and the like, which look for the nearest change of class and not
for the lowest score; ART's (Rescaling) ACG, which in 1.20 steps along the raw conjugate gradient,
its sign computed and dropped, so that its step is in units of the loss; the losses "dlr" and
"difference_logits_ratio", which are no function of one score.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.judging import Subject

VERSION = 1
"""To be raised with any change that concerns what an attack finds."""

PACKAGES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
}
"""Libraries and the packages that they come in."""


class Scorer:
    """The score that an attack lowers; counts the gradients taken of it.

    Attributes:
        gradients: Gradients so far, one for each image and backward pass.
    """

    def __init__(self, subject: Subject, *, folded: bool) -> None:
        self._detector = subject.detector
        self._model = subject.search_model if folded else subject.model
        self.gradients = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the scores [N] of images in [0, 1]."""
        # float32 as our search has it: libraries mix the type with that of the images.
        scores = self._detector.score(self._model, images).float()
        if scores.requires_grad:
            scores.register_hook(self._count)
        return scores

    def _count(self, gradients: Tensor) -> None:
        self.gradients += len(gradients)


class _Model(nn.Module):
    """What a library takes for a network: a function of the score."""

    def __init__(self, scorer: Scorer, head: Callable[[Tensor], Tensor], images: Tensor) -> None:
        super().__init__()
        self._scorer = scorer
        self._head = head
        # By which a library finds the device.
        self.where = nn.Parameter(torch.zeros(1, device=images.device), requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self._head(self._scorer(images))


Run = Callable[[Scorer, Tensor, float, int], Tensor]
"""Score, images in [0, 1], radius in the same unit, gradient steps → attacked images."""


@dataclass(frozen=True)
class LibraryAttack:
    """An attack of a library.

    Attributes:
        name: Library and attack, with the step in grey levels.
        run: Carries it out.
    """

    name: str
    run: Run

    @property
    def library(self) -> str:
        """The library it comes from."""
        return self.name.partition("/")[0]

    def identity(self) -> dict[str, str | int]:
        """Return what determines what it finds, as plain data."""
        return {"name": self.name, "library": version(PACKAGES[self.library]), "version": VERSION}

    def __call__(
        self, subject: Subject, images: Tensor, k: int, steps: int, *, folded: bool = True
    ) -> tuple[Tensor, int]:
        """Attack images in [0, 1] within ``k`` levels; also return the gradients it took.

        ``folded`` gives it the network that our search uses, batch norm folded; else it is that
        of the detector.
        """
        torch.manual_seed(0)
        np.random.seed(0)  # ART draws from it
        scorer = Scorer(subject, folded=folded)
        found = self.run(scorer, images, k / 255, steps)
        return found.detach(), scorer.gradients


def _frozen(scores: Tensor) -> Tensor:
    """Return logits whose mean cross entropy, first class, has the gradient −1 in each score."""
    scores = scores.double()
    first = len(scores) * (scores - scores.detach())
    return torch.stack([first, torch.full_like(first, 50.0)], 1)


def _first_wins(scores: Tensor) -> Tensor:
    """Return logits of which the first is the score, and always the greater."""
    return torch.stack([scores, scores.detach() - 3], 1)


def _zeros(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long, device=images.device)


def _torchattacks() -> Iterator[LibraryAttack]:
    import torchattacks

    class APGD(torchattacks.APGD):
        def dlr_loss(self, x: Tensor, y: Tensor) -> Tensor:
            return -x[:, 0]

    def pgd(step: float) -> Run:
        def run(scorer: Scorer, images: Tensor, eps: float, steps: int) -> Tensor:
            model = _Model(scorer, _frozen, images)
            attack = torchattacks.PGD(model, eps=eps, alpha=step / 255, steps=steps)
            return attack(images, _zeros(images))

        return run

    def mifgsm(scorer: Scorer, images: Tensor, eps: float, steps: int) -> Tensor:
        model = _Model(scorer, _frozen, images)
        attack = torchattacks.MIFGSM(model, eps=eps, alpha=1 / 255, steps=steps)
        return attack(images, _zeros(images))

    def apgd(scorer: Scorer, images: Tensor, eps: float, steps: int) -> Tensor:
        model = _Model(scorer, _first_wins, images)
        attack = APGD(model, eps=eps, steps=steps, n_restarts=1, loss="dlr")
        torch.manual_seed(attack.seed)
        return attack.perturb(images, _zeros(images), best_loss=True)[1]

    yield LibraryAttack("torchattacks/pgd-1", pgd(1))
    yield LibraryAttack("torchattacks/pgd-2", pgd(2))
    yield LibraryAttack("torchattacks/apgd", apgd)
    yield LibraryAttack("torchattacks/mifgsm-1", mifgsm)


def _foolbox() -> Iterator[LibraryAttack]:
    import eagerpy
    import foolbox

    def on_score(base: type, step: float | None = None, **others: object) -> Run:
        """Return an attack with a step in levels; None leaves the library's own, ε/30."""

        class OnScore(base):
            def get_loss_fn(
                self, model: foolbox.Model, labels: eagerpy.Tensor
            ) -> Callable[[eagerpy.Tensor], eagerpy.Tensor]:
                return lambda x: -model(x).sum()  # it climbs

        def run(scorer: Scorer, images: Tensor, eps: float, steps: int) -> Tensor:
            model = _Model(scorer, lambda scores: scores, images)
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
            size = {} if step is None else {"rel_stepsize": step / 255 / eps}
            attack = OnScore(steps=steps, random_start=True, **size, **others)
            criterion = foolbox.criteria.Misclassification(_zeros(images))
            return attack.run(wrapped, images, criterion, epsilon=eps)

        return run

    attacks = foolbox.attacks
    yield LibraryAttack("foolbox/pgd-1", on_score(attacks.LinfPGD, 1))
    yield LibraryAttack("foolbox/pgd-2", on_score(attacks.LinfPGD, 2))
    yield LibraryAttack("foolbox/pgd-default", on_score(attacks.LinfPGD))
    if hasattr(attacks, "LinfAdamPGD"):
        yield LibraryAttack("foolbox/adampgd-1", on_score(attacks.LinfAdamPGD, 1))
    if hasattr(attacks, "MIFGSM"):
        yield LibraryAttack("foolbox/mifgsm-1", on_score(attacks.MIFGSM, 1))


def _art() -> Iterator[LibraryAttack]:
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    class Loss(nn.Module):
        """−score; ART sets the reduction to "none" for a while to see the values."""

        reduction = "sum"

        def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
            losses = -outputs[:, 0]
            return losses if self.reduction == "none" else losses.sum()

    def estimator(scorer: Scorer, images: Tensor) -> PyTorchClassifier:
        return PyTorchClassifier(
            _Model(scorer, _first_wins, images),
            loss=Loss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=2,
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )

    def inputs(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return images.cpu().numpy(), np.zeros(len(images), dtype=np.int64)

    def pgd(step: float) -> Run:
        def run(scorer: Scorer, images: Tensor, eps: float, steps: int) -> Tensor:
            attack = ProjectedGradientDescentPyTorch(
                estimator(scorer, images),
                eps=eps,
                eps_step=step / 255,
                max_iter=steps,
                num_random_init=1,
                batch_size=len(images),
                verbose=False,
            )
            return torch.from_numpy(attack.generate(*inputs(images))).to(images.device)

        return run

    def apgd(scorer: Scorer, images: Tensor, eps: float, steps: int) -> Tensor:
        attack = AutoProjectedGradientDescent(
            estimator(scorer, images),
            eps=eps,
            eps_step=2 * eps,  # the paper's; left to itself it is 0.1 whatever ε
            max_iter=steps,
            nb_random_init=1,
            batch_size=len(images),  # x_max is that of the last batch
            loss_type=None,
            verbose=False,
        )
        attack.generate(*inputs(images))
        return torch.from_numpy(attack.x_max).to(images.device)

    yield LibraryAttack("art/pgd-1", pgd(1))
    yield LibraryAttack("art/pgd-2", pgd(2))
    yield LibraryAttack("art/apgd", apgd)


def library_attacks() -> dict[str, LibraryAttack]:
    """Return the attacks of those libraries that are installed, by name."""
    found: dict[str, LibraryAttack] = {}
    for library, attacks in (
        ("torchattacks", _torchattacks),
        ("foolbox", _foolbox),
        ("art", _art),
    ):
        try:
            version(PACKAGES[library])
            found |= {attack.name: attack for attack in attacks()}
        except (ImportError, PackageNotFoundError) as error:
            print(f"{library} is left out: {error}", file=sys.stderr)
    return found
