"""Sets that are there already, and what an import may do to them without being forced."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from oodbench.data.checking import differences
from oodbench.errors import RequestError
from oodbench.imported import Manifest, is_imported, manifest_path, read_manifest


@dataclass(frozen=True)
class Present:
    """A set that is there.

    Attributes:
        folder: Its folder.
        manifest: What was imported.
        damage: What is no longer as it was imported, by split; empty for a sound set.
    """

    folder: Path
    manifest: Manifest
    damage: Mapping[str, str]


def present(folder: Path) -> Present | None:
    """Return the set that lies in a folder, every pixel compared with its digests, or None.

    Raises:
        DamagedFileError: If its manifest cannot be read, or is of a newer oodbench.
    """
    if not is_imported(folder.parent, folder.name):
        return None
    manifest = read_manifest(folder)
    return Present(folder, manifest, differences(folder, manifest))


def merged(there: Present, new: Manifest) -> Manifest:
    """Return the manifest of a set with what an import adds to it, or mends of it.

    Splits that both have must be the same: those of the import take their place, so what was
    damaged is sound again. The others of both stay.

    Args:
        there: The set that is there.
        new: What is imported under its name.

    Raises:
        RequestError: If it is another set, or would leave damaged splits beside sound ones.
    """
    old = there.manifest
    kept = {name: split for name, split in old.splits.items() if name not in new.splits}
    if (
        any(new.splits.get(name, split) != split for name, split in old.splits.items())
        or len({split.shape for split in (*kept.values(), *new.splits.values())}) > 1
        or (None not in (old.classes, new.classes) and old.classes != new.classes)
    ):
        raise RequestError(
            f"{there.folder} holds another set of that name ({_told(old)}); --force replaces it"
        )
    lost = [there.damage[name] for name in kept if name in there.damage]
    if lost:
        raise RequestError(f"{lost[0]}; import all its splits, or --force replaces the set")
    splits = {**kept, **new.splits}
    sound = old.official and new.splits.keys() <= old.splits.keys()
    result = replace(
        new,
        official=(new.official or sound) and (old.official or not kept),
        splits={name: splits[name] for name in ("train", "val", "test") if name in splits},
        classes=new.classes or old.classes,
    )
    if not kept:
        return result
    return replace(
        result,
        source=_sources(old.source, new.source),
        preprocessing=_preparations(old.preprocessing, new.preprocessing),
        unreadable=tuple(sorted({*old.unreadable, *new.unreadable})),
    )


def carry_over(there: Present, folder: Path) -> None:
    """Put what a set has and ``folder`` has not into ``folder``, without its manifest.

    Raises:
        OSError: If it cannot be written.
    """

    def link(source: str, target: str) -> None:
        if os.path.exists(target):
            return
        try:
            os.link(source, target)
        except OSError:  # Some file systems have no links.
            shutil.copy2(source, target)

    shutil.copytree(
        there.folder,
        folder,
        copy_function=link,
        ignore=shutil.ignore_patterns(manifest_path(folder).name),
        dirs_exist_ok=True,
    )


def origin(manifest: Manifest) -> str:
    """Return the names of the files or the folders that a set came from."""
    return ", ".join(_by_name(manifest.source))


def _told(manifest: Manifest) -> str:
    counts = ", ".join(f"{split} {one.images:,}" for split, one in manifest.splits.items())
    return f"{counts}, from {origin(manifest)}"


def _by_name(source: Mapping[str, str]) -> dict[str, str]:
    """Return what a manifest has of its source, one entry a file or folder."""
    if "file" in source:
        return {source["file"]: f"sha256 {source.get('sha256', 'unknown')}"}
    if "folder" in source:
        return {source["folder"]: "folder"}
    return dict(source)


def _sources(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    first, second = _by_name(old), _by_name(new)
    return {
        name: ", ".join(dict.fromkeys(one[name] for one in (first, second) if name in one))
        for name in (*first, *second)
    }


def _preparations(old: str, new: str) -> str:
    steps = dict.fromkeys([*old.split("; "), *new.split("; ")])
    return "; ".join(step for step in steps if step != "none") or "none"
