"""Archives read entry by entry; nothing is ever unpacked to disk."""

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from oodbench.data.sources import Entry, FileSource, FolderSource, Source, SourceError, shown
from oodbench.errors import RequestError

_MOST_BYTES = 64 << 30
_FREE_BYTES = 1 << 30
_MOST_RATIO = 200
# Names of a tar archive's entries are entries themselves, and are read whole by the library.
_NAME_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_NAME_BYTES = 1 << 20
_COMPRESSED: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def open_source(path: Path) -> Source:
    """Open a folder, an archive or a file of images, told by its content.

    Raises:
        SourceError: If it is nothing that can be imported.
        RequestError: If there is nothing, or the system cannot read it.
    """
    try:
        if path.is_dir():
            return FolderSource(path)
        if not path.exists():
            raise RequestError(f"there is no {path}; give a folder, an archive or a file of images")
        if not path.is_file():
            raise RequestError(f"{path} is neither a file nor a folder")
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipSource(path)
    if head.startswith(tuple(_COMPRESSED)) or _is_tar(head):
        return TarSource(path)
    if head.startswith((b"\x93NUMPY", b"MATLAB 5.0 MAT-file")):
        return FileSource(path)
    raise SourceError(
        f"{path} is no tar, tar.gz or zip archive, no .npy array and no .mat file; or it is "
        "truncated"
        if head
        else f"{path} is empty"
    )


class ZipSource(Source):
    """A zip archive."""

    def entries(self) -> Sequence[Entry]:
        """Return the files of the archive, in its order."""
        found: list[Entry] = []
        guard = _Guard(self.path)
        with _told_in_one_line(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                path = _safe(info.filename, self.name)
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(self.name, info.filename, "a link or device")
                if info.flag_bits & 1:
                    raise SourceError(f"{self.name} is encrypted; unpack it and import the folder")
                guard.declared(info.file_size)
                if path and not info.is_dir():
                    found.append(Entry(path, info.file_size))
        return _different(found, self.name)

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Read files in the order of the archive."""
        with _told_in_one_line(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                path = _safe(info.filename, self.name)
                if path not in wanted or info.is_dir():
                    continue
                try:
                    data = archive.read(info)
                except Exception:
                    # The library raises nearly anything, given rubbish.
                    data = b""
                yield path, data


class TarSource(Source):
    """A tar archive, compressed or not."""

    def entries(self) -> Sequence[Entry]:
        """Return the files of the archive, in its order."""
        found = []
        with _told_in_one_line(self.path):
            for path, info, _ in self._members(_Guard(self.path)):
                if info.issym() or info.islnk() or info.isdev():
                    raise _refused(self.name, info.name, "a link or device")
                if path and info.isfile():
                    found.append(Entry(path, info.size))
        return _different(found, self.name)

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Read files in the order of the archive."""
        with _told_in_one_line(self.path):
            for path, info, archive in self._members(_Guard(self.path)):
                if path in wanted and info.isfile():
                    file = archive.extractfile(info)
                    yield path, b"" if file is None else file.read()

    def _members(self, guard: "_Guard") -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
        with _stream(self.path) as stream:
            counted: Any = _Counted(stream, guard)
            with tarfile.open(
                fileobj=counted, mode="r|", bufsize=1 << 18, tarinfo=_GuardedInfo
            ) as archive:
                known: list[tarfile.TarInfo] = vars(archive)["members"]
                while (info := archive.next()) is not None:
                    # The library remembers every entry; of a million that is a gigabyte.
                    known.clear()
                    guard.declared(info.size)
                    yield _safe(info.name, self.name), info, archive


class _GuardedInfo(tarfile.TarInfo):
    """An entry of a tar archive whose faults are not passed over."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_GuardedInfo":
        """Read a header.

        The library takes a broken or missing one for the end of the archive.
        """
        if len(buf) != tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends too early")
        if not any(buf):
            return super().frombuf(buf, encoding, errors)
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if info.type in _NAME_TYPES and info.size > _NAME_BYTES:
            raise tarfile.ReadError("the name of an entry has more than a megabyte")
        return info


class _Guard:
    """Counts what an archive would take unpacked, and refuses too much."""

    def __init__(self, path: Path) -> None:
        packed = path.stat().st_size
        self._name = path.name
        self._most = min(_MOST_BYTES, max(_FREE_BYTES, _MOST_RATIO * packed))
        self._declared = 0
        self._counted = 0

    def declared(self, size: int) -> None:
        """Add the size that an entry declares."""
        self._declared += size
        self._check(self._declared)

    def counted(self, size: int) -> None:
        """Add bytes that were really unpacked."""
        self._counted += size
        # Beside the files there are headers, and padding.
        self._check(self._counted // 2)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise SourceError(
                f"{shown(self._name)} would unpack to more than {self._most / (1 << 30):.0f} GiB, "
                "out of all proportion to its size; if it is trusted, unpack it and import the "
                "folder"
            )


class _Counted:
    """A stream that tells a guard what is read of it."""

    def __init__(self, stream: IO[bytes], guard: _Guard) -> None:
        self._stream = stream
        self._guard = guard

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._guard.counted(len(data))
        return data


def _safe(name: str, archive: str) -> str:
    """Return the name of an entry without idle parts; refuse one that leads elsewhere."""
    slashed = name.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if slashed.startswith("/") or re.match("[A-Za-z]:/", slashed):
        raise _refused(archive, name, "an absolute path")
    if ".." in parts:
        raise _refused(archive, name, "a path that leads out of it")
    return "/".join(parts)


def _refused(archive: str, name: str, what: str) -> SourceError:
    return SourceError(
        f"{shown(archive)} is refused: its entry {shown(name)} is {what}; nothing was imported"
    )


def _different(found: list[Entry], archive: str) -> list[Entry]:
    seen: set[str] = set()
    for entry in found:
        if entry.path in seen:
            raise _refused(archive, entry.path, "in it twice")
        seen.add(entry.path)
    return found


def _is_tar(head: bytes) -> bool:
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        head = file.read(8)
    kinds = [kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)]
    with kinds[0](path) if kinds else open(path, "rb") as stream:
        yield stream


@contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    """Tell what is wrong with an archive, by its name.

    Raises:
        SourceError: If it is damaged, or of a kind that cannot be read.
        RequestError: If the system cannot read it.
    """
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        # The libraries raise nearly anything, given rubbish.
        if isinstance(error, OSError) and error.errno is not None:
            raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
        raise SourceError(
            f"{path} is damaged or not complete ({shown(str(error)) or type(error).__name__}); "
            "get it again"
        ) from None
