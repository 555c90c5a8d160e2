"""Scenes of Places2."""

from oodbench.images import Card
from oodbench.imported import ImportedSet


class LsunRStandIn(ImportedSet):
    """Shrunk scenes of Places2, where LSUN (resize) is not there."""

    name = "lsun_r_standin"
    card = Card(
        title="stand-in for LSUN (resize): shrunk MiniPlaces training pictures",
        source="MiniPlaces, MIT course 6.869",
        licence="for research and education, not commercial; the pictures belong to their owners",
        citation="B. Zhou et al., Places: A 10 Million Image Database, TPAMI 2017",
        note="not LSUN: shrunk MiniPlaces scenes, without the jagged edges of LSUN (resize)",
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
