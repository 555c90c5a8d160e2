"""Weights that were taught with an outlier pool, where that pool is and where it is not."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from imported_data import write_set
from safetensors.torch import load_file

from oodbench.api import Places
from oodbench.cells import Subjected
from oodbench.datasets.tinyimagenet import CIFAR10_CLASSES
from oodbench.datasets.tinyimagenet_cifar100 import CIFAR100_CLASSES
from oodbench.errors import RequestError
from oodbench.identity import digest
from oodbench.images import named_set
from oodbench.plugins import PluginSpec, with_settings
from oodbench.store import read_card
from oodbench.trainer import Trained, TrainingRequest, _Loop, train
from oodbench.workbench import Taught

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


def test_weights_serve_without_the_pool_or_the_weights_that_they_started_from(
    call: Any, plugins: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[TrainingRequest] = []

    def watched(request: TrainingRequest, *rest: Any, **more: Any) -> Trained:
        requests.append(request)
        return train(request, *rest, **more)

    monkeypatch.setattr("oodbench.workbench.train", watched)
    settings = ("quantile=0.25", "first_weight=2", "steps=1", "first_steps=1")
    atom = ("--detector", "atom", *(text for each in settings for text in ("--set", each)))
    suite = ("--suite", plugins / "pooled.py", "--device", "cpu")
    places = ("--data-root", root, "--store", tmp_path / "store")
    results = ("--results", tmp_path / "to", "--json")
    first = call("run", *suite, *atom, *places, *results)
    assert first.code == 0, first.err
    stored = {
        read_card(path)["identity"]["recipe"]["params"].get("first_weight"): path
        for path in (tmp_path / "store").glob("pooled/weights/*/*.json")
    }
    assert set(stored) == {None, 2.0}
    identity = {key: read_card(path)["identity"] for key, path in stored.items()}
    assert identity[2.0]["start"] == digest(identity[None])
    before, after = requests
    assert before.start is None
    kept = load_file(stored[None].with_suffix(".safetensors"))
    assert after.start is not None
    assert after.start.keys() == kept.keys()
    assert all(torch.equal(after.start[name], kept[name]) for name in kept)
    for path in stored[None].parent.glob(f"{stored[None].stem}*"):
        path.unlink()
    shutil.rmtree(root / "tinyimagenet")
    shutil.rmtree(tmp_path / "to")
    again = call("run", *suite, *atom, *places, *results)
    assert again.code == 0, again.err
    assert json.loads(again.out)[0]["auroc"] == json.loads(first.out)[0]["auroc"]
    trained = call("train", *suite, *atom, *places)
    assert trained.code == 0, trained.err
    assert len(trained.out.strip().splitlines()) == 1
    assert len(requests) == 2
    other = call("train", *suite, *atom, "--set", "first_weight=3", *places)
    assert other.code == 2
    assert "data download tinyimagenet" in other.err


@pytest.mark.parametrize("sound", [True, False], ids=["sound", "cut short"])
def test_a_second_training_that_was_stopped_repeats_the_first_only_if_it_cannot_go_on(
    sound: bool,
    call: Any,
    plugins: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[tuple[str, int]] = []
    power = [False]
    run_epoch = _Loop.run_epoch

    def watched(self: Any, stage: Any, epoch: int, *rest: Any) -> None:
        which = "first" if self._recipe.start_from is None else "second"
        begun.append((which, epoch))
        if begun[-1] == ("second", 1) and not power[0]:
            raise RuntimeError("the power fails")
        run_epoch(self, stage, epoch, *rest)

    settings = ("quantile=0.25", "first_weight=2", "steps=1", "first_steps=1")
    atom = ("--detector", "atom", *(text for each in settings for text in ("--set", each)))
    places = ("--data-root", root, "--store", tmp_path / "store", "--device", "cpu")
    asked = ("train", "--suite", plugins / "pooled.py", *atom, *places)
    asked += ("--schedule", "long", "--retrain")
    monkeypatch.setattr(_Loop, "run_epoch", watched)
    assert call(*asked).code != 0
    whole = [("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    assert begun == whole
    (checkpoint,) = (tmp_path / "store").rglob("*.checkpoint")
    if not sound:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    begun.clear()
    power[0] = True
    again = call(*asked)
    assert again.code == 0, again.err
    assert begun == (whole[-1:] if sound else whole)


def test_each_suite_leaves_the_classes_out_that_it_has_itself(tmp_path: Path) -> None:
    from oodbench.datasets.cifar10 import Cifar10
    from oodbench.datasets.cifar100 import Cifar100
    from oodbench.datasets.svhn import Svhn

    dog, school_bus, abacus = "n02085620", "n04146614", "n02666196"
    names = [f"{each}/{each}_{i}.JPEG" for each in (dog, school_bus, abacus) for i in range(4)]
    flat = [name.partition("/")[2] for name in names]
    for place, ids in (("nested", names), ("flat", flat)):
        write_set(tmp_path / place, "tinyimagenet", {"train": 12}, ids={"train": ids})
        for suite, wanted in (
            (Cifar10(), {school_bus, abacus}),
            (Svhn(), {school_bus, abacus}),
            (Cifar100(), {dog, abacus}),
        ):
            pool = suite.image_set(suite.pool)
            seen = [
                *pool.open("train", tmp_path / place).ids,
                *pool.open("val", tmp_path / place).ids,
            ]
            assert {name.rpartition("/")[2].partition("_")[0] for name in seen} == wanted
            assert len(seen) == 8


def test_a_pool_whose_names_tell_no_class_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, "tinyimagenet", {"train": 4}, ids={"train": list("abcd")})
    with pytest.raises(RequestError, match="no WordNet ids"):
        named_set("tinyimagenet").open("train", tmp_path)
    assert len(named_set("tinyimagenet_all").open("val", tmp_path)) == 2


def test_classes_left_out_are_classes_of_the_in_distribution_set() -> None:
    assert set(CIFAR10_CLASSES) <= set(CLASSES or ())
    assert set(CIFAR100_CLASSES) <= set(named_set("cifar100").classes or ())
    for classes, number in ((CIFAR10_CLASSES, 23), (CIFAR100_CLASSES, 44)):
        assert len({one for ids in classes.values() for one in ids}) == number


def test_without_weights_the_pool_is_named_with_the_command_that_gets_it(
    run: Callable[..., Any], root: Path
) -> None:
    shutil.rmtree(root / "tinyimagenet")
    for arguments in ((), ("--retrain",)):
        result = run(*arguments, store="empty")
        assert result.code == 2
        assert "data download tinyimagenet" in result.err
        assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize("alike", [True, False])
def test_nobody_is_told_to_get_a_pool_that_stored_weights_do_without(
    alike: bool, run: Callable[..., Any], root: Path
) -> None:
    assert run().code == 0
    shutil.rmtree(root / "tinyimagenet")
    shutil.rmtree(root / "cifar10")
    result = run(*(() if alike else ("--set", "beta=0.25")))
    assert result.code == 2
    assert f"not in {root}: cifar10" in result.err
    assert ("tinyimagenet" in result.err) == (not alike)


WIDE = "mixed=true weight=4 tta=mirror"


@pytest.mark.parametrize(("more", "told"), [((), False), (("--seed", "1"), True)])
@pytest.mark.parametrize(
    "asked",
    [
        "--detector msp,rowl --schedule zoom",
        f"--detector atom --network conv6wide --set atom.{' --set atom.'.join(WIDE.split())}",
    ],
    ids=["zoom", "wide"],
)
def test_the_weights_that_ship_do_without_the_pool(
    asked: str, more: tuple[str, ...], told: bool, call: Any, tmp_path: Path
) -> None:
    places = ("--data-root", tmp_path, "--store", tmp_path, "--results", tmp_path)
    result = call("run", "--suite", "cifar10", *asked.split(), *places, *more)
    assert result.code == 2
    assert f"not in {tmp_path}: cifar10" in result.err
    assert ("tinyimagenet" in result.err) == told


def test_a_card_without_its_weights_does_not_stand_for_the_pool(
    run: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    assert run().code == 0
    (weights,) = (tmp_path / "store").rglob("*.safetensors")
    weights.unlink()
    # Without the training images it looks for cards of weights that were taught on any.
    for lacking in ("tinyimagenet", "cifar10 tinyimagenet"):
        shutil.rmtree(root / lacking.split()[0], ignore_errors=True)
        result = run()
        assert result.code == 2
        assert f"data download {lacking} " in result.err
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


def test_how_outliers_are_shown_is_nothing_to_a_recipe_without_them(
    plugins: Path, root: Path, tmp_path: Path
) -> None:
    bench = Places("cpu", data_root=root, store=tmp_path / "s").workbench()
    suite = str(plugins / "pooled.py")

    def taught(detector: str, schedule: str) -> Taught:
        settings = ["margin_in=-23"] if detector == "energy_finetuned" else []
        (spec,) = with_settings([PluginSpec("detectors", detector)], settings)
        return bench.taught(spec, suite, schedule, "conv3", 0)

    assert taught("msp", "zoom") == taught("msp", "fast") != taught("msp", "long")
    assert taught("oe", "zoom").schedule == "zoom"
    assert taught("oe", "fast").schedule == "fast"
    one, other = (taught("energy_finetuned", name) for name in ("fast", "zoom"))
    assert one != other
    assert bench.start(one) == bench.start(other) == taught("msp", "fast")
    assert bench.start(taught("msp", "zoom")) is None
    # Stored results of plain networks are found by these names.
    cifar10 = with_settings([PluginSpec("detectors", "msp")], [])[0]
    for name, found in {"fast": "fast", "zoom": "zoom", "whole": "zoom"}.items():
        assert bench.taught(cifar10, "cifar10", name, "conv6", 0).schedule == found


LATER = """
from dataclasses import dataclass

