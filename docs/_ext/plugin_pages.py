"""Directive ``plugins``: a section for each built-in plugin of a kind, from its docstring."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from oodbench.images import Suite
from oodbench.plugins import PluginSpec, resolved
from oodbench.recipe import Recipe
from oodbench.registry import KINDS, Entry, entries, load

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "detectors": "oodbench run --detector {} --attack none,linf",
    "attacks": "oodbench run --detector msp --attack {}",
}


class Plugins(SphinxDirective):
    """An overview of the plugins of a kind, then a section for each."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        kind = self.arguments[0]
        text = "\n".join(_page(kind))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Recipes(SphinxDirective):
    """A description of each recipe that a built-in detector is taught by."""

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        found = {kind: None for name in built_in("detectors") for kind in [type(_recipe(name))]}
        return self.parse_text_to_nodes("\n".join(line for kind in found for line in _class(kind)))


def built_in(kind: str) -> dict[str, Entry]:
    """Return the plugins that stand in the repository, none of packages that are installed too."""
    here = {path.stem for path in (ROOT / kind).glob("[!_]*.py")}
    return {name: entry for name, entry in entries(kind).items() if name in here}


def _page(kind: str) -> Iterator[str]:
    found = built_in(kind)
    links = ([f":ref:`{kind}-{name}`", entry.summary] for name, entry in found.items())
    yield from _table([KINDS[kind].noun, "in a line"], links)
    for name in found:
        yield from ("", f".. _{kind}-{name}:", "", name, "-" * len(name), "")
        yield from (".. code-block:: sh", "", f"   {EXAMPLES[kind].format(name)}", "")
        yield from _class(load(kind, name))
        if kind == "detectors":
            taught = type(_recipe(name))
            yield f"Its network is taught as `{taught.__module__}.{taught.__qualname__}` says."
            yield ""
            yield from _values(name)


def _class(kind: type) -> Iterator[str]:
    yield from (f".. autoclass:: {kind.__module__}.{kind.__qualname__}", "   :members:", "")


def _recipe(detector: str) -> Recipe:
    # What a suite has to say is the same kind of recipe for all.
    values = load("datasets", "mini")().published
    recipe: Recipe = resolved(PluginSpec("detectors", detector), values).instance.recipe
    return recipe


def _values(detector: str) -> Iterator[str]:
    """Describe parameters whose value depends on the suite."""
    found: dict[str, Any] = {}
    for name in built_in("datasets"):
        plugin: Any = load("datasets", name)
        if issubclass(plugin, Suite) and hasattr(plugin, "id_set") and name != "imported":
            found[name] = plugin().published.get(detector, {})
    fields = list(dict.fromkeys(field for values in found.values() for field in values))
    if fields:
        yield from ("Values that depend on the suite:", "")
        rows = (
            [f"``{name}``", *(f"{values.get(field, '–')}" for field in fields)]
            for name, values in found.items()
            if values
        )
        yield from _table(["suite", *(f"``{field}``" for field in fields)], rows)


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield from (".. list-table::", "   :widths: auto", "   :header-rows: 1", "")
    for row in [header, *rows]:
        for index, cell in enumerate(row):
            yield f"   {'*' if index == 0 else ' '} - {cell}"
    yield ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives."""
    app.add_directive("plugins", Plugins)
    app.add_directive("recipes", Recipes)
    return {"parallel_read_safe": True}
