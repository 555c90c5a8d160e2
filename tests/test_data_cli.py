"""``oodbench data``: what is listed, verified and told."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imported_data import write_set
from picture_files import encoded, write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def data(call: Any, root: Path) -> Callable[..., Any]:
    """Call a subcommand with the root of the test."""

    def data(command: str, *arguments: object) -> Any:
        return call("data", command, *arguments, "--data-root", root)

    return data


@pytest.fixture(scope="module")
def example(call: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a part of a known set, a stand-in, a complete set, and two of a user's own."""
    root = tmp_path_factory.mktemp("example")
    write_set(root, "isun", {"test": 8_925}, official=True)
    write_set(root, "mine", {"train": 6, "test": 3}, classes=["a", "b"], note="my own")
    files = {"1.png": encoded(1), "bad.png": b""}
    pictures = write_folder(tmp_path_factory.mktemp("from") / "pictures", files)
    for name in ("textures", "miniplaces", "zoo"):
        result = call("data", "import", name, "--from", pictures, "--data-root", root)
        assert result.code == 0, result.err
    return root


@pytest.fixture
def filled(example: Path, root: Path) -> Path:
    """A copy of the example."""
    shutil.copytree(example, root)
    return root


def test_the_list_has_all_that_is_there_and_how_to_get_the_rest(filled: Path, data: Any) -> None:
    result = data("list")
    assert (result.code, result.err) == (0, "")
    assert all(len(line) <= 80 or str(filled) in line for line in result.out.splitlines())
    there, absent = result.out.split("\nnot there:\n")
    heads = [line for line in there.splitlines() if line and not line.startswith((" ", "in "))]
    assert [" ".join(head.split()) for head in heads] == [
        "isun (official) test 8,925",
        "miniplaces (stand-in) test 1",
        "textures (partial) test 1 of 5,640",
        "mine (own) train 6, test 3",
        "zoo (own) test 1",
    ]
    assert "note: textures: 1 of 5,640 images, not the official archive" in there
    assert "from pictures, 1 unreadable" in there
    assert "note: my own" in there
    words = " ".join(absent.split())
    assert f"oodbench data download cifar10 --data-root {filled} " in words
    into = f"--from ARCHIVE_OR_FOLDER --data-root {filled} "
    assert f"oodbench data import imagenet32 {into}" in words
    assert "withdrawn: its authors withdrew it" in absent
    assert "isun" not in absent


def test_the_list_in_json_is_the_same(filled: Path, data: Any) -> None:
    rows = {row["name"]: row for row in data("list", "--json").json}
    assert rows["textures"]["state"] == "partial"
    assert rows["textures"]["splits"]["test"]["images"] == 1
    assert rows["textures"]["splits"]["test"]["of"] == 5_640
    assert len(rows["textures"]["splits"]["test"]["digest"]) == 64
    assert rows["textures"]["unreadable"] == 1
    assert rows["mine"]["folder"] == str(filled / "mine")
    assert rows["mine"]["bytes"] == sum(p.stat().st_size for p in (filled / "mine").iterdir())
    assert rows["cifar10"]["state"] == "missing"
    assert rows["cifar10"]["get"] == f"oodbench data download cifar10 --data-root {filled}"
    assert rows["tinyimages80m"]["state"] == "withdrawn"
    assert "tinyimagenet_all" not in rows


def test_commands_do_not_name_the_folder_that_is_the_default(
    filled: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_DATA", str(filled))
    for place in ((), ("--data-root", filled)):
        rows = {row["name"]: row for row in call("data", "list", "--json", *place).json}
        assert rows["cifar10"]["get"] == "oodbench data download cifar10"


def test_an_empty_folder_is_listed_too(root: Path, data: Any) -> None:
    result = data("list")
    assert result.code == 0
    assert result.out.startswith(f"no image data in {root}\n")
    assert not root.exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "set.json").write_text("{"),
        lambda folder: (folder / "test.npy").unlink(),
        lambda folder: (folder / "test.json").unlink(),
        lambda folder: (folder / "test.npy").write_bytes((folder / "test.npy").read_bytes()[:-1]),
        lambda folder: (folder / "test.npy").write_bytes((folder / "train.npy").read_bytes()),
    ],
)
def test_a_damaged_set_is_listed_as_such(
    harm: Callable[[Path], None], filled: Path, data: Any
) -> None:
    harm(filled / "mine")
    assert "mine (damaged)" in data("list").out
    states = {row["name"]: row["state"] for row in data("list", "--json").json}
    assert (states["mine"], states["isun"]) == ("damaged", "official")


