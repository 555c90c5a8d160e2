"""What a process has open: suites, images, networks, fitted statistics, each once."""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from oodbench.detector import Detector, FitData
from oodbench.errors import CellError, OodbenchError, RequestError
from oodbench.files import expanded, shipped_results, writable_folder
from oodbench.foreign import network_class, network_name
from oodbench.given import GIVEN, Given, given_network
from oodbench.identity import PROTOCOL, canonical_json, digest, parameters
from oodbench.images import Images, ImageSet, Subset, Suite, named_set
from oodbench.imported import ImportedSet, UserSet, is_imported, user_suite
from oodbench.model import TTA, Backbone, Model, check_tta
from oodbench.network import Network
from oodbench.plugins import PluginSpec, described, origin
from oodbench.progress import Progress
from oodbench.recipe import Recipe
from oodbench.registry import entries, load
from oodbench.schedule import Schedule
from oodbench.store import Stored, TensorStore, read_card
from oodbench.subject import Subject
from oodbench.threat import to_float
from oodbench.trainer import TrainingRequest, build, can_go_on, train

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Settings:
    """Where and how a process works; none of it is part of an identity.

    Attributes:
        device: Name of the device, such as ``cpu`` or ``cuda:0``.
        batch_size: Images at once.
        data_root: Folder of image data.
        store: Folder of weights and statistics.
        retrain: Whether to train even where weights are stored or shipped.
        refit: Whether to fit statistics even where they are stored, and to keep none.
    """

    device: str
    batch_size: int
    data_root: Path
    store: Path
    retrain: bool = False
    refit: bool = False


@dataclass(frozen=True)
class Taught:
    """A training: what determines a network's weights.

    Attributes:
        suite: Name or path of the suite.
        recipe: What is learnt.
        schedule: Name of the schedule, as `Workbench.taught` gives it.
        network: Name or path of the network, or ``module:factory``.
        seed: Training seed.
        weights: File of weights that a user brings; the network is then never trained here, and
            recipe and schedule are not what it was taught by.
    """

    suite: str
    recipe: Recipe
    schedule: str
    network: str
    seed: int
    weights: str | None = None

    @property
    def title(self) -> str:
        """Short name for people."""
        return f"{type(self.recipe).__name__}, seed {self.seed}"


