"""What a source holds, image by image."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.layout import Arrangement, Place
from oodbench.data.pictures import (
    FROM_16_BITS,
    OVER_WHITE,
    UPRIGHT,
    UnreadableError,
    decoded,
    fitted_array,
)
from oodbench.data.sources import MEMBER_BYTES, FileSource, Source, SourceError, printable, shown
from oodbench.errors import RequestError

_TOLD = {
    UPRIGHT: "turned upright where EXIF says so",
    OVER_WHITE: OVER_WHITE,
    FROM_16_BITS: FROM_16_BITS,
}
"""What a set has to say of what was done to some of its pictures, in this order."""

_CHUNK = 1024


@dataclass(frozen=True)
class Item:
    """An image on its way into a set.

    Attributes:
        split: Its split.
        position: Where it stands in its split: images are put in the order of their positions.
        image_id: Its id.
        label: Index of its class, or None.
        pixels: uint8 [3, side, side], or the reason why there are none.
    """

    split: str
    position: int
    image_id: str
    label: int | None
    pixels: NDArray[np.uint8] | str


class Reader(ABC):
    """A source understood.

    Attributes:
        total: Number of images, perhaps estimated.
        classes: Names of the classes; for batches known once `items` has been read.
        side: Height and width of the images where all are squares of one size, for pictures
            known once `items` has been read; 0 otherwise.
        resampling: Filter that images are resized with; None where their centre is cut out as it
            is.
        preparation: What is done beside fitting to the size, for pictures known once `items` has
            been read; empty for nothing.
        files: The files of a folder that were read, where each has a published checksum.
        kept: Files that are to lie beside the images as they are, by path.
        checksums_right: Whether the files that were read have their own published checksums.
        remarks: What a user should know of how the source was understood.
    """

    total: int = 0
    classes: tuple[str, ...] | None = None
    side: int = 0
    resampling: str | None = "bilinear"
    preparation: str = ""
    files: Sequence[Path] = ()
    checksums_right: bool = False
    remarks: Sequence[str] = ()

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    @abstractmethod
    def items(self, side: int) -> Iterator[Item]:
        """Read the images, in any order."""

    def _fitted(self, pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8] | str:
        """Return pixels uint8 [H, W, 3] as uint8 [3, side, side], or why that cannot be."""
        try:
            return fitted_array(pixels, side, self.resampling)
        except UnreadableError as error:
            return str(error)


class Published(Reader):
    """A source in a form that only one set is published in.

    Attributes:
        form: Name of the form, as `ImportedSet.form` has it.
    """

    form: str

    @property
    @abstractmethod
    def splits(self) -> set[str]:
        """The splits that it holds."""

    @abstractmethod
    def leave_out(self, splits: Collection[str]) -> None:
        """Do not read some of its splits."""


class Pictures(Reader):
    """Picture files in folders."""

    def __init__(
        self,
        source: Source,
        arrangement: Arrangement,
        sizes: Mapping[str, int],
        classes: tuple[str, ...] | None,
        labels: Mapping[str, int],
    ) -> None:
        """Take pictures as arranged, each with a split.

        Args:
            source: Where they are read from.
            arrangement: Where each belongs; every place has a split.
            sizes: Size in bytes of each file, by path.
            classes: Names of the classes in the order of the labels.
            labels: The label of each class folder; empty for none.
        """
        super().__init__()
        self._source = source
        self._places = arrangement.places
        self._sizes = sizes
        self._labels = labels
        self.classes = classes
        self.total = len(self._places)
        ids = Counter(shown(place.image_id) for place in self._places)
        self._not_cut = {image_id for image_id, count in ids.items() if count > 1}
        self.remarks = arrangement.remarks

    def items(self, side: int) -> Iterator[Item]:
        """Decode the pictures in the order of the source."""
        slots: dict[str, tuple[Place, int]] = {}
        count: dict[str, int] = {}
        for place in self._places:
            assert place.split is not None
            position = count.get(place.split, 0)
            count[place.split] = position + 1
            if self._sizes[place.path] <= MEMBER_BYTES:
                slots[place.path] = place, position
            else:
                yield self._item(place, position, f"larger than {MEMBER_BYTES >> 20} MB")
        self.side = side
        done: set[str] = set()
        for path, data in self._source.read(slots):
            try:
                picture = decoded(data, side, self.resampling)
            except UnreadableError as error:
                yield self._item(*slots[path], str(error))
                continue
            if picture.size != (side, side):
                self.side = 0
            done.update(picture.done)
            yield self._item(*slots[path], picture.pixels)
        self.preparation = "; ".join(told for one, told in _TOLD.items() if one in done)

    def _item(self, place: Place, position: int, pixels: NDArray[np.uint8] | str) -> Item:
        assert place.split is not None
        label = None if place.group is None else self._labels.get(place.group)
        image_id = shown(place.image_id)
        if image_id in self._not_cut:
            # Cut, it would be that of another picture.
            image_id = printable(place.image_id)
        return Item(place.split, position, image_id, label, pixels)


class Array(Reader):
    """One .npy array, uint8 [N, H, W, 3]."""

    def __init__(self, source: FileSource, split: str) -> None:
        super().__init__()
        self._file = source.file
        self._split = split
        pixels = self._mapped()
        shape = pixels.shape
        if pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise SourceError(
                f"{source.file} is {pixels.dtype} {list(shape)}; an array of images must be"
                " uint8 [N, H, W, 3]"
            )
        self.total = shape[0]
        self.side = shape[1] if shape[1] == shape[2] else 0

    def items(self, side: int) -> Iterator[Item]:
        """Read the images in their order."""
        width = max(len(str(self.total - 1)), 5)
        for start in range(0, self.total, _CHUNK):
            # Mapped anew, or what was read would count as memory of this process.
            pixels = self._mapped()[start : start + _CHUNK]
            for i, image in enumerate(pixels, start):
                yield Item(self._split, i, f"{i:0{width}}", None, self._fitted(image, side))

    def _mapped(self) -> NDArray[np.uint8]:
        try:
            found: NDArray[np.uint8] = np.load(self._file, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise RequestError(f"{self._file} cannot be read: {error.strerror or error}") from None
        except (ValueError, EOFError) as error:
            raise SourceError(f"{self._file} cannot be read ({shown(str(error))})") from None
        return found
