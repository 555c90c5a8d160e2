"""Weights that were taught with an outlier pool, where that pool is and where it is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imported_data import write_set

from oodbench.images import named_set

CLASSES = named_set("cifar10").classes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    write_set(folder, "cifar10", {"train": 80, "test": 30}, classes=CLASSES, note="a part")
    write_set(folder, "svhn", {"test": 30}, note="few digits")
    write_set(folder, "tinyimagenet", {"train": 60}, note="60 pictures")
    return folder


@pytest.fixture
def run(call: Any, plugins: Path, root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run OE on a suite whose pool is imported."""

    def run(*arguments: str, store: str = "store") -> Any:
        places = ("--data-root", root, "--store", tmp_path / store, "--results", tmp_path / "to")
        suite = ("--suite", plugins / "pooled.py", "--device", "cpu")
        return call("run", *suite, "--detector", "oe", *places, "--json", *arguments)

    return run


def test_weights_serve_those_who_have_not_got_the_pool(
    run: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    first = run()
    assert first.code == 0, first.err
    shutil.rmtree(root / "tinyimagenet")
    shutil.rmtree(tmp_path / "to")
    again = run()
    assert again.code == 0, again.err
    assert "training" not in again.err
    (before,), (after,) = json.loads(first.out), json.loads(again.out)
    assert after["identity"] == before["identity"]
    assert after["auroc"] == before["auroc"]
    assert after["notes"] == before["notes"]


def test_without_weights_the_pool_is_named_with_the_command_that_gets_it(
    run: Callable[..., Any], root: Path
) -> None:
    shutil.rmtree(root / "tinyimagenet")
    for arguments in ((), ("--retrain",)):
        result = run(*arguments, store="empty")
        assert result.code == 2
        assert "data download tinyimagenet" in result.err
        assert len(result.err.strip().splitlines()) == 1


def test_weights_are_not_retrained_for_others_who_lack_the_pool(
    run: Callable[..., Any], root: Path
) -> None:
    assert run().code == 0
    shutil.rmtree(root / "tinyimagenet")
    result = run("--retrain")
    assert result.code == 2
    assert "data download tinyimagenet" in result.err


def test_another_pool_teaches_other_weights(run: Callable[..., Any], root: Path) -> None:
    first = json.loads(run().out)[0]
    shutil.rmtree(root / "tinyimagenet")
    write_set(root, "tinyimagenet", {"train": 64}, note="64 pictures")
    other = json.loads(run().out)[0]
    assert other["identity"] != first["identity"]
    assert other["digests"]["pool"] != first["digests"]["pool"]


def test_a_record_says_what_its_images_and_its_pool_are(run: Callable[..., Any]) -> None:
    (record,) = json.loads(run().out)
    assert record["notes"][:3] == [
        "few digits",
        "in-distribution set cifar10: a part",
        "outlier pool tinyimagenet: 60 pictures",
    ]
