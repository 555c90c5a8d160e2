"""Image data as an import leaves them, written here without the importer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from oodbench.images import ArrayImages

SIDE = 32


def write_set(
    root: Path,
    name: str,
    counts: Mapping[str, int],
    *,
    classes: Sequence[str] | None = None,
    note: str = "",
    official: bool = False,
    ids: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Path:
    """Write a set of noisy images, each class with a colour of its own; return its folder."""
    folder = root / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, *name.encode()])
    splits = {}
    for split, count in counts.items():
        labels = None if classes is None else np.arange(count) % len(classes)
        colour = rng.integers(40, 215, (len(classes or "x"), 3, 1, 1))[
            0 if labels is None else labels
        ]
        pixels = (colour + rng.normal(0, 20, (count, 3, SIDE, SIDE))).clip(0, 255).astype(np.uint8)
        # A class of Tiny ImageNet that no in-distribution set has, where that is looked for.
        stem = "n02666196_" if name.startswith("tinyimagenet") else ""
        names = list(ids[split]) if ids else [f"{split}/{stem}{i:05}" for i in range(count)]
        np.save(folder / f"{split}.npy", pixels)
        known = None if labels is None else labels.tolist()
        (folder / f"{split}.json").write_text(json.dumps({"ids": names, "labels": known}))
        digest = ArrayImages(pixels, names, labels).digest
        splits[split] = {"images": count, "shape": [3, SIDE, SIDE], "digest": digest}
    manifest = {
        "schema": 1,
        "name": name,
        "source": {"folder": name},
        "official": official,
        "note": note,
        "preprocessing": "none",
        "splits": splits,
        "classes": None if classes is None else list(classes),
        "unreadable": [],
        "imported": "2026-01-01",
    }
    (folder / "set.json").write_text(json.dumps(manifest))
    return folder


def write_registered(root: Path) -> None:
    """Write a small set for every set of the registry that is imported."""
    from oodbench.images import Suite
    from oodbench.imported import ImportedSet
    from oodbench.registry import entries, load

    for entry in entries("datasets"):
        found = load("datasets", entry)()
        if isinstance(found, Suite):
            if not found.id_set:
                continue
            found = found.image_set(found.id_set)
        if isinstance(found, ImportedSet) and not (root / found.name).exists():
            labelled = found.classes is not None
            counts = {"train": 40, "test": 40} if labelled else {"train": 24, "test": 24}
            write_set(root, found.name, counts, classes=found.classes)
