"""Image sets as an import leaves them: opened, held out, left out, damaged."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_data import write_set

from oodbench.api import Places
from oodbench.datasets.tinyimagenet import CIFAR10_CLASSES, TinyImageNet
from oodbench.datasets.tinyimagenet_all import TinyImageNetAll
from oodbench.errors import DamagedFileError, RequestError
from oodbench.images import named_set
from oodbench.imported import (
    PackedImages,
    UserSet,
    imported_names,
    is_imported,
    read_manifest,
    user_suite,
)
from oodbench.plan import Request, make_plan, planned_subjects

CIFAR10 = named_set("cifar10")


def test_what_is_packed_is_what_was_written(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "mine", {"test": 7}, classes=["a", "b"])
    images = PackedImages(folder, "test")
    pixels = np.load(folder / "test.npy")
    assert images.batch([5, 0]).tolist() == pixels[[5, 0]].tolist()
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert images.digest == read_manifest(folder).splits["test"].digest
    assert imported_names(tmp_path) == ["mine"]


def test_what_a_killed_import_left_is_no_set(call: Any, tmp_path: Path) -> None:
    write_set(tmp_path, ".mine.0123abcd-99-01234567.old", {"test": 2})
    write_set(tmp_path, "other", {"test": 2})
    assert imported_names(tmp_path) == ["other"]
    assert not is_imported(tmp_path, ".mine.0123abcd-99-01234567.old")
    verified = call("data", "verify", "--data-root", tmp_path)
    assert (verified.code, verified.out) == (0, "other: ok, test 2\n")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_a_name_that_is_a_path_is_no_set(name: str, tmp_path: Path) -> None:
    write_set(tmp_path / "a", "b", {"test": 2})
    assert not is_imported(tmp_path, name)


def test_validation_images_are_held_out_of_training_once_for_all(tmp_path: Path) -> None:
    write_set(tmp_path, "cifar10", {"train": 5_000, "test": 10}, classes=CIFAR10.classes)
    train, val = (CIFAR10.open(split, tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (3_000, 2_000)
    assert not set(train.ids) & set(val.ids)
    assert list(CIFAR10.open("val", tmp_path).ids) == list(val.ids)
    whole = PackedImages(tmp_path / "cifar10", "train")
    place = {name: i for i, name in enumerate(whole.ids)}
    for part in (train, val):
        rows = [place[name] for name in part.ids]
        assert part.batch([0, 3]).tolist() == whole.batch(rows)[[0, 3]].tolist()
        assert part.labels.tolist() == whole.labels[rows].tolist()
    assert len(CIFAR10.open("test", tmp_path)) == 10


def test_the_pool_leaves_out_the_classes_of_cifar10(tmp_path: Path) -> None:
    shared = [x for ids in CIFAR10_CLASSES.values() for x in ids]
    assert len(set(shared)) == 23
    ids = [f"train/{x}/images/{x}_{i}.JPEG" for x in [*shared, "n99999999"] for i in range(4)]
    write_set(tmp_path, "tinyimagenet", {"train": len(ids)}, ids={"train": ids})
    used = [*TinyImageNet().open("train", tmp_path).ids, *TinyImageNet().open("val", tmp_path).ids]
    assert sorted(used) == [name for name in ids if "n99999999" in name]
    everything = TinyImageNetAll().open("train", tmp_path), TinyImageNetAll().open("val", tmp_path)
    assert sum(map(len, everything)) == len(ids)


def test_missing_data_are_told_with_the_command_that_gets_them(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("run", "--suite", "cifar10", "--detector", "msp", "--data-root", tmp_path)
    places = ("--results", tmp_path / "r", "--store", tmp_path / "s")
    result = call(*asked, *places)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "oodbench data download cifar10" in result.err
    assert result.err.endswith(f" --data-root {tmp_path}\n")
    write_set(tmp_path, "cifar10", {"train": 60, "test": 20}, classes=CIFAR10.classes)
    result = call(*asked, *places)
    assert result.code == 2
    assert result.err.count("\n") == 1
    sets = "svhn textures places365 lsun_c lsun_r isun"
    assert f"get them with: oodbench data download {sets} --data-root {tmp_path}\n" in result.err
    result = call(*(part if part != "msp" else "oe" for part in asked), *places)
    assert f"oodbench data download tinyimagenet {sets} --data-root" in result.err
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path))
    assert f"get them with: oodbench data download {sets}\n" in call(*asked, *places).err
    assert not (tmp_path / "r").exists()


def test_the_command_that_gets_a_set_fills_the_folder_it_was_sought_in(tmp_path: Path) -> None:
    root = tmp_path / "my data"
    for name, command in (("cifar10", "download cifar10"), ("miniplaces", "import miniplaces")):
        with pytest.raises(RequestError) as told:
            named_set(name).open("test", root)
        asked = shlex.split(str(told.value).partition("get it with: ")[2])
        assert " ".join(asked[2:4]) == command
        assert asked[-2:] == ["--data-root", str(root)]


def test_a_set_without_the_split_says_which_it_has(tmp_path: Path) -> None:
    write_set(tmp_path, "cifar10", {"test": 20})
    with pytest.raises(RequestError, match="has test, not train; get it with"):
        CIFAR10.open("train", tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("set.json", "{"),
        ("set.json", "[]"),
        ("set.json", '{"schema": 1}'),
        ("set.json", '{"schema": 99}'),
        ("test.npy", "no array"),
        ("test.json", '{"ids": ["a"], "labels": null}'),
        ("test.json", "{}"),
    ],
)
def test_a_damaged_set_is_named(file: str, text: str, tmp_path: Path) -> None:
    folder = write_set(tmp_path, "textures", {"test": 3})
    (folder / file).write_text(text)
    with pytest.raises(DamagedFileError, match="textures"):
        named_set("textures").open("test", tmp_path)


def test_the_note_of_the_import_comes_before_that_of_the_card(tmp_path: Path) -> None:
    found = named_set("miniplaces")
    assert found.note(tmp_path) == found.card.note != ""
    write_set(tmp_path, "miniplaces", {"test": 2}, note="2 of them")
    assert found.note(tmp_path) == "2 of them"


def test_any_imported_set_with_classes_is_a_suite(call: Any, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_set(root, "pets", {"train": 2_060, "test": 30}, classes=["cat", "dog"])
    write_set(root, "odd", {"test": 30}, note="odd ones")
    places = ("--results", tmp_path / "r", "--store", tmp_path / "s", "--data-root", root)
    asked = ("run", "--suite", "pets", "--detector", "msp", "--network", "conv3", *places)
    none = call(*asked)
    assert none.code == 2
    assert "name some by --ood" in none.err
    known = read_manifest(root / "pets")
    assert UserSet("pets", root).classes == ("cat", "dog") == known.classes
    assert user_suite("pets", root).published["rowl"]["background"] == 0.5
    for fault, match in (("odd", "no classes"), ("pets2", "it has the splits test")):
        if fault == "pets2":
            write_set(root, fault, {"test": 4}, classes=["a"])
        with pytest.raises(RequestError, match=match):
            user_suite(fault, root)


def test_training_needs_no_ood_sets(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_set(root, "pets", {"train": 2_060, "test": 2}, classes=["cat", "dog"])
    bench = Places("cpu", data_root=root, store=tmp_path / "s").workbench()

    def trained(suite: str, *detectors: str) -> list[str]:
        asked = Request(suite=suite, detectors=detectors, seeds=(0, 1))
        subjects = planned_subjects(asked, bench)
        return [taught.title for taught in dict.fromkeys(subject.taught for subject in subjects)]

    write_set(root, "cifar10", {"train": 2_060}, classes=list("abcdefghij"))
    plain = ["Plain, seed 0", "Plain, seed 1"]
    assert trained("cifar10", "msp", "odin") == plain
    with pytest.raises(RequestError, match=": tinyimagenet; get it with"):
        trained("cifar10", "msp", "oe")
    assert trained("pets", "msp", "odin") == plain
    with pytest.raises(RequestError, match="name some by --ood"):
        make_plan(Request(suite="pets", detectors=("msp",)), bench, tmp_path / "r")


def test_an_imported_folder_is_an_ood_set_of_any_suite(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "data", "holiday", {"test": 12}, note="12 pictures of mine")
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "data"))
    result = run("--detector", "msp", "--attack", "none,linf", "--ood", "holiday,rings", "--json")
    assert result.code == 0, result.err
    assert [r["set"] for r in result.json] == ["rings", "holiday"] * 2
    assert result.json[1]["n_ood"] == 12
    assert "12 pictures of mine" in result.json[1]["notes"]
    assert "12 pictures of mine" not in result.json[0]["notes"]


def test_a_manifest_is_plain_data_and_back(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "mine", {"train": 4, "test": 3}, classes=["a", "b"])
    manifest = read_manifest(folder)
    (folder / "set.json").write_text(json.dumps(manifest.told()))
    assert read_manifest(folder) == manifest