from oodbench.detectors.msp import MSP
from oodbench.detectors.oe import OutlierExposure
from oodbench.recipe import Plain, Recipe


@dataclass(frozen=True)
class Later(Plain):
    @property
    def start_from(self) -> Recipe:
        return OutlierExposure()


@dataclass(frozen=True)
class LaterMSP(MSP):
    @property
    def recipe(self) -> Recipe:
        return Later()
"""


def test_a_recipe_that_starts_from_one_with_outliers_keeps_its_schedule(
    plugins: Path, root: Path, tmp_path: Path
) -> None:
    bench = Places("cpu", data_root=root, store=tmp_path / "s").workbench()
    (tmp_path / "later_msp.py").write_text(LATER)
    spec = PluginSpec("detectors", str(tmp_path / "later_msp.py"))
    found = bench.taught(spec, str(plugins / "pooled.py"), "zoom", "conv3", 0)
    before = bench.start(found)
    assert before is not None
    assert found.schedule == before.schedule == "zoom"
    start = bench.weights_identity(found)["start"]
    assert start == digest(bench.weights_identity(before))
    shutil.rmtree(root / "tinyimagenet")
    write_set(root, "tinyimagenet", {"train": 64}, note="64 pictures")
    afresh = Places("cpu", data_root=root, store=tmp_path / "s").workbench()
    assert afresh.weights_identity(found)["start"] != start
    assert not bench.needs_pool(found)
    assert bench.needs_pool(before)
    subject = Subjected(spec, found, None)
    assert pickle.loads(pickle.dumps(subject)) == subject


def test_a_network_without_outliers_is_taught_once_for_schedules_that_differ_in_these(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    both, margin = "msp,energy_finetuned", "energy_finetuned.margin_in=-23"
    records = {
        schedule: {
            record["detector"]: record
            for record in json.loads(
                run("--detector", both, "--set", margin, "--schedule", schedule).out
            )
        }
        for schedule in ("fast", "zoom")
    }
    fast, zoom = records["fast"], records["zoom"]
    assert zoom["msp"] == fast["msp"]
    assert zoom["oe"]["identity"] != fast["oe"]["identity"]
    assert zoom["oe"]["schedule"] == {**fast["oe"]["schedule"], "name": "zoom", "pool_zoom": 0.5}
    digests = [each["energy_finetuned"]["digests"] for each in (fast, zoom)]
    assert digests[0]["start"] == digests[1]["start"]
    assert digests[0]["weights"] != digests[1]["weights"]
    folders = (tmp_path / "store").glob("pooled/weights/*/*.safetensors")
    made = sorted(f"{path.parent.name} {path.name.split('--')[0]}" for path in folders)
    assert made == [
        "energymargins conv3-fast-0",
        "energymargins conv3-zoom-0",
        "outlierexposure conv3-fast-0",
        "outlierexposure conv3-zoom-0",
        "plain conv3-fast-0",
    ]
