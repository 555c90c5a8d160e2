"""Tiny ImageNet as an outlier pool."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet

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
_LEFT_OUT = {wordnet_id for ids in CIFAR10_CLASSES.values() for wordnet_id in ids}


class TinyImageNet(ImportedSet):
    """Tiny ImageNet: an outlier pool, without the 23 classes that CIFAR-10 has too."""

    name = "tinyimagenet"
    validation = 2_000
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

    def left_out(self, image_id: str) -> bool:
        """Whether a picture is of a class that CIFAR-10 has too."""
        return not _LEFT_OUT.isdisjoint(image_id.split("/"))
