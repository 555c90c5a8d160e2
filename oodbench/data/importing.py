"""Image sets made from folders, archives and published files."""

import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from oodbench.data.merging import Present, carry_over, merged, present
from oodbench.data.packing import SplitWriter, put_in_place, recover, staged
from oodbench.data.readers import Published, Reader
from oodbench.data.sources import Source, SourceError, file_digest, shown
from oodbench.data.understanding import understood
from oodbench.errors import RequestError
from oodbench.files import write_atomically
from oodbench.images import Archive, Card
from oodbench.imported import (
    ImportedSet,
    Manifest,
    Split,
    manifest_path,
)
from oodbench.progress import Progress

_NAMED = 5
_REASONS = 3
_LARGEST_SIDE = 1024


@dataclass(frozen=True)
class Outcome:
    """What an import did.

    Attributes:
        manifest: The set as it is there now.
        changed: Whether its images were written.
    """

    manifest: Manifest
    changed: bool


def import_set(
    name: str,
    known: ImportedSet | None,
    source: Source,
    root: Path,
    progress: Progress,
    *,
    note: str = "",
    side: int = 32,
    force: bool = False,
) -> Outcome:
    """Import images as the set ``name``.

    Args:
        name: Name of the set.
        known: Its plugin, or None for a set of the user's own.
        source: Where the images come from.
        root: Folder of image data.
        progress: Reports how far it is.
        note: What tables that use the set have to say of it, in place of the automatic one.
        side: Height and width of the images.
        force: Whether another set of that name is replaced, whatever state it is in.

    Raises:
        SourceError: If the source holds no images, or none that can be taken; as of the others,
            nothing is left of it then.
        RequestError: If the name is that of another set, or nothing can be read or written.
        DamagedFileError: If the manifest of the set that is there cannot be read.
    """
    if not 1 <= side <= _LARGEST_SIDE:
        raise RequestError(f"--side {side}: 1 to {_LARGEST_SIDE} pixels")
    recover(root)
    target = root / name
    there = None if force else present(target)
    resampling = known.resampling if known else "bilinear"
    if there is not None and _same_file(there, source.told(), resampling, side):
        return _kept(there, note and _note(known, there.manifest, note))
    if there is None and not force:
        _refuse_if_not_imported(target)
    reader = understood(name, known, source)
    reader.resampling = resampling
    for remark in reader.remarks:
        progress.note(f"{name}: {remark}")
    with staged(root, name) as folder:
        manifest = _packed(name, known, source, reader, side, folder, progress)
        if there is None:
            manifest = replace(manifest, note=_note(known, manifest, note))
        else:
            manifest = merged(there, manifest)
            own = note or _own_note(known, there.manifest)
            manifest = replace(manifest, note=_note(known, manifest, own))
            if _adds_nothing(manifest, there):
                return _kept(there, note and manifest.note)
            if there.damage:
                progress.note(f"{next(iter(there.damage.values()))}; it is replaced")
            carry_over(there, folder)
        _write(manifest, folder)
        put_in_place(folder, target)
    return Outcome(manifest, changed=True)


def _packed(
    name: str,
    known: ImportedSet | None,
    source: Source,
    reader: Reader,
    side: int,
    folder: Path,
    progress: Progress,
) -> Manifest:
    """Write the images into ``folder``; return the manifest, without a note."""
    writers: dict[str, SplitWriter] = {}
    unreadable: dict[str, str] = {}
    try:
        with progress.task(f"importing {name}", reader.total) as task:
            for item in reader.items(side):
                if isinstance(item.pixels, str):
                    unreadable[item.image_id] = item.pixels
                else:
                    if item.split not in writers:
                        writers[item.split] = SplitWriter(folder, item.split, side)
                    writers[item.split].add(item)
                task.advance(1)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers:
        first = next((f"{name} ({why})" for name, why in unreadable.items()), "not there")
        raise SourceError(
            f"none of {len(unreadable):,} files of {shown(source.name)} can be read as an image; "
            f"the first is {first}"
        )
    for writer in writers.values():
        if writer.repeated_id is not None:
            raise SourceError(
                f"{shown(source.name)} has several images {shown(writer.repeated_id)}; import one "
                "of its folders"
            )
    classes = reader.classes
    labelled = {split: writer.labelled for split, writer in writers.items()}
    labels = set[int | None]().union(*(writer.labels for writer in writers.values()))
    if not any(labelled.values()):
        classes = None
    elif not labels - {None} <= set(range(len(classes or ()))):
        raise SourceError(f"the labels of {shown(source.name)} do not fit its classes")
    for path, data in reader.kept.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    splits: dict[str, Split] = {
        split: writers[split].finish(labelled[split])
        for split in ("train", "val", "test")
        if split in writers
    }
    total = len(unreadable) + sum(split.images for split in splits.values())
    _tell_unreadable(name, unreadable, total, progress)
    return Manifest(
        name=name,
        source=source.told(),
        official=known is not None and _official(known, source, reader),
        note="",
        preprocessing=_preprocessing(reader, side),
        splits=splits,
        classes=classes,
        unreadable=tuple(sorted(unreadable)),
        imported=datetime.date.today().isoformat(),
    )


