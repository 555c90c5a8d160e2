"""The scores behind records, aligned by image."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from oodbench.errors import DamagedFileError
from oodbench.leaderboard.parting import Record
from oodbench.metrics import Floats
from oodbench.paired import Scored
from oodbench.records import Arrays, arrays_digest, read_named, read_scores

_ID_SCORES = "id--*.npz"


class Evidence:
    """Reads the scores of records; those that several share once.

    Args:
        files: Records by their files.
        tell: Told of what is damaged.
    """

    def __init__(self, files: Mapping[Path, Record], tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._files: dict[str, tuple[Path, Record]] = {}
        for path, record in files.items():
            # A copy of a record lies without its scores.
            if path.with_suffix(".npz").exists() or record["identity"] not in self._files:
                self._files[record["identity"]] = (path, record)
        self._known: dict[str, tuple[tuple[str, ...], Floats]] = {}
        self._looked: set[Path] = set()
        self._scored: dict[str, tuple[tuple[str, ...], Scored] | None] = {}

    def scored(self, identity: str) -> tuple[tuple[str, ...], Scored] | None:
        """Return ids of the ID and OOD images of a record and its scores in their order.

        None where scores or ids are not there, or damaged.
        """
        if identity not in self._scored:
            try:
                self._scored[identity] = self._read(*self._files[identity])
            except DamagedFileError as error:
                if self._files[identity][0].with_suffix(".npz").exists():
                    self._tell(f"{error}; nothing is compared with it")
                self._scored[identity] = None
        return self._scored[identity]

    def _read(self, path: Path, record: Record) -> tuple[tuple[str, ...], Scored] | None:
        arrays = read_scores(path, record)
        digests = record["digests"]
        clean = self._of_id(path.parents[1], path.parents[3], digests["id_scores"])
        known = clean
        if digests.get("id_attacked"):
            known = self._of_id(path.parent, path.parents[3], digests["id_attacked"])
        if "ids" not in arrays or clean is None or known is None or clean[0] != known[0]:
            return None
        ids, ood = _in_order(arrays)
        scored = Scored(record["set"], clean[1], known[1], ood)
        if (clean[1].size, ood.size) != (record["n_id"], record["n_ood"]):
            return None
        return (*clean[0], *ids), scored

    def _of_id(
        self, folder: Path, suite_folder: Path, digest: str
    ) -> tuple[tuple[str, ...], Floats] | None:
        """Return ids and scores of ID images by the digest that a record holds of them."""
        if digest not in self._known and folder not in self._looked:
            self._looked.add(folder)
            for path in sorted(folder.glob(_ID_SCORES)):
                try:
                    arrays, _ = read_named(path, suite_folder)
                except DamagedFileError as error:
                    self._tell(f"{error}; nothing is compared with it")
                    continue
                if "ids" in arrays:
                    self._known[arrays_digest(arrays)] = _in_order(arrays)
        return self._known.get(digest)


def _in_order(arrays: Arrays) -> tuple[tuple[str, ...], Floats]:
    """Return ids, sorted, and scores in their order."""
    order = np.argsort(arrays["ids"], kind="stable")
    ids = tuple(arrays["ids"][order].tolist())
    return ids, arrays["scores"][order].astype(np.float64)
