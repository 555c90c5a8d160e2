"""What is read: which folder, and which of its records."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.errors import RequestError
from oodbench.files import DEFAULT_RESULTS, shipped_results
from oodbench.leaderboard.order import natural
from oodbench.leaderboard.parting import Record
from oodbench.records import find_records, read_record

_ALL = "all"
_FIELDS = {"ood": "set", "attack": "perturbation"}
"""Fields of a record that are called otherwise than the option which chooses by them."""


@dataclass(frozen=True)
class Selection:
    """Which records count; an empty field takes all.

    Attributes:
        suites: Names of suites.
        detectors: Names of detectors; ``all`` is every one.
        presets: ``standard``, ``paper``.
        seeds: Training seeds.
        eps: Radii such as ``8/255``; perturbations without a radius are always in.
        networks: Names of networks.
        schedules: Names of training schedules; what is taught without outliers goes by one name
            where schedules differ in these alone.
        sets: Names of OOD sets.
        attacks: Names of perturbations; ``all`` is every one.
    """

    suites: Collection[str] = ()
    detectors: Collection[str] = ()
    presets: Collection[str] = ()
    seeds: Collection[int] = ()
    eps: Collection[str] = ()
    networks: Collection[str] = ()
    schedules: Collection[str] = ()
    sets: Collection[str] = ()
    attacks: Collection[str] = ()

    def of(self, records: Sequence[Record], where: str) -> list[Record]:
        """Return the records selected.

        Args:
            records: What there is.
            where: What to call it in messages.

        Raises:
            RequestError: If a value is asked for that no record has, after the values before it.
        """
        filters: dict[str, Collection[Any]] = {
            "suite": self.suites,
            "network": self.networks,
            "schedule": self.schedules,
            "preset": self.presets,
            "detector": () if _ALL in self.detectors else self.detectors,
            "seed": self.seeds,
            "eps": self.eps,
            "ood": self.sets,
            "attack": () if _ALL in self.attacks else self.attacks,
        }
        chosen, before = list(records), ""
        for option, wanted in filters.items():
            if not wanted:
                continue
            known = {_value(record, option) for record in chosen} - {None}
            for value in wanted:
                if value not in known:
                    there = ", ".join(map(str, sorted(known, key=natural))) or "none"
                    scope = f" for{before}" if before else ""
                    raise RequestError(f"--{option} {value}: {where} has {there}{scope}")
            # What has no radius is the same whatever the radius.
            chosen = [record for record in chosen if _value(record, option) in (*wanted, None)]
            before += f" --{option} {','.join(map(str, wanted))}"
        return chosen


def _value(record: Record, option: str) -> Any:
    """Return what a record has of that which an option chooses."""
    if option == "schedule":
        return record["schedule"]["name"]
    return record[_FIELDS.get(option, option)]


def results_folder(
    results: str | Path | None = None, *, reference: bool = False
) -> tuple[Path, str]:
    """Return the folder to read, and what to tell of the choice where it was not the user's.

    Args:
        results: As given; None takes ``./oodbench-results``, or the shipped reference where that
            does not exist.
        reference: Whether to take the shipped reference.

    Raises:
        RequestError: If both are given, or the folder given is not there.
    """
    if reference and results is not None:
        raise RequestError("--results and --reference are two places; leave one out")
    if results is not None:
        if not Path(results).is_dir():
            raise RequestError(
                f"--results {results}: no such folder; `oodbench run --results {results}` fills"
                " one, --reference shows the results that ship"
            )
        return Path(results), ""
    told = "reading the reference results that ship with oodbench"
    if reference:
        return shipped_results(), told
    if Path(DEFAULT_RESULTS).is_dir():
        return Path(DEFAULT_RESULTS), ""
    return shipped_results(), f"no ./{DEFAULT_RESULTS} here; {told}"


def load(root: Path, selection: Selection | None = None) -> list[Record]:
    """Read the records below a results folder that a selection takes.

    Raises:
        DamagedFileError: If a record is damaged, selected or not.
        RequestError: If there is none.
    """
    return list(load_files(root, selection).values())


def load_files(root: Path, selection: Selection | None = None) -> dict[Path, Record]:
    """Read records as `load` does, and return them by their files."""
    found = {path: read_record(path) for path in find_records(root)}
    shipped = root == shipped_results()
    where = "the reference that ships" if shipped else str(root)
    if not found:
        hint = "" if shipped else ", --reference shows the results that ship"
        raise RequestError(f"{where} holds no record; `oodbench run` makes some{hint}")
    chosen = {id(record) for record in (selection or Selection()).of(list(found.values()), where)}
    return {path: record for path, record in found.items() if id(record) in chosen}
