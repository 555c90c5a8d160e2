"""Audits: what is stored of one, and the file beside the record that holds it."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from oodbench.errors import DamagedFileError
from oodbench.files import write_atomically
from oodbench.identity import canonical_json, digest

Audit = dict[str, Any]

SCHEMA = 1
"""Version of the format."""

VERSION = 3
"""Version of the checks and of what they measure; with another an audit is made again."""

SUFFIX = ".audit.json"


def audit_path(record: Path) -> Path:
    """Return the file of the audit of a record, given the record's file."""
    return record.with_name(record.name.removesuffix(".json") + SUFFIX)


def record_path(audit: Path) -> Path:
    """Return the file of the record that an audit's file stands beside."""
    return audit.with_name(audit.name.removesuffix(SUFFIX) + ".json")


def write_audit(path: Path, audit: Mapping[str, Any]) -> Audit:
    """Write an audit and return it as `read_audit` does.

    Args:
        path: Where to.
        audit: All its fields but the digest.

    Raises:
        jsonschema.ValidationError: If it does not fit the schema.
    """
    whole = {**audit, "digest": digest(dict(audit))}
    _validator().validate(whole)
    lines = [
        f"{json.dumps(name)}: {canonical_json(whole[name])}"
        for name in _validator().schema["required"]
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda file: _write_text(file, text))
    return json.loads(text)  # type: ignore[no-any-return]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_audit(path: Path) -> Audit:
    """Read an audit.

    Raises:
        DamagedFileError: If the file is truncated, edited, foreign or newer than this program.
    """
    try:
        audit: Audit = json.loads(path.read_text(encoding="utf-8"))
        version = int(audit["schema"])
        rest = {name: value for name, value in audit.items() if name != "digest"}
        whole = audit["digest"] == digest(rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(_damaged(path, "cannot be read as an audit")) from error
    if not whole:
        raise DamagedFileError(_damaged(path, "was changed after it was written"))
    if version > SCHEMA:
        raise DamagedFileError(f"{path} has schema {version}; this oodbench reads up to {SCHEMA}")
    errors = sorted(_validator().iter_errors(audit), key=str)
    if errors:
        raise DamagedFileError(_damaged(path, f"does not fit the schema ({errors[0].message})"))
    return audit


def _damaged(path: Path, what: str) -> str:
    return f"{path} {what}; `oodbench audit --force` replaces it"


def belongs(audit: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Return whether an audit is of this very record, and not of one that it replaced.

    Where both sides are attacked the search on OOD images is that of the record on which OOD
    images alone are, whose scores it repeats; an audit of that one is of both.
    """
    if record["side"] == "both":
        shared: bool = audit["scores"] == record["digests"]["scores"]
        return shared
    same: bool = audit["record"] == record["digests"]["record"]
    return same and audit["identity"] == record["identity"]


def audit_beside(record_file: Path, record: Mapping[str, Any]) -> Audit | None:
    """Return the audit of a record, or None where there is none of it as it is.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    path = audit_path(record_file)
    if not path.exists():
        return None
    audit = read_audit(path)
    return audit if belongs(audit, record) else None


def find_audits(root: Path) -> list[Path]:
    """Return the files of all audits below a results folder, in order."""
    return sorted(path for path in root.rglob(f"*--*{SUFFIX}") if path.parent.parent.name.isdigit())


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    text = files("oodbench.schemas").joinpath(f"audit-{SCHEMA}.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))
