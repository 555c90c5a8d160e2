"""Pictures of any kind and size made into images of one."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from oodbench.data.sources import shown

# No EPS, whose decoder starts programs, and nothing exotic.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
UPRIGHT = "turned upright (EXIF)"
OVER_WHITE = "transparency over white"
FROM_16_BITS = "16 bits to 8"
_MOST_PIXELS = 100_000_000
_COLOURS = {
    "1": "black and white to RGB",
    "L": "greyscale to RGB",
    "P": "palette to RGB",
    "CMYK": "CMYK to RGB",
    "YCbCr": "YCbCr to RGB",
    "LAB": "Lab to RGB",
    "HSV": "HSV to RGB",
}
# Their decoders give 16 bits as a mode of 32.
_AT_MOST_16_BITS = ("PNG", "PPM")


class UnreadableError(ValueError):
    """A file that no image can be made of; its message says why."""


@dataclass(frozen=True)
class Prepared:
    """A picture made into an image.

    Attributes:
        pixels: uint8 [3, side, side].
        size: Width and height of the picture, upright.
        done: What was done to it, in order; empty for nothing.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    done: tuple[str, ...]


@contextmanager
def _guarded() -> Iterator[None]:
    """Let pictures that would swell beyond measure fail, and keep the library quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decoded(data: bytes, side: int, resampling: str | None = "bilinear") -> Prepared:
    """Make a picture file into an image, as `prepared` does.

    Args:
        data: What the file holds.
        side: Height and width of the image.
        resampling: ``bilinear`` or ``box``; None for a cut-out that is not resized.

    Raises:
        UnreadableError: If it is no picture, or none that an image can be made of.
    """
    if not data:
        raise UnreadableError("empty")
    try:
        with _guarded(), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return prepared(picture, side, resampling)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(f"not a picture ({', '.join(FORMATS)})") from None
    except Exception as error:
        # A decoder given rubbish raises nearly anything.
        reason = shown(str(error)) or type(error).__name__
        raise UnreadableError(f"cannot be decoded: {reason}") from None


def prepared(picture: Image.Image, side: int, resampling: str | None = "bilinear") -> Prepared:
    """Make a picture into an image of ``side`` × ``side`` pixels.

    It is turned as its EXIF orientation says, transparency is laid over white, 16 bits are cut to
    8, and other colours become RGB; then it is `fitted`.

    Args:
        picture: The picture, its first frame where it has several.
        side: Height and width of the image.
        resampling: ``bilinear`` or ``box``; None for a cut-out that is not resized.

    Raises:
        UnreadableError: If its values cannot be shown as 8 bits, or it cannot be fitted.
        OSError: If it cannot be decoded.
    """
    done: list[str] = []
    form = picture.format
    if getattr(picture, "n_frames", 1) > 1:
        done.append(f"first of {picture.n_frames} frames")  # type: ignore[attr-defined]
    picture = _upright(picture, done)
    picture = _in_8_bits(picture, form, done)
    picture = _in_colour(picture, done)
    width, height = picture.size
    if (width, height) != (side, side) and resampling is None:
        done.append(f"centre {side}×{side} cut out, not resized")
    elif (width, height) != (side, side):
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
    pixels = fitted(picture, side, resampling)
    return Prepared(pixels, (width, height), tuple(done))


def fitted(
    picture: Image.Image, side: int, resampling: str | None = "bilinear"
) -> NDArray[np.uint8]:
    """Return an RGB picture as uint8 [3, side, side].

    The shorter side is resized to ``side`` (antialiased), unless ``resampling`` is None, and the
    centre is cut out, as torchvision's Resize and CenterCrop do. A picture of that size stays bit
    for bit.

    Raises:
        UnreadableError: If it is too thin a strip to be resized, or too small to be cut.
    """
    width, height = picture.size
    if (width, height) != (side, side):
        short = min(width, height)
        if resampling is None:
            if short < side:
                raise UnreadableError(f"smaller than {side}×{side} pixels")
        elif short != side:
            width, height = (
                side if length == short else int(side * length / short)
                for length in (width, height)
            )
            if width * height > _MOST_PIXELS:
                raise UnreadableError("a strip too thin to be resized")
            picture = picture.resize((width, height), Image.Resampling[resampling.upper()])
        left, top = round((width - side) / 2), round((height - side) / 2)
        picture = picture.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1))


def fitted_array(
    pixels: NDArray[np.uint8], side: int, resampling: str | None = "bilinear"
) -> NDArray[np.uint8]:
    """Return pixels uint8 [H, W, 3] as uint8 [3, side, side], as `fitted` does.

    Raises:
        UnreadableError: If they are too thin a strip to be resized, or too small to be cut.
    """
    if pixels.shape[:2] == (side, side):
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return fitted(Image.fromarray(np.ascontiguousarray(pixels)), side, resampling)


def _upright(picture: Image.Image, done: list[str]) -> Image.Image:
    """Return a picture turned as its EXIF orientation says.

    Tags that cannot be read say nothing: the pixels may be sound.
    """
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        orientation = None
    picture.load()
    # 1 is upright, and others have no meaning.
    if orientation not in range(2, 9):
        return picture
    try:
        turned = ImageOps.exif_transpose(picture)
    except Exception:
        return picture
    done.append(UPRIGHT)
    return turned


def _in_8_bits(picture: Image.Image, form: str | None, done: list[str]) -> Image.Image:
    """Return a picture of 8 bits a channel; of 16 the upper ones.

    The library would clip what is larger, and call it read.
    """
    if picture.mode == "F":
        raise UnreadableError("floating-point pixels, whose range is not known; save it in 8 bits")
    if picture.mode == "I" and form not in _AT_MOST_16_BITS:
        raise UnreadableError("pixels of 32 bits, whose range is not known; save it in 8 bits")
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    done.append(FROM_16_BITS)
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _in_colour(picture: Image.Image, done: list[str]) -> Image.Image:
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            # What stands behind transparent pixels is arbitrary, and nobody sees it.
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
            done.append(OVER_WHITE)
        return picture.convert("RGB")
    if picture.mode in _COLOURS:
        done.append(_COLOURS[picture.mode])
    return picture.convert("RGB")
