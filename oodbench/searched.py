"""Objectives as a search sees them: counted, and their gradients looked at."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from oodbench.detector import Anchored, Objective, averaged
from oodbench.errors import CellError
from oodbench.model import Model, input_gradient
from oodbench.randomness import torch_generator
from oodbench.scores import energy, max_probability, reject_class
from oodbench.subject import Shown, Subject, differs, padded

FORWARD_COST = 0.35
"""What a score costs of a score with its gradient, about; for progress only."""

# A fiftieth of a grey level in every pixel: the score changes by far more than float32 rounds,
# and few units of the network switch on the way. At a quarter of a level 2 % of the images of an
# honest detector kept less than a quarter of what their gradient promised, here none a tenth.
_PROBE = 0.02 / 255
# Of the change that a gradient promises, what must come true for a search to go by it. Along
# signs that have nothing to do with the score it is ||g||2 / ||g||1 at random, some hundredths.
_LEAST_SHARE = 0.1
# The same a whole grey level away, where the search's images lie: units of the network switch on
# the way, so less is asked. A wave that is the same on every real image keeps nothing of it.
_WHOLE_LEVEL = 1 / 255
_LEAST_SHARE_WHOLE = 0.02
# Where the gradient is that of a stand-in, or of a mean over draws, no more can be asked than that
# the score, at one of these distances, rises along it by so many times what it changes along any
# of a few random signs. A gradient of n pixels that is right beats these by about √n.
_RISES_WITHIN = (1 / 255, 4 / 255, 16 / 255)
_RANDOM_SIGNS = 4
_CLEAR_RISE = 3.0
_MORE_DRAWS = 4
# Share of pixels without a gradient above which it is cut: of honest detectors at most a seventh.
_MOST_ZEROS = 0.5
# Draws over which a score that is random and does not say so is averaged.
_UNDECLARED_DRAWS = 8


@dataclass
class Ledger:
    """What a search did: how many gradients it took, and whether they were healthy.

    Attributes:
        gradient_images: Gradients computed, one for each image and step.
        first: By objective, how many first gradients were seen (``images``), how many of them
            were zero everywhere (``zero``) or not finite (``nonfinite``), and the number of
            entries (``entries``) and zero entries (``zero_entries``).
        checks: Of how many images (``images``) the score's gradient was looked at before a
            search; how many had none, one of zero in most pixels, or on the way in all
            (``zero``), one that is not finite, then or on the way (``nonfinite``), or one that
            finite differences contradict (``wrong``); and how many had another score the second
            time (``random``).
        fallback: On how many images (``images``) the fallback searched.
        tick: Called with the work done, in gradients of one image.
        expect: Called with work that was not foreseen, in the same unit, before it is done.
    """

    gradient_images: int = 0
    first: dict[str, Counter[str]] = field(default_factory=dict)
    checks: Counter[str] = field(default_factory=Counter)
    fallback: Counter[str] = field(default_factory=Counter)
    tick: Callable[[float], None] | None = None
    expect: Callable[[float], None] | None = None

    def scored(self, images: int) -> None:
        """Take note of images scored without a gradient."""
        if self.tick is not None:
            self.tick(FORWARD_COST * images)

    def falls_back(self, images: int, gradient_steps: int, queries: int) -> None:
        """Take note of images that are to be searched once more, and by the fallback."""
        self.fallback["images"] += images
        if self.expect is not None:
            self.expect(images * (gradient_steps + FORWARD_COST * queries))

    def record(self, name: str, gradients: Tensor, first: bool) -> None:
        """Take note of the gradients of one batch."""
        self.gradient_images += len(gradients)
        if self.tick is not None:
            self.tick(len(gradients))
        if not first:
            return
        flat = gradients.flatten(1)
        counts = self.first.setdefault(name, Counter())
        counts["images"] += len(flat)
        counts["zero"] += int((flat == 0).all(1).sum())
        counts["nonfinite"] += int((~flat.isfinite()).any(1).sum())
        counts["entries"] += flat.numel()
        counts["zero_entries"] += int((flat == 0).sum())

    def told(self) -> dict[str, Any]:
        """Return what it holds as plain data."""
        return {
            "gradient_images": self.gradient_images,
            "first": {name: dict(counts) for name, counts in self.first.items()},
            "checks": dict(self.checks),
            "fallback": dict(self.fallback),
        }

    def add(self, told: Mapping[str, Any]) -> None:
        """Add what another ledger told, or an older one that knew less."""
        self.gradient_images += told["gradient_images"]
        for name, counts in told["first"].items():
            self.first.setdefault(name, Counter()).update(counts)
        self.checks.update(told.get("checks", {}))
        self.fallback.update(told.get("fallback", {}))


class Searched:
    """An objective of a detector as a search sees it; see `SearchObjective`."""

    def __init__(
        self,
        name: str,
        objective: Objective | Anchored,
        subject: Subject,
        ledger: Ledger,
        centres: Tensor,
        differentiable: bool = True,
    ) -> None:
        self.differentiable = differentiable
        self._name = name
        self._objective = objective
        self._subject = subject
        self._ledger = ledger
        # Shared with the parts of `rows`.
        self._faults = {
            fault: torch.zeros(len(centres), dtype=torch.bool, device=centres.device)
            for fault in ("nonfinite", "zero")
        }
        self._places = torch.arange(len(centres), device=centres.device)
        self._anchors: Tensor | None = None
        if isinstance(objective, Anchored):
            with torch.no_grad():
                shown = Shown.of(centres)
                self._anchors = objective.anchor(subject.search_model, shown.inputs)[: shown.rows]
        self._first = True

    def rows(self, index: Tensor) -> "Searched":
        """Return the same for some of the centres."""
        part = object.__new__(Searched)
        part.__dict__ = dict(self.__dict__)
        part._places = self._places[index]
        if self._anchors is not None:
            part._anchors = self._anchors[index]
        return part

    @property
    def faults(self) -> Mapping[str, Tensor]:
        """On which of all images some gradient was not finite, or zero everywhere, bool [N]."""
        return self._faults

    def value(self, images: Tensor) -> Tensor:
        """Return the values, float32 [N]."""
        with torch.no_grad():
            values = self._evaluated(padded(images))[: len(images)].float()
        self._ledger.scored(len(images))
        return values

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values, float32 [N], and their gradients."""
        rows = len(images)
        inputs = padded(images).detach().requires_grad_()
        with torch.enable_grad():
            values = self._evaluated(inputs)
            if not values.requires_grad:
                raise CellError(
                    f"the objective {self._name} has no gradient in the image; let it depend on"
                    " the image differentiably"
                )
            gradients = input_gradient(values, inputs)[:rows]
        self._ledger.record(self._name, gradients, self._first)
        self._first = False
        self._look_at(gradients)
        return values.detach()[:rows].float(), gradients

    def _look_at(self, gradients: Tensor) -> None:
        # A sum is not finite where an entry is not, and zero where all are.
        sums = gradients.sum((1, 2, 3))
        suspects = (sums == 0) | ~sums.isfinite()
        if not bool(suspects.any()):
            return
        part = gradients[suspects].flatten(1)
        places = self._places[suspects]
        self._faults["nonfinite"][places] |= ~part.isfinite().all(1)
        self._faults["zero"][places] |= (part == 0).all(1)

    def _evaluated(self, images: Tensor) -> Tensor:
        subject = self._subject
        if isinstance(self._objective, Anchored):
            assert self._anchors is not None
            values = self._objective.value(subject.search_model, images, padded(self._anchors))
        else:
            values = self._objective(subject.search_model, images)
        return subject.sign * values


