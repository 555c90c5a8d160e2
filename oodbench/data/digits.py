"""The official .mat files of Street View House Numbers."""

import io
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.data.readers import Item, Published
from oodbench.data.sources import MEMBER_BYTES, Entry, Source, SourceError, refuse_if_large, shown

_FIRST_TEST_DIGITS = 1_000
_NUMBERS = {"double", "single"} | {f"{kind}{8 << i}" for kind in ("int", "uint") for i in range(4)}
_NAMES = ("train_32x32.mat", "test_32x32.mat")


class Digits(Published):
    """The official .mat files of Street View House Numbers."""

    form = "SVHN"
    preparation = f"the first {_FIRST_TEST_DIGITS:,} test digits of each class"
    classes = tuple("0123456789")
    side = 32

    def __init__(self, source: Source, files: Sequence[Entry]) -> None:
        super().__init__()
        self._source = source
        self._take(files)

    @classmethod
    def found(cls, source: Source, entries: Sequence[Entry]) -> "list[Digits]":
        """Return the .mat files among files, all of them as one."""
        files = [entry for entry in entries if PurePosixPath(entry.path).name in _NAMES]
        return [cls(source, files)] if files else []

    @property
    def splits(self) -> set[str]:
        """The splits of its files."""
        return {_split(file.path) for file in self._files}

    def leave_out(self, splits: Collection[str]) -> None:
        """Do not read the files of some splits."""
        self._take([file for file in self._files if _split(file.path) not in splits])

    def _take(self, files: Sequence[Entry]) -> None:
        self._files = files
        source = self._source
        self.files = () if source.files() else [source.path / file.path for file in files]
        self.total = sum(file.size // 2_470 for file in files)

    def items(self, side: int) -> Iterator[Item]:
        """Read the digits; of the test ones the first 1,000 of each class, in their order."""
        for file in self._files:
            refuse_if_large(file, "SVHN")
        for path, data in self._source.read([file.path for file in self._files]):
            stem, split = PurePosixPath(path).stem, _split(path)
            images, labels = _mat(data, path)
            labels = labels % 10  # The digit 0 is called 10.
            chosen = np.arange(len(labels))
            if split == "test":
                firsts = [np.flatnonzero(labels == k)[:_FIRST_TEST_DIGITS] for k in range(10)]
                chosen = np.sort(np.concatenate(firsts))
            for position, i in enumerate(chosen.tolist()):
                name, label = f"{stem}/{i:05}", int(labels[i])
                yield Item(split, position, name, label, self._fitted(images[..., i], side))


def _split(path: str) -> str:
    return "train" if PurePosixPath(path).name.startswith("train") else "test"


def _mat(data: bytes, path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images uint8 [32, 32, 3, N], and labels int64 [N] of 0 to 10.

    Raises:
        SourceError: If the file holds anything else; it is not read then.
    """
    from scipy.io import loadmat, whosmat

    try:
        file: Any = io.BytesIO(data)
        variables = {name: (kind, tuple(shape)) for name, shape, kind in whosmat(file)}
        (kind, shape), (label_kind, label_shape) = variables["X"], variables["y"]
        count = math.prod(label_shape)
        if kind != "uint8" or len(shape) != 4 or shape[2:] != (3, count):
            raise ValueError(f"X is {kind} {list(shape)}, and y has {count:,} labels")
        if label_kind not in _NUMBERS:
            raise ValueError(f"y is {label_kind}")
        # A label takes 8 bytes at most, and an image that is worth the name more.
        if math.prod(shape) + 8 * count > 8 * MEMBER_BYTES:
            raise ValueError("it would take more than 2 GiB")
        told = loadmat(file, variable_names=["X", "y"])
        images, digits = told["X"], told["y"].reshape(-1)
        if not np.isin(digits, np.arange(11)).all():
            raise ValueError("y has other labels than 1 to 10")
    except Exception as error:
        raise SourceError(
            f"{shown(path)} is no .mat file of SVHN ({shown(str(error))}); get it again"
        ) from None
    return images, digits.astype(np.int64)


def is_mat(path: Path) -> bool:
    """Whether a file is one of MATLAB, going by its head."""
    with open(path, "rb") as file:
        return file.read(64).startswith(b"MATLAB")
