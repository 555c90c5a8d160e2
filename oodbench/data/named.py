"""Pictures that a user names: found, read, and made into images of a suite, told how."""

import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from oodbench.data.layout import pictures_among
from oodbench.data.pictures import FORMATS, fitted, guarded, upright
from oodbench.data.sources import MEMBER_BYTES, FolderSource, shown
from oodbench.errors import RequestError
from oodbench.leaderboard.order import natural

_COLOURS = {
    "1": "black and white to RGB",
    "L": "greyscale to RGB",
    "P": "palette to RGB",
    "CMYK": "CMYK to RGB",
    "YCbCr": "YCbCr to RGB",
    "LAB": "Lab to RGB",
    "HSV": "HSV to RGB",
}


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
        found |= dict.fromkeys(_at(Path(one).expanduser()))
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
    if not data:
        return Unread(name, "empty")
    try:
        with guarded(), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return as_image(name, picture, side, resampling)
    except UnidentifiedImageError:
        return Unread(name, f"not a picture ({', '.join(FORMATS)})")
    except Exception as error:
        # A decoder given rubbish raises nearly anything.
        return Unread(name, f"cannot be decoded: {shown(str(error)) or type(error).__name__}")


def as_image(name: str, picture: Image.Image, side: int, resampling: str = "bilinear") -> Picture:
    """Make a picture into an image of ``side`` × ``side`` pixels.

    It is turned as its EXIF orientation says, transparency is laid over white, 16 bits are cut to
    8, and other colours become RGB; then the shorter side is resized and the centre cut out, as
    imported sets are prepared.

    Raises:
        ValueError: If its values cannot be shown as 8 bits, or it is too thin a strip.
    """
    done: list[str] = []
    if getattr(picture, "n_frames", 1) > 1:
        done.append(f"first of {picture.n_frames} frames")  # type: ignore[attr-defined]
    picture, turned = upright(picture)
    if turned:
        done.append("turned upright (EXIF)")
    picture = _in_8_bits(picture, done)
    picture = _in_colour(picture, done)
    width, height = picture.size
    if (width, height) != (side, side):
        how = "box filter" if resampling == "box" else "bilinear, antialiased"
        change = "enlarged" if min(width, height) < side else "resized"
        if width == height:
            done.append(f"{change} to {side}×{side} ({how})")
        else:
            part = 100 * min(width, height) / max(width, height)
            done.append(
                f"shorter side {change} to {side} pixels ({how}), centre {side}×{side} cut out,"
                f" {part:.0f} % of it"
            )
    pixels = fitted(picture, side, Image.Resampling[resampling.upper()])
    return Picture(name, pixels, (width, height), tuple(done))


def _in_8_bits(picture: Image.Image, done: list[str]) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known; save it in 8 bits")
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("pixels of 32 bits, whose range is not known; save it in 8 bits")
    done.append("16 bits to 8")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _in_colour(picture: Image.Image, done: list[str]) -> Image.Image:
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            # What stands behind transparent pixels is arbitrary, and nobody sees it.
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
            done.append("transparency over white")
        return picture.convert("RGB")
    if picture.mode in _COLOURS:
        done.append(_COLOURS[picture.mode])
    return picture.convert("RGB")
