"""The sets that oodbench knows, and what a user may name."""

import difflib
import re
from functools import cache
from pathlib import Path

from oodbench.errors import RequestError
from oodbench.images import Suite
from oodbench.imported import ImportedSet
from oodbench.registry import KINDS, entries, load


def known_sets() -> dict[str, ImportedSet]:
    """Return the sets with a plugin that are downloaded or imported, by name."""
    found = {name: known_set(name) for name in entries("datasets")}
    return {name: one for name, one in found.items() if one is not None and one.name == name}


@cache
def known_set(name: str) -> ImportedSet | None:
    """Return the imported set that a plugin is, or whose in-distribution set it is, or None."""
    plugin = load("datasets", name)()
    if isinstance(plugin, Suite):
        if plugin.id_set != name:
            return None
        plugin = plugin.image_set(name)
    return plugin if isinstance(plugin, ImportedSet) else None


def named_for_import(name: str) -> ImportedSet | None:
    """Return the set that images are imported as; None for one of the user's own.

    Raises:
        RequestError: If the name is not free for that.
    """
    if name in entries("datasets"):
        found = known_set(name)
        if found is None:
            raise RequestError(f"{name} is no image set that is imported; choose another name")
        if found.name != name:
            raise RequestError(f"{name} is another view of {found.name}; import it as {found.name}")
        return found
    for kind in KINDS.values():
        if name in entries(kind.folder):
            raise RequestError(
                f"{name} is the name of one of the {kind.folder}; choose another for the images"
            )
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,99}", name):
        raise RequestError(
            f"{name!r} is no name for a set; use a-z, 0-9, _ and -, such as my_images"
            + _nearly(name.lower())
        )
    return None


def named_for_download(name: str) -> ImportedSet:
    """Return the set that is to be downloaded.

    Raises:
        RequestError: If none is called so.
    """
    known = known_sets()
    if name not in known:
        raise RequestError(
            f"no image set to download is called {name!r}"
            + (_nearly(name) or f"; there are {', '.join(known)}")
        )
    return known[name]


def near(name: str) -> list[str]:
    """Return known sets with nearly that name."""
    return difflib.get_close_matches(name, known_sets(), n=2, cutoff=0.75)


def checked_names(names: tuple[str, ...], there: list[str], root: Path) -> list[str]:
    """Return the names of sets that are there; all if none is asked for.

    Raises:
        RequestError: If one is not.
    """
    for name in names:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {_listed(there)}"
            raise RequestError(f"no image set {name!r} is in {root}; {hint}")
    return list(dict.fromkeys(names)) or there


def _nearly(name: str) -> str:
    close = near(name)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