def _preprocessing(reader: Reader, side: int) -> str:
    fitting = _fitting(reader.resampling, side) if reader.side != side else ""
    return "; ".join(filter(None, [reader.preparation, fitting])) or "none"


def _fitting(resampling: str | None, side: int) -> str:
    """Return how images are made of one size."""
    if resampling is None:
        return f"centre {side}×{side} cut out, not resized"
    return f"shorter side to {side} pixels ({resampling}, antialiased), centre {side}×{side}"


def _official(known: ImportedSet, source: Source, reader: Reader) -> bool:
    """Whether all that was read is as published, going by checksums."""
    if reader.checksums_right:
        return isinstance(reader, Published) and reader.form == known.form
    files = reader.files or source.files()
    return bool(files) and all(_is_published(file, known.card.archives) for file in files)


def _is_published(file: Path, archives: Sequence[Archive]) -> bool:
    """Whether a file is one of the archives of a set, of several the one of its name."""
    for archive in archives:
        kind, _, digest = archive.checksum.partition(":")
        named = len(archives) == 1 or archive.file == file.name
        if named and digest and file_digest(file, kind) == digest.lower():
            return True
    return False


def _note(known: ImportedSet | None, manifest: Manifest, note: str) -> str:
    card_note = known.card.note if known else ""
    own = note.strip() or (counted(known.card, manifest) if known else "")
    return "; ".join(filter(None, [card_note, own]))


def _own_note(known: ImportedSet | None, manifest: Manifest) -> str:
    """Return the note that a user gave to a set that is there; empty for the automatic one."""
    if manifest.note == _note(known, manifest, ""):
        return ""
    card_note = known.card.note if known else ""
    return manifest.note.removeprefix(f"{card_note}; ") if card_note else manifest.note


def counted(card: Card, manifest: Manifest) -> str:
    """Return how many images of the complete set there are; empty where all are."""
    parts = []
    for split, there in manifest.splits.items():
        complete = card.images.get(split, there.images)
        if there.images != complete:
            which = f" {split}" if len(card.images) > 1 else ""
            parts.append(f"{there.images:,} of {complete:,}{which} images")
    if not parts:
        return ""
    return f"{manifest.name}: {', '.join(parts)}" + (
        "" if manifest.official else ", not the official archive"
    )


def _same_file(there: Present, told: Mapping[str, str], resampling: str | None, side: int) -> bool:
    """Whether a sound set was imported from the same file or files, at the same size and so."""
    manifest = there.manifest
    sizes = {split.shape for split in manifest.splits.values()}
    same = "folder" not in told and told == manifest.source and sizes == {(3, side, side)}
    other = "bilinear" if resampling is None else None
    return same and not there.damage and _fitting(other, side) not in manifest.preprocessing


def _adds_nothing(manifest: Manifest, there: Present) -> bool:
    """Whether a set is already there, sound, as it would be after an import."""
    old = there.manifest
    return not there.damage and (manifest.splits, manifest.classes, manifest.official) == (
        old.splits,
        old.classes,
        old.official,
    )


def _kept(there: Present, note: str) -> Outcome:
    """Leave a set as it is, save for a note that was asked for."""
    manifest = there.manifest
    if note and note != manifest.note:
        manifest = replace(manifest, note=note)
        _write(manifest, there.folder)
    return Outcome(manifest, changed=False)


def _refuse_if_not_imported(target: Path) -> None:
    """Refuse to replace something else."""
    try:
        foreign = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise RequestError(f"{target} cannot be read: {error.strerror or error}") from None
    if foreign:
        raise RequestError(
            f"{target} was not written by an import; move it away, or --force replaces it"
        )


def _tell_unreadable(
    name: str, unreadable: Mapping[str, str], total: int, progress: Progress
) -> None:
    """Tell how many files cannot be read, which, and the most frequent reasons."""
    if unreadable:
        names = sorted(unreadable)
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        reasons = Counter(unreadable.values()).most_common(_REASONS)
        progress.note(
            f"{name}: {len(names):,} of {total:,} files cannot be read as an image and are left "
            f"out: {', '.join(names[:_NAMED])}{more}; "
            + "; ".join(f"{why} ({count:,})" for why, count in reasons)
        )


def _write(manifest: Manifest, folder: Path) -> None:
    text = json.dumps(manifest.told(), indent=1, ensure_ascii=False) + "\n"

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_atomically(manifest_path(folder), write)
