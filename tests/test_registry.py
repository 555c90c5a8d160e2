"""Plugins are found by file, by entry point and by path, and what is wrong with one is said."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from oodbench.errors import RequestError
from oodbench.registry import KINDS, entries, find, load

OUTSIDE = Path(__file__).parent / "outside_package"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small outside package, as pip would install it."""
    import tomllib

    project = tomllib.loads((OUTSIDE / "pyproject.toml").read_text())["project"]
    return _install(project["name"], project["entry-points"], tmp_path, monkeypatch)


def _install(
    name: str, groups: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    facts = tmp_path / "site" / f"{name.replace('-', '_')}-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(facts.parent))
    monkeypatch.syspath_prepend(str(OUTSIDE))
    return facts.parent


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_plugin_loads_under_its_files_name_and_has_a_version(kind: str) -> None:
    root = Path(import_module("oodbench").__file__ or "").parent
    stems = {file.stem for file in (root / kind).glob("*.py")} - {"__init__"}
    assert stems
    assert set(entries(kind)) >= stems
    for stem in stems:
        plugin = load(kind, stem)
        assert plugin.__module__ == f"oodbench.{kind}.{stem}"
        assert plugin.version >= 1
        assert entries(kind)[stem].summary


@pytest.mark.usefixtures("installed")
def test_a_detector_of_another_package_is_listed_and_runs(run: Any, call: Any) -> None:
    listed = call("list", "detectors", "--json").json
    (entry,) = [row for row in listed if row["name"] == "norm"]
    assert "oodbench-outside" in entry["origin"]
    (record,) = run("--detector", "norm", "--ood", "rings", "--json").json
    assert record["detector"] == "norm"
    from oodbench.plugins import PluginSpec

    identity = PluginSpec("detectors", "norm").identity()
    assert len(identity["source"]) == 64
    assert "version" not in identity


def test_a_single_file_runs(run: Any, plugins: Path) -> None:
    (record,) = run("--detector", plugins / "mine.py", "--ood", "rings", "--json").json
    assert record["detector"] == "mine"
    assert record["recipe"]["name"] == "Smoothed"
    assert len(record["recipe"]["source"]) == 64


def test_a_file_with_a_taken_name_is_refused_naming_both(
    run: Any, plugins: Path, in_folder: Path
) -> None:
    (in_folder / "msp.py").write_text((plugins / "mine.py").read_text())
    result = run("--detector", "./msp.py")
    assert result.code == 2
    assert "./msp.py" in result.err
    assert "oodbench (msp.py)" in result.err


def test_two_files_with_one_name_are_refused_naming_both(
    run: Any, plugins: Path, in_folder: Path
) -> None:
    for folder in ("a", "b"):
        (in_folder / folder).mkdir()
        (in_folder / folder / "mine.py").write_text((plugins / "mine.py").read_text())
    result = run("--detector", "a/mine.py,b/mine.py")
    assert result.code == 2
    assert "a/mine.py and b/mine.py would both be called mine" in result.err


def test_an_entry_point_with_a_taken_name_is_refused_naming_both(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"oodbench.detectors": {"msp": "oodbench_outside.norm:Norm"}}
    _install("oodbench-double", points, tmp_path, monkeypatch)
    result = call("list", "detectors")
    assert result.code == 2
    assert result.out == ""
    assert "two detectors are called msp" in result.err
    assert "oodbench (msp.py)" in result.err
    assert "oodbench-double (oodbench_outside.norm:Norm)" in result.err


def test_an_entry_point_that_leads_nowhere_is_told_in_one_line(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"oodbench.detectors": {"gone": "oodbench_outside.gone:Gone"}}
    _install("oodbench-gone", points, tmp_path, monkeypatch)
    with pytest.raises(RequestError, match=r"gone from oodbench-gone .* cannot be imported: "):
        load("detectors", "gone")
    assert call("list", "detectors").code == 0


def test_a_class_of_two_names_is_one_plugin(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{CLASS.format('Mine')}\ndetector = Mine\n")
    assert load("detectors", str(file)).__name__ == "Mine"


CLASS = """
from oodbench.detector import Detector
class {}(Detector):
    def score(self, model, images):
        return images.sum((1, 2, 3))
"""
WRONG = {
    "syntax error": ("def (", "SyntaxError"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "leaves": ("import sys; sys.exit(5)", "SystemExit"),
    "missing import": ("import no_such_package", "no_such_package"),
    "no class": ("x = 1", "must define one public subclass of Detector; it defines none"),
    "two classes": (CLASS.format("A") + CLASS.format("B"), "it defines A, B"),
    "abstract": (CLASS.format("A").replace("def score", "def scores"), "A lacks score"),
    "another kind": (CLASS.format("A").replace("Detector", "Network"), "cannot be imported"),
    "empty": ("", "it defines none"),
    "no text": ("\0", "cannot be imported"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_plugin_file_is_told_in_one_line(fault: str, run: Any, in_folder: Path) -> None:
    text, message = WRONG[fault]
    (in_folder / "wrong.py").write_text(text)
    result = run("--detector", "./wrong.py")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("oodbench: ")
    assert result.err.count("\n") == 1
    assert "wrong.py" in result.err
    assert message in result.err


def test_a_missing_file_and_a_near_miss_are_told() -> None:
    with pytest.raises(RequestError, match=r"no file \./gone\.py"):
        find("detectors", "./gone.py")
    with pytest.raises(RequestError, match=r"no detector is called 'atm'; did you mean atom\?"):
        find("detectors", "atm")
    with pytest.raises(RequestError, match=r"no attack is called 'zzz'; there are .*linf"):
        find("attacks", "zzz")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["train", "--help"],
        ["list", "--help"],
        ["leaderboard", "--help"],
    ]
    + [["list", kind] for kind in KINDS],
    ids=" ".join,
)
def test_listing_and_help_load_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, json\n"
        "from oodbench.__main__ import main\n"
        "try:\n    main(json.loads(sys.argv[1]))\n"
        "except SystemExit as left:\n    assert not left.code, left.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", script, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
