"""CIFAR-100, as in-distribution set and as the near one of CIFAR-10."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oodbench.images import Archive, Card, ImageSet
from oodbench.imported import ImportedSet
from oodbench.published.suite import PublishedSuite

CLASSES = (
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
)


class _Images(ImportedSet):
    """CIFAR-100; 2,000 of its training images are held out for validation."""

    name = "cifar100"
    form = "CIFAR-100"
    classes = CLASSES
    validation = 2_000
    card = Card(
        title="CIFAR-100",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; the authors ask that the report be cited",
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        archives=(
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                "cifar-100-python.tar.gz",
                size=169_001_437,
                checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",
                splits=("train", "test"),
            ),
        ),
        images={"train": 50_000, "test": 10_000},
        preprocessing="none",
    )


@dataclass(frozen=True)
class Cifar100(PublishedSuite):
    """CIFAR-100 against digits, textures and scenes; CIFAR-10 is near and stands in no mean."""

    id_set: str = "cifar100"
    pool: str = "tinyimagenet_cifar100"
    # All as published, but for the directions of CCU's metric: see there.
    published: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "odin": {"noise": 0.0012},
            "ccu": {"components": 100, "directions": 128, "least_variance": 1e-3},
            "atom": {"quantile": 0.5},
            "ntom": {"quantile": 0.5},
            "sofl": {"rejects": 10},
            "rowl": {"background": 500 / 50_000},
            "energy_finetuned": {"margin_in": -27.0},
        }
    )
    near: tuple[str, ...] = ("cifar10",)

    def image_set(self, name: str) -> ImageSet:
        """Return the in-distribution set, or one of the registry."""
        return _Images() if name == self.id_set else super().image_set(name)
