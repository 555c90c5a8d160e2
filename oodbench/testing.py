"""Checks that a plugin keeps its contract, in seconds.

For the author of a plugin, in a test of their own::

    from oodbench.testing import check

    def test_my_detector_keeps_its_contract():
        check("detectors", "./mine.py")

Each check raises `ConformanceError` naming the property that failed and an input that shows it.
"""

import dataclasses
import typing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from oodbench.detector import Anchored, Detector, FitData, Objective
from oodbench.errors import ConformanceError
from oodbench.images import ArrayImages, Images, ImageSet, Suite
from oodbench.model import Backbone, Model
from oodbench.network import Network, initialised
from oodbench.perturbation import Candidate, Perturbation, SearchObjective
from oodbench.plugins import PluginSpec, resolved
from oodbench.randomness import generator
from oodbench.registry import load
from oodbench.schedule import Schedule
from oodbench.threat import farthest, to_float
from oodbench.training import DeviceImages, Training

CLASSES = 4
DISTINCT = 0.995
"""Least share of different scores in float32."""

_MANY = 400
_FEW = 24
_LOGIT_SPREAD = 15.0


def check(kind: str, reference: str, *, root: Path | None = None, **params: Any) -> list[str]:
    """Check a plugin by its name or the path of its file.

    Args:
        kind: ``detectors``, ``attacks``, ``datasets`` or ``networks``.
        reference: Name, or path of a file.
        root: Folder of image data, for a data set that is downloaded or imported.
        params: Parameters that differ from the defaults; what is None is taken from `mini`.

    Returns:
        Names of the properties that were checked.

    Raises:
        ConformanceError: If one does not hold.
    """
    if kind == "networks":
        return check_network(load(kind, reference))
    spec = PluginSpec(kind, reference, tuple(sorted(params.items())))
    if kind == "detectors":
        suite = load("datasets", "mini")()
        return check_detector(resolved(spec, suite.published).instance)
    if kind == "attacks":
        return check_perturbation(spec.instance)
    return check_image_set(spec.instance, root)


# Detectors


def check_detector(detector: Detector, network: type[Network] | None = None) -> list[str]:
    """Check a detector on a small untrained network with confident logits.

    The properties: ``frozen-dataclass``, ``declared-needs``, ``shape``, ``finiteness``,
    ``determinism``, ``batch-independence``, ``gradient`` (there if declared, not zero, equal to
    finite differences in float64 where no kink is near) and ``saturation``. Attack objectives,
    a smooth stand-in and the published objective are held to the same, but for saturation. Of a
    random score (`draws`) neither repeating nor gradients can be asked.
    """
    _check_frozen(detector)
    single, double = (_confident_model(detector, network, t) for t in _PRECISIONS)
    images = to_float(_pictures(_FEW))
    repeatable = detector.draws == 1
    for name, objective in _objectives(detector).items():
        _check_values(name, objective, single, images, repeatable)
        if repeatable:
            _check_batch_independence(name, objective, double, images.double())
        if repeatable and _differentiable(detector, name):
            _check_gradient(name, objective, double, images[:8].double())
    _check_saturation(detector, single)
    return [
        "frozen-dataclass",
        "declared-needs",
        "shape",
        "finiteness",
        *(["determinism", "batch-independence"] if repeatable else []),
        *(["gradient"] if repeatable and _differentiable(detector, "score") else []),
        "saturation",
    ]


def _differentiable(detector: Detector, name: str) -> bool:
    """Whether an objective promises a gradient that finite differences can be held against."""
    if name == "published":
        return False
    return name != "score" or (detector.has_gradient and detector.smooth_score() is None)


_PRECISIONS = (torch.float32, torch.float64)


def _check_frozen(plugin: Any) -> None:
    """Refuse a class whose own annotations never became fields of a frozen dataclass."""
    known = {field.name for field in dataclasses.fields(plugin)}
    lost = [
        name
        for name, hint in typing.get_type_hints(type(plugin)).items()
        if typing.get_origin(hint) is not ClassVar and name not in known
    ]
    if lost:
        raise ConformanceError(
            "frozen-dataclass",
            f"{type(plugin).__name__}.{lost[0]} is no field; decorate the class with "
            "@dataclass(frozen=True), so that its parameters are part of the identity",
        )


