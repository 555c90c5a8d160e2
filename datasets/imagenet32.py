"""ImageNet at 32×32 pixels."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class Imagenet32(ImportedSet):
    """Down-sampled ImageNet: an outlier pool of 1.28 million pictures."""

    name = "imagenet32"
    form = "ImageNet 32×32"
    validation = 10_000
    card = Card(
        title="Downsampled ImageNet 32×32, training pictures",
        source="https://image-net.org/download-images.php (an account is needed)",
        licence="ImageNet's terms: research and education, not commercial",
        citation="P. Chrabaszcz et al., arXiv 1707.08819, 2017",
        archives=(Archive("", "Imagenet32_train.zip", splits=("train",)),),
        images={"train": 1_281_167},
        preprocessing="box filter to 32×32, by the publishers",
    )
