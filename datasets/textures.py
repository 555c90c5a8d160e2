"""Pictures of textures."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class Textures(ImportedSet):
    """Describable Textures (DTD): 47 kinds of texture, none of them an object."""

    name = "textures"
    card = Card(
        title="Describable Textures (DTD r1.0.1)",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="for research; the pictures belong to their owners",
        citation="M. Cimpoi et al., Describing Textures in the Wild, CVPR 2014",
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "dtd-r1.0.1.tar.gz",
                checksum="md5:fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
        images={"test": 5640},
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
