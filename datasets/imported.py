"""The suite of a user's own images."""

from dataclasses import dataclass

from oodbench.published.suite import PublishedSuite


@dataclass(frozen=True)
class Imported(PublishedSuite):
    """The suite of any imported set with classes: --suite NAME, its OOD sets by --ood."""

    id_set: str = ""
    ood_sets: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, classes: int) -> "Imported":
        """Return the suite of an imported set, with the values published for CIFAR-10."""
        return cls(
            id_set=name,
            published={
                "odin": {"noise": 0.0016},
                "atom": {"quantile": 0.125},
                "ntom": {"quantile": 0.125},
                "sofl": {"rejects": 5},
                "rowl": {"background": 1 / classes},
                "energy_finetuned": {"margin_in": -23.0},
            },
        )
