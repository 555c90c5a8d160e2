"""The pool that took the place of 80 Million Tiny Images."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class Random300K(ImportedSet):
    """300K Random Images: an outlier pool, 80 Million Tiny Images without what is in CIFAR."""

    name = "random300k"
    validation = 10_000
    card = Card(
        title="300K Random Images",
        source="https://github.com/hendrycks/outlier-exposure",
        licence="none stated",
        citation="D. Hendrycks et al., Deep Anomaly Detection with Outlier Exposure, ICLR 2019",
        # No checksum was published.
        archives=(
            Archive(
                "https://people.eecs.berkeley.edu/~hendrycks/300K_random_images.npy",
                "300K_random_images.npy",
                size=921_600_128,
                splits=("train",),
            ),
        ),
        images={"train": 300_000},
        preprocessing="none",
    )
