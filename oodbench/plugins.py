"""A plugin with its parameters set, as plain data that any process can make it from."""

import ast
import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from oodbench.errors import RequestError
from oodbench.identity import parameters
from oodbench.perturbation import Perturbation
from oodbench.registry import KINDS, entries, find, load, source_digest


@dataclass(frozen=True)
class PluginSpec:
    """A reference to a plugin and its parameters; picklable.

    Attributes:
        kind: Kind of plugin, such as ``detectors``.
        reference: Its name, or the path of its file.
        params: Fields that differ from the defaults, in order of their names.
    """

    kind: str
    reference: str
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The plugin's name."""
        return find(self.kind, self.reference).name

    @property
    def instance(self) -> Any:
        """The plugin itself.

        Raises:
            RequestError: If a parameter is refused.
        """
        entry = find(self.kind, self.reference)
        try:
            return entry.load()(**dict(self.params))
        except (TypeError, ValueError) as error:
            raise RequestError(f"{KINDS[self.kind].noun} {entry.name}: {error}") from error

    def replaced(self, **values: Any) -> "PluginSpec":
        """Return the same plugin with some parameters set."""
        merged = dict(self.params) | values
        return dataclasses.replace(self, params=tuple(sorted(merged.items())))

    def identity(self) -> dict[str, Any]:
        """Return what makes this plugin what it is, as plain data."""
        return {"name": self.name, **described(self.instance)}


def described(instance: Any) -> dict[str, Any]:
    """Return version or source digest, and parameters, of a plugin or a recipe."""
    return {**origin(type(instance)), "params": parameters(instance)}


def origin(plugin: type[Any]) -> dict[str, Any]:
    """Return `version_of` a class under ``version`` or ``source``, whichever it is."""
    version = version_of(plugin)
    return {"source" if isinstance(version, str) else "version": version}


def version_of(plugin: type[Any]) -> int | str:
    """Return the version of a class of oodbench, or the digest of the source of another's."""
    found: int | str = source_digest(plugin) or plugin.version
    return found


def with_settings(specs: Iterable[PluginSpec], settings: Iterable[str]) -> list[PluginSpec]:
    """Apply ``--set`` texts such as ``temperature=100`` or ``odin.temperature=100``.

    A bare name sets the field of every plugin that has it.

    Raises:
        RequestError: If a text has no ``=``, no plugin has the field, or the value does not fit.
    """
    result = list(specs)
    for text in settings:
        target, equals, raw = text.partition("=")
        owner, dot, name = target.rpartition(".")
        if not equals or not name:
            raise RequestError(f"--set {text}: write NAME=VALUE or PLUGIN.NAME=VALUE")
        hit = False
        for index, spec in enumerate(result):
            if dot and owner != spec.name:
                continue
            fields = field_types(spec)
            if name in fields:
                hit = True
                result[index] = spec.replaced(**{name: _parsed(text, raw, fields[name])})
        if not hit:
            whose = owner if dot else "what was selected"
            known = sorted({name for spec in result for name in field_types(spec)})
            raise RequestError(
                f"--set {text}: {whose} has no field {name}; there are {', '.join(known) or 'none'}"
            )
    return result


def passed_on(name: str, values: Mapping[str, Any]) -> PluginSpec:
    """Return a perturbation with those of some parameters that it has fields for."""
    spec = PluginSpec("attacks", name)
    fields = field_types(spec)
    return spec.replaced(**{key: value for key, value in values.items() if key in fields})


def fallback_spec(perturbation: Perturbation) -> PluginSpec | None:
    """Return what a perturbation falls back to, with the same radius and preset."""
    if not perturbation.fallback:
        return None
    values = {**parameters(perturbation), **perturbation.fallback_parameters()}
    return passed_on(perturbation.fallback, values)


def fallback_of(perturbation: Perturbation) -> Perturbation | None:
    """Return the perturbation of `fallback_spec`."""
    spec = fallback_spec(perturbation)
    if spec is None:
        return None
    found = spec.instance
    assert isinstance(found, Perturbation)
    return found


def with_role(role: str) -> str:
    """Return the name of the perturbation that an audit uses for something, a built-in one first.

    Raises:
        RequestError: If there is none.
    """
    for name in entries("attacks"):
        if load("attacks", name).role == role:
            return name
    raise RequestError(f"no attack has the role {role}, which an audit needs")


def field_types(spec: PluginSpec) -> Mapping[str, Any]:
    """Return the types of a plugin's fields by name."""
    plugin = find(spec.kind, spec.reference).load()
    if not dataclasses.is_dataclass(plugin):
        return {}
    hints = typing.get_type_hints(plugin)
    return {field.name: hints[field.name] for field in dataclasses.fields(plugin) if field.init}


_TOLD: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "None",
}


def _parsed(text: str, raw: str, wanted: Any) -> Any:
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = raw
    if typing.get_origin(wanted) is typing.Literal:
        return _word(text, raw, value, typing.get_args(wanted))
    allowed = typing.get_args(wanted) or (wanted,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in allowed)
    if bool in kinds and raw.lower() in ("true", "false"):
        value = raw.lower() == "true"
    if isinstance(value, bool) and bool not in kinds:
        kinds = ()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and float in kinds and not (isinstance(value, int) and int in kinds):
        with suppress(OverflowError):
            value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"--set {text}: {raw!r} is not a finite number")
    if not kinds or not isinstance(value, tuple(k for k in kinds if isinstance(k, type))):
        names = " or ".join(
            _TOLD.get(kind, getattr(kind, "__name__", str(kind))) for kind in allowed
        )
        raise RequestError(f"--set {text}: {raw!r} is not {names}")
    return value


def _word(text: str, raw: str, value: Any, words: tuple[Any, ...]) -> Any:
    """Return one of some words, whether it is written as it is or as in Python."""
    for written in (raw, value):
        if any(type(written) is type(word) and written == word for word in words):
            return written
    raise RequestError(f"--set {text}: {raw!r} is not one of {', '.join(map(str, words))}")


def resolved(spec: PluginSpec, published: Mapping[str, Mapping[str, Any]]) -> PluginSpec:
    """Fill fields that are None with what the suite says was published for it."""
    known = published.get(spec.name, {})
    missing = {
        name: value for name, value in known.items() if getattr(spec.instance, name, 0) is None
    }
    return spec.replaced(**missing) if missing else spec
