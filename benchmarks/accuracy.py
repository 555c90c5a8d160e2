"""How often are images classified right, of all test images and of those held out of training?

Records are of a part of the test images, of which accuracy is told to two points. Networks that
ship are used as they are, and are the rows by default; the page has others too, measured as they
were taught. CIFAR-10 must have been imported.

    python benchmarks/accuracy.py --write
"""

from __future__ import annotations

import argparse

import torch
from held_out import Look, show_rows

from oodbench.intervals import proportion_interval
from oodbench.threat import to_float

ROWS = ",".join(
    (
        "msp",
        "msp@zoom",
        "rowl@zoom",
        "atom.mixed=true@zoom",
        "acet.mixed=true@zoom",
        "atom.mixed=true+weight=4+tta=mirror@fast@conv6wide",
    )
)
AT_ONCE = 500
PARTS = {"val": "held out", "test": "test"}


def row(title: str, asked: argparse.Namespace) -> list[str]:
    """Return the accuracy of a row's network on each part, with its exact interval."""
    look = Look(title, asked)
    model = look.subject.model
    cells = [title]
    for part in PARTS:
        images = look.bench.images(asked.suite, look.suite.id_set, part)
        assert images.labels is not None
        pixels = torch.from_numpy(images.batch(range(len(images))))
        with torch.no_grad():
            logits = torch.cat([model.logits(to_float(x)) for x in torch.split(pixels, AT_ONCE)])
        # Not what a detector predicts: that of ROWL may be none of the classes.
        predicted = logits[:, : model.classes].argmax(1).numpy()
        right = int((predicted == images.labels).sum())
        low, high = proportion_interval(right, len(images))
        found = right / len(images)
        cells.append(f"{100 * found:.2f} ({100 * low:.1f} to {100 * high:.1f}) of {len(images):,}")
    return cells


if __name__ == "__main__":
    show_rows(
        __file__,
        "How often are images classified right?",
        "In-distribution accuracy in percent, with 95 % intervals over images.",
        row,
        ["detector", *PARTS.values()],
        rows=ROWS,
    )
