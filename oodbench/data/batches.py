"""The official Python batches of CIFAR-10, CIFAR-100 and ImageNet 32×32."""

import hashlib
import io
import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from oodbench.data.readers import Item, Published
from oodbench.data.sources import Entry, Source, SourceError, refuse_if_large, shown

_LISTS = (list, tuple, np.ndarray)


@dataclass(frozen=True)
class BatchForm:
    """A set published as pickled batches.

    Attributes:
        title: Its name.
        batches: File and split of each batch, in order.
        meta: File with the names of the classes, and their key.
        labels: Key of the labels.
        checksums: Published md5 of each file.
        readme: Further files that belong to it.
        folder: Name of its folder.
    """

    title: str
    batches: Mapping[str, str]
    meta: tuple[str, str]
    labels: str
    checksums: Mapping[str, str]
    readme: tuple[str, ...]
    folder: str


CIFAR10 = BatchForm(
    title="CIFAR-10",
    batches={**{f"data_batch_{i}": "train" for i in range(1, 6)}, "test_batch": "test"},
    meta=("batches.meta", "label_names"),
    labels="labels",
    checksums={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    readme=("readme.html",),
    folder="cifar-10-batches-py",
)
CIFAR100 = BatchForm(
    title="CIFAR-100",
    batches={"train": "train", "test": "test"},
    meta=("meta", "fine_label_names"),
    labels="fine_labels",
    checksums={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    readme=("file.txt~",),
    folder="cifar-100-python",
)
IMAGENET32 = BatchForm(
    title="ImageNet 32×32",
    batches={
        **{f"train_data_batch_{i}": "train" for i in range(1, 11)},
        "val_data": "val",
    },
    meta=("", ""),
    labels="",
    checksums={},
    readme=(),
    folder="",
)
"""Its labels follow an order of classes of its own, and are not read."""


class Batches(Published):
    """The official Python batches of CIFAR-10, CIFAR-100 or ImageNet 32×32."""

    side = 32
    _FORMS: ClassVar = (CIFAR10, CIFAR100, IMAGENET32)

    def __init__(self, source: Source, form: BatchForm, files: Mapping[str, Entry]) -> None:
        super().__init__()
        self.form = form.title
        self._published = form
        self._source = source
        self._files = files
        self.total = self._images()

    @classmethod
    def found(cls, source: Source, entries: Sequence[Entry]) -> "list[Batches]":
        """Return the sets of batches among files, each folder of batches one."""
        folders: dict[str, dict[str, Entry]] = {}
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            folders.setdefault(folder, {})[name] = entry
        return [
            cls(source, form, files)
            for files in folders.values()
            for form in cls._FORMS
            # CIFAR-100's files have names that other things have too.
            if (form is not CIFAR100 or form.meta[0] in files)
            and not files.keys().isdisjoint(form.batches)
        ]

    @property
    def splits(self) -> set[str]:
        """The splits of its batches."""
        batches = self._published.batches
        return {batches[name] for name in self._files if name in batches}

    def leave_out(self, splits: Collection[str]) -> None:
        """Do not read the batches of some splits."""
        batches = self._published.batches
        self._files = {
            name: entry for name, entry in self._files.items() if batches.get(name) not in splits
        }
        self.total = self._images()

    def items(self, side: int) -> Iterator[Item]:
        """Read the images, batch by batch."""
        form = self._published
        named = {
            entry.path: name
            for name, entry in self._files.items()
            if name in (*form.batches, *form.readme, form.meta[0])
        }
        for name in named.values():
            refuse_if_large(self._files[name], form.title)
        order = {name: i for i, name in enumerate(form.batches)}
        checked = set()
        for path, data in self._source.read(named):
            name = named[path]
            if form.folder:
                self.kept[f"{form.folder}/{name}"] = data
            if form.checksums.get(name) == _md5(data):
                checked.add(name)
            if name == form.meta[0]:
                names = _unpickled(data, path).get(form.meta[1])
                if not isinstance(names, _LISTS):
                    raise _refused(path, form)
                self.classes = tuple(map(str, names)) or None
            if name in order:
                yield from self._batch(name, path, data, order[name] << 24, side)
        self.checksums_right = bool(form.checksums) and checked == set(form.checksums)

    def _images(self) -> int:
        """Return how many images its files are large enough for, 3,072 bytes and a label each."""
        batches = self._published.batches
        return sum(entry.size // 3073 for name, entry in self._files.items() if name in batches)

    def _batch(self, name: str, path: str, data: bytes, first: int, side: int) -> Iterator[Item]:
        batch = _unpickled(data, path)
        form = self._published
        images = batch.get("data")
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.shape[1:] != (3072,)
        ):
            raise _refused(path, form)
        labels = batch.get(form.labels) if form.labels else None
        if form.labels and not (
            isinstance(labels, _LISTS)
            and len(labels) == len(images)
            and all(isinstance(label, int | np.integer) for label in labels)
        ):
            raise _refused(path, form)
        split = form.batches[name]
        for i, image in enumerate(images.reshape(-1, 3, 32, 32)):
            label = None if labels is None else int(labels[i])
            pixels = self._fitted(image.transpose(1, 2, 0), side)
            yield Item(split, first + i, f"{name}/{i:05}", label, pixels)


def _refused(path: str, form: BatchForm) -> SourceError:
    return SourceError(f"{shown(path)} is no file of {form.title}; get it again")


class _Unpickler(pickle.Unpickler):
    """Reads arrays, numbers and text, and nothing that could run."""

    _ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no data")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickled(data: bytes, path: str) -> dict[str, Any]:
    try:
        told = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        return {str(key): value for key, value in dict(told).items()}
    except Exception as error:
        # A pickle given rubbish raises nearly anything.
        raise SourceError(
            f"{shown(path)} cannot be read ({shown(str(error))}); get it again"
        ) from None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
