"""Scenes of Places2."""

from oodbench.images import Card
from oodbench.imported import ImportedSet


class LsunCStandIn(ImportedSet):
    """Cut-outs of scenes of Places2, where LSUN (crop) is not there."""

    name = "lsun_c_standin"
    card = Card(
        title="stand-in for LSUN (crop): cut-outs of MiniPlaces training pictures",
        source="MiniPlaces, MIT course 6.869",
        licence="for research and education, not commercial; the pictures belong to their owners",
        citation="B. Zhou et al., Places: A 10 Million Image Database, TPAMI 2017",
        note="not LSUN: cut-outs of MiniPlaces scenes",
        preprocessing="one 32×32 cut-out of each picture of 128 pixels, not resized",
    )
