"""Sets downloaded from where they are published."""

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from oodbench.data.archives import open_source
from oodbench.data.fetching import fetch, wrong
from oodbench.data.importing import Outcome, counted, import_set
from oodbench.data.merging import Present, present
from oodbench.data.packing import recover
from oodbench.data.sources import FolderSource, SourceError
from oodbench.errors import RequestError
from oodbench.files import writable_folder
from oodbench.images import Archive
from oodbench.imported import ImportedSet, import_command
from oodbench.progress import Progress

_FOLDER = ".downloads"
_SIDE = 32


def download_set(
    known: ImportedSet, root: Path, progress: Progress, *, keep: bool = False, force: bool = False
) -> Outcome:
    """Download a set and import it.

    Args:
        known: The set.
        root: Folder of image data.
        progress: Reports how far it is.
        keep: Whether the archives are kept, in ``<root>/.downloads``.
        force: Whether what is there under its name is replaced.

    Raises:
        RequestError: If it cannot be had.
        DamagedFileError: If the manifest of the set that is there cannot be read.
    """
    refuse_if_unavailable(known, root)
    recover(root)
    there = None if force else present(root / known.name)
    if there is not None:
        if _is_sufficient(known, there):
            return Outcome(there.manifest, changed=False)
        if not there.manifest.official and counted(known.card, there.manifest):
            raise RequestError(
                f"{there.folder} holds another {known.name} ({there.manifest.note}); --force "
                "replaces it"
            )
    folder = writable_folder(root / _FOLDER, "downloads")
    archives = known.card.archives
    try:
        files = [
            _fetched(known, archive, root, _bytes_after(known, i), progress)
            for i, archive in enumerate(archives)
        ]
        try:
            source = open_source(files[0]) if len(files) == 1 else FolderSource(folder, files)
            outcome = import_set(known.name, known, source, root, progress, side=_SIDE, force=force)
        except SourceError:
            # What has no checksum is not known to be right, and must be fetched again.
            _delete([file for file, one in zip(files, archives, strict=True) if not one.checksum])
            raise
        if not keep:
            _delete(files)
    finally:
        _remove_if_empty(folder)
    return outcome


def refuse_if_unavailable(known: ImportedSet, root: Path) -> None:
    """Refuse a set that cannot be downloaded, saying how to get it into ``root``.

    Raises:
        RequestError: If it was withdrawn, or no address is known.
    """
    card = known.card
    if card.withdrawn:
        raise RequestError(f"{known.name} can be had no more: {card.withdrawn}")
    if not card.downloadable:
        files = ", ".join(archive.file for archive in card.archives) or "its images"
        raise RequestError(
            f"{known.name} cannot be downloaded by itself; get {files} from {card.source} and use:"
            f" {import_command(known.name, root)}"
        )


def _is_sufficient(known: ImportedSet, there: Present) -> bool:
    """Whether a set that is there is sound and complete."""
    manifest = there.manifest
    complete = set(known.card.images) <= set(manifest.splits)
    whole = complete and (manifest.official or not counted(known.card, manifest))
    return whole and not there.damage


def _bytes_after(known: ImportedSet, position: int) -> int:
    """Return the bytes that a download takes after one of its archives, as far as is known.

    They are those of the archives to come, and twice those of the images: they are written as they
    come, and again in their order.
    """
    card = known.card
    images = 2 * sum(card.images.values()) * 3 * _SIDE * _SIDE
    return images + sum(archive.size for archive in card.archives[position + 1 :])


def _fetched(
    known: ImportedSet, archive: Archive, root: Path, reserve: int, progress: Progress
) -> Path:
    """Return an archive that lies in ``<root>/.downloads``, fetched if it is not there.

    While it is fetched, room for ``reserve`` more bytes is asked for.
    """
    target = root / _FOLDER / Path(archive.file).name
    by_hand = f"download it by hand from {archive.url} and use: {import_command(known.name, root)}"
    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RequestError(
            f"{target.name} is being downloaded by another process; wait for it"
        ) from None
    try:
        if not target.exists() or wrong(target, archive):
            fetch(archive, target, by_hand, progress, reserve=reserve)
    finally:
        lock.release()
        path.unlink(missing_ok=True)
    return target


def _delete(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink()


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
