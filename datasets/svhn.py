"""Street View House Numbers, as OOD set and as in-distribution set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oodbench.images import Archive, Card, ImageSet
from oodbench.imported import ImportedSet
from oodbench.published.suite import FAST, PublishedSuite
from oodbench.schedule import PAPER, Schedule


def _as_they_are(schedule: Schedule) -> Schedule:
    """Return a schedule that leaves digits, not outliers, as they are (Chen et al., 2021, code)."""
    return replace(
        schedule,
        flip=False,
        crop_padding=0,
        cutout_side=0,
        cutout_share=1.0,
        pool_flip=schedule.flip,
        pool_padding=schedule.crop_padding,
    )


class _Images(ImportedSet):
    """SVHN's cropped digits; 2,000 of the training ones are held out for validation."""

    name = "svhn"
    form = "SVHN"
    classes = tuple("0123456789")
    validation = 2_000
    card = Card(
        title="Street View House Numbers, cropped digits",
        source="http://ufldl.stanford.edu/housenumbers/",
        licence="for non-commercial use only",
        citation="Y. Netzer et al., Reading Digits in Natural Images, NIPS workshop, 2011",
        archives=(
            Archive(
                "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                "test_32x32.mat",
                size=64_275_384,
                checksum="md5:eb5a983be6a315427106f1b164d9cef3",
            ),
            Archive(
                "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                "train_32x32.mat",
                size=182_040_794,
                checksum="md5:e26dedcc434d2e4c54c9b2d4a06d8373",
                splits=("train",),
            ),
        ),
        # The published evaluation takes the first 1,000 of each digit of the 26,032 test digits.
        images={"test": 10_000, "train": 73_257},
        preprocessing="the first 1,000 test digits of each class",
    )


@dataclass(frozen=True)
class Svhn(PublishedSuite):
    """SVHN against objects, textures and scenes."""

    id_set: str = "svhn"
    ood_sets: tuple[str, ...] = ("cifar10", "textures", "places365", "lsun_c", "lsun_r", "isun")
    schedules: Mapping[str, Schedule] = field(
        default_factory=lambda: {
            "fast": _as_they_are(FAST),
            "paper": _as_they_are(replace(PAPER, epochs=20)),
        }
    )
    # All as published, but for the directions of CCU's metric: see there.
    published: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "odin": {"noise": 0.0006},
            "ccu": {"components": 100, "directions": 128, "least_variance": 1e-3},
            "atom": {"quantile": 0.0},
            "ntom": {"quantile": 0.0},
            "sofl": {"rejects": 5},
            "rowl": {"background": 7_325 / 73_257},
            # Nothing was published for SVHN; that of CIFAR-10.
            "energy_finetuned": {"margin_in": -23.0},
        }
    )

    def image_set(self, name: str) -> ImageSet:
        """Return the in-distribution set, or one of the registry."""
        return _Images() if name == self.id_set else super().image_set(name)
