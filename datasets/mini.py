"""The embedded suite: patches of pictures that scikit-image and scikit-learn bundle.

It needs no download and trains in seconds, so that the whole tool can be tried and tested on
real pictures. Patches of one picture overlap: it shows that the tool works, not which method
is better.
"""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oodbench.errors import RequestError
from oodbench.images import ArrayImages, Card, Images, ImageSet, Suite
from oodbench.randomness import generator
from oodbench.schedule import PAPER, Schedule

CLASSES = (
    "brick",
    "grass",
    "gravel",
    "coffee",
    "immunohistochemistry",
    "hubble_deep_field",
    "chelsea",
    "coins",
)
POOL = ("china", "rocket", "retina", "camera", "moon")
CROPS = (32, 48, 64)
SIDE = 32

_FILES = {
    "immunohistochemistry": ("skimage", "data/ihc.png"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}

# Grey levels: below it a patch is empty sky, blank paper or the black rim of the retina.
_MIN_STD = 3.0

# Shares of a picture's width and height, (left, right, top, bottom). The gap-free cuts mean
# that no pixel of a picture is in two splits.
_TRAIN = (0.0, 0.65, 0.0, 1.0)
_VAL = (0.65, 1.0, 0.0, 0.3)
_TEST = (0.65, 1.0, 0.3, 1.0)
_POOL_TRAIN = (0.0, 0.85, 0.0, 1.0)
_POOL_VAL = (0.85, 1.0, 0.0, 1.0)
_WHOLE = (0.0, 1.0, 0.0, 1.0)

_ID_SPLITS = {"train": (_TRAIN, 300), "val": (_VAL, 40), "test": (_TEST, 80)}
_POOL_SPLITS = {"train": (_POOL_TRAIN, 800), "val": (_POOL_VAL, 100)}
_OOD_COUNT = 250


def _bundled(package: str, file: str) -> Path:
    """Find a data file of an installed package without importing the package."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    raise RequestError(f"{package} does not bundle {file}; reinstall it with pip")


@cache
def picture(name: str) -> NDArray[np.uint8]:
    """Return a bundled picture, uint8 [H, W, 3]; greyscale is repeated."""
    package, file = _FILES.get(name, ("skimage", f"data/{name}.png"))
    with Image.open(_bundled(package, file)) as image:
        return np.asarray(image.convert("RGB"))


def region(name: str, shares: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Return the pixel bounds (left, right, top, bottom) of a part of a picture."""
    height, width = picture(name).shape[:2]
    left, right, top, bottom = shares
    return round(left * width), round(right * width), round(top * height), round(bottom * height)


def _resize(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _candidates(
    name: str, bounds: tuple[int, int, int, int], split: str
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Draw patches at random places of a region, endlessly, with their ids."""
    left, right, top, bottom = bounds
    rng = generator(0, "mini/patches", f"{name}/{split}")
    pixels = picture(name)
    while True:
        size = CROPS[rng.integers(len(CROPS))]
        y = int(rng.integers(top, bottom - size + 1))
        x = int(rng.integers(left, right - size + 1))
        yield f"{name}/{size}/{y}-{x}", _resize(pixels[y : y + size, x : x + size])


def _patches(
    name: str, shares: tuple[float, float, float, float], split: str, count: int
) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Take the first ``count`` patches that are neither near-constant nor seen before."""
    ids: list[str] = []
    patches: list[NDArray[np.uint8]] = []
    seen: set[bytes] = set()
    for patch_id, patch in _candidates(name, region(name, shares), split):
        if patch.std(axis=(0, 1)).max() < _MIN_STD or patch.tobytes() in seen:
            continue
        seen.add(patch.tobytes())
        ids.append(patch_id)
        patches.append(patch)
        if len(ids) == count:
            return ids, patches
    raise AssertionError("the candidates do not end")


def _digits(count: int) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Take ``count`` of scikit-learn's handwritten digits, enlarged from 8×8 without smoothing."""
    with gzip.open(_bundled("sklearn", "datasets/data/digits.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    small = (table[:, :64].reshape(-1, 8, 8) * 255 // 16).astype(np.uint8)
    order = generator(0, "mini/digits").permutation(len(small))
    # The digits are 8x8 and 17 grey levels deep, so two of them can be the same picture.
    _, first = np.unique(small[order], axis=0, return_index=True)
    chosen = order[np.sort(first)[:count]]
    enlarged = np.repeat(np.repeat(small[chosen], SIDE // 8, axis=1), SIDE // 8, axis=2)
    return [f"digits/{i}" for i in chosen], list(np.repeat(enlarged[..., None], 3, axis=3))


def _stack(patches: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2))


_NOTE = "patches of pictures bundled with scikit-image and scikit-learn"


class _Pictures(ImageSet):
    """Patches of some bundled pictures, with the picture as the label or without labels."""

    def __init__(
        self,
        name: str,
        pictures: tuple[str, ...],
        splits: Mapping[str, tuple[tuple[float, float, float, float], int]],
        labelled: bool,
    ) -> None:
        self.card = Card(
            title=f"mini/{name}",
            source="scikit-image and scikit-learn wheels",
            licence="as the two packages state for each picture",
            note=_NOTE,
        )
        self.classes = pictures if labelled else None
        self._name = name
        self._pictures = pictures
        self._splits = splits

    def open(self, split: str, root: Path) -> Images:
        """Cut the patches of a split; ``root`` is not used."""
        if split not in self._splits:
            raise RequestError(f"mini/{self._name} has no split {split}")
        shares, count = self._splits[split]
        ids: list[str] = []
        patches: list[NDArray[np.uint8]] = []
        for name in self._pictures:
            new_ids, new_patches = _patches(name, shares, split, count)
            ids += new_ids
            patches += new_patches
        labels = np.repeat(np.arange(len(self._pictures)), count) if self.classes else None
        return ArrayImages(_stack(patches), ids, labels)


class _Digits(ImageSet):
    """Scikit-learn's handwritten digits as 32×32 pictures."""

    card = Card(
        title="mini/digits",
        source="scikit-learn: optical recognition of handwritten digits",
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        citation="E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998",
        note=_NOTE,
    )

    def open(self, split: str, root: Path) -> Images:
        """Return the digits of the split ``test``; ``root`` is not used."""
        if split != "test":
            raise RequestError(f"mini/digits has no split {split}")
        ids, digits = _digits(_OOD_COUNT)
        return ArrayImages(_stack(digits), ids)


@dataclass(frozen=True)
class Mini(Suite):
    """Which of eight bundled pictures is this 32×32 patch of?; the default suite, embedded."""

    resampling: ClassVar[str] = "box"

    id_set: str = "pictures"
    ood_sets: tuple[str, ...] = ("flower", "astronaut", "page", "motorcycle", "digits")
    pool: str = "outliers"
    network: str = "conv3"
    schedule: str = "fast"
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: {
            "fast": Schedule(
                epochs=12,
                policy="one_cycle",
                weight_decay=5e-4,
                crop_padding=0,
                pool_views=2,
            ),
            "paper": PAPER,
        }
    )
    # The published values for CIFAR-10, taken over unchanged; nothing is tuned on this suite.
    # Sizes are in proportion to 2,400 images of 8 classes, but for the directions of CCU's
    # metric: more would be better and take more space than the whole suite's reference.
    published: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "odin": {"noise": 0.0016},
            "atom": {"quantile": 0.125},
            "ntom": {"quantile": 0.125},
            "sofl": {"rejects": 5},
            "rowl": {"background": 1 / len(CLASSES)},
            "ccu": {"components": 5, "directions": 16},
            "energy_finetuned": {"margin_in": -23.0},
        }
    )
    budget: Mapping[str, int] = field(default_factory=lambda: {"cpu": 100, "cuda": 100})
    note: str = (
        "mini: overlapping patches of a few pictures; evidence that the tool works, not a claim"
        " about methods. Intervals take the patches as independent."
    )

    def image_set(self, name: str) -> ImageSet:
        """Return one of the suite's own sets."""
        if name == self.id_set:
            return _Pictures(name, CLASSES, _ID_SPLITS, labelled=True)
        if name == self.pool:
            return _Pictures(name, POOL, _POOL_SPLITS, labelled=False)
        if name == "digits":
            return _Digits()
        if name in self.ood_sets:
            return _Pictures(name, (name,), {"test": (_WHOLE, _OOD_COUNT)}, labelled=False)
        raise RequestError(f"mini has no image set {name}")
