"""What makes two computations the same: canonical JSON and its hash."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

PROTOCOL = 1
"""Version of everything in the harness that could change a figure; part of every identity."""

SHORT = 12
"""Characters of a hash that appear in file names."""

UNNAMED_AT_DEFAULT: Mapping[str, bool] = MappingProxyType({"unnamed_at_default": True})
"""Metadata of a dataclass field that came later: at its default an identity leaves it out.

What was computed before there was the field then keeps its identity.
"""

_NOT_THE_QUESTION = frozenset({"protocol", "digests", "version", "source"})


def canonical_json(value: Any) -> str:
    """Serialise ``value`` so that equal values give equal text.

    Raises:
        ValueError: If a number is NaN or infinite.
        TypeError: If a value is not plain data.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of ``value``, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_bytes(chunks: Iterable[bytes]) -> str:
    """Return the sha256 of ``chunks`` in order, in hex."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()


def question(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of an identity what says how an answer was made, not what was asked.

    Two results that differ only in protocol, data digests or plugin versions answer the same
    question; the hash of this is their ``cell_key``.
    """
    return {key: _asked(value) for key, value in identity.items() if key not in _NOT_THE_QUESTION}


def _asked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return question(value)
    return [_asked(item) for item in value] if isinstance(value, list | tuple) else value


def parameters(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance as plain data for an identity.

    A field with the metadata `UNNAMED_AT_DEFAULT` is left out where it has its default.
    """
    values = {field: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return {
        field.name: _plain(value)
        for field, value in values.items()
        if not (field.metadata.get("unnamed_at_default") and value == field.default)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return parameters(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