def differentiable_score(subject: Subject) -> Objective:
    """Return the score with the gradient that the detector offers for it.

    Of a random score it is the mean over draws (EOT; Athalye et al., ICML 2018, section 4.2);
    where there is a smooth stand-in, its gradient is that one's (BPDA; section 4.1).
    """
    score = averaged(subject.detector.score, subject.draws)
    smooth = subject.detector.smooth_score()
    if smooth is None:
        return score
    stand_in = averaged(smooth, subject.draws)

    def passed_through(model: Model, images: Tensor) -> Tensor:
        with torch.no_grad():
            values = score(model, images)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return values
        smoothed = stand_in(model, images)
        return values + (smoothed - smoothed.detach())

    return passed_through


def searched_objectives(
    subject: Subject, preset: str, centres: Tensor, ledger: Ledger, differentiable: bool
) -> dict[str, Searched]:
    """Return what a search may lower.

    Args:
        subject: The detector.
        preset: ``standard`` or ``paper``.
        centres: The images to be attacked, uint8 [N, 3, H, W].
        ledger: Takes note of the gradients.
        differentiable: Whether the score has a gradient.

    Raises:
        CellError: If there is nothing to lower.
    """
    detector = subject.detector
    if preset == "paper":
        published = detector.published_objective()
        if published is None:
            raise CellError("it has no published objective; use --preset standard")
        return {"published": Searched("published", published, subject, ledger, centres)}
    score = differentiable_score(subject)
    found = {"score": Searched("score", score, subject, ledger, centres, differentiable)}
    for name, objective in detector.attack_objectives().items():
        # What is anchored lowers one side's bound; raised, it bounds nothing.
        if not (subject.raised and isinstance(objective, Anchored)):
            found[name] = Searched(name, objective, subject, ledger, centres)
    return found