def test_sets_that_are_as_they_were_imported_are_verified(filled: Path, data: Any) -> None:
    result = data("verify")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "isun: ok, test 8,925",
        "mine: ok, train 6, test 3",
        "miniplaces: ok, test 1",
        "textures: ok, test 1",
        "zoo: ok, test 1",
    ]
    assert data("verify", "mine", "zoo").out.count("ok") == 2


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pixel": (lambda folder: _flip(folder / "test.npy"), "its digest is not that of the import"),
    "a file that is gone": (lambda folder: (folder / "test.npy").unlink(), "test.npy is not there"),
    "an empty file": (lambda folder: (folder / "test.npy").write_bytes(b""), "cannot be read"),
    "ids that are gone": (lambda folder: (folder / "test.json").unlink(), "cannot be read"),
    "an id": (
        lambda folder: (folder / "test.json").write_text(
            (folder / "test.json").read_text().replace("test/00001", "test/0000x")
        ),
        "its digest is not that of the import",
    ),
    "the manifest": (lambda folder: (folder / "set.json").write_text("[]"), "set.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_differs_is_named_and_the_others_are_verified(
    damage: str, filled: Path, data: Any
) -> None:
    harm, message = DAMAGE[damage]
    harm(filled / "mine")
    result = data("verify")
    assert result.code == 2
    assert result.err == ("oodbench: 1 of 5 sets are damaged: mine; import them again\n")
    lines = result.out.splitlines()
    assert len(lines) == 5
    assert message in next(line for line in lines if line.startswith("mine: "))
    assert sum("ok" in line for line in lines) == 4


def test_a_set_that_is_not_there_cannot_be_verified(filled: Path, data: Any) -> None:
    result = data("verify", "mien")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert f"no image set 'mien' is in {filled}; did you mean mine?" in result.err


def test_the_folder_comes_from_the_environment(
    filled: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_DATA", str(filled))
    assert "mine: ok" in call("data", "verify", "mine").out


def test_a_folder_that_cannot_be_written_is_named(call: Any, tmp_path: Path) -> None:
    pictures = write_folder(tmp_path / "pictures", {"1.png": encoded(1)})
    (tmp_path / "file").write_text("a file")
    places = ("--from", pictures, "--data-root", tmp_path / "file" / "root")
    result = call("data", "import", "mine", *places)
    assert result.code == 2
    assert result.err.startswith("oodbench: cannot write image data to ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("import", "Missing argument 'NAME'"),
        ("import mine", "Missing option '--from'"),
        ("download", "Missing argument 'NAMES...'"),
        ("import mine --from x --side big", "'big' is not a valid integer"),
        ("nope", "No such command 'nope'"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_in_one_line(
    arguments: str, message: str, call: Any
) -> None:
    result = call("data", *arguments.split())
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert message in result.err


def test_without_a_subcommand_there_is_help(call: Any) -> None:
    result = call("data")
    assert result.code == 2
    assert result.out == ""
    for command in ("download", "import", "list", "verify"):
        assert f"\n  {command} " in result.err


@pytest.mark.parametrize("command", [(), ("list",), ("download",), ("import",), ("verify",)])
def test_help_loads_nothing_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from oodbench.__main__ import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as error:\n"
        "    heavy = {'torch', 'numpy', 'PIL', 'scipy', 'requests'} & set(sys.modules)\n"
        "    sys.exit(f'{heavy}' if heavy or error.code else 0)\n"
    )
    arguments = [sys.executable, "-c", code, "data", *command, "--help"]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
