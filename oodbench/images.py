"""Image sets and suites: what a benchmark is run on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import RequestError
from oodbench.identity import digest_bytes
from oodbench.schedule import PAPER, Schedule

_DIGEST_CHUNK = 1024


@dataclass(frozen=True)
class Archive:
    """A file that a set is published as.

    Attributes:
        url: Where it is; empty where it cannot be had without an account or any more.
        file: Name that it is published under.
        size: Its bytes; 0 where that was not published.
        checksum: Published digest such as ``md5:c58f…``; empty where none was published.
        splits: The splits that it holds.
    """

    url: str
    file: str
    size: int = 0
    checksum: str = ""
    splits: tuple[str, ...] = ("test",)


@dataclass(frozen=True)
class Card:
    """What a reader must know of an image set.

    Attributes:
        title: Full name.
        source: Where the images come from.
        licence: Terms, as far as stated.
        citation: Whom to cite.
        note: What a table that uses the set has to say of it; empty for an official archive.
        archives: The files that it is published as.
        images: Number of images of each split of the complete set.
        preprocessing: What is done to the published images.
        withdrawn: Why it can be had no more; empty for others.
    """

    title: str
    source: str
    licence: str
    citation: str = ""
    note: str = ""
    archives: tuple[Archive, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    preprocessing: str = ""
    withdrawn: str = ""

    @property
    def downloadable(self) -> bool:
        """Whether all its files have an address."""
        return not self.withdrawn and bool(self.archives) and all(a.url for a in self.archives)


class Images(ABC):
    """The images of one split of a set, read in batches."""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """Names of the images, stable under reordering and subsetting."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each image, int64 [N], or None."""

    @abstractmethod
    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at ``indices``, uint8 [n, 3, H, W]."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """sha256 of ids, labels and pixels in order, read in batches."""

        def chunks() -> Any:
            yield "\n".join(self.ids).encode()
            if self.labels is not None:
                yield np.ascontiguousarray(self.labels, dtype="<i8").tobytes()
            for start in range(0, len(self), _DIGEST_CHUNK):
                indices = np.arange(start, min(start + _DIGEST_CHUNK, len(self)))
                pixels = np.ascontiguousarray(self.batch(indices))
                yield str(pixels.shape[1:]).encode()
                yield pixels.tobytes()

        return digest_bytes(chunks())


class ArrayImages(Images):
    """Images held in memory."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        ids: Sequence[str],
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(
                f"pixels must be uint8 [N, 3, H, W], not {pixels.dtype} {pixels.shape}"
            )
        if len(ids) != len(pixels) or (labels is not None and len(labels) != len(pixels)):
            raise ValueError("pixels, ids and labels must have the same length")
        if len(set(ids)) != len(ids):
            raise ValueError("ids must be different")
        self._pixels = pixels
        self._ids = tuple(ids)
        self._labels = labels

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images."""
        return self._ids

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each image, or None."""
        return self._labels

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at ``indices``."""
        return self._pixels[np.asarray(indices, dtype=np.int64)]


class ImageSet(ABC):
    """Named images with a card; a plugin of the kind ``datasets``."""

    version: ClassVar[int] = 1
    card: Card
    classes: Sequence[str] | None = None
    """Names of the classes, in the order of the labels; None for a set without labels."""

    @abstractmethod
    def open(self, split: str, root: Path) -> Images:
        """Open a split: ``train``, ``val`` or ``test``.

        Args:
            split: Name of the split.
            root: Folder that holds downloaded or imported data.

        Raises:
            RequestError: If the data are not there, saying how to get them.
        """

    def note(self, root: Path) -> str:
        """Return what a table that uses the set has to say of it as it lies in ``root``."""
        return self.card.note


@dataclass(frozen=True)
class Suite(ABC):
    """One in-distribution set, its OOD sets, an outlier pool and a default network.

    Attributes:
        id_set: Name of the in-distribution set, with splits train, val and test.
        ood_sets: Names of the OOD sets, each with a split test.
        pool: Name of the outlier pool, with splits train and val.
        network: Name of the default network.
        schedule: Name of the default schedule.
        schedules: The schedules that can be asked for. Of those that differ only in how outliers
            are shown the first is also the name for what is taught without any: add such ones
            after the others, or stored results are not found again.
        published: Published values that depend on the in-distribution set, by detector and
            field; they resolve fields whose default is None.
        budget: Gradient steps an image and cell of an L∞ search, by type of device.
        note: What stands under every table.
        near: OOD sets that are semantically near to the in-distribution one: shown apart, and in
            no mean.
        stand_ins: For an OOD set, by name, the one that takes its place where it is not there.
        groups: OOD sets that are alike, by the name of the group; means are shown of each too.
    """

    id_set: str
    ood_sets: tuple[str, ...]
    pool: str
    network: str
    schedule: str = "fast"
    schedules: Mapping[str, Schedule] = field(default_factory=lambda: {"paper": PAPER})
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budget: Mapping[str, int] = field(default_factory=lambda: {"cpu": 100, "cuda": 500})
    note: str = ""
    near: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    version: ClassVar[int] = 1
    resampling: ClassVar[str] = "bilinear"
    """Filter by which pictures are resized to the size of its images: ``bilinear`` or ``box``."""

    @classmethod
    def of(cls, name: str, classes: int) -> "Suite | None":
        """Return the suite whose in-distribution set is an imported one.

        None but of the one plugin that imported sets are run under.

        Args:
            name: Name of the imported set.
            classes: Number of its classes.
        """
        return None

    def located(self, root: Path) -> "Suite":
        """Return the suite with the sets that there are in a folder of image data.

        A set that is not there gives way to its stand-in, where that one is; one that has neither
        stays, so that a run says how to get it.
        """
        if not self.stand_ins:
            return self
        from oodbench.imported import is_imported

        def present(name: str) -> str:
            stand_in = self.stand_ins.get(name)
            if stand_in is None or is_imported(root, name) or not is_imported(root, stand_in):
                return name
            return stand_in

        near = tuple(name for name in self.near if is_imported(root, name))
        return replace(self, ood_sets=tuple(map(present, self.ood_sets)), near=near)

    def image_set(self, name: str) -> ImageSet:
        """Return the image set called ``name``; the default looks in the registry."""
        return named_set(name)


def named_set(name: str) -> ImageSet:
    """Return the image set that is a plugin of that name.

    A suite's name stands for its in-distribution set where that has the same one: ``cifar10`` is
    both.

    Raises:
        RequestError: If there is none.
    """
    from oodbench.registry import load

    found = load("datasets", name)()
    if isinstance(found, ImageSet):
        return found
    assert isinstance(found, Suite)
    if found.id_set != name:
        raise RequestError(f"{name} is a suite, not an image set")
    return found.image_set(name)


class Part(Images):
    """Some of the images of a split, by their positions in it."""

    def __init__(self, images: Images, positions: NDArray[np.int64]) -> None:
        self._images = images
        self._positions = positions

    @cached_property
    def _names(self) -> tuple[str, ...]:
        ids = self._images.ids
        return tuple(ids[i] for i in self._positions.tolist())

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images."""
        return self._names

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each image, or None."""
        labels = self._images.labels
        return None if labels is None else labels[self._positions]

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at ``indices`` of the part."""
        return self._images.batch(self._positions[np.asarray(indices, dtype=np.int64)])


class Subset(Part):
    """At most ``limit`` images of a set, spread evenly over it.

    Evenly spaced positions keep the mixture of classes and sources of an ordered set.
    """

    def __init__(self, images: Images, limit: int) -> None:
        count = min(limit, len(images))
        super().__init__(images, (np.arange(count, dtype=np.int64) * len(images)) // max(count, 1))
