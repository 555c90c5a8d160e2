"""Folders, archives and files that images are imported from."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from oodbench.errors import RequestError

MEMBER_BYTES = 256 << 20
"""Largest file that is read whole; a larger one is no picture."""
# A batch of ImageNet 32×32 has 128,117 images, 394 MB.
_PUBLISHED_BYTES = 1 << 30


class SourceError(RequestError):
    """What is imported is itself at fault: damaged, unsafe, or not what it should be."""


class Entry(NamedTuple):
    """A file of a source: path (POSIX, relative) and size in bytes."""

    path: str
    size: int


class Source(ABC):
    """Something that images are imported from.

    Attributes:
        name: Name of the file or folder.
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """Return the files there are, links and devices refused.

        Raises:
            SourceError: If it is damaged, unsafe or would swell beyond measure.
            RequestError: If the system cannot read it.
        """

    @abstractmethod
    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Read files, in the order that suits the source; no bytes where one cannot be read."""

    def told(self) -> dict[str, str]:
        """Return what a manifest keeps of it."""
        return {"file": shown(self.name), "sha256": file_digest(self.path, "sha256")}

    def files(self) -> Sequence[Path]:
        """Return the published files that it is, whose digests say whether it is official."""
        return [self.path]


class FolderSource(Source):
    """A folder, or chosen files of one."""

    def __init__(self, path: Path, files: Sequence[Path] | None = None) -> None:
        super().__init__(path)
        self.name = path.resolve().name
        self._files = files

    def entries(self) -> Sequence[Entry]:
        """Return the files below, sorted; links are followed, each folder once."""
        if self._files is not None:
            return [Entry(file.name, file.stat().st_size) for file in self._files]
        return sorted(_walk(self.path, "", set()))

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Read files as they are named."""
        for name in sorted(wanted):
            try:
                yield name, (self.path / name).read_bytes()
            except OSError:
                yield name, b""

    def told(self) -> dict[str, str]:
        """Return the name of the folder, or the files with their digests."""
        if self._files is None:
            return {"folder": shown(self.name)}
        return {file.name: f"sha256 {file_digest(file, 'sha256')}" for file in self._files}

    def files(self) -> Sequence[Path]:
        """Return the chosen files; a folder is no published file."""
        return self._files or ()


class FileSource(FolderSource):
    """One file that is no archive."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent, [path])
        self.name = path.name
        self.file = path

    def told(self) -> dict[str, str]:
        """Return name and digest of the file."""
        return {"file": shown(self.name), "sha256": file_digest(self.file, "sha256")}


def printable(name: str) -> str:
    """Return a name without control characters, nor bytes that no text has."""
    safe = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in safe)


def shown(name: str) -> str:
    """Return a name as it can be printed and stored: no control characters, not endless."""
    text = printable(name)
    return text if len(text) <= 200 else f"{text[:197]}…"


def file_digest(path: Path, kind: str) -> str:
    """Return a digest of a file in hexadecimal.

    Raises:
        RequestError: If it cannot be read.
    """
    try:
        found = path.stat()
        return _file_digest(path, kind, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None


@cache
def _file_digest(path: Path, kind: str, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def refuse_if_large(file: Entry, title: str) -> None:
    """Refuse what cannot be a file of a published set.

    Raises:
        SourceError: If it is too large.
    """
    if file.size > _PUBLISHED_BYTES:
        raise SourceError(f"{shown(file.path)} is larger than any file of {title}")


def _walk(folder: Path, prefix: str, seen: set[Path]) -> Iterator[Entry]:
    seen = seen | {folder.resolve()}
    try:
        found = list(os.scandir(folder))
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror or error}") from None
    for item in found:
        try:
            item.stat()
        except OSError:
            # A link to nothing or to itself: named as unreadable, should a picture be there.
            yield Entry(prefix + item.name, 0)
            continue
        if item.is_dir():
            if Path(item.path).resolve() not in seen:
                yield from _walk(Path(item.path), f"{prefix}{item.name}/", seen)
        elif item.is_file():
            yield Entry(prefix + item.name, item.stat().st_size)
