"""A suite of coloured textures: trains in a moment and needs no data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.errors import RequestError
from oodbench.images import ArrayImages, Card, Images, ImageSet, Suite
from oodbench.randomness import generator
from oodbench.schedule import Schedule

CLASSES = ("stripes", "checks", "dots")
COUNTS = {"train": 30, "val": 10, "test": 40}
SIDE = 32


def texture(kind: str, image_id: str) -> np.ndarray:
    """Draw a texture, uint8 [3, 32, 32], with a colour, a period and noise of its own."""
    rng = generator(0, f"tiny/{kind}", image_id)
    y, x = np.mgrid[:SIDE, :SIDE]
    period = rng.integers(3, 7)
    phase = rng.integers(period)
    shapes = {
        "stripes": (x + phase) // period % 2,
        "checks": ((x + phase) // period + y // period) % 2,
        "dots": ((x + phase) % period + y % period < 3).astype(np.int64),
        "rings": np.hypot(x - SIDE / 2, y - SIDE / 2) // period % 2,
        "noise": rng.random((SIDE, SIDE)),
    }
    colour = rng.uniform(60, 200, (3, 1, 1))
    pixels = colour * (0.4 + 0.6 * shapes[kind]) + rng.normal(0, 15, (3, SIDE, SIDE))
    return pixels.round().clip(0, 255).astype(np.uint8)


class _Textures(ImageSet):
    """So many images of each of some textures, with the texture as the label or without labels."""

    def __init__(self, name: str, kinds: tuple[str, ...], counts: Mapping[str, int]) -> None:
        self.card = Card(f"tiny/{name}", "drawn", "MIT", note="drawn textures")
        self.classes = kinds if kinds == CLASSES else None
        self._name = name
        self._kinds = kinds
        self._counts = counts

    def open(self, split: str, root: Path) -> Images:
        """Draw a split; ``root`` is not used."""
        if split not in self._counts:
            raise RequestError(f"tiny/{self._name} has no split {split}")
        count = self._counts[split]
        ids = [f"{kind}/{split}/{i}" for kind in self._kinds for i in range(count)]
        pixels = np.stack([texture(image_id.partition("/")[0], image_id) for image_id in ids])
        labels = np.repeat(np.arange(len(self._kinds)), count) if self.classes else None
        return ArrayImages(pixels, ids, labels)


@dataclass(frozen=True)
class Tiny(Suite):
    """Three textures against two others."""

    id_set: str = "textures"
    ood_sets: tuple[str, ...] = ("rings", "noise")
    pool: str = "outliers"
    network: str = "conv3"
    schedule: str = "fast"
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: {
            "fast": Schedule(epochs=2, batch_size=32, policy="one_cycle", crop_padding=0),
            "other": Schedule(epochs=1, batch_size=32, crop_padding=0),
            "long": Schedule(epochs=6, batch_size=32, policy="one_cycle", crop_padding=0),
        }
    )
    published: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "odin": {"noise": 0.0016},
            "atom": {"quantile": 0.125},
            "ntom": {"quantile": 0.125},
            "sofl": {"rejects": 2},
            "rowl": {"background": 1 / len(CLASSES)},
            "ccu": {"components": 3, "directions": 4},
            "energy_finetuned": {"margin_in": -23.0},
        }
    )
    budget: Mapping[str, int] = field(default_factory=lambda: {"cpu": 6, "cuda": 6})
    note: str = "tiny: drawn textures"

    def image_set(self, name: str) -> ImageSet:
        """Return one of the suite's own sets."""
        if name == self.id_set:
            return _Textures(name, CLASSES, COUNTS)
        if name == self.pool:
            return _Textures(name, ("noise", "rings"), {"train": 30, "val": 10})
        if name in self.ood_sets:
            return _Textures(name, (name,), {"test": 30})
        raise RequestError(f"tiny has no image set {name}")