@dataclass(frozen=True)
class Soundness:
    """What a look at a score's gradient found.

    Attributes:
        sound: Which images have one that a search can go by, bool [N].
        subject: The detector as it is to be attacked: its score averaged over draws if some image
            had another one the second time.
        differentiable: Whether any image may have a gradient at all.
    """

    sound: Tensor
    subject: Subject
    differentiable: bool = True


def stand_ins(subject: Subject, centres: Tensor, ledger: Ledger) -> dict[str, Searched]:
    """Return what to lower where the score's own gradient leads nowhere.

    Whatever a score does to hide its gradient, the network under it has one. These are usual
    functions of its logits; whether they help is decided by the score.

    Args:
        subject: The detector.
        centres: The images to be attacked, uint8 [N, 3, H, W].
        ledger: Takes note of the gradients.
    """
    classes = subject.model.classes
    usual: dict[str, Objective] = {
        "max_probability": lambda model, x: max_probability(model.logits(x)[:, :classes]),
        "energy": lambda model, x: energy(model.logits(x)[:, :classes]),
    }
    if subject.model.logits(Shown.of(centres[:1]).inputs).shape[1] > classes:
        usual["reject"] = lambda model, x: reject_class(model.logits(x), classes)
    score = differentiable_score(subject)
    found = {"score": Searched("score", score, subject, ledger, centres, differentiable=False)}
    for name, objective in usual.items():
        found[name] = Searched(name, objective, subject, ledger, centres)
    return found


