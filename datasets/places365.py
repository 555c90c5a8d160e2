"""Scenes of Places365."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class Places365(ImportedSet):
    """Places365: scenes of 365 kinds."""

    name = "places365"
    card = Card(
        title="Places365-Standard, validation pictures of 256 pixels",
        source="http://places2.csail.mit.edu/download.html",
        licence="for research and education, not commercial; the pictures belong to their owners",
        citation="B. Zhou et al., Places: A 10 Million Image Database, TPAMI 2017",
        # The paper takes 10,000 of the test pictures, listed in its repository.
        archives=(
            Archive(
                "http://data.csail.mit.edu/places/places365/val_256.tar",
                "val_256.tar",
                checksum="md5:e27b17d8d44f4af9a78502beb927f808",
            ),
        ),
        images={"test": 36_500},
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
