"""The most damaged images: as they were, what was added, and as the detector was fooled by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodbench.errors import RequestError
from oodbench.keeping import kept_path, read_kept
from oodbench.leaderboard.parting import Record
from oodbench.plots import Asked, style
from oodbench.plots.source import Results, opened

Pixels = npt.NDArray[np.uint8]

MOST = 40


@dataclass(frozen=True)
class Shown:
    """An image of the gallery.

    Attributes:
        image_id: Its id.
        image_set: Name of its OOD set.
        attack: Name of the perturbation.
        tag: What made it, such as the corruption or the objective.
        original: uint8 [3, H, W].
        attacked: uint8 [3, H, W].
        before: Score of the original.
        after: Judged score of the attacked image.
        threshold: The largest score that is accepted.
    """

    image_id: str
    image_set: str
    attack: str
    tag: str
    original: Pixels
    attacked: Pixels
    before: float
    after: float
    threshold: float

    @property
    def farthest(self) -> int:
        """Largest change of a pixel, in grey levels."""
        return int(np.abs(self.attacked.astype(np.int16) - self.original).max())


def amplified(original: Pixels, attacked: Pixels) -> tuple[Pixels, float]:
    """Return a perturbation made visible, grey where nothing changed, and how much amplified.

    The largest change of the image becomes the end of the range, if it is not beyond that.
    """
    change = attacked.astype(np.float64) - original
    largest = np.abs(change).max()
    factor = max(127 / largest, 1.0) if largest else 1.0
    return (128 + change * factor).round().clip(0, 255).astype(np.uint8), factor


def most_damaged(results: Results, count: int) -> tuple[list[Shown], str, list[str]]:
    """Return the kept images of one detector whose score fell most, its name, and notes.

    It is the first detector and training seed of which images were kept. An image that several
    perturbations changed is shown once, as the worst of them left it.

    Raises:
        RequestError: If no image was kept of the records selected.
        DamagedFileError: If kept images are damaged.
    """
    found: list[Shown] = []
    name, others = "", []
    for title, cells in _by_network(results).items():
        if found:
            others += [title] if any(kept_path(results.path(r)).exists() for _, r in cells) else []
            continue
        for attack, record in cells:
            found = _worst([*found, *_shown(results, attack, record)], count)
        name = title
    if not found:
        raise RequestError(
            "no image was kept of the records selected; the same `oodbench run` once more with"
            " --keep-images 8 keeps some, without computing the records anew"
        )
    notes = [f"showing {name}; --detector and --seed choose among {', '.join(others)}"]
    return found, name, notes if others else []


def _by_network(results: Results) -> dict[str, list[tuple[str, Record]]]:
    """Return the records, each with the name of its perturbation, by detector and seed."""
    found: dict[str, list[tuple[str, Record]]] = {}
    for row, name in results.rows.items():
        for column, attack in results.columns.items():
            for seed, records in results.by_row[row].get(column, {}).items():
                cells = found.setdefault(f"{name}, seed {seed}", [])
                cells += [(attack, record) for record in records.values()]
    return found


def _shown(results: Results, attack: str, record: Record) -> list[Shown]:
    """Return the images kept of a record."""
    kept = read_kept(results.path(record), record)
    if kept is None:
        return []
    return [
        Shown(
            image_id=str(kept.ids[i]),
            image_set=record["set"],
            attack=attack,
            tag=str(kept.tags[i]),
            original=kept.original[i],
            attacked=kept.attacked[i],
            before=float(kept.before[i]),
            after=float(kept.after[i]),
            threshold=float(record["threshold"]),
        )
        for i in range(len(kept))
    ]


def _worst(images: Sequence[Shown], count: int) -> list[Shown]:
    """Return those whose score fell most, each image once."""
    ranked = sorted(images, key=lambda one: (one.after - one.before, one.image_set, one.image_id))
    once: dict[tuple[str, str], Shown] = {}
    for one in ranked:
        once.setdefault((one.image_set, one.image_id), one)
    return list(once.values())[:count]


def figure(asked: Asked) -> style.Drawn:
    """Draw a row for each image."""
    if not 1 <= asked.images <= MOST:
        raise RequestError(f"--images {asked.images}: 1 to {MOST} can be shown")
    results = opened(asked)
    found, name, notes = most_damaged(results, asked.images)
    drawn = style.new_figure(
        8.2, 1.0 + 1.45 * len(found), f"Images whose score fell most: {name}, {results.title}"
    )
    axes = drawn.subplots(
        len(found), 4, squeeze=False, width_ratios=[1, 1, 1, 2.5], gridspec_kw={"wspace": 0.02}
    )
    for row, one in zip(axes, found, strict=True):
        change, factor = amplified(one.original, one.attacked)
        for panel, pixels in zip(row, (one.original, change, one.attacked), strict=False):
            panel.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
        row[1].set_xlabel(f"×{factor:.3g}", fontsize=7.5, labelpad=2)
        for panel in row:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        row[3].text(
            0, 0.5, "\n".join(_told(one)), va="center", ha="left", fontsize=8, linespacing=1.45
        )
    for panel, title in zip(
        axes[0], ("original", "perturbation, amplified", "attacked", ""), strict=True
    ):
        panel.set_title(title, fontsize=8.5)
    style.footed(
        drawn,
        [
            "Score: higher is more OOD; at most the threshold is accepted as ID. Perturbation: grey"
            " is no change; amplified until the largest change is the end of the range."
        ],
    )
    return style.Drawn(drawn, found, [*results.notes, *notes])


def _told(one: Shown) -> list[str]:
    def verdict(score: float) -> str:
        return "accepted" if score <= one.threshold else "rejected"

    return [
        style.clipped(f"{one.image_set}: {one.image_id}", 48),
        style.clipped(one.attack, 48),
        style.clipped(f"by {one.tag}", 48),
        f"score {one.before:.4g} → {one.after:.4g}, threshold {one.threshold:.4g}",
        f"{verdict(one.before)} → {verdict(one.after)};"
        f" largest change {one.farthest} of 255 levels",
    ]
