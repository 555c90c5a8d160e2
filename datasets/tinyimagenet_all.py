"""Tiny ImageNet with the classes that CIFAR-10 has too."""

from dataclasses import replace

from oodbench.datasets.tinyimagenet import TinyImageNet
from oodbench.imported import ImportedSet

_without = TinyImageNet.card


class TinyImageNetAll(ImportedSet):
    """Tiny ImageNet, all of it: shows what outliers of in-distribution classes do."""

    name = "tinyimagenet"
    validation = TinyImageNet.validation
    card = replace(_without, title="Tiny ImageNet, training pictures, all 200 classes")
