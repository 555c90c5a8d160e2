"""How tables, rows and columns are called.

What tells them apart is said, and of a row what is not as published besides; nothing else.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from oodbench.identity import SHORT
from oodbench.leaderboard.beside import published_params
from oodbench.leaderboard.parting import Column, Row, Table

_SCHEDULE = "its schedule"


def titles(tables: Sequence[Table]) -> list[str]:
    """Return a title for each table."""
    settings = [table.setting for table in tables]
    networks = _told(
        [setting.network for setting in settings],
        [_version(setting.network_version) for setting in settings],
    )
    first = [table.schedules.split(", ")[0] for table in tables]
    schedules = _told(first, [_texts(json.loads(setting.schedule)) for setting in settings])
    names, images = [], []
    for table, network, name, schedule in zip(tables, networks, first, schedules, strict=True):
        setting, sets = table.setting, table.sets
        told = schedule.removeprefix(name)
        count = sum(number for number, _ in sets.values())
        names.append(
            f"suite {setting.suite}, network {network}, schedule {table.schedules}{told},"
            f" preset {setting.preset}, protocol {setting.protocol},"
            f" {setting.n_id} ID and {count} OOD test images"
        )
        images.append(
            _texts(
                {"train": setting.train, "ID": setting.id}
                | {name: f"{number} images" for name, (number, _) in sets.items()}
                | {f"{name} digest": digest for name, (_, digest) in sets.items()}
            )
        )
    return _numbered(_told(names, images))


def row_names(rows: Sequence[Row], suite: str) -> list[str]:
    """Return a name for each row of a suite's table.

    Hyper-parameters that are not those a detector was published with are told in any case: alone
    in its table, such a row would be taken for the published detector. Of several schedules that
    show outliers otherwise, each row with outliers tells its own. Recipes, and what these
    schedules say, are told only where nothing else differs.
    """
    views = [json.loads(row.schedule) for row in rows]
    schedules = [view.pop("name") for view in views]
    several = len({name for row, name in zip(rows, schedules, strict=True) if row.pool}) > 1
    names = [row.detector for row in rows]
    about = [
        _version(row.version)
        | _texts(json.loads(row.params))
        | _pool(row.pool)
        | {_SCHEDULE: f"schedule {schedule}"}
        for row, schedule in zip(rows, schedules, strict=True)
    ]
    said = [
        _of_its_own(row, suite) | ({_SCHEDULE} if several and row.pool else set()) for row in rows
    ]
    labels = _told(names, about, said=said)
    if len(set(labels)) == len(labels):
        return labels
    recipes = [
        _texts({"recipe": json.loads(row.recipe)} | view)
        for row, view in zip(rows, views, strict=True)
    ]
    everything = [a | b for a, b in zip(about, recipes, strict=True)]
    return _numbered(_told(names, everything, said=said))


def _of_its_own(row: Row, suite: str) -> set[str]:
    """Return the names of a row's parameters that are not as published.

    Of a detector that is not one of oodbench's, none is known to be but the views of an image,
    which all have; nor is one that has no value but a suite's, where the suite is not to be found
    by its name or gives it none.
    """
    published = published_params(suite, row.detector)
    if published is None:
        return {"tta"}
    usual = json.loads(published)
    own = {
        name: value
        for name, value in json.loads(row.params).items()
        if name not in usual or usual[name] not in (None, value)
    }
    return set(_texts(own))


def column_names(columns: Sequence[Column]) -> list[str]:
    """Return a name for each column: perturbation, radius, and what is not the usual threat."""
    names = []
    for column in columns:
        parts = [column.perturbation, column.eps]
        parts += [f"on {column.side}" if column.side != "ood" else None]
        parts += [column.kind if column.kind != "empirical" else None]
        names.append(" ".join(part for part in parts if part))
    about = [
        {
            "its steps": f"{column.budget} steps",
            "its candidates": f"{column.queries} candidates",
            "its precision": column.precision,
        }
        | _texts(json.loads(column.params))
        | _version(column.version)
        for column in columns
    ]
    return _numbered(_told(names, about, "{}, {}"))


def _told(
    names: Sequence[str],
    about: Sequence[Mapping[str, str]],
    form: str = "{} ({})",
    said: Sequence[Collection[str]] | None = None,
) -> list[str]:
    """Add to each name how the thing differs from others of the same name.

    The one that only lacks what others have, such as a parameter that is not named where it has
    its default, keeps the plain name.

    Args:
        names: Names of some things.
        about: What may have to be said of each, by what it is about.
        form: How name and differences stand together.
        said: What is said of each even if no other differs in it.
    """
    differences, lacks = [], []
    for name, mine, always in zip(names, about, said or [()] * len(names), strict=True):
        others = [its for other, its in zip(names, about, strict=True) if other == name]
        differing = [
            text
            for key, text in mine.items()
            if key in always or any(its.get(key) != text for its in others)
        ]
        missing = sorted({key for other in others for key in other} - set(mine))
        differences.append(", ".join(differing))
        lacks.append(", ".join(f"no {key}" for key in missing))
    plain = Counter(name for name, told in zip(names, differences, strict=True) if not told)
    labels = []
    for name, told, lacking in zip(names, differences, lacks, strict=True):
        added = told or (lacking if plain[name] > 1 else "")
        labels.append(form.format(name, added) if added else name)
    return labels


def _numbered(labels: Sequence[str]) -> list[str]:
    """Number labels that are the same all the same, such as of 1 and 1.0; never one for two."""
    turns = [labels[:place].count(label) + 1 for place, label in enumerate(labels)]
    return [
        f"{label} #{turn}" if turn > 1 else label for label, turn in zip(labels, turns, strict=True)
    ]


def _version(version: str) -> dict[str, str]:
    # A parameter may be called version; none has a blank in its name.
    return {"its version": f"version {_short(version)}"}


def _pool(digest: str) -> dict[str, str]:
    return {"its pool": f"outlier pool {_short(digest)}"} if digest else {}


def _texts(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return ``name=value`` for each value by name; names of nested ones are dotted."""
    texts: dict[str, str] = {}
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, Mapping):
            texts |= _texts(value, f"{name}.")
        else:
            texts[name] = f"{name}={_plain(value)}"
    return texts


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    """Shorten the digests in a text."""
    return re.sub(r"\b[0-9a-f]{64}\b", lambda found: found[0][:SHORT], text)
