"""Finds plugins: by their file here, by entry point in other packages, by path.

Finding and listing import neither plugins nor torch; a plugin is imported when it is used.
"""

import ast
import difflib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from oodbench.errors import RequestError
from oodbench.files import expanded

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """A kind of plugin.

    Attributes:
        folder: Subpackage of the built-in ones, and group of the entry points after ``oodbench.``.
        noun: What one is called in messages.
        bases: Contracts, as ``module:class``; a plugin's file defines one class under one of them.
    """

    folder: str
    noun: str
    bases: tuple[str, ...]


KINDS = {
    kind.folder: kind
    for kind in (
        Kind("detectors", "detector", ("oodbench.detector:Detector",)),
        Kind("attacks", "attack", ("oodbench.perturbation:Perturbation",)),
        Kind("datasets", "data set", ("oodbench.images:ImageSet", "oodbench.images:Suite")),
        Kind("networks", "network", ("oodbench.network:Network",)),
    )
}


@dataclass(frozen=True)
class Entry:
    """A plugin that can be loaded.

    Attributes:
        kind: Kind of plugin, such as ``detectors``.
        name: Its name: a file's stem or an entry point's name.
        origin: Where it comes from, for messages.
        path: Its file, or None where only importing would tell.
        point: Its entry point, or None.
    """

    kind: str
    name: str
    origin: str
    path: Path | None = None
    point: EntryPoint | None = None

    @property
    def summary(self) -> str:
        """First line of the docstring of the plugin's class, read without importing it."""
        if self.path is None:
            return ""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        classes = [
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        text = ast.get_docstring(classes[-1] if classes else tree) or ""
        return text.partition("\n")[0]

    def load(self) -> type[Any]:
        """Import the plugin and return its class.

        Raises:
            RequestError: If it cannot be imported or breaks the form of a plugin.
        """
        if self.path is not None and self.path.parent != _PACKAGE / self.kind:
            # The file may have been edited since it was imported.
            return _class(self, _guarded(self, lambda: _import_file(self)))
        return _load(self)


def entries(kind: str) -> dict[str, Entry]:
    """Return all plugins of a kind by name: the built-in ones and those of other packages.

    Raises:
        RequestError: If two have the same name.
    """
    found: dict[str, Entry] = {}
    for entry in [*_built_in(kind), *_from_packages(kind)]:
        if entry.name in found:
            raise RequestError(
                f"two {KINDS[kind].noun}s are called {entry.name}: {found[entry.name].origin} and "
                f"{entry.origin}; rename or uninstall one"
            )
        found[entry.name] = entry
    return found


@cache
def _built_in(kind: str) -> tuple[Entry, ...]:
    files = sorted((_PACKAGE / kind).glob("[!_]*.py"))
    return tuple(Entry(kind, file.stem, f"oodbench ({file.stem}.py)", file) for file in files)


def _from_packages(kind: str) -> list[Entry]:
    return [
        Entry(
            kind,
            point.name,
            f"{point.dist.name if point.dist else 'an unknown package'} ({point.value})",
            point=point,
        )
        for point in _points(f"oodbench.{kind}", tuple(sys.path))
    ]


@cache
def _points(group: str, search_path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group; looking through all packages takes a while."""
    return tuple(entry_points(group=group))


def find(kind: str, reference: str) -> Entry:
    """Return the plugin called ``reference``, or the one in the file at that path.

    Raises:
        RequestError: If there is none, naming what is near, or if a file's name is taken.
    """
    noun = KINDS[kind].noun
    known = entries(kind)
    if reference.endswith(".py") or "/" in reference:
        path = expanded(reference).resolve()
        if not path.is_file():
            raise RequestError(f"no file {reference}; give the path of a {noun}'s Python file")
        if path.stem in known:
            raise RequestError(
                f"{reference} would be called {path.stem}, as is {known[path.stem].origin}; "
                "rename the file"
            )
        return Entry(kind, path.stem, str(path), path)
    if reference not in known:
        near = difflib.get_close_matches(reference, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise RequestError(f"no {noun} is called {reference!r}; {hint}")
    return known[reference]


def load(kind: str, reference: str) -> type[Any]:
    """Find and import a plugin; return its class."""
    return find(kind, reference).load()


@cache
def _load(entry: Entry) -> type[Any]:
    if entry.point is None:
        module = _guarded(entry, lambda: import_module(f"oodbench.{entry.kind}.{entry.name}"))
        return _class(entry, module)
    target = _guarded(entry, entry.point.load)
    return _class(entry, target) if isinstance(target, ModuleType) else _checked(entry, target)


def import_reference(kind: str, reference: str) -> ModuleType:
    """Import a module by its name, or the file at a path, for a plugin of some kind.

    The working folder can be imported from, and what lies beside a file too.

    Raises:
        RequestError: If it cannot be imported.
    """
    if reference.endswith(".py") or "/" in reference:
        path = expanded(reference).resolve()
        if not path.is_file():
            raise RequestError(f"no file {reference}; give MODULE:FACTORY or FILE.py:FACTORY")
        entry = Entry(kind, path.stem, str(path), path)
        _importable(path.parent)
        module: ModuleType = _guarded(entry, lambda: _import_file(entry))
    else:
        _importable(Path.cwd())
        entry = Entry(kind, reference, "its module")
        module = _guarded(entry, lambda: import_module(reference))
    return module


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _guarded(entry: Entry, load: Callable[[], Any]) -> Any:
    """Import something, turning whatever it raises into one line."""
    try:
        return load()
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"{KINDS[entry.kind].noun} {entry.name} from {entry.origin} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def _class(entry: Entry, module: ModuleType) -> type[Any]:
    """Return the one class of a module that is a plugin."""
    bases = _bases(entry.kind)
    # A class of two names is one.
    classes = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, bases)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    # A class of two names is one.
    classes = list(dict.fromkeys(classes))
    if len(classes) != 1:
        names = ", ".join(c.__name__ for c in classes) or "none"
        raise RequestError(
            f"{entry.origin} must define one public subclass of "
            f"{' or '.join(base.__name__ for base in bases)}; it defines {names}"
            + ("; let the names of helpers begin with _" if classes else "")
        )
    return _checked(entry, classes[0])


def _bases(kind: str) -> tuple[type, ...]:
    pairs = (base.split(":") for base in KINDS[kind].bases)
    return tuple(getattr(import_module(module), name) for module, name in pairs)


def _checked(entry: Entry, target: Any) -> type[Any]:
    bases = _bases(entry.kind)
    wanted = " or ".join(base.__name__ for base in bases)
    if not (isinstance(target, type) and issubclass(target, bases)):
        raise RequestError(f"{entry.origin} is not a subclass of {wanted}")
    if inspect.isabstract(target):
        missing = ", ".join(sorted(getattr(target, "__abstractmethods__", ())))
        raise RequestError(f"{entry.origin}: {target.__name__} lacks {missing}")
    return target


def _import_file(entry: Entry) -> ModuleType:
    assert entry.path is not None
    text = entry.path.read_bytes()
    # The name holds the content, so an edited file is another module.
    name = f"_oodbench_file_{entry.name}_{hashlib.sha256(text).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, entry.path)
    if spec is None or spec.loader is None:
        raise RequestError(f"{entry.path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while the class is being made.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def source_digest(plugin: type[Any]) -> str | None:
    """Return the sha256 of the source that a class from outside the package comes from.

    Of a class in a package all Python files of the top-level package count, since its behaviour
    may lie in any of them. None for classes of oodbench, which carry a version instead. Read once,
    when the class is first used, so that it stays the source of what is running.
    """
    name = plugin.__module__
    if name.partition(".")[0] == "oodbench":
        return None
    return _source_digest(name, inspect.getfile(plugin))


@cache
def _source_digest(module: str, file: str) -> str:
    top = sys.modules[module.partition(".")[0]]
    files = [Path(file)]
    if hasattr(top, "__path__"):
        files = sorted(path for folder in top.__path__ for path in Path(folder).rglob("*.py"))
    hasher = hashlib.sha256()
    for path in files:
        hasher.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()
