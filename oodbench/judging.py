"""The judge: the true score of real images decides which candidate of a search counts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from oodbench.detector import Detector, Objective
from oodbench.errors import CellError, ConformanceError
from oodbench.model import Model, input_gradient
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.threat import farthest, to_float

# Below this many rows libraries switch to other kernels, whose rounding differs.
_MIN_ROWS = 16

FORWARD_COST = 0.35
"""What a score costs of a score with its gradient, about; for progress only."""

THEN = " > "
"""Stands between the tags of two stages."""


@dataclass
class Ledger:
    """What a search did: how many gradients it took, and whether they were healthy.

    Attributes:
        gradient_images: Gradients computed, one for each image and step.
        first: By objective, how many first gradients were seen (``images``), how many of them
            were zero everywhere (``zero``) or not finite (``nonfinite``), and the number of
            entries (``entries``) and zero entries (``zero_entries``).
        tick: Called with the work done, in gradients of one image.
    """

    gradient_images: int = 0
    first: dict[str, Counter[str]] = field(default_factory=dict)
    tick: Callable[[float], None] | None = None

    def scored(self, images: int) -> None:
        """Take note of images scored without a gradient."""
        if self.tick is not None:
            self.tick(FORWARD_COST * images)

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


class _Searched:
    """An objective of a detector as a search sees it."""

    def __init__(self, name: str, objective: Objective, model: Model, ledger: Ledger) -> None:
        self._name = name
        self._objective = objective
        self._model = model
        self._ledger = ledger
        self._first = True

    def value(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._objective(self._model, _padded(images))[: len(images)].float()

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(images)
        inputs = _padded(images).detach().requires_grad_()
        with torch.enable_grad():
            values = self._objective(self._model, inputs)
            if not values.requires_grad:
                raise CellError(
                    f"the objective {self._name} has no gradient in the image; declare "
                    "has_gradient = False or let it depend on the image differentiably"
                )
            gradients = input_gradient(values, inputs)[:rows]
        self._ledger.record(self._name, gradients, self._first)
        self._first = False
        return values.detach()[:rows].float(), gradients


def _padded(images: Tensor) -> Tensor:
    missing = _MIN_ROWS - len(images)
    return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing > 0 else images


@dataclass(frozen=True)
class Shown:
    """Real images made ready to be judged once for all detectors.

    Attributes:
        inputs: float32 [M, 3, H, W] in [0, 1], with rows added where there are few.
        rows: How many of them count.
    """

    inputs: Tensor
    rows: int

    @classmethod
    def of(cls, images: Tensor) -> "Shown":
        """Make uint8 images [N, 3, H, W] ready."""
        return cls(_padded(to_float(images)), len(images))


def judged(objective: Objective, model: Model, shown: Shown) -> Tensor:
    """Evaluate a score on real images and check what comes back.

    Returns:
        float32 [N].

    Raises:
        CellError: If a value has the wrong shape or is NaN.
    """
    with torch.no_grad():
        values = objective(model, shown.inputs)
    if tuple(values.shape) != (len(shown.inputs),):
        raise CellError(
            f"the score of {len(shown.inputs)} images has shape {tuple(values.shape)}; it must "
            f"be ({len(shown.inputs)},)"
        )
    values = values[: shown.rows].float()
    if bool(values.isnan().any()):
        count = int(values.isnan().sum())
        raise CellError(f"the score is NaN on {count} of {shown.rows} images")
    return values


@dataclass(frozen=True)
class Subject:
    """A detector under attack.

    Attributes:
        detector: The detector.
        model: Its model in float32, for judging.
        search_model: A faster, nearly equal model for searching.
    """

    detector: Detector
    model: Model
    search_model: Model

    def searched(self, preset: str, ledger: Ledger) -> dict[str, SearchObjective]:
        """Return the objectives that a search may lower.

        Raises:
            CellError: If there is nothing to lower.
        """
        if preset == "paper":
            published = self.detector.published_objective()
            if published is None:
                raise CellError("it has no published objective; use --preset standard")
            chosen: dict[str, Objective] = {"published": published}
        elif not self.detector.has_gradient:
            raise CellError("it declares that its score has no gradient")
        else:
            chosen = {"score": self.detector.score, **self.detector.attack_objectives()}
        return {
            name: _Searched(name, objective, self.search_model, ledger)
            for name, objective in chosen.items()
        }

    def selection(self, perturbation: Perturbation) -> Objective:
        """Return what decides between candidates: the score, or under ``paper`` what was used."""
        if perturbation.preset == "paper":
            choice = (
                self.detector.published_score()
                if perturbation.shared
                else self.detector.published_objective()
            )
            if choice is not None:
                return choice
        return self.detector.score


@dataclass
class Verdict:
    """The worst case of each image.

    Attributes:
        images: uint8 [N, 3, H, W].
        values: float32 [N], what decided between the candidates; the score unless ``paper``.
        tags: What made each image; ``clean`` where nothing was worse.
    """

    images: Tensor
    values: Tensor
    tags: list[str]

    def offer(self, candidate: Candidate, values: Tensor) -> None:
        """Take over the images of a candidate that are strictly worse for the detector."""
        lower = values < self.values
        self.values = torch.where(lower, values, self.values)
        self.images = torch.where(lower[:, None, None, None], candidate.images, self.images)
        for index in lower.nonzero()[:, 0].tolist():
            self.tags[index] = candidate.tag(index)


def worst_case(
    subjects: Sequence[Subject],
    perturbations: Sequence[Perturbation],
    images: Tensor,
    ids: Sequence[str],
    seed: int,
    ledger: Ledger,
) -> list[Verdict]:
    """Perturb images and keep, for each detector, the one that fools it most.

    Several perturbations are done one about the result of the other, each judged about its own
    centre. Where the first is shared its candidates are made once for all detectors.

    Args:
        subjects: The detectors.
        perturbations: One perturbation, or the stages of a composition.
        images: uint8 [N, 3, H, W].
        ids: Ids of the images.
        seed: Seed of the evaluation.
        ledger: Takes note of the gradients.

    Returns:
        A verdict for each subject, in order.

    Raises:
        CellError: If a score is wrong, or there is nothing to lower.
        ConformanceError: If a candidate is no image of the threat model.
    """
    first, *rest = perturbations
    verdicts = []
    for subject, found in zip(
        subjects, first_stage(subjects, first, images, ids, seed, ledger), strict=True
    ):
        if isinstance(found, Exception):
            raise found
        for stage in rest:
            found = next_stage(subject, stage, found, ids, seed, ledger)
        verdicts.append(found)
    return verdicts


def first_stage(
    subjects: Sequence[Subject],
    perturbation: Perturbation,
    images: Tensor,
    ids: Sequence[str],
    seed: int,
    ledger: Ledger,
) -> list[Verdict | Exception]:
    """Do the first perturbation for several detectors; one that fails takes no other along.

    Arguments are those of `worst_case`.

    Returns:
        A verdict or what went wrong, for each subject in order.
    """
    shown = Shown.of(images)
    found = [
        _attempted(partial(_unperturbed, subject, perturbation, images, shown))
        for subject in subjects
    ]
    if not perturbation.shared:
        return [
            verdict
            if isinstance(verdict, Exception)
            else _attempted(partial(_search, subject, perturbation, verdict, ids, seed, ledger))
            for subject, verdict in zip(subjects, found, strict=True)
        ]
    for candidate in perturbation.search({}, images, ids, seed):
        _check(perturbation, candidate, images)
        shown = Shown.of(candidate.images)
        for index, (subject, verdict) in enumerate(zip(subjects, found, strict=True)):
            if not isinstance(verdict, Exception):
                found[index] = _attempted(
                    partial(_offered, subject, perturbation, verdict, candidate, shown)
                )
                ledger.scored(len(ids))
    return found


def next_stage(
    subject: Subject,
    perturbation: Perturbation,
    before: Verdict,
    ids: Sequence[str],
    seed: int,
    ledger: Ledger,
) -> Verdict:
    """Do a further perturbation of a composition about the result of the one before.

    Arguments are those of `worst_case`; ``before`` is left as it is.
    """
    shown = Shown.of(before.images)
    after = _unperturbed(subject, perturbation, before.images, shown)
    after = _search(subject, perturbation, after, ids, seed, ledger)
    after.tags = [f"{a}{THEN}{b}" for a, b in zip(before.tags, after.tags, strict=True)]
    return after


def _attempted(step: Callable[[], Verdict]) -> Verdict | Exception:
    try:
        return step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return error


def final_scores(subject: Subject, perturbation: Perturbation, verdict: Verdict) -> Tensor:
    """Return the scores of the chosen images, float32 [N], after the last perturbation."""
    if subject.selection(perturbation) == subject.detector.score:
        return verdict.values
    return judged(subject.detector.score, subject.model, Shown.of(verdict.images))


def _unperturbed(
    subject: Subject, perturbation: Perturbation, images: Tensor, shown: Shown
) -> Verdict:
    values = judged(subject.selection(perturbation), subject.model, shown)
    return Verdict(images, values, ["clean"] * shown.rows)


def _offered(
    subject: Subject,
    perturbation: Perturbation,
    verdict: Verdict,
    candidate: Candidate,
    shown: Shown,
) -> Verdict:
    verdict.offer(candidate, judged(subject.selection(perturbation), subject.model, shown))
    return verdict


def _search(
    subject: Subject,
    perturbation: Perturbation,
    verdict: Verdict,
    ids: Sequence[str],
    seed: int,
    ledger: Ledger,
) -> Verdict:
    centres = verdict.images
    objectives = {} if perturbation.shared else subject.searched(perturbation.preset, ledger)
    # A search that changes its input must not change what others go on from.
    for candidate in perturbation.search(objectives, centres.clone(), ids, seed):
        _check(perturbation, candidate, centres)
        _offered(subject, perturbation, verdict, candidate, Shown.of(candidate.images))
    return verdict


def _check(perturbation: Perturbation, candidate: Candidate, centres: Tensor) -> None:
    """Refuse candidates that are no 8-bit images or leave the ball."""
    name = type(perturbation).__name__
    images = candidate.images
    if images.dtype != torch.uint8 or images.shape != centres.shape:
        raise ConformanceError(
            "8-bit-grid",
            f"{name} returned {images.dtype} {tuple(images.shape)}, not uint8 "
            f"{tuple(centres.shape)}",
        )
    radius = getattr(perturbation, "eps", None)
    if radius is not None and (distance := farthest(images, centres)) > radius:
        raise ConformanceError(
            "ball", f"{name} moved a pixel by {distance} levels; its radius is {radius}"
        )


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