def _objectives(detector: Detector) -> dict[str, Objective]:
    found: dict[str, Objective] = {"score": detector.score}
    for name, objective in detector.attack_objectives().items():
        found[name] = _anchored_here(objective) if isinstance(objective, Anchored) else objective
    smooth = detector.smooth_score()
    if smooth is not None:
        found["smooth"] = smooth
    published = detector.published_objective()
    return found if published is None else {**found, "published": published}


def _anchored_here(objective: Anchored) -> Objective:
    """Return an anchored objective with its anchors taken from the images themselves."""

    def value(model: Model, images: Tensor) -> Tensor:
        with torch.no_grad():
            anchors = objective.anchor(model, images)
        return objective.value(model, images, anchors)

    return value


def _confident_model(
    detector: Detector, network: type[Network] | None, dtype: torch.dtype
) -> Model:
    """Build a network whose logits are as far apart as a trained one's, and fit the detector."""
    kind: type[Network] = network or load("networks", "conv3")
    built = initialised(kind, detector.recipe.outputs(CLASSES), seed=0)
    pictures = _pictures(128, purpose="testing/train")
    built.train()
    with torch.no_grad():
        for _ in range(20):
            built(to_float(pictures))
        built.eval()
        spread = built(to_float(pictures)).std()
        last = [module for module in built.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight *= _LOGIT_SPREAD / spread
    modules = _started_modules(detector, built, pictures)
    backbone = Backbone(built, CLASSES, modules, dtype, detector.tta)
    data = FitData(
        images=pictures,
        labels=torch.arange(len(pictures)) % CLASSES if detector.needs_labels else None,
        pool=_pictures(64, purpose="testing/pool") if detector.needs_pool else None,
        seed=0,
    )
    state = detector.fit(Model(backbone), data)
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ConformanceError("fit", f"fit must return tensors; {wrong[0]} is none")
    return Model(backbone, state)


def _started_modules(
    detector: Detector, network: Network, pictures: Tensor
) -> dict[str, torch.nn.Module]:
    """Build the further modules of the detector's recipe, as they are before the first step."""
    cpu = torch.device("cpu")
    pool = _pictures(64, purpose="testing/pool")
    images, outliers = (
        DeviceImages(ArrayImages(x.numpy(), [str(i) for i in range(len(x))]), cpu)
        for x in (pictures, pool)
    )
    training = Training(
        network, CLASSES, len(pictures), cpu, 0, Schedule(), images=images, outliers=outliers
    )
    training.modules = detector.recipe.modules(training)
    detector.recipe.start(training)
    return training.modules


def _pictures(count: int, purpose: str = "testing/images") -> Tensor:
    """Return different pictures of many kinds, uint8 [count, 3, 32, 32], the extremes first."""
    pictures = []
    rows, columns = np.mgrid[0:32, 0:32] / 31
    for index in range(count):
        rng = generator(0, purpose, str(index))
        waves = sum(
            rng.uniform(10, 60)
            * np.sin(
                rng.uniform(0, 12) * rows[None]
                + rng.uniform(0, 12) * columns[None]
                + rng.uniform(0, 6, (3, 1, 1))
            )
            for _ in range(3)
        )
        noise = rng.normal(0, rng.uniform(0, 40), (3, 32, 32))
        picture = rng.uniform(30, 225, (3, 1, 1)) + waves + noise
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    stacked = torch.from_numpy(np.stack(pictures))
    if purpose == "testing/images" and count > 2:
        stacked[0], stacked[1] = 0, 255
    return stacked


def _evaluate(name: str, objective: Objective, model: Model, images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return objective(model, images)
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(
            "shape", f"{name} fails on {len(images)} images: {type(error).__name__}: {error}"
        ) from error


def _check_values(
    name: str, objective: Objective, model: Model, images: Tensor, repeatable: bool
) -> None:
    values = _evaluate(name, objective, model, images)
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(images),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ConformanceError(
            "shape", f"{name} of {len(images)} images is {shape}; it must be ({len(images)},)"
        )
    if not values.is_floating_point():
        raise ConformanceError("shape", f"{name} has type {values.dtype}; it must be a float")
    bad = (~values.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        raise ConformanceError(
            "finiteness",
            f"{name} is {float(values[bad[0]])} on image {bad[0]} ({_described(images[bad[0]])})",
        )
    if repeatable and not torch.equal(values, _evaluate(name, objective, model, images.clone())):
        raise ConformanceError(
            "determinism",
            f"{name} differs between two calls on one input; declare draws if it is random",
        )


def _described(image: Tensor) -> str:
    return f"pixels from {float(image.min()):.2f} to {float(image.max()):.2f}"


def _check_batch_independence(
    name: str, objective: Objective, model: Model, images: Tensor
) -> None:
    together = _evaluate(name, objective, model, images).double()
    scale = 1e-8 * (1 + together.abs())
    order = torch.from_numpy(generator(0, "testing/order").permutation(len(images)))
    permuted = torch.empty_like(together)
    permuted[order] = _evaluate(name, objective, model, images[order]).double()
    alone = torch.cat(
        [_evaluate(name, objective, model, part).double() for part in torch.split(images, 5)]
    )
    for how, values in (("in another order", permuted), ("in smaller batches", alone)):
        wrong = ((values - together).abs() > scale).nonzero()[:, 0].tolist()
        if wrong:
            index = wrong[0]
            raise ConformanceError(
                "batch-independence",
                f"{name} of image {index} is {float(together[index]):.6g}, but "
                f"{float(values[index]):.6g} {how}",
            )


def _check_gradient(name: str, objective: Objective, model: Model, images: Tensor) -> None:
    inputs = images.clone().requires_grad_()
    with torch.enable_grad():
        values = objective(model, inputs)
    if not values.requires_grad:
        raise ConformanceError(
            "gradient",
            f"{name} has no gradient in the image; compute it differentiably, or declare "
            "has_gradient = False",
        )
    (gradients,) = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
    if gradients is None or not bool(gradients.isfinite().all()):
        what = "no gradient" if gradients is None else "a gradient that is not finite"
        raise ConformanceError("gradient", f"{name} has {what} in the image")
    flat = (gradients.flatten(1) == 0).all(1).nonzero()[:, 0].tolist()
    # The all-black and all-white pictures may lie on a plateau.
    if len(flat) > len(images) // 2:
        raise ConformanceError(
            "gradient", f"{name} has a zero gradient on {len(flat)} of {len(images)} images"
        )
    compared = 0
    for draw in range(6):
        rng = generator(0, "testing/direction", name, draw)
        direction = torch.from_numpy(rng.normal(size=tuple(images.shape)))
        direction /= direction.flatten(1).norm(dim=1)[:, None, None, None]
        here, ahead, behind = (
            _evaluate(name, objective, model, images + sign * 1e-6 * direction).double()
            for sign in (0, 1, -1)
        )
        forward, backward = (ahead - here) / 1e-6, (here - behind) / 1e-6
        slope = (forward + backward) / 2
        exact = (gradients * direction).flatten(1).sum(1)
        # Where the two sides disagree there is a kink, and no slope to compare with.
        smooth = (forward - backward).abs() <= 1e-3 * (1e-3 + slope.abs())
        wrong = smooth & ((slope - exact).abs() > 1e-2 * (1e-3 + slope.abs()))
        compared += int(smooth.sum())
        if bool(wrong.any()):
            index = int(wrong.nonzero()[0, 0])
            raise ConformanceError(
                "gradient",
                f"{name} has slope {float(exact[index]):.6g} by its gradient but "
                f"{float(slope[index]):.6g} by finite differences, on image {index}",
            )
    if compared == 0:
        raise ConformanceError(
            "gradient", f"{name} is rough everywhere: no direction has a stable slope"
        )


def _check_saturation(detector: Detector, model: Model) -> None:
    images = to_float(_pictures(_MANY))
    parts = torch.split(images, 100)
    scores = torch.cat([_evaluate("score", detector.score, model, part) for part in parts]).float()
    values, counts = torch.unique(scores, return_counts=True)
    if len(values) < DISTINCT * _MANY:
        most = int(counts.argmax())
        raise ConformanceError(
            "saturation",
            f"only {len(values)} of {_MANY} scores differ in float32; {int(counts[most])} are "
            f"{float(values[most]):.6g}. Use log-odds in place of a probability",
        )


# Perturbations


class _Landscape:
    """A smooth function of each image on its own, with its gradient in closed form."""

    differentiable = True

    def __init__(self, shift: float) -> None:
        self._shift = shift
        self.gradients = 0

    def _waves(self, images: Tensor) -> Tensor:
        pixels = torch.arange(images[0].numel(), dtype=torch.float64).reshape(images.shape[1:])
        return (pixels * 0.7 + self._shift).sin() + images.double() * 3

    def value(self, images: Tensor) -> Tensor:
        return self._waves(images).sin().flatten(1).sum(1).float()

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += len(images)
        return self.value(images), (3 * self._waves(images).cos()).float()

    def rows(self, index: Tensor) -> "_Landscape":
        return self


def check_perturbation(perturbation: Perturbation) -> list[str]:
    """Check a perturbation on smooth functions of pictures, extremes among them.

    The properties: ``frozen-dataclass``, ``8-bit-grid``, ``ball``, ``tags``, ``determinism``,
    ``batch-independence``, ``centres-unchanged`` and ``budget``. Of a composition, ``stages``:
    each of them keeps its contract.
    """
    _check_frozen(perturbation)
    if perturbation.stages:
        for stage in perturbation.stages:
            check("attacks", stage)
        return ["frozen-dataclass", "stages"]
    if getattr(perturbation, "budget", 0) is None and perturbation.preset == "standard":
        small: dict[str, Any] = {"budget": 10}
        perturbation = dataclasses.replace(perturbation, **small)
    if any(field.name == "queries" for field in dataclasses.fields(perturbation)):
        cheap: dict[str, Any] = {"queries": 40}
        perturbation = dataclasses.replace(perturbation, **cheap)
    centres = _pictures(_FEW)
    ids = [f"image {index}" for index in range(_FEW)]
    kept = centres.clone()
    whole, gradients = _candidates(perturbation, centres, ids)
    if not torch.equal(centres, kept):
        raise ConformanceError("centres-unchanged", "the search changed its input in place")
    for candidate in whole:
        _check_candidate(perturbation, candidate, centres)
    again, _ = _candidates(perturbation, centres, ids)
    _compare("determinism", "differs between two calls", whole, again, list(range(_FEW)))
    order = generator(0, "testing/order").permutation(_FEW).tolist()
    permuted, _ = _candidates(perturbation, centres[order], [ids[i] for i in order])
    _compare("batch-independence", "depends on the order", whole, permuted, order)
    few = order[:7]
    subset, _ = _candidates(perturbation, centres[few], [ids[i] for i in few])
    _compare("batch-independence", "depends on the batch", whole, subset, few)
    budget = getattr(perturbation, "budget", None)
    if budget is not None and gradients > budget * _FEW:
        raise ConformanceError(
            "budget", f"{gradients / _FEW:g} gradients an image; the budget is {budget}"
        )
    return [
        "frozen-dataclass",
        "8-bit-grid",
        "ball",
        "tags",
        "determinism",
        "batch-independence",
        "centres-unchanged",
        "budget",
    ]


def _candidates(
    perturbation: Perturbation, centres: Tensor, ids: list[str]
) -> tuple[list[Candidate], int]:
    landscapes = {"score": _Landscape(0.0), "other": _Landscape(1.0)}
    if perturbation.preset == "paper":
        landscapes = {"published": _Landscape(0.0)}
    objectives: dict[str, SearchObjective] = {} if perturbation.shared else {**landscapes}
    found = list(perturbation.search(objectives, centres, ids, 0))
    return found, sum(landscape.gradients for landscape in landscapes.values())


def _check_candidate(perturbation: Perturbation, candidate: Candidate, centres: Tensor) -> None:
    images = candidate.images
    if images.dtype != torch.uint8 or images.shape != centres.shape:
        raise ConformanceError(
            "8-bit-grid",
            f"a candidate is {images.dtype} {tuple(images.shape)}; it must be uint8 "
            f"{tuple(centres.shape)}",
        )
    radius = getattr(perturbation, "eps", None)
    if radius is not None and farthest(images, centres) > radius:
        distance = (images.short() - centres.short()).abs().flatten(1).amax(1)
        index = int(distance.argmax())
        raise ConformanceError(
            "ball", f"image {index} moved by {int(distance[index])} levels; the radius is {radius}"
        )
    if not isinstance(candidate.tags, str) and len(candidate.tags) != len(images):
        raise ConformanceError("tags", f"{len(candidate.tags)} tags for {len(images)} images")


def _compare(
    check_name: str, what: str, whole: list[Candidate], part: list[Candidate], rows: list[int]
) -> None:
    if len(whole) != len(part):
        raise ConformanceError(check_name, f"the number of candidates {what}")
    for number, (first, second) in enumerate(zip(whole, part, strict=True)):
        differs = (first.images[rows] != second.images).flatten(1).any(1).nonzero()[:, 0].tolist()
        if differs:
            raise ConformanceError(
                check_name, f"candidate {number} of image {rows[differs[0]]} {what}"
            )


# Image sets and networks


def check_image_set(dataset: ImageSet | Suite, root: Path | None = None) -> list[str]:
    """Check the splits of an image set, or of all sets of a suite.

    The properties: ``images`` (uint8 [N, 3, H, W]), ``ids`` (different), ``labels`` (in range)
    and ``batches`` (the same pixels in any order and batch).
    """
    folder = root or Path()
    if isinstance(dataset, Suite):
        dataset = dataset.located(folder)
        own = dataset.image_set(dataset.id_set)
        for split in ("train", "val", "test"):
            _check_images(own.open(split, folder), own)
        pool = dataset.image_set(dataset.pool)
        _check_images(pool.open("train", folder), pool)
        for name in (*dataset.ood_sets, *dataset.near):
            other = dataset.image_set(name)
            _check_images(other.open("test", folder), other)
    else:
        split = "test" if "test" in (dataset.card.images or ("test",)) else "train"
        _check_images(dataset.open(split, folder), dataset)
    return ["images", "ids", "labels", "batches"]


def _check_images(images: Images, owner: ImageSet) -> None:
    title = owner.card.title
    count = len(images)
    if count == 0 or len(set(images.ids)) != count:
        raise ConformanceError("ids", f"{title} has {count} images, {len(set(images.ids))} ids")
    first = images.batch(np.arange(min(count, 16)))
    if first.dtype != np.uint8 or first.ndim != 4 or first.shape[1] != 3:
        raise ConformanceError(
            "images", f"{title} gives {first.dtype} {first.shape}, not uint8 [n, 3, H, W]"
        )
    backwards = images.batch(np.arange(len(first))[::-1])
    if not np.array_equal(first, backwards[::-1]):
        raise ConformanceError("batches", f"{title} gives other pixels in another order")
    labels = images.labels
    if owner.classes is None or labels is None:
        return
    if len(labels) != count or labels.min() < 0 or labels.max() >= len(owner.classes):
        raise ConformanceError("labels", f"{title} has labels outside its classes")


def check_network(network: type[Network]) -> list[str]:
    """Check a network: ``logits`` shape, ``taps``, and that images do not mix (``eval``)."""
    built = initialised(network, CLASSES + 1, seed=0).eval()
    images = to_float(_pictures(20))
    with torch.no_grad():
        maps, logits = built.tapped(images)
        if tuple(logits.shape) != (20, CLASSES + 1):
            raise ConformanceError("logits", f"the logits are {tuple(logits.shape)}")
        if tuple(maps) != tuple(built.taps):
            raise ConformanceError("taps", f"the maps are {tuple(maps)}, the taps {built.taps}")
        for tap in built.taps:
            early = built.tapped(images, until=tap)[0][tap]
            if not torch.equal(early, maps[tap]):
                raise ConformanceError("taps", f"{tap} differs where the network stops at it")
        # Untaught, deep networks have huge logits, some of which nearly cancel.
        rounding = 1e-4 * logits[:9].abs().amax(1, keepdim=True).clamp(min=1)
        if bool(((built(images[:9]) - logits[:9]).abs() > rounding).any()):
            raise ConformanceError("eval", "an image's logits depend on the batch")
    return ["logits", "taps", "eval"]
