"""Scenes of LSUN."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class LsunR(ImportedSet):
    """LSUN (resize): whole scenes shrunk, as the authors of ODIN published them."""

    name = "lsun_r"
    card = Card(
        title="LSUN (resize)",
        source="https://github.com/facebookresearch/odin",
        licence="for research; the pictures belong to their owners",
        citation="F. Yu et al., LSUN, arXiv 1506.03365, 2015; patches: S. Liang et al., ICLR 2018",
        archives=(
            Archive(
                "https://www.dropbox.com/s/moqh2wh8696c3yl/LSUN_resize.tar.gz?dl=1",
                "LSUN_resize.tar.gz",
                # Its authors published none; github.com/edadaltocg/detectors checks this one.
                checksum="md5:278b7b31c8cb7e804a1465a8ce03a2dc",
            ),
        ),
        images={"test": 10000},
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
