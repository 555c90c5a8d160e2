"""Pictures of any size made into images of one."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

# No EPS, whose decoder starts programs, and nothing exotic.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_MOST_PIXELS = 100_000_000


@contextmanager
def guarded() -> Iterator[None]:
    """Let pictures that would swell beyond measure fail, and keep the library quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@dataclass(frozen=True)
class Decoded:
    """A picture file read.

    Attributes:
        pixels: uint8 [3, side, side], or None if it cannot be read.
        had_size: Whether it had that size; true of what cannot be read.
        turned: Whether it was turned upright.
    """

    pixels: NDArray[np.uint8] | None = None
    had_size: bool = True
    turned: bool = False


def decoded(data: bytes, side: int) -> Decoded:
    """Read a picture file, turned as its EXIF orientation says, and fit it to a size."""
    if not data:
        return Decoded()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            whole, turned = upright(picture)
            return Decoded(fitted(whole, side), whole.size == (side, side), turned)
    except Exception:
        # A decoder given rubbish raises nearly anything.
        return Decoded()


def upright(picture: Image.Image) -> tuple[Image.Image, bool]:
    """Return a picture turned as its EXIF orientation says, and whether that changed it.

    Tags that cannot be read say nothing: the pixels may be sound.

    Raises:
        OSError: If the picture cannot be decoded.
    """
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        orientation = None
    picture.load()
    # 1 is upright, and others have no meaning.
    if orientation not in range(2, 9):
        return picture, False
    try:
        return ImageOps.exif_transpose(picture), True
    except Exception:
        return picture, False


def fitted(
    picture: Image.Image, side: int, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> NDArray[np.uint8]:
    """Return a picture as uint8 [3, side, side].

    RGB; the shorter side is resized to ``side`` (bilinear, antialiased, unless another filter is
    given) and the centre is cut out, as torchvision's Resize and CenterCrop do. A picture of that
    size stays bit for bit.
    """
    if picture.mode.startswith("I;16"):
        # The library would clip 16 bits to 8, not scale them.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = picture.convert("RGB")
    width, height = picture.size
    if (width, height) != (side, side):
        short = min(width, height)
        if short != side:
            width, height = (
                side if length == short else int(side * length / short)
                for length in (width, height)
            )
            if width * height > _MOST_PIXELS:
                raise ValueError("a strip too thin to be resized")
            picture = picture.resize((width, height), resampling)
        left, top = round((width - side) / 2), round((height - side) / 2)
        picture = picture.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


def fitted_array(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return pixels uint8 [H, W, 3] as uint8 [3, side, side]."""
    if pixels.shape[:2] == (side, side):
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return fitted(Image.fromarray(np.ascontiguousarray(pixels)), side)