def sound_gradients(subject: Subject, shown: Shown, values: Tensor, ledger: Ledger) -> Soundness:
    """Look at the gradient of a score before a search goes by it.

    It is sound if it is finite, not zero in most pixels, and if the score rises along the
    gradient's sign as it promises: by a tenth close by and by a fiftieth a grey level away. Of a
    smooth stand-in (BPDA) or a random score it is asked that the score, in the mean over draws,
    rises along it somewhere, and by more than along random signs. A score that is another the
    second time is random, whether it says so or not.

    Args:
        subject: The detector.
        shown: The images.
        values: What the judge said of them, float32 [N].
        ledger: Takes note of what is found.

    Returns:
        What was found.
    """
    rows = shown.rows
    checks = ledger.checks
    smooth = subject.detector.smooth_score() is not None
    has_gradient = subject.detector.has_gradient or smooth
    inputs = shown.inputs.detach().requires_grad_()
    objective = differentiable_score(subject)
    with torch.set_grad_enabled(has_gradient):
        values_again = objective(subject.model, inputs)
    ledger.scored(rows)
    again = values_again.detach().float()
    changed = differs(again[:rows], values)
    if subject.draws == 1 and bool(changed.any()):
        checks["random"] += int(changed.sum())
        return sound_gradients(replace(subject, draws=_UNDECLARED_DRAWS), shown, values, ledger)
    checks["images"] += rows
    if not (has_gradient and values_again.requires_grad):
        checks["zero"] += rows
        none = torch.zeros(rows, dtype=torch.bool, device=shown.inputs.device)
        return Soundness(none, subject, differentiable=False)
    gradient = input_gradient(values_again, inputs)
    ledger.scored(rows)
    flat = gradient[:rows].flatten(1)
    finite = flat.isfinite().all(1)
    zero = (flat == 0).float().mean(1) > _MOST_ZEROS
    sound = finite & ~zero
    checks["nonfinite"] += int((~finite).sum())
    checks["zero"] += int(zero.sum())
    with torch.no_grad():
        if smooth or subject.draws > 1:
            # More draws, lest chance hide what a right gradient does.
            mean = averaged(objective, 1 if subject.draws == 1 else _MORE_DRAWS)
            rises = _rises(mean, subject.model, shown.inputs, gradient)
        else:
            rises = _rises_as_promised(
                objective, subject.model, shown.inputs, again, gradient, subject.sign
            )
    wrong = sound & ~rises[:rows]
    checks["wrong"] += int(wrong.sum())
    return Soundness(sound & ~wrong, subject)


def _moved(images: Tensor, way: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Return images moved up and down the signs of a way, inside the pixel box."""
    step = size * way.sign().nan_to_num()
    return (images + step).clamp(0, 1), (images - step).clamp(0, 1)


def _rises_as_promised(
    objective: Objective,
    model: Model,
    images: Tensor,
    values: Tensor,
    gradient: Tensor,
    sign: int,
) -> Tensor:
    """Return where a score changes by a fair share of what its gradient promises, bool [N].

    Close by it is asked of both ways together, a grey level away of the attacker's way alone: on
    the ridge where two classes are equally likely the largest probability falls either way.
    """
    above, below = _moved(images, gradient, _PROBE)
    promised = (gradient * (above - below)).flatten(1).sum(1)
    close_by = objective(model, above) - objective(model, below) >= _LEAST_SHARE * promised
    moved = _moved(images, -sign * gradient, _WHOLE_LEVEL)[0]
    promised = (gradient * (moved - images)).flatten(1).sum(1)
    gained = sign * (values - objective(model, moved))
    return close_by & (gained >= _LEAST_SHARE_WHOLE * promised.abs())


def _rises(objective: Objective, model: Model, images: Tensor, gradient: Tensor) -> Tensor:
    """Return where a score rises along a gradient more than along random signs, bool [N]."""
    found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    rng = torch_generator(0, "gradient/signs")
    shape = (_RANDOM_SIGNS, *images.shape[1:])
    signs = (torch.rand(shape, generator=rng) - 0.5).sign().to(images)
    for size in _RISES_WITHIN:
        by_chance = torch.stack(
            [_change(objective, model, images, sign[None], size).abs() for sign in signs]
        ).amax(0)
        rise = _change(objective, model, images, gradient, size)
        found |= (rise > 0) & (rise >= _CLEAR_RISE * by_chance)
    return found


def _change(objective: Objective, model: Model, images: Tensor, way: Tensor, size: float) -> Tensor:
    """Return by how much a score rises from ``size`` down the signs of a way to as far up, [N]."""
    above, below = _moved(images, way, size)
    return objective(model, above) - objective(model, below)


def health(first: Mapping[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Summarise the first gradients of each objective as shares of images and of entries."""
    return {
        name: {
            "zero_gradient": counts["zero"] / max(counts["images"], 1),
            "nonfinite_gradient": counts["nonfinite"] / max(counts["images"], 1),
            "zero_entries": counts["zero_entries"] / max(counts["entries"], 1),
        }
        for name, counts in sorted(first.items())
    }


def gradient_checks(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the share of images on which the look at the score's gradient found each fault."""
    return {
        fault: counts.get(fault, 0) / counts["images"]
        for fault in ("zero", "nonfinite", "wrong", "random")
    }
