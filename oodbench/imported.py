"""Image sets that ``oodbench data`` has put into the folder of image data.

A set called NAME lies in ``<data root>/NAME/``: ``set.json`` (a `Manifest`), and for each split
``<split>.npy`` (uint8 [N, 3, H, W], opened without reading it into memory) and ``<split>.json``
(ids, and labels or null). The manifest is written last: with it all is there.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import DamagedFileError, RequestError
from oodbench.files import data_root
from oodbench.images import Card, Images, ImageSet, Part, Suite
from oodbench.randomness import generator
from oodbench.registry import entries, load

SCHEMA = 1
_MANIFEST = "set.json"


@dataclass(frozen=True)
class Split:
    """A split as it was imported.

    Attributes:
        images: Number of images.
        shape: Shape [3, H, W] of each.
        digest: sha256 of ids, labels and pixels (`Images.digest`).
    """

    images: int
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What is known of an imported set.

    Attributes:
        name: Its name.
        source: What it was imported from: ``file`` or ``folder`` name, ``sha256`` of an archive;
            of several, the name of each, with ``sha256 …`` or ``folder``.
        official: Whether it came from the published archive, its checksum verified.
        note: What tables that use it have to say of it; empty for a complete official archive.
        preprocessing: What was done to the images, such as ``shorter side to 32, centre crop``.
        splits: The splits by name.
        classes: Names of the classes in the order of the labels, or None.
        unreadable: Names of files that could not be read as images.
        imported: Date, ``YYYY-MM-DD``.
        schema: Version of this form.
    """

    name: str
    source: Mapping[str, str]
    official: bool
    note: str
    preprocessing: str
    splits: Mapping[str, Split]
    classes: tuple[str, ...] | None = None
    unreadable: tuple[str, ...] = ()
    imported: str = ""
    schema: int = SCHEMA

    def told(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def is_imported(root: Path, name: str) -> bool:
    """Whether a set is there, whole.

    What imports leave beside the sets when they are killed has a dot before its name, and is none.
    """
    named = bool(name) and Path(name).name == name and not name.startswith(".")
    return named and (root / name / _MANIFEST).is_file()


def imported_names(root: Path) -> list[str]:
    """Return the names of all sets that are there."""
    there = [path.parent.name for path in root.glob(f"*/{_MANIFEST}")]
    return sorted(name for name in there if is_imported(root, name))


def manifest_path(folder: Path) -> Path:
    """Return the file of a set's manifest."""
    return folder / _MANIFEST


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a set.

    Raises:
        DamagedFileError: If it is none, cannot be read or was written by a newer oodbench.
    """
    path = manifest_path(folder)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] > SCHEMA:
            raise DamagedFileError(f"{path} was written by a newer oodbench; upgrade oodbench")
        splits = {
            name: Split(one["images"], tuple(one["shape"]), one["digest"])
            for name, one in told["splits"].items()
        }
        classes = None if told["classes"] is None else tuple(told["classes"])
        unreadable = tuple(told["unreadable"])
        return Manifest(**told | {"splits": splits, "classes": classes, "unreadable": unreadable})
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({type(error).__name__}); import the set again with --force"
        ) from error


class PackedImages(Images):
    """A split of an imported set, read from disk as it is needed."""

    def __init__(self, folder: Path, split: str) -> None:
        """Open ``<folder>/<split>.npy`` and ``.json``.

        Raises:
            DamagedFileError: If they are not what an import writes.
        """
        path = folder / f"{split}.npy"
        try:
            self._pixels = np.load(path, mmap_mode="r", allow_pickle=False)
            named = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            self._ids = tuple(named["ids"])
            labels = named["labels"]
            self._labels = None if labels is None else np.asarray(labels, dtype=np.int64)
            whole = (
                self._pixels.dtype == np.uint8
                and self._pixels.ndim == 4
                and len(self._pixels) == len(self._ids)
                and (self._labels is None or len(self._labels) == len(self._ids))
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(
                f"{path} cannot be read ({type(error).__name__}); import the set again"
            ) from error
        if not whole:
            raise DamagedFileError(f"{path} does not fit its ids; import the set again")

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images: their paths in the source."""
        return self._ids

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each image, or None."""
        return self._labels

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images at ``indices``."""
        return np.asarray(self._pixels[np.asarray(indices, dtype=np.int64)])


class ImportedSet(ImageSet):
    """A set with a card of its own that ``oodbench data`` downloads or imports.

    A plugin is a subclass that names itself and gives its card.

    Attributes:
        name: Folder under the data root, and name on the command line.
        form: Name of the published form that its files have, as `oodbench.data` reads it; empty
            where it is published as pictures or as an array.
        resampling: Filter that the import resizes pictures with; None where it cuts out their
            centre as it is.
        validation: Images held out of ``train`` for ``val`` where the set publishes no such split;
            drawn evenly over it, the same for everybody.
    """

    name: str
    form: ClassVar[str] = ""
    resampling: ClassVar[str | None] = "bilinear"
    validation: ClassVar[int] = 0

    def left_out(self, image_id: str) -> bool:
        """Whether an image that was imported is not used by default."""
        return False

    def open(self, split: str, root: Path) -> Images:
        """Open a split of what was imported.

        Raises:
            RequestError: If it is not there, with the command that gets it.
            DamagedFileError: If it is damaged.
        """
        folder = root / self.name
        if not is_imported(root, self.name):
            raise RequestError(
                f"the image set {self.name} is not in {root}; get it with: "
                f"{how_to_get([self], root)}"
            )
        source, held_out = self._source(split, root)
        if self.lacking(split, root):
            there = ", ".join(read_manifest(folder).splits)
            raise RequestError(
                f"the image set {self.name} in {root} has {there}, not {source}; get it with: "
                f"{how_to_get([self], root)}"
            )
        images: Images = PackedImages(folder, source)
        positions = np.arange(len(images), dtype=np.int64)
        used = np.asarray([not self.left_out(name) for name in images.ids], dtype=bool)
        if used.all() and not held_out:
            return images
        positions = positions[used]
        if held_out:
            order = generator(0, "validation", self.name).permutation(len(positions))
            chosen = np.sort(order[: min(self.validation, len(order) // 2)])
            mask = np.zeros(len(positions), dtype=bool)
            mask[chosen] = True
            positions = positions[mask if split == "val" else ~mask]
        return Part(images, positions)

    def note(self, root: Path) -> str:
        """Return the note of the import, or of the card where nothing is imported."""
        if not is_imported(root, self.name):
            return self.card.note
        return read_manifest(root / self.name).note or self.card.note

    def lacking(self, split: str, root: Path) -> bool:
        """Whether a split is not in ``root``."""
        if not is_imported(root, self.name):
            return True
        return self._source(split, root)[0] not in read_manifest(root / self.name).splits

    def _source(self, split: str, root: Path) -> tuple[str, bool]:
        """Return the split that was imported, and whether only a part of it is meant."""
        held_out = split in ("train", "val") and bool(self.validation)
        if held_out and "val" not in read_manifest(root / self.name).splits:
            return "train", True
        return split, False


def how_to_get(sets: Sequence[ImportedSet], root: Path) -> str:
    """Return the commands that get some sets into ``root``, those to be downloaded in one."""
    names = " ".join(one.name for one in sets if one.card.downloadable)
    commands = [f"oodbench data download {names}{_into(root)}"] if names else []
    commands += [import_command(one.name, root) for one in sets if not one.card.downloadable]
    return "; ".join(commands)


def import_command(name: str, root: Path) -> str:
    """Return the command that imports a set into ``root``."""
    return f"oodbench data import {name} --from ARCHIVE_OR_FOLDER{_into(root)}"


def _into(root: Path) -> str:
    """Return the option that names a folder of image data; empty for the default one."""
    return "" if root == data_root() else f" --data-root {shlex.quote(str(root))}"


class UserSet(ImportedSet):
    """A set of a user's own images, imported under a name that no plugin has."""

    validation = 1_000

    def __init__(self, name: str, root: Path) -> None:
        manifest = read_manifest(root / name)
        self.name = name
        self.classes = manifest.classes
        self.card = Card(
            title=name,
            source=", ".join(manifest.source.values()),
            licence="the user's own",
            note=manifest.note,
            preprocessing=manifest.preprocessing,
        )


def user_suite(name: str, root: Path) -> Suite:
    """Return a suite whose in-distribution set is an imported one with classes.

    Raises:
        RequestError: If it has no classes, or no splits to train and test on.
    """
    manifest = read_manifest(root / name)
    if manifest.classes is None or not {"train", "test"} <= set(manifest.splits):
        raise RequestError(
            f"{name} cannot be a suite: it needs class folders below train/ and test/; it has the"
            f" splits {', '.join(manifest.splits)}"
            + ("" if manifest.classes else " and no classes")
        )
    for entry in entries("datasets"):
        plugin = load("datasets", entry)
        found = plugin.of(name, len(manifest.classes)) if issubclass(plugin, Suite) else None
        if found is not None:
            return found
    raise RequestError("no suite is there that an imported set could be run under")
