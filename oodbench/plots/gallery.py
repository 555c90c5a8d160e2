"""The most damaged images: as they were, what was added, and as the detector was fooled by."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodbench.errors import RequestError
from oodbench.keeping import read_kept
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

    Raises:
        RequestError: If no image was kept of the records selected.
    """
    found: dict[tuple[str, int], list[Shown]] = {}
    stale = 0
    for row, name in results.rows.items():
        for column, by_seed in results.by_row[row].items():
            for seed, records in by_seed.items():
                for record in records.values():
                    kept = read_kept(results.path(record), record)
                    if kept is None:
                        stale += 1
                        continue
                    title = results.columns[column]
                    threshold = float(record["threshold"])
                    found.setdefault((name, seed), []).extend(
                        Shown(
                            str(kept.ids[i]),
                            record["set"],
                            title,
                            str(kept.tags[i]),
                            kept.original[i],
                            kept.attacked[i],
                            float(kept.before[i]),
                            float(kept.after[i]),
                            threshold,
                        )
                        for i in range(len(kept))
                    )
    found = {key: images for key, images in found.items() if images}
    if not found:
        raise RequestError(
            "no image was kept of the records selected; the same `oodbench run` once more with"
            " --keep-images 8 keeps some, without computing the records anew"
        )
    (name, seed), images = next(iter(found.items()))
    notes = []
    if len(found) > 1:
        others = ", ".join(f"{other} seed {at}" for other, at in list(found)[1:])
        notes.append(f"showing {name} seed {seed}; --detector and --seed choose among {others}")
    images.sort(key=lambda one: (one.after - one.before, one.image_set, one.image_id))
    return images[:count], f"{name}, seed {seed}", notes


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
