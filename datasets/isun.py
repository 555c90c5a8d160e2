"""Scenes of iSUN."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class Isun(ImportedSet):
    """iSUN: scenes shrunk with jagged edges, as the authors of ODIN published them."""

    name = "isun"
    card = Card(
        title="iSUN",
        source="https://github.com/facebookresearch/odin",
        licence="for research; the pictures belong to their owners",
        citation="P. Xu et al., arXiv 1504.06755, 2015; patches: S. Liang et al., ICLR 2018",
        archives=(
            Archive(
                "https://www.dropbox.com/s/ssz7qxfqae0cca5/iSUN.tar.gz?dl=1",
                "iSUN.tar.gz",
                # Its authors published none; github.com/edadaltocg/detectors checks this one.
                checksum="md5:be77b0f2c26fda898afac5f99645ee70",
                size=4_085_055,
            ),
        ),
        images={"test": 8925},
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
