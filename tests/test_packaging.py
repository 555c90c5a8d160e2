"""What is installed is complete and clean."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

EVERYTHING = """
import json, sys
from importlib.resources import files
import oodbench
from oodbench.registry import KINDS, entries
assert oodbench.__file__.startswith(sys.argv[1]), oodbench.__file__
for kind in KINDS:
    for entry in entries(kind).values():
        if entry.path is not None:
            assert str(entry.path).startswith(sys.argv[1]), entry.path
            plugin = entry.load()
            print(kind, entry.name, plugin.__module__)
json.loads(files("oodbench.schemas").joinpath("record-1.json").read_text())
assert files("oodbench.results").is_dir()
assert files("oodbench").joinpath("py.typed").is_file()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, copy / name
        if not source.is_symlink() and not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            target.write_bytes(source.read_bytes())
    # As after running the tests: none of it may travel.
    for garbage in ("detectors", "results", "oodbench"):
        (copy / garbage / "__pycache__").mkdir()
        (copy / garbage / "__pycache__" / "msp.cpython-311.pyc").write_bytes(b"")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder), "."]
    try:
        import setuptools  # noqa: F401

        command.insert(5, "--no-build-isolation")
    except ImportError:
        pass
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if name.startswith("oodbench/")}
    assert names - inside == {n for n in names if n.startswith("oodbench-") and "dist-info" in n}
    expected = {
        str(Path(folder, name).relative_to(ROOT))
        for folder, _, files in os.walk(ROOT / "oodbench", followlinks=True)
        for name in files
        if "__pycache__" not in Path(folder).parts
    }
    assert inside == expected
    licences = {Path(name).name for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


@pytest.mark.slow
def test_the_installed_wheel_imports_every_plugin_and_runs_from_anywhere(
    wheel: Path, tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ["install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    loaded = {tuple(line.split()[:2]) for line in python("-c", EVERYTHING, str(site)).splitlines()}
    assert loaded == {
        (kind, path.stem)
        for kind in ("attacks", "datasets", "detectors", "networks")
        for path in (ROOT / "oodbench" / kind).glob("[!_]*.py")
    }
    listed = python("-m", "oodbench", "list", "detectors")
    assert {name for kind, name in loaded if kind == "detectors"} == {
        line.split()[0] for line in listed.splitlines()
    }
    assert not list(elsewhere.iterdir())


def test_every_subpackage_is_named_in_the_project_file() -> None:
    import tomllib

    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    folders = {
        ".".join(("oodbench", *path.relative_to(ROOT / "oodbench").parent.parts))
        for pattern in ("__init__.py", "*/__init__.py", "*/*/__init__.py")
        for path in (ROOT / "oodbench").glob(pattern)
    }
    assert set(tools["setuptools"]["packages"]) == folders
