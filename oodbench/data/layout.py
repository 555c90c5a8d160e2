"""Which split and class each picture of a folder or archive belongs to, by structure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from oodbench.data.sources import shown

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders that are splits, and the split each is."""
_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
)

_NAMED = 5


@dataclass(frozen=True)
class Place:
    """Where a picture belongs.

    Attributes:
        path: Its path in the source.
        image_id: Its path below the folders that wrap everything.
        split: Its split, or None where the source has none.
        group: Name of its class folder, or None.
    """

    path: str
    image_id: str
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Arrangement:
    """What the structure of a source says.

    Attributes:
        places: The pictures, sorted by id.
        remarks: What a user should know of how it was understood.
    """

    places: Sequence[Place]
    remarks: Sequence[str] = ()


def pictures_among(paths: Sequence[str]) -> list[str]:
    """Return the paths that should be pictures; those without a suffix where none has one."""
    seen = [path for path in paths if not is_hidden(path)]
    named = [path for path in seen if path.lower().endswith(_SUFFIXES)]
    return named or [path for path in seen if "." not in path.rpartition("/")[2]]


def passed_over(paths: Sequence[str], pictures: Sequence[str]) -> list[str]:
    """Return what is to be said of files that are not taken for pictures, by their endings."""
    taken = set(pictures)
    by_ending: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path not in taken and not is_hidden(path):
            name = PurePosixPath(path)
            by_ending[name.suffix.lower() or "no ending"].append(path)
    if not by_ending:
        return []
    kinds = [
        f"{shown(ending)} ({len(found):,}, {'such as ' * (len(found) > 1)}{shown(min(found))})"
        for ending, found in sorted(by_ending.items())
    ]
    more = f" and {len(kinds) - _NAMED:,} more endings" if len(kinds) > _NAMED else ""
    count = sum(map(len, by_ending.values()))
    return [
        f"files left out ({count:,}), as their names do not end like a picture's: "
        f"{', '.join(kinds[:_NAMED])}{more}"
    ]


def is_hidden(path: str) -> bool:
    """Whether a path is one that systems put beside a user's files, such as ``__MACOSX/._1``."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def arrange(paths: Sequence[str]) -> Arrangement:
    """Decide which split and class each picture belongs to.

    A folder that holds everything is skipped. Then come folders of splits, if there are any, then
    those of classes, if there are any: ``dtd/images/banded/1.jpg``, ``train/dog/1.png``,
    ``tiny-imagenet-200/train/n01443537/images/1.JPEG``, ``iSUN/iSUN_patches/1.jpeg``.
    """
    split_paths = [tuple(path.split("/")) for path in paths]
    depth = _wrapping(split_paths, 0, outermost=True)
    heads = {parts[depth] for parts in split_paths if len(parts) > depth + 1}
    known = {head for head in heads if head.lower() in SPLITS}
    # A class may be called train; two such names, or nothing else, are splits.
    if known != heads and len({SPLITS[head.lower()] for head in known}) < 2:
        known = set()
    remarks = []
    by_split: dict[str | None, list[tuple[str, ...]]] = defaultdict(list)
    for parts in split_paths:
        if not known:
            by_split[None].append(parts)
        elif len(parts) > depth + 1 and parts[depth] in known:
            by_split[SPLITS[parts[depth].lower()]].append(parts)
    outside = len(paths) - sum(map(len, by_split.values()))
    if outside:
        remarks.append(f"{outside:,} pictures lie outside {', '.join(sorted(known))}: left out")
    start = depth + 1 if known else depth
    classes = {
        folder
        for group in by_split.values()
        for folders in [_folders(group, start)]
        if len(folders) > 1
        for folder in folders
    }
    places = []
    for split, group in by_split.items():
        folders = _folders(group, start)
        at = start
        if not (len(folders) == 1 and folders <= classes):
            at = _wrapping(group, start)
        inside = all(len(parts) > at + 1 for parts in group)
        if not inside and _folders(group, at):
            remarks.append("some pictures lie in folders and some do not: no classes are taken")
        places += [
            Place("/".join(parts), "/".join(parts[depth:]), split, parts[at] if inside else None)
            for parts in group
        ]
    places.sort(key=lambda place: place.image_id)
    return Arrangement(places, remarks)


def _wrapping(paths: Sequence[tuple[str, ...]], depth: int, *, outermost: bool = False) -> int:
    """Return at which depth there is more than one folder; the outermost stop at a split."""
    while True:
        heads = {parts[depth] if len(parts) > depth + 1 else "" for parts in paths}
        if len(heads) != 1 or "" in heads:
            return depth
        if outermost and any(head.lower() in SPLITS for head in heads):
            return depth
        depth += 1


def _folders(paths: Sequence[tuple[str, ...]], depth: int) -> set[str]:
    return {parts[depth] for parts in paths if len(parts) > depth + 1}
