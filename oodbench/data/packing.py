"""Sets written beside where they belong, and put in place whole."""

import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from oodbench.data.readers import Item
from oodbench.errors import RequestError
from oodbench.files import is_alive, machine, sync_folder, writable_folder
from oodbench.imported import PackedImages, Split, manifest_path

_CHUNK = 1024
_STAGED = ".tmp"
_REPLACED = ".old"


class SplitWriter:
    """Writes one split as its images come; they are put in order when all are there."""

    def __init__(self, folder: Path, split: str, side: int) -> None:
        self._folder = folder
        self._split = split
        self._shape = (3, side, side)
        self._raw = folder / f"{split}.raw"
        self._file: BinaryIO = open(self._raw, "wb")  # noqa: SIM115 - closed by `finish`
        self._known: list[tuple[int, str, int | None]] = []

    def add(self, item: Item) -> None:
        """Write an image that could be read."""
        assert not isinstance(item.pixels, str)
        assert item.pixels.shape == self._shape
        self._file.write(item.pixels.tobytes())
        self._known.append((item.position, item.image_id, item.label))

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def finish(self, labelled: bool) -> Split:
        """Write ``<split>.npy`` and ``<split>.json``; return what the manifest keeps."""
        self._file.close()
        count = len(self._known)
        order = np.argsort([position for position, _, _ in self._known], kind="stable")
        with open(self._folder / f"{self._split}.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self._shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, count, _CHUNK):
                # Mapped anew, or what was read would count as memory of this process.
                raw = np.memmap(self._raw, np.uint8, "r", shape=(count, *self._shape))
                file.write(raw[order[start : start + _CHUNK]].tobytes())
                del raw
            _sync(file)
        self._raw.unlink()
        known = [self._known[i] for i in order.tolist()]
        told = {
            "ids": [image_id for _, image_id, _ in known],
            "labels": [label for _, _, label in known] if labelled else None,
        }
        with open(self._folder / f"{self._split}.json", "w", encoding="utf-8") as text:
            json.dump(told, text, ensure_ascii=False)
            _sync(text)
        return Split(count, self._shape, PackedImages(self._folder, self._split).digest)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return all(label is not None for _, _, label in self._known)

    @property
    def repeated_id(self) -> str | None:
        """An id that several images have, or None."""
        ids = Counter(image_id for _, image_id, _ in self._known)
        return next((image_id for image_id, count in ids.items() if count > 1), None)

    @property
    def labels(self) -> set[int | None]:
        """The labels there are."""
        return {label for _, _, label in self._known}


@contextmanager
def staged(root: Path, name: str) -> Iterator[Path]:
    """Give an empty folder in ``root`` to build a set in; it goes if it is not put in place.

    Raises:
        RequestError: If nothing can be written there, or the disk is full.
    """
    writable_folder(root, "image data")
    folder = root / _beside(name, _STAGED)
    folder.mkdir()
    try:
        yield folder
    except OSError as error:
        raise RequestError(
            f"cannot write image data to {root}: {error.strerror or error}; choose another folder"
        ) from None
    finally:
        _discard(folder)


def put_in_place(folder: Path, target: Path) -> None:
    """Move a finished folder to ``target``; what is there goes when the new one is in place.

    Interrupted, the old one is there or the new one. Killed between the two moves, neither is, and
    `recover` puts the old one back.

    Raises:
        OSError: If it cannot be moved; the old one is there then.
    """
    sync_folder(folder)
    old = target.parent / _beside(target.name, _REPLACED)
    try:
        with suppress(FileNotFoundError):
            os.rename(target, old)
        os.rename(folder, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    sync_folder(target.parent)
    _discard(old)


def recover(root: Path) -> None:
    """Put back sets that killed imports of this machine had moved away, and remove what they left.

    A folder with a manifest is whole; it goes to where it belongs if nothing is there.
    """
    if os.name != "posix":
        return
    try:
        there = list(root.iterdir())
    except OSError:
        return
    form = re.compile(
        rf"\.([^.]+)\.{machine()}-(\d+)-[0-9a-f]{{8}}({re.escape(_REPLACED)}|{re.escape(_STAGED)})"
    )
    left = [
        (found[3] != _REPLACED, found[1], path)
        for path in there
        if (found := form.fullmatch(path.name)) and path.is_dir() and not is_alive(int(found[2]))
    ]
    # What was replaced comes first: it was in use, and what should have replaced it was not.
    for _, name, path in sorted(left):
        target = root / name
        if manifest_path(path).is_file() and not target.exists():
            with suppress(OSError):
                os.rename(path, target)
        else:
            _discard(path)


def _beside(name: str, suffix: str) -> str:
    """Return a name that no set has, for a folder of this process beside the set ``name``."""
    return f".{name}.{machine()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def _discard(folder: Path) -> None:
    """Remove a folder, its manifest first: with one, all must be there."""
    with suppress(OSError):
        manifest_path(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sync(file: object) -> None:
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]