class Workbench:
    """Opens what work needs, each thing once."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self.settings = settings
        self.progress = progress or Progress()
        self.device = torch.device(settings.device)
        if self.device.type == "cuda":
            _judge_exactly()
        else:
            keep_freed_memory()
        self._suites: dict[str, Suite] = {}
        self._images: dict[tuple[str, str, str], Images] = {}
        self._users: dict[Taught, dict[str, None]] = {}
        self._weights: dict[Taught, Stored] = {}
        self._given: dict[tuple[str, str, str], Given] = {}
        self._retrained: set[Taught] = set()
        self._backbones: dict[tuple[Taught, str, TTA], Backbone] = {}
        self._states: dict[tuple[PluginSpec, Taught], dict[str, Tensor]] = {}

    @cached_property
    def _store(self) -> TensorStore:
        return TensorStore(self.settings.store)

    def suite(self, reference: str) -> Suite:
        """Return a suite by name or path."""
        root = self.settings.data_root
        if reference not in self._suites:
            if reference not in entries("datasets") and is_imported(root, reference):
                self._suites[reference] = user_suite(reference, root)
                return self._suites[reference]
            found = load("datasets", reference)()
            if not isinstance(found, Suite):
                raise RequestError(f"{reference} is an image set, not a suite")
            self._suites[reference] = found.located(root)
        return self._suites[reference]

    def image_set(self, suite: str, name: str) -> ImageSet:
        """Return an image set by name: the suite's own, a plugin, or one that was imported.

        Raises:
            RequestError: If there is none.
        """
        own = self.suite(suite)
        root = self.settings.data_root
        try:
            return own.image_set(name)
        except RequestError:
            if name in entries("datasets"):
                return named_set(name)
            if is_imported(root, name):
                return UserSet(name, root)
            raise

    def images(self, suite: str, name: str, split: str) -> Images:
        """Open a split of one of a suite's image sets."""
        key = (suite, name, split)
        if key not in self._images:
            self._images[key] = self.image_set(suite, name).open(split, self.settings.data_root)
        return self._images[key]

    def limited(self, suite: str, name: str, limit: int | None) -> Images:
        """Open the test split of a set, or ``limit`` images spread over it."""
        images = self.images(suite, name, "test")
        return images if limit is None else Subset(images, limit)

    def classes(self, suite: str) -> int:
        """Return the number of in-distribution classes of a suite."""
        found = self.suite(suite)
        names = self.image_set(suite, found.id_set).classes
        if names is None:
            raise RequestError(f"the in-distribution set {found.id_set} has no classes")
        return len(names)

    def schedule(self, suite: str, name: str) -> Schedule:
        """Return a schedule of a suite by name."""
        schedules = self.suite(suite).schedules
        if name not in schedules:
            raise RequestError(f"no schedule {name!r}; {suite} has {', '.join(schedules)}")
        return schedules[name]

    def network(self, reference: str) -> type[Network]:
        """Return a network's class by name or path, or that of ``module:factory``."""
        return network_class(reference)

    def taught(
        self,
        detector: PluginSpec,
        suite: str,
        schedule: str,
        network: str,
        seed: int,
        weights: str | None = None,
    ) -> Taught:
        """Return the training behind a detector."""
        try:
            check_tta(detector.instance.tta)
            recipe = detector.instance.recipe
        except ValueError as error:
            raise RequestError(f"detector {detector.name}: {error}") from error
        name = self._schedule_name(recipe, suite, schedule)
        found = Taught(suite, recipe, name, network, seed, weights)
        users = self._users.setdefault(found, {})
        if name != schedule and detector.name not in users:
            told = f"{detector.name} is taught without outliers, by {schedule} as by {name}"
            self.progress.note(told)
        users[detector.name] = None
        return found

    def start(self, taught: Taught) -> Taught | None:
        """Return the training whose weights another one starts from."""
        first = taught.recipe.start_from
        if first is None:
            return None
        name = self._schedule_name(first, taught.suite, taught.schedule)
        return replace(taught, recipe=first, schedule=name)

    def _schedule_name(self, recipe: Recipe, suite: str, name: str) -> str:
        """Return the name that a schedule has for a recipe.

        Of schedules that differ in nothing but how outliers are shown, a recipe that has none, nor
        starts from one that has, goes by the first: they teach it the same.
        """
        schedule = self.schedule(suite, name)
        taught: Recipe | None = recipe
        while taught is not None:
            if taught.uses_outliers(schedule):
                return name
            taught = taught.start_from
        return next(
            other
            for other, its in self.suite(suite).schedules.items()
            if its.without_outliers == schedule.without_outliers
        )

    def title(self, taught: Taught) -> str:
        """Return what people call a training: its detectors, as far as any was asked for."""
        users = self._users.get(taught)
        if users:
            return f"{', '.join(users)}, seed {taught.seed}"
        later = [
            name
            for other, its in self._users.items()
            if self.start(other) == taught
            for name in its
        ]
        return f"what {', '.join(later)} starts from, seed {taught.seed}" if later else taught.title

    # Weights

    def given(self, taught: Taught) -> Given | None:
        """Return the network and weights that a user brings; None where they are trained here.

        Raises:
            RequestError: If the file cannot be read, or network, weights and suite do not fit.
        """
        if taught.weights is None:
            return None
        key = (taught.suite, taught.network, taught.weights)
        if key not in self._given:
            suite = self.suite(taught.suite)
            images = self.images(taught.suite, suite.id_set, "train")
            self._given[key] = given_network(
                taught.network,
                self.classes(taught.suite),
                expanded(taught.weights),
                to_float(torch.from_numpy(images.batch(range(min(4, len(images)))))),
            )
        return self._given[key]

    def needs_pool(self, taught: Taught) -> bool:
        """Whether a training uses the outlier pool."""
        return taught.recipe.uses_outliers(self.schedule(taught.suite, taught.schedule))

    def weights_identity(self, taught: Taught) -> dict[str, Any]:
        """Return what determines the weights of a training.

        Of a pool that is not there, the one that stored weights were taught with is taken.

        Raises:
            RequestError: If images are not there that no stored weights can do without.
        """
        return self._identity(taught, self._pool_digest(taught))

    def _pool_digest(self, taught: Taught) -> str | None:
        """Return the digest of the pool that a training, or one that it starts from, uses."""
        if self.needs_pool(taught):
            stored = self._pool_of_stored(taught)
            suite = self.suite(taught.suite)
            return stored or self.images(taught.suite, suite.pool, "train").digest
        start = self.start(taught)
        return None if start is None else self._pool_digest(start)

    def lacks_pool(self, taught: Taught) -> bool:
        """Whether a training needs an outlier pool that is not there, nor are its weights.

        Where its training images are not there either, weights count that were taught so, on
        whatever images: those that ship are of the ones that a download brings.
        """
        if not (self.needs_pool(taught) and self._pool_is_missing(taught)):
            return False
        try:
            return self._pool_of_stored(taught) is None
        except RequestError:
            asked = {"protocol": PROTOCOL, **self.training_question(taught)}
            return not any(asked.items() <= known.items() for known in self._stored_alike(taught))

    def _identity(self, taught: Taught, pool: str | None) -> dict[str, Any]:
        """Return the identity of weights that were taught with a pool of this digest."""
        suite = self.suite(taught.suite)
        digests = {"train": self.images(taught.suite, suite.id_set, "train").digest}
        given = self.given(taught)
        if given is not None:
            digests["weights"] = given.stored.digest
        if pool is not None and self.needs_pool(taught):
            digests["pool"] = pool
        start = self.start(taught)
        return {
            "protocol": PROTOCOL,
            **self.training_question(taught),
            "digests": digests,
            "start": None if start is None else digest(self._identity(start, pool)),
        }

    def _pool_is_missing(self, taught: Taught) -> bool:
        pool = self.image_set(taught.suite, self.suite(taught.suite).pool)
        return isinstance(pool, ImportedSet) and pool.lacking("train", self.settings.data_root)

    def _pool_of_stored(self, taught: Taught) -> str | None:
        """Return the digest of the pool that stored weights were taught with, if it is not here.

        What was taught with a pool is of use to those who have not got it.
        """
        if self.settings.retrain or not self._pool_is_missing(taught):
            return None
        for identity in self._stored_alike(taught):
            pool: str | None = identity["digests"].get("pool")
            if pool is not None and canonical_json(identity) == canonical_json(
                self._identity(taught, pool)
            ):
                return pool
        return None

    def _stored_alike(self, taught: Taught) -> Iterator[dict[str, Any]]:
        """Yield the identities of stored weights of a training's recipe, network and schedule."""
        *folders, stem = self._weights_stem(taught)
        for store in (self._store, TensorStore(shipped_results())):
            for path in sorted(store.root.joinpath(*folders).glob(f"{stem}--*.json")):
                # Of weights that are too large to ship the card does, and stands alone.
                if path.with_suffix(".safetensors").exists():
                    yield read_card(path)["identity"]

    def training_question(self, taught: Taught) -> dict[str, Any]:
        """Return the part of an identity that says how a network is taught, as far as is known."""
        given = self.given(taught)
        if given is not None:
            return {
                "recipe": {"name": GIVEN},
                "schedule": {"name": GIVEN},
                "network": given.identity,
                "seed": taught.seed,
            }
        schedule = self.schedule(taught.suite, taught.schedule)
        network = {"name": network_name(taught.network), **origin(self.network(taught.network))}
        return {
            "recipe": {"name": type(taught.recipe).__name__, **described(taught.recipe)},
            "schedule": {"name": taught.schedule, **parameters(schedule)},
            "network": network,
            "seed": taught.seed,
        }

    def _weights_path(self, store: TensorStore, taught: Taught) -> Path:
        return store.path(self._weights_stem(taught), self.weights_identity(taught))

    @staticmethod
    def _weights_stem(taught: Taught) -> tuple[str, ...]:
        return (
            Path(taught.suite).stem,
            "weights",
            type(taught.recipe).__name__.lower(),
            f"{network_name(taught.network)}-{taught.schedule}-{taught.seed}",
        )

    def stored_weights(self, taught: Taught) -> Stored | None:
        """Return weights that are there already, the user's own before those that ship."""
        if taught in self._weights:
            return self._weights[taught]
        given = self.given(taught)
        if given is not None:
            return given.stored
        if self.settings.retrain and taught not in self._retrained:
            return None
        identity = self.weights_identity(taught)
        shipped = TensorStore(shipped_results())
        for store in (self._store, shipped):
            found = store.load(self._weights_path(store, taught), identity)
            if found is not None:
                if store is shipped:
                    self.progress.note(f"using shipped weights for {self.title(taught)}")
                self._weights[taught] = found
                return found
        return None

    def weights(self, taught: Taught) -> Stored:
        """Return the weights of a training, training now if they are not there.

        Raises:
            RequestError: If the store cannot be written.
            CellError: If the training fails.
        """
        found = self.stored_weights(taught)
        if found is not None:
            return found
        path = self._weights_path(self._store, taught)
        writable_folder(path.parent, "weights")
        # Another process may be training the same weights: wait, then use what it made.
        with FileLock(path.with_suffix(".lock")):
            if not self.settings.retrain:
                found = self._store.load(path, self.weights_identity(taught))
            if found is None:
                found = self._train(taught, path)
        self._weights[taught] = found
        self._retrained.add(taught)
        return found

    def _train(self, taught: Taught, path: Path) -> Stored:
        checkpoint = path.with_suffix(".checkpoint")
        before = self.start(taught)
        if before is not None and can_go_on(checkpoint):
            # What stopped here had been through the training before.
            self._retrained.add(before)
        start = None if before is None else self.weights(before).tensors
        request = self.training_request(taught, start)
        # Opened first: an image set that cannot be read must not cost a whole training.
        held_out = self._held_out(taught)
        try:
            trained = train(
                request,
                self.device,
                checkpoint,
                self.progress,
                title=f"training {self.title(taught)}",
            )
        except ValueError as error:
            raise CellError(f"training {self.title(taught)} failed: {error}") from error
        kept = trained.kept()
        facts = trained.facts | {"versions": versions(), "device": str(self.device)}
        if held_out is not None:
            # Of the weights as they are kept.
            trained.load_tensors(kept)
            accuracy = trained.accuracy(held_out, request.classes)
            facts |= {"held_out": {"accuracy": accuracy, "images": len(held_out)}}
        if request.pool is not None:
            name = self.suite(taught.suite).pool
            note = self.image_set(taught.suite, name).note(self.settings.data_root)
            facts |= {"pool": {"name": name, "note": note}}
        stored = self._store.save(path, kept, self.weights_identity(taught), facts)
        checkpoint.unlink(missing_ok=True)
        return stored

    def _held_out(self, taught: Taught) -> Images | None:
        """Open the in-distribution images that no training sees; None if a suite has none."""
        try:
            return self.images(taught.suite, self.suite(taught.suite).id_set, "val")
        except RequestError:
            return None

    def training_request(
        self, taught: Taught, start: dict[str, Tensor] | None = None
    ) -> TrainingRequest:
        """Return all that a training needs; ``start`` are the weights that it starts from."""
        suite = self.suite(taught.suite)
        pool = self.images(taught.suite, suite.pool, "train") if self.needs_pool(taught) else None
        return replace(self._untrained(taught), pool=pool, start=start)

    def _untrained(self, taught: Taught) -> TrainingRequest:
        """Return what it takes to build the network and modules of a training."""
        suite = self.suite(taught.suite)
        return TrainingRequest(
            recipe=taught.recipe,
            schedule=self.schedule(taught.suite, taught.schedule),
            network=self.network(taught.network),
            classes=self.classes(taught.suite),
            seed=taught.seed,
            images=self.images(taught.suite, suite.id_set, "train"),
        )

    # Models

    def backbone(self, taught: Taught, precision: str = "judge", tta: TTA = "none") -> Backbone:
        """Return the trained network: for judging, or for searching in a precision."""
        key = (taught, precision, tta)
        if key not in self._backbones:
            if tta != "none":
                self._backbones[key] = self.backbone(taught, precision).with_tta(tta)
            elif precision == "judge":
                trained, _ = build(self._untrained(taught), self.device)
                trained.load_tensors(self.weights(taught).tensors)
                self._backbones[key] = Backbone(
                    trained.network, self.classes(taught.suite), trained.modules
                )
            else:
                judge = self.backbone(taught)
                self._backbones[key] = judge.for_search(_DTYPES[precision])
        return self._backbones[key]

    def state_identity(self, detector: PluginSpec, taught: Taught) -> dict[str, Any]:
        """Return what determines the fitted statistics of a detector."""
        identity = {
            "detector": detector.identity(),
            "weights": self.weights(taught).digest,
            "seed": taught.seed,
            "protocol": PROTOCOL,
        }
        given = self.given(taught)
        # Weights alone do not say what a user's network makes of them.
        return identity if given is None else identity | {"network": given.identity}

    def state(self, detector: PluginSpec, taught: Taught) -> dict[str, Tensor]:
        """Return the fitted statistics of a detector, fitting now if they are not there."""
        key = (detector, taught)
        if type(detector.instance).fit is Detector.fit:
            return {}
        if key not in self._states:
            again = self.settings.refit
            found = self._fit(detector, taught) if again else self._kept_state(detector, taught)
            self._states[key] = found
        return {name: value.to(self.device) for name, value in self._states[key].items()}

    def _kept_state(self, detector: PluginSpec, taught: Taught) -> dict[str, Tensor]:
        """Return the stored or shipped statistics of a detector, else fit and store them."""
        identity = self.state_identity(detector, taught)
        stem = (Path(taught.suite).stem, "statistics", detector.name, str(taught.seed))
        path = self._store.path(stem, identity)
        found = None if self.settings.retrain else self._store.load(path, identity)
        if found is None:
            shipped = TensorStore(shipped_results())
            found = shipped.load(shipped.path(stem, identity), identity)
        if found is None:
            writable_folder(path.parent, "statistics")
            found = self._store.save(path, self._fit(detector, taught), identity, {})
        return found.tensors

    def _fit(self, detector: PluginSpec, taught: Taught) -> dict[str, Tensor]:
        suite = self.suite(taught.suite)
        plugin = detector.instance
        train_images = self.images(taught.suite, suite.id_set, "train")
        data = FitData(
            images=self._all(train_images),
            labels=self._labels(train_images) if plugin.needs_labels else None,
            pool=self._all(self.images(taught.suite, suite.pool, "train"))
            if plugin.needs_pool
            else None,
            seed=taught.seed,
            batch_size=self.settings.batch_size,
        )
        with self.progress.task(f"fitting {detector.name}", 1):
            fitted = plugin.fit(Model(self.backbone(taught, tta=plugin.tta)), data)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in fitted.items()}

    def _all(self, images: Images) -> Tensor:
        return torch.from_numpy(images.batch(range(len(images)))).to(self.device)

    def _labels(self, images: Images) -> Tensor:
        labels = images.labels
        if labels is None:
            raise RequestError("the in-distribution training images have no labels")
        return torch.from_numpy(labels).to(self.device)

    def subject(
        self, detector: PluginSpec, taught: Taught, precision: str, raised: bool = False
    ) -> Subject:
        """Return a detector with its models, ready to be scored and attacked."""
        plugin = detector.instance
        state = self.state(detector, taught)
        return Subject(
            plugin,
            Model(self.backbone(taught, tta=plugin.tta), state),
            Model(self.backbone(taught, precision, plugin.tta), state),
            raised,
        )

    def pixels(self, images: Images, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return images as uint8 [n, 3, H, W] on the device."""
        return torch.from_numpy(images.batch(indices)).to(self.device)


def _judge_exactly() -> None:
    """Switch off what makes float32 on a GPU less than float32, or differ between two runs."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, in place of returning them to the system.

    Every step of a search frees and takes the same few large tensors; fetched anew from the
    system each time, page by page and zeroed, they cost a fifth to a quarter of the whole search.
    """
    if sys.platform != "linux":
        return
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        # Values of <malloc.h>. Each switches off the automatic choice of both, so both are set.
        allocator.mallopt(ctypes.c_int(_TRIM_THRESHOLD), ctypes.c_int(_KEPT_BYTES))
        allocator.mallopt(ctypes.c_int(_MMAP_THRESHOLD), ctypes.c_int(_KEPT_BYTES))


def versions() -> dict[str, str]:
    """Return the versions of what a figure depends on."""
    import platform
    from importlib.metadata import version

    packages = ("oodbench", "torch", "numpy", "scikit-learn", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def choose_device(name: str | None) -> str:
    """Return the device to work on: as named, else CUDA where there is one, else the CPU.

    Raises:
        RequestError: If the named device is not there.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, OodbenchError):
        count = torch.cuda.device_count()
        there = ["cpu", *(f"cuda:{i}" for i in range(count))]
        raise RequestError(f"--device {name}: not here; there is {', '.join(there)}") from None
    return name
