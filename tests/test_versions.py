"""Whoever changes what a plugin or the harness does must change its version.

``python -m tests.test_versions`` writes down the present state.
"""

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from oodbench.identity import PROTOCOL
from oodbench.registry import KINDS, load

ROOT = Path(__file__).parents[1] / "oodbench"
KEPT = Path(__file__).with_name("plugin_digests.json")
HARNESS = [
    "descent",
    "detector",
    "execute",
    "families",
    "images",
    "intervals",
    "judging",
    "metrics",
    "mining",
    "model",
    "network",
    "perturbation",
    "randomness",
    "recipe",
    "recording",
    "schedule",
    "scores",
    "searched",
    "sides",
    "subject",
    "threat",
    "trainer",
    "training",
    "work",
    "workbench",
]
BEHIND = {
    "attacks/corruption": ["corruptions/*"],
    "detectors/ccu": ["mixtures"],
    "detectors/mahalanobis": ["class_gaussians"],
    "detectors/mahalanobis_single": ["class_gaussians"],
    "networks/conv6wide": ["networks/conv6"],
}
"""Modules that a plugin stands on and that count as its own, beside the harness of all."""


class _Bare(ast.NodeTransformer):
    """Leaves out docstrings and other texts that stand for themselves."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)


def source_digest(source: str) -> str:
    """Return the sha256 of what a source does, whatever it says and however it is laid out."""
    return hashlib.sha256(ast.dump(_Bare().visit(ast.parse(source))).encode()).hexdigest()


def _files(kind: str) -> list[Path]:
    return sorted((ROOT / kind).glob("[!_]*.py"))


def _behind(plugin: str) -> list[Path]:
    return [
        source
        for pattern in BEHIND.get(plugin, ())
        for source in sorted(ROOT.glob(f"{pattern}.py"))
    ]


def present() -> dict[str, Any]:
    """Return version and digest of every built-in plugin, and of the harness."""
    plugins = {
        f"{kind}/{file.stem}": {
            "version": load(kind, file.stem).version,
            "digest": source_digest(
                "\n".join(
                    source.read_text(encoding="utf-8")
                    for source in [file, *_behind(f"{kind}/{file.stem}")]
                )
            ),
        }
        for kind in KINDS
        for file in _files(kind)
    }
    harness = {
        name: source_digest((ROOT / f"{name}.py").read_text(encoding="utf-8")) for name in HARNESS
    }
    return {"plugins": plugins, "protocol": {"version": PROTOCOL, "modules": harness}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugin_that_does_something_else_has_another_version(kind: str) -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["plugins"]
    mine = {name: now for name, now in present()["plugins"].items() if name.startswith(kind)}
    assert {name for name in kept if name.startswith(f"{kind}/")} == set(mine), (
        "plugins came or went: run `python -m tests.test_versions`"
    )
    for name, now in mine.items():
        assert now == kept[name], (
            f"{name} is not what tests/plugin_digests.json has: if a figure could change, bump "
            "`version` of its class; then, or if what it does is the same, run "
            "`python -m tests.test_versions`"
        )


def test_a_harness_that_does_something_else_has_another_protocol() -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["protocol"]
    now = present()["protocol"]
    changed = [name for name in HARNESS if kept["modules"].get(name) != now["modules"][name]]
    assert (now["version"], changed) == (kept["version"], []), (
        f"oodbench/{', '.join(changed)} changed: if a figure could change, bump PROTOCOL in "
        "oodbench/identity.py; then, or if what it does is the same, run "
        "`python -m tests.test_versions`"
    )


def test_the_digest_sees_what_is_done_and_not_what_is_said() -> None:
    source = '"""One."""\ndef f(x: int) -> int:\n    """Two."""\n    return x + 1  # three\n'
    other = '"""1."""\n\n\ndef f(\n    x: int,\n) -> int:\n    "2"\n    # 3\n    return x + 1\n'
    assert source_digest(source) == source_digest(other)
    assert source_digest(source) != source_digest(source.replace("x + 1", "x + 2"))
    assert source_digest(source) != source_digest(source.replace("x: int", "x: int = 3"))


if __name__ == "__main__":
    KEPT.write_text(json.dumps(present(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {KEPT}")
