"""Two results folders side by side: which cells ask the same question, and their paired scores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import DamagedFileError, RequestError
from oodbench.files import DEFAULT_RESULTS, shipped_results
from oodbench.leaderboard import Selection
from oodbench.progress import Progress
from oodbench.records import (
    Arrays,
    arrays_digest,
    find_records,
    misplaced,
    read_named,
    read_record,
    read_scores,
)

Record = dict[str, Any]

DATA = {"id": "ID test images", "set": "OOD images", "train": "training images", "pool": "pool"}
"""Digests of data in a record, with what they are of."""

_SCORES = ("scores", "id_scores", "id_attacked")
"""Digests of scores in a record."""


@dataclass(frozen=True)
class Stored:
    """A record and where it lies."""

    path: Path
    record: Record


class Results:
    """A results folder.

    Attributes:
        root: The folder.
        name: What to call it in messages.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = name or str(root)
        self._id_files: dict[Path, dict[str, Arrays]] = {}

    @property
    def ships(self) -> bool:
        """Whether these are the reference results that ship."""
        return self.root == shipped_results()

    def stored(self, progress: Progress | None = None) -> list[Stored]:
        """Read all records.

        Raises:
            RequestError: If there is none, or the folder lies above or below one of results.
            DamagedFileError: If one is damaged, or lies where another cell belongs.
        """
        paths = find_records(self.root)
        if not paths:
            raise RequestError(
                f"{self.name} holds no record; `oodbench run --results {self.root}` makes some"
            )
        found = []
        with (progress or Progress()).task(f"reading {self.name}", len(paths)) as task:
            for path in paths:
                found.append(Stored(path, self._record(path)))
                task.advance(1)
        return found

    def _record(self, path: Path) -> Record:
        record = read_record(path)
        wrong = misplaced(self.root, path, record)
        if wrong is not None:
            raise wrong
        return record

    def ood(self, stored: Stored) -> Arrays:
        """Return the arrays of the OOD images of a cell.

        Raises:
            DamagedFileError: If they are damaged or belong to another record.
        """
        return read_scores(stored.path, stored.record)

    def clean(self, stored: Stored) -> Arrays:
        """Return the arrays of the clean in-distribution test images of a cell.

        Raises:
            DamagedFileError: If they are damaged or not there.
        """
        return self._id_arrays(stored, stored.path.parent.parent, "id_scores")

    def attacked(self, stored: Stored) -> Arrays | None:
        """Return the arrays of the attacked in-distribution images; None where they are clean.

        Raises:
            DamagedFileError: If they are damaged or not there.
        """
        if "id_attacked" not in stored.record["digests"]:
            return None
        return self._id_arrays(stored, stored.path.parent, "id_attacked")

    def _id_arrays(self, stored: Stored, folder: Path, which: str) -> Arrays:
        if folder not in self._id_files:
            suite = self.root / stored.record["suite"]
            arrays = [read_named(path, suite)[0] for path in sorted(folder.glob("id--*.npz"))]
            self._id_files[folder] = {arrays_digest(each): each for each in arrays}
        wanted = stored.record["digests"][which]
        if wanted not in self._id_files[folder]:
            raise DamagedFileError(
                f"{folder} lacks the in-distribution scores that {stored.path.name} was made with;"
                " `oodbench run --force` makes them anew"
            )
        return self._id_files[folder][wanted]


def results_of(results: str | Path | None, against: str | Path | None) -> tuple[Results, Results]:
    """Return the folder to check and the one to hold it against.

    Args:
        results: As given; None takes ``./oodbench-results`` and nothing else.
        against: As given; None takes the shipped reference.

    Raises:
        RequestError: If one is not there.
    """
    folder = Path(DEFAULT_RESULTS if results is None else results)
    if not folder.is_dir():
        raise RequestError(
            f"--results {folder}: {_no_folder(folder)};"
            f" `oodbench run --results {folder}` makes what is checked"
        )
    return Results(folder), reference_of(against)


def reference_of(against: str | Path | None) -> Results:
    """Return the folder to hold results against.

    Raises:
        RequestError: If it is not there.
    """
    if against is None:
        return Results(shipped_results(), "the reference that ships")
    folder = Path(against)
    if not folder.is_dir():
        raise RequestError(f"--against {folder}: {_no_folder(folder)}; leave it out for what ships")
    return Results(folder)


