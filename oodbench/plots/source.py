"""The records that a figure is made of, and the scores behind them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import DamagedFileError, RequestError
from oodbench.leaderboard.means import arranged, averaged, fewer, within
from oodbench.leaderboard.naming import column_names, row_names, titles
from oodbench.leaderboard.parting import Column, Record, Row, Table, parted
from oodbench.leaderboard.selection import Selection, load_files, results_folder
from oodbench.plots import Asked
from oodbench.records import Place, arrays_digest, misplaced, read_named, read_scores
from oodbench.views import ALL, suite_called, views

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Results:
    """Records of one table, arranged by detector and perturbation.

    Attributes:
        root: The results folder.
        table: The records selected, all of one setting.
        pool: Records of that setting and selection whatever their perturbation, for figures that
            hold an attack against clean images.
        notes: What has to be said of the choice.
    """

    root: Path
    table: Table
    pool: list[Record]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def by_row(self) -> dict[Row, dict[Column, dict[int, dict[str, Record]]]]:
        """Records by row, column, training seed and OOD set."""
        return arranged(self.table)

    @cached_property
    def rows(self) -> dict[Row, str]:
        """Names of the detectors, in order."""
        rows = sorted(self.by_row, key=lambda row: row.rank)
        return dict(zip(rows, row_names(rows, self.table.setting.suite), strict=True))

    @cached_property
    def columns(self) -> dict[Column, str]:
        """Names of the perturbations, those of lesser means first."""
        found = {column for by_column in self.by_row.values() for column in by_column}
        columns = sorted(found, key=lambda column: column.rank)
        return dict(zip(columns, column_names(columns), strict=True))

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """OOD sets that means are over; semantically near ones are not among them."""
        return views(suite_called(self.table.setting.suite), list(self.table.sets))[ALL]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds."""
        return tuple(sorted({record["seed"] for record in self.table.records}))

    @property
    def title(self) -> str:
        """What all records have in common."""
        setting = self.table.setting
        return f"suite {setting.suite}, network {setting.network}, preset {setting.preset}"

    @property
    def mean_of(self) -> str:
        """Say what a mean is over."""
        sets = clipped_list(self.sets)
        seeds = f", training seeds {', '.join(map(str, self.seeds))}" if len(self.seeds) > 1 else ""
        return f"mean over {sets}{seeds}" if len(self.sets) > 1 or seeds else f"OOD set {sets}"

    def cells(self, row: Row, column: Column) -> list[Record]:
        """Return the records of a mean: of the same OOD sets for every seed; empty if none."""
        by_seed = within(self.by_row[row].get(column, {}), self.sets)
        if not by_seed:
            return []
        sets, seeds = averaged(by_seed, self.sets)
        return [by_seed[seed][name] for seed in seeds for name in sets]

    def remarks(self) -> list[str]:
        """Say of which means some sets or seeds are missing."""
        lines = []
        for row, name in self.rows.items():
            for column, title in self.columns.items():
                by_seed = within(self.by_row[row].get(column, {}), self.sets)
                if not by_seed:
                    continue
                sets, seeds = averaged(by_seed, self.sets)
                told = fewer({"sets": (sets, self.sets), "seeds": (seeds, self.seeds)})
                if told:
                    lines.append(f"{title} on {name}: {told}")
        return lines

    def path(self, record: Record) -> Path:
        """Return the file of a record."""
        return self._place(record).record(record["perturbation"], record["set"], record["identity"])

    def ood_scores(self, record: Record) -> Scores:
        """Return the scores of the OOD images of a record [N]."""
        scores: Scores = read_scores(self.path(record), record)["scores"]
        return scores

    def id_scores(self, record: Record, *, clean: bool = False) -> Scores:
        """Return the scores of the in-distribution images of a record [N].

        Args:
            record: The record.
            clean: Whether to return those of the clean images where these are attacked.
        """
        place = self._place(record)
        digests = record["digests"]
        if clean or record["side"] == "ood":
            return self._with_digest(place, place.folder, digests["id_scores"])
        folder = place.folder / record["perturbation"]
        return self._with_digest(place, folder, digests["id_attacked"])

    def _with_digest(self, place: Place, folder: Path, digest: str) -> Scores:
        if digest not in self._id:
            for path in sorted(folder.glob("id--*.npz")):
                arrays, _ = read_named(path, place.suite_folder)
                self._id[arrays_digest(arrays)] = arrays["scores"]
        if digest not in self._id:
            raise DamagedFileError(
                f"{folder} has no in-distribution scores that go with its records; "
                "`oodbench run --force` makes them anew"
            )
        return self._id[digest]

    @cached_property
    def _id(self) -> dict[str, Scores]:
        return {}

    def _place(self, record: Record) -> Place:
        return Place(self.root, record["suite"], record["detector"], record["seed"])


def clipped_list(names: Sequence[str], most: int = 8) -> str:
    """Return names in a row, the first ones where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def opened(asked: Asked) -> Results:
    """Read the records that a figure is asked for; of several tables the first.

    Raises:
        RequestError: If there is none, or the folder lies above or below one of results.
        DamagedFileError: If a record is damaged, or lies where another cell belongs.
    """
    root, told = results_folder(asked.results, reference=asked.reference)
    files = load_files(root, replace(asked.selection, attacks=()))
    for path, record in files.items():
        # Scores are looked for where `run` puts them.
        if wrong := misplaced(root, path, record):
            raise wrong
    pool = list(files.values())
    records = Selection(attacks=asked.selection.attacks).of(pool, "what is selected")
    if not records:
        raise RequestError("no record is selected; leave a filter out")
    tables = parted(records)
    table = tables[0]
    notes = [told] if told else []
    if len(tables) > 1:
        first, *others = titles(tables)
        left = others[0] if len(others) == 1 else f"{len(others)}, see `oodbench leaderboard`"
        notes.append(
            f"of {len(tables)} tables this is {first}; left out: {left};"
            " --suite, --network, --schedule, --preset, --results choose"
        )
    images = table.sets
    pool = [
        record
        for part in parted(pool)
        if part.setting == table.setting
        for record in part.records
        if images.get(record["set"]) == part.sets.get(record["set"])
    ]
    pool = list({record["identity"]: record for record in pool}.values())
    return Results(root, table, pool, notes)
