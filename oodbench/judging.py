"""The judge: the true score of real images decides which candidate of a search counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from oodbench.errors import CellError, ConformanceError
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.plugins import fallback_of
from oodbench.searched import (
    Ledger,
    Searched,
    Soundness,
    searched_objectives,
    sound_gradients,
    stand_ins,
)
from oodbench.subject import Shown, Subject, counted_draws, differs, judged, judged_by_count
from oodbench.threat import farthest

THEN = " > "
"""Stands between the tags of two stages."""


@dataclass
class Verdict:
    """The worst case of each image.

    Attributes:
        images: uint8 [N, 3, H, W].
        values: float32 [N], what decided between the candidates; the score unless ``paper``.
        tags: What made each image; ``clean`` where nothing was worse.
        raised: Whether the higher value is the worse, as where in-distribution images are
            attacked.
    """

    images: Tensor
    values: Tensor
    tags: list[str]
    raised: bool = False

    def offer(self, candidate: Candidate, values: Tensor, rows: Tensor | None = None) -> None:
        """Take over the images of a candidate that are strictly worse for the detector.

        Args:
            candidate: The images.
            values: Their values, float32 [N].
            rows: Which of the verdict's images they are for, int64 [N]; None for all.
        """
        before = self.values if rows is None else self.values[rows]
        worse = (values > before if self.raised else values < before).nonzero()[:, 0]
        places = worse if rows is None else rows[worse]
        self.values = self.values.index_copy(0, places, values[worse])
        self.images = self.images.index_copy(0, places, candidate.images[worse])
        for place, index in zip(places.tolist(), worse.tolist(), strict=True):
            self.tags[place] = candidate.tag(index)


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
    if not perturbation.shared:
        return [
            _attempted(partial(_searched_alone, subject, perturbation, images, ids, seed, ledger))
            for subject in subjects
        ]
    shown = Shown.of(images)
    found = [
        _attempted(partial(_unperturbed, subject, perturbation, images, shown))
        for subject in subjects
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
    with counted_draws(type(perturbation).__name__, ids):
        after = _unperturbed(subject, perturbation, before.images, shown)
        after = _search(subject, perturbation, after, ids, seed, ledger)
    after.tags = [f"{a}{THEN}{b}" for a, b in zip(before.tags, after.tags, strict=True)]
    return after


def _searched_alone(
    subject: Subject,
    perturbation: Perturbation,
    images: Tensor,
    ids: Sequence[str],
    seed: int,
    ledger: Ledger,
) -> Verdict:
    with counted_draws(type(perturbation).__name__, ids):
        verdict = _unperturbed(subject, perturbation, images, Shown.of(images))
        return _search(subject, perturbation, verdict, ids, seed, ledger)


def _attempted(step: Callable[[], Verdict]) -> Verdict | Exception:
    try:
        return step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return error


def final_scores(
    subject: Subject, perturbation: Perturbation, verdict: Verdict, ids: Sequence[str]
) -> Tensor:
    """Return the scores of the chosen images, float32 [N], after the last perturbation.

    A random score, declared or found to be so now, is drawn once more for each image: what chose
    the image is not what it will be met with.
    """
    score = subject.detector.score
    if subject.detector.draws == 1:
        again = judged(score, subject.model, Shown.of(verdict.images))
        if subject.selection(perturbation) != score:
            return again
        if not bool(differs(again, verdict.values).any()):
            return verdict.values
    return judged_by_count(score, subject.model, verdict.images, "final", ids)


def _unperturbed(
    subject: Subject, perturbation: Perturbation, images: Tensor, shown: Shown
) -> Verdict:
    values = judged(subject.selection(perturbation), subject.model, shown)
    return Verdict(images, values, ["clean"] * shown.rows, subject.raised)


def _offered(
    subject: Subject,
    perturbation: Perturbation,
    verdict: Verdict,
    candidate: Candidate,
    shown: Shown,
    rows: Tensor | None = None,
) -> Verdict:
    verdict.offer(candidate, judged(subject.selection(perturbation), subject.model, shown), rows)
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
    looked: Soundness | None = None
    if perturbation.preset == "standard" and perturbation.gradient_steps:
        shown = Shown.of(centres)
        looked = sound_gradients(subject, shown, verdict.values, ledger)
        if looked.subject.draws > subject.draws:
            subject = looked.subject
            verdict.values = judged(subject.selection(perturbation), subject.model, shown)
    objectives: dict[str, Searched] = {}
    if not perturbation.shared:
        objectives = searched_objectives(
            subject,
            perturbation.preset,
            centres,
            ledger,
            differentiable=looked is None or looked.differentiable,
        )
    if not perturbation.gradient_steps or any(o.differentiable for o in objectives.values()):
        # A search that changes its input must not change what others go on from.
        for candidate in perturbation.search(objectives, centres.clone(), ids, seed):
            _check(perturbation, candidate, centres)
            _offered(subject, perturbation, verdict, candidate, Shown.of(candidate.images))
    if looked is None:
        return verdict
    if "score" in objectives:
        for fault, images in objectives["score"].faults.items():
            stopped = images & looked.sound
            ledger.checks[fault] += int(stopped.sum())
            looked = replace(looked, sound=looked.sound & ~stopped)
    if not bool(looked.sound.all()):
        _fall_back(subject, perturbation, verdict, centres, looked, objectives, ids, seed, ledger)
    return verdict


def _fall_back(
    subject: Subject,
    perturbation: Perturbation,
    verdict: Verdict,
    centres: Tensor,
    looked: Soundness,
    objectives: Mapping[str, SearchObjective],
    ids: Sequence[str],
    seed: int,
    ledger: Ledger,
) -> None:
    """Search those images otherwise whose gradient leads nowhere: by stand-ins, then without one.

    Raises:
        CellError: If the attack has no fallback and nothing at all could be searched.
    """
    fallback = fallback_of(perturbation)
    if fallback is None:
        if not any(objective.differentiable for objective in objectives.values()):
            raise CellError(
                "its score has no gradient, and the attack has no fallback; attack it with square"
            )
        return
    rows = (~looked.sound).nonzero()[:, 0]
    centres = centres[rows]
    names = [ids[i] for i in rows.tolist()]
    part = {name: objective.rows(rows) for name, objective in objectives.items()}
    # Where nothing is differentiable the first search, which was foreseen, did not take place.
    searched = any(objective.differentiable for objective in objectives.values())
    ledger.falls_back(len(rows), perturbation.gradient_steps if searched else 0, fallback.queries)
    for search, functions in (
        (perturbation, stand_ins(subject, centres, ledger)),
        (fallback, part),
    ):
        for candidate in search.search(functions, centres.clone(), names, seed):
            _check(search, candidate, centres)
            shown = Shown.of(candidate.images)
            _offered(subject, perturbation, verdict, candidate, shown, rows)


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
