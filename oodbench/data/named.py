"""Pictures that a user names: found, read, and made into images of a suite, told how."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.layout import pictures_among
from oodbench.data.pictures import UnreadableError, decoded
from oodbench.data.sources import MEMBER_BYTES, FolderSource
from oodbench.errors import RequestError
from oodbench.files import expanded
from oodbench.leaderboard.order import natural


@dataclass(frozen=True)
class Picture:
    """A picture made into an image.

    Attributes:
        name: Its path as the user gave it, or below the folder that the user gave.
        pixels: uint8 [3, side, side].
        size: Width and height of the picture, upright.
        prepared: What was done to it, in order; empty for nothing.
    """

    name: str
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    prepared: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """What could not be read.

    Attributes:
        name: Its path.
        reason: Why.
    """

    name: str
    reason: str


def find_pictures(given: Sequence[str | Path]) -> list[Path | Unread]:
    """Return the files that a user names, those of folders in natural order, each once.

    Folders are searched through; of their files those count whose names end like a picture's
    (``.png``, ``.jpg``, …). A file that is named itself counts whatever it is called.
    """
    found: dict[Path | Unread, None] = {}
    for one in given:
        try:
            found |= dict.fromkeys(_at(expanded(one)))
        except RequestError:
            found[Unread(_told(Path(one)), "no such user")] = None
    return list(found)


def _at(path: Path) -> list[Path | Unread]:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return [Unread(_told(path), "no such file or folder")]
    except OSError as error:
        return [Unread(_told(path), error.strerror or str(error))]
    if stat.S_ISDIR(mode):
        return _below(path)
    return [path if stat.S_ISREG(mode) else Unread(_told(path), "not a file")]


def _below(folder: Path) -> list[Path | Unread]:
    try:
        paths = pictures_among([entry.path for entry in FolderSource(folder).entries()])
    except RequestError as error:
        return [Unread(_told(folder), str(error))]
    if not paths:
        return [Unread(_told(folder), "no pictures in this folder")]
    return [folder / path for path in sorted(paths, key=natural)]


def _told(path: Path) -> str:
    """Return a path as text that can be encoded."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_picture(path: Path, side: int, resampling: str = "bilinear") -> Picture | Unread:
    """Read a picture file as an image of ``side`` × ``side`` pixels.

    Args:
        path: The file.
        side: Height and width of the image.
        resampling: ``bilinear`` or ``box``.
    """
    name = _told(path)
    try:
        if path.stat().st_size > MEMBER_BYTES:
            return Unread(name, f"larger than {MEMBER_BYTES >> 20} MB")
        data = path.read_bytes()
    except OSError as error:
        return Unread(name, error.strerror or str(error))
    try:
        found = decoded(data, side, resampling)
    except UnreadableError as error:
        return Unread(name, str(error))
    return Picture(name, found.pixels, found.size, found.done)
