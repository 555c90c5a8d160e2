"""Tiny ImageNet as an outlier pool."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from oodbench.errors import RequestError
from oodbench.images import Archive, Card, Images
from oodbench.imported import ImportedSet

_WORDNET_ID = re.compile(r"n\d{8}")

# Classes that CIFAR-10 has too, by name, not by looking at each picture.
CIFAR10_CLASSES = {
    "automobile": ("n02814533", "n03100240", "n03670208", "n04285008"),
    "truck": ("n03796401", "n03977966"),
    "bird": ("n01855672", "n02002724", "n02056570", "n02058221"),
    "cat": ("n02123045", "n02123394", "n02124075"),
    "dog": ("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),
    "frog": ("n01641577", "n01644900"),
    "ship": ("n03662601", "n03447447"),
}


class TinyImageNet(ImportedSet):
    """Tiny ImageNet: an outlier pool, without the 23 classes that CIFAR-10 has too.

    Attributes:
        overlap: WordNet ids of the classes that are left out, by in-distribution class.
    """

    name = "tinyimagenet"
    validation = 2_000
    overlap: ClassVar[Mapping[str, tuple[str, ...]]] = CIFAR10_CLASSES
    card = Card(
        title="Tiny ImageNet, training pictures, without 23 classes that CIFAR-10 has too",
        source="Stanford CS231N",
        licence="ImageNet's terms: research and education, not commercial",
        citation="O. Russakovsky et al., ImageNet Large Scale Visual Recognition, IJCV 2015",
        archives=(
            Archive(
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "tiny-imagenet-200.zip",
                size=248_100_043,
                checksum="md5:90528d7ca1a48142e341f4ef8d21d0de",
                splits=("train",),
            ),
        ),
        images={"train": 100_000},
        preprocessing="64×64 pixels to 32×32 (bilinear, antialiased)",
    )

    def open(self, split: str, root: Path) -> Images:
        """Open a split.

        Raises:
            RequestError: If it is not there, or no name tells of which class a picture is.
            DamagedFileError: If it is damaged.
        """
        images = super().open(split, root)
        if self.overlap and not any(map(_WORDNET_ID.search, images.ids)):
            raise RequestError(
                f"the names in {root / self.name} have no WordNet ids such as n01443537, so classes"
                " that are in-distribution too cannot be left out; import the folders of classes"
            )
        return images

    def left_out(self, image_id: str) -> bool:
        """Whether a picture is of a class that the in-distribution set has too.

        The class is the folder, or the beginning of the file's name: ``n01443537_12.JPEG``.
        """
        ids = {wordnet_id for known in self.overlap.values() for wordnet_id in known}
        return not ids.isdisjoint(_WORDNET_ID.findall(image_id))
