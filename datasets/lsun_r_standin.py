"""Scenes of Places2 in place of LSUN."""

from dataclasses import replace

from oodbench.datasets.miniplaces import MiniPlaces
from oodbench.imported import ImportedSet

_miniplaces = MiniPlaces.card


class LsunRStandIn(ImportedSet):
    """Shrunk scenes of Places2, where LSUN (resize) is not there."""

    name = "lsun_r_standin"
    card = replace(
        _miniplaces,
        title="stand-in for LSUN (resize): shrunk MiniPlaces training pictures",
        note="not LSUN: shrunk MiniPlaces scenes, without the jagged edges of LSUN (resize)",
    )
