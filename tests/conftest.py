"""What several tests share: a tiny suite, and the command line called in this process."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before torch is loaded: on a busy machine threads that wait for each other cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
from filelock import FileLock

PLUGINS = Path(__file__).parent / "plugins"


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def _call(*arguments: object) -> Result:
    from oodbench.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    code = left.value.code
    return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def plugins() -> Path:
    """Folder of plugin files for tests."""
    return PLUGINS


@pytest.fixture(scope="session")
def tiny() -> str:
    """Path of the tiny suite."""
    return str(PLUGINS / "tiny.py")


@pytest.fixture(scope="session")
def call() -> Callable[..., Result]:
    """Call the command line with arguments; return exit code, output and errors."""
    return _call


@pytest.fixture(scope="session")
def among_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a parallel run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def shared_store(among_workers: Path) -> Path:
    """A store of weights that tests share; they only add to it."""
    store = among_workers / "shared-store"
    store.mkdir(exist_ok=True)
    return store


@pytest.fixture
def run(tmp_path: Path, tiny: str, shared_store: Path) -> Callable[..., Result]:
    """Call ``oodbench run`` on the tiny suite into a folder of the test's own."""

    def run(*arguments: object, results: Path | None = None, store: Path | None = None) -> Result:
        places = ("--results", results or tmp_path / "results", "--store", store or shared_store)
        return _call("run", "--suite", tiny, "--device", "cpu", *places, *arguments)

    return run


@pytest.fixture(scope="session")
def everything(among_workers: Path, tiny: str, shared_store: Path) -> tuple[Path, Result]:
    """Results of all detectors under all attacks on the tiny suite, and what was printed."""
    folder = among_workers / "everything"
    results, kept = folder / "results", folder / "printed.json"
    places = ("--results", results, "--store", shared_store, "--device", "cpu")
    selected = ("--detector", "all", "--attack", "all")
    folder.mkdir(exist_ok=True)
    with FileLock(among_workers / "everything.lock"):
        if not kept.exists():
            result = _call("run", "--suite", tiny, *selected, *places, "--json")
            assert result.code == 0, result.err
            kept.write_text(json.dumps(asdict(result)))
    return results, Result(**json.loads(kept.read_text()))


@pytest.fixture
def copied(everything: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of ``everything`` in the folder that ``run`` writes to."""
    shutil.copytree(everything[0], tmp_path / "results")
    return tmp_path / "results"


def _record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text())
    del record["seconds"], record["digests"]["record"]
    return record


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        found = {name: file[name].tolist() for name in file.files}
    found["meta"] = json.loads(found["meta"])
    found["meta"].pop("seconds", None)
    return found


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, Any]]:
    """Return what lies in a results folder by path, times aside; fails on what is left over."""

    def contents(root: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                assert not path.name.startswith("."), path
            elif path.name != ".lock":
                assert path.suffix in (".json", ".npz"), path
                read = _record if path.suffix == ".json" else _arrays
                found[str(path.relative_to(root))] = read(path)
        return found

    return contents


@pytest.fixture(scope="session")
def stamps() -> Callable[[Path], dict[Path, int]]:
    """Return when each file below a folder was written."""

    def stamps(root: Path) -> dict[Path, int]:
        files = (p for p in root.rglob("*") if p.is_file() and p.suffix in (".json", ".npz"))
        return {p: p.stat().st_mtime_ns for p in files}

    return stamps


@pytest.fixture
def rng() -> random.Random:
    """Seeded random numbers."""
    return random.Random(0)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def reference_board() -> tuple[Any, list[dict[str, Any]]]:
    """Leaderboard of the shipped results of mini, with each OOD set, and the records behind it."""
    from oodbench import leaderboard as lb
    from oodbench.marks import audits_below

    root, _ = lb.results_folder(reference=True)
    files = lb.load_files(root, lb.Selection(suites=("mini",)))
    return lb.of_files(files, audits_below(root), by="ood"), list(files.values())
