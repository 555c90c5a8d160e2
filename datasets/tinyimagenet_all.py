"""Tiny ImageNet with the classes that in-distribution sets have too."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from oodbench.datasets.tinyimagenet import TinyImageNet


class TinyImageNetAll(TinyImageNet):
    """Tiny ImageNet, all of it: shows what outliers of in-distribution classes do."""

    overlap: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    card = replace(TinyImageNet.card, title="Tiny ImageNet, training pictures, all 200 classes")
