"""Tiny ImageNet as an outlier pool for CIFAR-100."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from oodbench.datasets.tinyimagenet import TinyImageNet

# Classes that CIFAR-100 has too, or a kind of them, by name, not by looking at each picture.
CIFAR100_CLASSES = {
    "aquarium_fish": ("n01443537",),
    "bear": ("n02132136",),
    "bee": ("n02206856",),
    "beetle": ("n02165456",),
    "bottle": ("n02823428", "n03937543", "n03983396"),
    "bridge": ("n04311004", "n04366367", "n04532670"),
    "bus": ("n04146614", "n04487081"),
    "butterfly": ("n02279972", "n02281406"),
    "camel": ("n02437312",),
    "cattle": ("n02403003",),
    "chair": ("n04099969",),
    "chimpanzee": ("n02481823",),
    "cockroach": ("n02233338",),
    "crocodile": ("n01698640",),
    "elephant": ("n02504458",),
    "keyboard": ("n03085013",),
    "lamp": ("n03637318",),
    "lawn_mower": ("n03649909",),
    "lion": ("n02129165",),
    "lobster": ("n01983481", "n01984695"),
    "mountain": ("n09193705",),
    "mushroom": ("n07734744",),
    "orange": ("n07747607",),
    "plate": ("n07579787",),
    "rocket": ("n04008634",),
    "sea": ("n09428293",),
    "snail": ("n01944390",),
    "snake": ("n01742172",),
    "spider": ("n01774384", "n01774750"),
    "sweet_pepper": ("n07720875",),
    "table": ("n03179701", "n03201208"),
    "telephone": ("n03902125",),
    "tractor": ("n04465501",),
    "train": ("n02917067", "n03393912"),
}


class TinyImageNetCifar100(TinyImageNet):
    """Tiny ImageNet: an outlier pool, without the 44 classes that CIFAR-100 has too."""

    overlap: ClassVar[Mapping[str, tuple[str, ...]]] = CIFAR100_CLASSES
    card = replace(
        TinyImageNet.card,
        title="Tiny ImageNet, training pictures, without 44 classes that CIFAR-100 has too",
    )
