"""Files that are whole or not there, and where they lie."""

import glob
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oodbench.errors import RequestError

DEFAULT_RESULTS = "oodbench-results"
"""Folder of results, in the working folder, where none is given."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place.

    Killed at any moment, ``path`` is either absent, the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.{machine()}-{os.getpid()}-", suffix=".tmp"
    )
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove temporary files for ``path`` that killed processes of this machine left."""
    if os.name != "posix":
        return
    head = f".{path.name}.{machine()}-"
    for left in path.parent.glob(glob.escape(head) + "*.tmp"):
        process = left.name.removeprefix(head).partition("-")[0]
        if process.isdecimal() and not is_alive(int(process)):
            left.unlink(missing_ok=True)


def machine() -> str:
    """Return a short name of this machine, for temporary files on a shared disk."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable in their order, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same lock out of a folder."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def writable_folder(path: Path, what: str) -> Path:
    """Make sure that files can be written into ``path``.

    Raises:
        RequestError: If they cannot, in one line.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RequestError(
            f"cannot write {what} to {path}: {error.strerror or error}; choose another folder"
        ) from None
    return path


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder of a user in place of ``~``.

    Raises:
        RequestError: If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RequestError(f"{path}: there is no such user") from None


def data_root(given: str | Path | None = None) -> Path:
    """Return the folder of image data: as given, else $OODBENCH_DATA, else the user's own."""
    return _folder(given, "OODBENCH_DATA", "data")


def store_root(given: str | Path | None = None) -> Path:
    """Return the folder of weights: as given, else $OODBENCH_STORE, else the user's own."""
    return _folder(given, "OODBENCH_STORE", "store")


def _folder(given: str | Path | None, variable: str, name: str) -> Path:
    chosen = given or os.environ.get(variable)
    if chosen:
        return expanded(chosen)
    from platformdirs import user_data_path

    return user_data_path("oodbench") / name


def shipped_results() -> Path:
    """Return the read-only folder of the reference results that ship."""
    return Path(__file__).parent / "results"
