"""Pictures of stored results, one kind a file, and of why outliers are mined.

`plot` draws one and writes it; `drawn` gives the figure of matplotlib, for a notebook.
"""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.errors import RequestError
from oodbench.progress import Progress

if TYPE_CHECKING:
    from oodbench.leaderboard.selection import Selection
    from oodbench.plots.style import Drawn

KINDS = {
    "roc": "ROC curves with the operating point at 95 % TPR",
    "scores": "score histograms of clean ID, clean OOD and attacked OOD images",
    "eps": "FPR at 95 % TPR and AUROC against the radius (run --eps 2/255,8/255)",
    "winners": "which corruption or objective won how often",
    "heatmap": "a metric of detectors by OOD sets",
    "gallery": "the most damaged images (run --keep-images 8)",
    "mining": "why outliers are mined, and why from a quantile on; reads no results",
}
"""What each kind of figure shows; each is a module here."""

FORMATS = (".png", ".svg")


def _everything() -> "Selection":
    # The leaderboard loads NumPy, which the help of the command line does without.
    from oodbench.leaderboard.selection import Selection

    return Selection()


@dataclass(frozen=True)
class Asked:
    """What a figure is to show.

    Attributes:
        results: Folder of results; None takes ``./oodbench-results``, or the shipped reference
            where that does not exist.
        reference: Whether to take the shipped reference.
        selection: Which records count.
        metric: The metric of a heat map, a field of a record.
        images: Images of a gallery, at most.
        progress: Where long work reports how far it is.
    """

    results: str | Path | None = None
    reference: bool = False
    selection: "Selection" = field(default_factory=_everything)
    metric: str = "fpr95"
    images: int = 8
    progress: Progress | None = None


def drawn(kind: str, asked: Asked | None = None) -> "Drawn":
    """Draw a figure.

    Raises:
        RequestError: If there is no such kind, or nothing to show.
        DamagedFileError: If a file that is to be shown is damaged.
    """
    if kind not in KINDS:
        raise RequestError(f"no plot is called {kind!r}; there are {', '.join(KINDS)}")
    from oodbench.plots.style import styled

    with styled():
        found: Drawn = import_module(f"oodbench.plots.{kind}").figure(asked or Asked())
    return found


def plot(kind: str, asked: Asked | None = None, out: str | Path | None = None) -> "Drawn":
    """Draw a figure and write it as PNG or SVG, as its name ends.

    Args:
        kind: One of `KINDS`.
        asked: What it is to show.
        out: File to write; None is ``oodbench-KIND.png`` in the working folder.

    Returns:
        What was drawn, with its file.

    Raises:
        RequestError: If there is nothing to show, or the file cannot be written.
    """
    path = checked_out(kind, out)
    from oodbench.plots.style import saved

    return saved(drawn(kind, asked), path)


def checked_out(kind: str, out: str | Path | None) -> Path:
    """Return the file that a figure is written to.

    Raises:
        RequestError: If its name does not end as a format does, or its folder is not there.
    """
    path = Path(f"oodbench-{kind}.png" if out is None else out)
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"--out {path}: write a file that ends in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise RequestError(f"--out {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise RequestError(f"--out {path}: it is a folder; give a file")
    return path
