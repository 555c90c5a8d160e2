"""Scenes of Places2 in place of LSUN."""

from dataclasses import replace

from oodbench.datasets.miniplaces import MiniPlaces
from oodbench.imported import ImportedSet

_miniplaces = MiniPlaces.card


class LsunCStandIn(ImportedSet):
    """Cut-outs of scenes of Places2, where LSUN (crop) is not there."""

    name = "lsun_c_standin"
    resampling = None
    card = replace(
        _miniplaces,
        title="stand-in for LSUN (crop): cut-outs of MiniPlaces training pictures",
        note="not LSUN: cut-outs of MiniPlaces scenes",
        preprocessing="centre 32×32 of each picture of 128 pixels cut out, not resized",
    )
