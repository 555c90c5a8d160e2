"""The paper's outlier pool."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class TinyImages80M(ImportedSet):
    """80 Million Tiny Images, the paper's outlier pool; it was withdrawn."""

    name = "tinyimages80m"
    card = Card(
        title="80 Million Tiny Images",
        source="https://groups.csail.mit.edu/vision/TinyImages/",
        licence="withdrawn by its authors",
        citation="A. Torralba et al., 80 Million Tiny Images, TPAMI 2008",
        archives=(Archive("", "tiny_images.bin", splits=("train",)),),
        images={"train": 79_302_017},
        withdrawn=(
            "its authors withdrew it in June 2020 for offensive labels and pictures;"
            " the suites take tinyimagenet in its place"
        ),
    )
