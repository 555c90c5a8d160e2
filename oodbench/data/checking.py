"""Whether imported images are still what was imported."""

from pathlib import Path

from oodbench.errors import DamagedFileError
from oodbench.imported import Manifest, PackedImages, read_manifest


def differences(folder: Path, manifest: Manifest, *, pixels: bool = True) -> dict[str, str]:
    """Return what of a set is not as its manifest says, a line for each split; empty if all is.

    Args:
        folder: Folder of the set.
        manifest: Its manifest.
        pixels: Whether ids, labels and pixels are compared with their digests, which reads all
            images; otherwise only whether the files are there and have as many images.
    """
    found = {}
    for name, split in manifest.splits.items():
        path = folder / f"{name}.npy"
        try:
            images = PackedImages(folder, name)
        except DamagedFileError as error:
            found[name] = f"{path} is not there" if not path.exists() else str(error)
            continue
        if len(images) != split.images:
            found[name] = f"{path} has {len(images):,} images, not {split.images:,}"
        elif pixels and images.digest != split.digest:
            found[name] = f"{path} or its .json was changed: its digest is not that of the import"
    return found


def verified(folder: Path) -> tuple[Manifest | None, list[str]]:
    """Return the manifest of a set, if it can be read, and what is wrong with the set."""
    try:
        manifest = read_manifest(folder)
    except DamagedFileError as error:
        return None, [str(error)]
    return manifest, list(differences(folder, manifest).values())
