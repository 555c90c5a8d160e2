"""Scenes of Places2."""

from oodbench.images import Card
from oodbench.imported import ImportedSet


class MiniPlaces(ImportedSet):
    """MiniPlaces: scenes of 100 kinds, a part of Places2."""

    name = "miniplaces"
    card = Card(
        title="MiniPlaces validation pictures",
        source="https://github.com/CSAILVision/miniplaces",
        licence="for research and education, not commercial; the pictures belong to their owners",
        citation="B. Zhou et al., Places: A 10 Million Image Database, TPAMI 2017",
        note="MiniPlaces (100 kinds of Places2, 128 pixels) in place of Places365",
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
