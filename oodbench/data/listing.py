"""What image data there are, told."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from oodbench.data.checking import differences
from oodbench.data.importing import Outcome, counted
from oodbench.data.known import known_sets
from oodbench.data.merging import origin
from oodbench.errors import DamagedFileError
from oodbench.images import Card
from oodbench.imported import ImportedSet, Manifest, how_to_get, imported_names, read_manifest

_WIDTH = 80


def rows(root: Path) -> list[dict[str, Any]]:
    """Return all known sets and those of the user's own, as plain data.

    ``state`` is ``official`` (all of it, checksums verified), ``complete`` (as many images as
    published), ``partial``, ``stand-in`` (in place of another set), ``own``, ``damaged``,
    ``missing`` or ``withdrawn``. Files of a set that are missing or have too few images make it
    ``damaged``; pixels are not read.
    """
    known = known_sets()
    there = set(imported_names(root))
    found = [_row(root, name, one, name in there) for name, one in known.items()]
    return found + [_row(root, name, None, True) for name in sorted(there - known.keys())]


def _row(root: Path, name: str, known: ImportedSet | None, there: bool) -> dict[str, Any]:
    card = known.card if known else Card(name, "", "")
    complete = dict(card.images)
    row: dict[str, Any] = {
        "name": name,
        "title": card.title,
        "state": "missing",
        "splits": {split: {"images": 0, "of": of} for split, of in complete.items()},
        "bytes": 0,
        "source": "",
        "official": False,
        "note": card.note,
        "folder": None,
        "get": "",
    }
    if not there:
        if card.withdrawn:
            row |= {"state": "withdrawn", "note": card.withdrawn}
        elif known is not None:
            row["get"] = how_to_get([known], root)
        return row
    folder = root / name
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    row |= {"folder": str(folder), "bytes": size}
    try:
        manifest = read_manifest(folder)
    except DamagedFileError as error:
        return row | {"state": "damaged", "note": str(error)}
    wrong = differences(folder, manifest, pixels=False)
    if wrong:
        return row | {"state": "damaged", "note": "; ".join(wrong.values())}
    return row | {
        "state": _state(known, manifest),
        "splits": row["splits"]
        | {
            split: {"images": one.images, "of": complete.get(split), "digest": one.digest}
            for split, one in manifest.splits.items()
        },
        "source": origin(manifest),
        "official": manifest.official,
        "note": manifest.note,
        "unreadable": len(manifest.unreadable),
        "imported": manifest.imported,
    }


def _state(known: ImportedSet | None, manifest: Manifest) -> str:
    if known is None:
        return "own"
    if counted(known.card, manifest) or not set(known.card.images) <= set(manifest.splits):
        return "partial"
    if manifest.official:
        return "official"
    return "complete" if known.card.images else "stand-in"


def plain(found: Sequence[dict[str, Any]], root: Path) -> str:
    """Return rows as text of 80 columns, longer only for a word that does not fit."""
    there = [row for row in found if row["folder"]]
    lines = [f"in {root}" if there else f"no image data in {root}"]
    for row in there:
        lines += ["", *_entry(row)]
    absent = [row for row in found if not row["folder"]]
    if absent:
        width = max(len(row["name"]) for row in absent) + 2
        lines += ["", "not there:"]
        for row in absent:
            lines += _hanging(
                f"  {row['name']:<{width}}", row["get"] or f"withdrawn: {row['note']}"
            )
    return "\n".join(lines)


def _entry(row: dict[str, Any]) -> list[str]:
    head = f"{row['name']} ({row['state']})"
    counts = ", ".join(
        f"{split} {one['images']:,}"
        + (f" of {one['of']:,}" if one["of"] not in (None, one["images"]) else "")
        for split, one in row["splits"].items()
        if one["images"] or row["state"] != "damaged"
    )
    lines = [f"{head:<26} {counts}"]
    if row["state"] != "damaged":
        unreadable = f", {row['unreadable']:,} unreadable" if row["unreadable"] else ""
        lines += _hanging("  ", f"{_size(row['bytes'])} from {row['source']}{unreadable}")
        digests = [
            f"{split} {one['digest'][:12]}"
            for split, one in row["splits"].items()
            if "digest" in one
        ]
        lines += _hanging("  ", f"digest {', '.join(digests)}")
    if row["note"]:
        lines += _hanging("  ", f"note: {row['note']}")
    return lines


def _hanging(start: str, text: str) -> list[str]:
    return wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        # Paths and options are there to be copied.
        break_long_words=False,
        break_on_hyphens=False,
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def summary(outcome: Outcome, root: Path) -> str:
    """Return what an import did, in a line, and the note of the set in another."""
    manifest = outcome.manifest
    counts = ", ".join(f"{split} {one.images:,}" for split, one in manifest.splits.items())
    done = "imported" if outcome.changed else "already there, unchanged:"
    official = ", official" if manifest.official else ""
    lines = [f"{done} {manifest.name}: {counts}{official}; in {root / manifest.name}"]
    if manifest.note:
        lines.append(f"note: {manifest.note}")
    return "\n".join(lines)
