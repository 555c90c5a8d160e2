"""Which records may stand side by side: in one table, one row, one column."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from oodbench.identity import canonical_json
from oodbench.leaderboard.order import natural
from oodbench.records import SIDES
from oodbench.schedule import OUTLIER_FIELDS

Record = dict[str, Any]

UNKNOWN = "unknown"
"""Version of a plugin in records from before they held any."""


@dataclass(frozen=True)
class Setting:
    """What all records of a table have in common.

    ``schedule`` is JSON, without its name and what it says of outliers, which not all recipes use.
    """

    suite: str
    network: str
    network_version: str
    schedule: str
    preset: str
    protocol: int
    n_id: int
    train: str
    id: str

    @classmethod
    def of(cls, record: Record) -> "Setting":
        """Return the setting of a record."""
        return cls(
            suite=record["suite"],
            network=record["network"],
            network_version=_version(record, record["network"]),
            schedule=canonical_json(_parted_schedule(record)[0]),
            preset=record["preset"],
            protocol=record["protocol"],
            n_id=record["n_id"],
            train=str(record["digests"].get("train")),
            id=str(record["digests"].get("id")),
        )

    def rank(self, schedules: str) -> tuple[Any, ...]:
        """Place among tables: the newest protocol, ``standard`` and the most images first.

        Args:
            schedules: Names of the schedules that are alike up to what they say of outliers.
        """
        return (
            self.suite,
            self.network,
            schedules,
            self.preset != "standard",
            self.preset,
            -self.protocol,
            -self.n_id,
            natural(self.network_version),
            self.schedule,
            self.train,
            self.id,
        )


@dataclass(frozen=True)
class Row:
    """What all records of a row share beside the setting.

    ``params``, ``recipe`` and ``schedule`` are JSON, the last with the name of the schedule and
    what it says of outliers; ``pool`` is the digest of the outlier pool or empty.
    """

    detector: str
    version: str
    params: str
    recipe: str
    schedule: str
    pool: str

    @classmethod
    def of(cls, record: Record) -> "Row":
        """Return the row of a record."""
        return cls(
            detector=record["detector"],
            version=_version(record, record["detector"]),
            params=canonical_json(record["params"]),
            recipe=canonical_json(record["recipe"]),
            schedule=canonical_json(_parted_schedule(record)[1]),
            pool=record["digests"].get("pool") or "",
        )

    @property
    def rank(self) -> tuple[str, ...]:
        """Place among rows."""
        return (
            self.detector,
            self.params,
            self.recipe,
            self.version,
            self.pool,
            self.schedule,
        )


@dataclass(frozen=True)
class Column:
    """What all records of a column share beside the setting; ``params`` is JSON.

    ``params`` lacks preset, radius and budget, which stand for themselves; ``version`` names
    those of the stages of a composition too.
    """

    perturbation: str
    version: str
    params: str
    eps: str | None
    budget: int
    queries: int
    precision: str
    side: str
    kind: str

    @classmethod
    def of(cls, record: Record) -> "Column":
        """Return the column of a record."""
        attack = record["attack"] or {}
        params = {
            name: value
            for name, value in attack.get("params", {}).items()
            if name not in ("preset", "eps", "budget")
        }
        return cls(
            perturbation=record["perturbation"],
            version=_attack_version(record),
            params=canonical_json(params),
            eps=record["eps"],
            budget=attack.get("budget", 0),
            queries=attack.get("queries", 0),
            precision=record["precision"],
            side=record["side"],
            kind=record["kind"],
        )

    @property
    def rank(self) -> tuple[Any, ...]:
        """Place among columns, by the means of the attacker.

        What has no ball comes first, with nothing tried before candidates tried; then searches by
        gradient in a ball, alone before about other candidates; then what tries candidates in a
        ball. Equal ones by name, then the smaller ball and budget first.
        """
        if self.eps is None:
            means = (0, self.budget > 0, self.queries > 0)
        else:
            means = (1 if self.budget else 2, False, self.queries > 0)
        radius = int(self.eps.partition("/")[0]) if self.eps else 0
        size = (radius, self.budget, self.queries, self.precision)
        others = (SIDES.index(self.side), self.kind, self.params, natural(self.version))
        return (*means, self.perturbation, *size, *others)


def _parted_schedule(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a record's schedule that its table has, and those of its row."""
    schedule = record["schedule"]
    of_row = {key: schedule[key] for key in ("name", *OUTLIER_FIELDS) if key in schedule}
    return {key: value for key, value in schedule.items() if key not in of_row}, of_row


def _version(record: Record, plugin: str) -> str:
    """Return the version of a record's plugin, or the digest of its source."""
    return str(record["versions"].get("plugins", {}).get(plugin, UNKNOWN))


def _attack_version(record: Record) -> str:
    version = _version(record, record["perturbation"])
    others = (
        *(record[k] for k in ("detector", "network", "perturbation")),
        record["recipe"]["name"],
    )
    stages = [
        f"{name} {_version(record, name)}"
        for name in sorted(record["versions"].get("plugins", {}))
        if name not in others
    ]
    return f"{version} ({', '.join(stages)})" if stages else version


@dataclass(frozen=True)
class Table:
    """Records of one setting, each OOD set with the same images in all of them."""

    setting: Setting
    records: list[Record]

    @property
    def schedules(self) -> str:
        """Names of the schedules, which differ only in how outliers are shown."""
        return schedule_names(self.records)

    @property
    def sets(self) -> dict[str, tuple[int, str]]:
        """Number and digest of the images of each OOD set, by name."""
        return {record["set"]: _images(record) for record in by_set(self.records)}


def schedule_names(records: Iterable[Record]) -> str:
    """Return the names of the schedules of records."""
    return ", ".join(sorted({record["schedule"]["name"] for record in records}))


def by_set(records: Iterable[Record]) -> list[Record]:
    """Return records in the order of their OOD sets."""
    return sorted(records, key=lambda record: natural(record["set"]))


def parted(records: Iterable[Record]) -> list[Table]:
    """Part records into tables, in the order to show."""
    groups: dict[Setting, list[Record]] = {}
    for record in records:
        groups.setdefault(Setting.of(record), []).append(record)
    alike: dict[str, list[Record]] = {}
    for setting, found in groups.items():
        # One order for all tables of such schedules, whichever of their names a table has.
        alike.setdefault(setting.schedule, []).extend(found)
    order = sorted(groups, key=lambda each: each.rank(schedule_names(alike[each.schedule])))
    return [
        Table(setting, part) for setting in order for part in _of_the_same_images(groups[setting])
    ]


def _images(record: Record) -> tuple[int, str]:
    return record["n_ood"], str(record["digests"].get("set"))


def _of_the_same_images(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Part records so that an OOD set has the same images in all of a part.

    The largest versions of all sets come first; a set that there is in fewer versions is in the
    other parts too, being the same there.
    """
    versions: dict[str, set[tuple[int, str]]] = {}
    for record in records:
        versions.setdefault(record["set"], set()).add(_images(record))
    ranked = {name: sorted(found, reverse=True) for name, found in versions.items()}
    for number in range(max(len(found) for found in ranked.values())):
        chosen = {name: found[min(number, len(found) - 1)] for name, found in ranked.items()}
        yield [record for record in records if _images(record) == chosen[record["set"]]]
