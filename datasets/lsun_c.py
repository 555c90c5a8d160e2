"""Scenes of LSUN."""

from oodbench.images import Archive, Card
from oodbench.imported import ImportedSet


class LsunC(ImportedSet):
    """LSUN (crop): cut-outs of scenes, as the authors of ODIN published them."""

    name = "lsun_c"
    card = Card(
        title="LSUN (crop)",
        source="https://github.com/facebookresearch/odin",
        licence="for research; the pictures belong to their owners",
        citation="F. Yu et al., LSUN, arXiv 1506.03365, 2015; patches: S. Liang et al., ICLR 2018",
        archives=(
            Archive(
                "https://www.dropbox.com/s/fhtsw1m3qxlwj6h/LSUN.tar.gz?dl=1",
                "LSUN.tar.gz",
                # Its authors published none; github.com/edadaltocg/detectors checks this one.
                checksum="md5:458a0a0ab8e5f1cb4516d7400568e460",
            ),
        ),
        images={"test": 10000},
        preprocessing="shorter side to 32 pixels (bilinear, antialiased), centre 32×32",
    )