def _no_folder(path: Path) -> str:
    return "is a file, not a folder" if path.exists() else "no such folder"


def chosen(selection: Selection, found: Iterable[Stored], where: str) -> list[Stored]:
    """Return what a selection takes.

    Raises:
        RequestError: If something is named that there is not.
    """
    mine = {id(each.record): each for each in found}
    records = selection.of([each.record for each in mine.values()], where)
    return [mine[id(record)] for record in records]


@dataclass(frozen=True)
class Match:
    """What two folders have of one question.

    Attributes:
        before: Records of the reference; one, unless several answer the same question.
        after: Records to check.
    """

    before: tuple[Stored, ...]
    after: tuple[Stored, ...]

    @property
    def record(self) -> Record:
        """A record that says which cell it is."""
        return (self.after or self.before)[0].record

    @property
    def is_pair(self) -> bool:
        """Whether there is exactly one on each side."""
        return len(self.before) == len(self.after) == 1

    def obstacle(self) -> str:
        """Say why the two cannot be compared; empty if they can, or one is not there."""
        for side in (self.before, self.after):
            if len(side) > 1:
                names = " and ".join(str(each.path) for each in side[:2])
                return f"{names} answer the same question; keep one of them"
        if not self.is_pair:
            return ""
        old, new = self.before[0].record, self.after[0].record
        if old["protocol"] != new["protocol"]:
            return f"protocol {new['protocol']} instead of {old['protocol']}"
        other = [
            what
            for name, what in DATA.items()
            if old["digests"].get(name) != new["digests"].get(name)
        ]
        return f"other {' and '.join(other)}" if other else ""

    @property
    def same_weights(self) -> bool:
        """Whether both were computed from the same weights."""
        old, new = (side[0].record["digests"]["weights"] for side in (self.before, self.after))
        return bool(old == new)

    @property
    def same_scores(self) -> bool:
        """Whether all scores are bit for bit the same."""
        old, new = (side[0].record["digests"] for side in (self.before, self.after))
        return all(old.get(name) == new.get(name) for name in _SCORES)

    def versions(self) -> dict[str, tuple[str, str]]:
        """Return what was made by another version, with the versions before and after."""
        old, new = (_versions(side[0].record) for side in (self.before, self.after))
        names = dict.fromkeys([*old, *new])
        both = {name: (old.get(name, _UNKNOWN), new.get(name, _UNKNOWN)) for name in names}
        return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


_UNKNOWN = "unknown"
_DIGEST = 12


def _versions(record: Record) -> dict[str, str]:
    versions: Mapping[str, Any] = record["versions"]
    plain = {name: str(version) for name, version in versions.items() if name != "plugins"}
    # Of a plugin outside the package it is the digest of its source.
    plugins = {name: str(v)[:_DIGEST] for name, v in versions.get("plugins", {}).items()}
    return plugins | plain


def matched(before: Iterable[Stored], after: Iterable[Stored]) -> list[Match]:
    """Match the cells of two folders by the question that they answer, in the reference's order."""
    sides: tuple[dict[str, list[Stored]], ...] = ({}, {})
    for side, found in zip(sides, (before, after), strict=True):
        for each in found:
            side.setdefault(each.record["cell_key"], []).append(each)
    keys = dict.fromkeys([*sides[0], *sides[1]])
    return [Match(*(tuple(side.get(key, ())) for side in sides)) for key in keys]


def paired(before: Arrays, after: Arrays) -> tuple[Arrays, Arrays]:
    """Bring arrays of the same images into the same order, that of their ids.

    Raises:
        ValueError: If they are of different images.
    """
    ordered = [_by_id(arrays) for arrays in (before, after)]
    ids = [arrays["ids"] for arrays in ordered]
    if ids[0].shape != ids[1].shape or bool((ids[0] != ids[1]).any()):
        raise ValueError("scores of other images")
    return ordered[0], ordered[1]


def _by_id(arrays: Arrays) -> Arrays:
    order: NDArray[np.intp] = np.argsort(arrays["ids"])
    return {name: array[order] for name, array in arrays.items()}
