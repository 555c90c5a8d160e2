"""Means over OOD sets: stand-ins beside, near sets apart, groups of what is alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from imported_data import write_set

from oodbench.datasets.cifar10 import Cifar10
from oodbench.datasets.mini import Mini
from oodbench.images import Suite
from oodbench.views import ALL, GENUINE, near_sets, suite_called, views

SETS = ("svhn", "textures", "miniplaces", "lsun_c_standin", "isun", "cifar100")


def test_a_suite_without_kinds_of_sets_has_one_mean() -> None:
    assert views(Mini(), Mini().ood_sets) == {ALL: Mini().ood_sets}
    assert views(None, ["b", "a"]) == {ALL: ("b", "a")}


def test_near_sets_stand_in_no_mean_and_stand_ins_in_one_of_two() -> None:
    found = views(Cifar10(), SETS)
    assert next(iter(found)) == ALL
    assert found == {
        ALL: SETS[:-1],
        GENUINE: ("svhn", "textures", "isun"),
        "others": ("svhn", "textures"),
        "scenes": ("miniplaces", "lsun_c_standin"),
    }
    assert near_sets(Cifar10(), SETS) == ("cifar100",)
    assert near_sets(Cifar10(), ["cifar100"]) == near_sets(None, SETS) == ()


def test_sets_of_one_kind_alone_are_no_group_and_are_not_called_stand_ins() -> None:
    assert views(Cifar10(), ["miniplaces", "lsun_r_standin"]) == {
        ALL: ("miniplaces", "lsun_r_standin")
    }
    assert views(Cifar10(), ["cifar100"]) == {ALL: ("cifar100",)}
    assert views(Cifar10(), ["mine", "svhn"]) == {ALL: ("mine", "svhn")}


def test_suites_are_found_by_name_or_not_at_all() -> None:
    assert isinstance(suite_called("cifar10"), Cifar10)
    assert suite_called("nothing") is None
    assert suite_called("textures") is None


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ((), Cifar10().ood_sets),
        (("miniplaces",), ("svhn", "textures", "miniplaces", "lsun_c", "lsun_r", "isun")),
        (("miniplaces", "places365"), Cifar10().ood_sets),
    ],
)
def test_a_set_that_is_not_there_gives_way_to_its_stand_in(
    there: tuple[str, ...], wanted: tuple[str, ...], tmp_path: Path
) -> None:
    for name in there:
        write_set(tmp_path, name, {"test": 4})
    found = Cifar10().located(tmp_path)
    assert found.ood_sets == wanted
    assert found.near == ()
    write_set(tmp_path, "cifar100", {"test": 4})
    assert Cifar10().located(tmp_path).near == ("cifar100",)


@pytest.fixture
def everything_shown(
    call: Any, tiny: str, tmp_path: Path, shared_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Call ``run`` on the tiny suite with imported sets of every kind beside its own."""
    from oodbench import views as module
    from oodbench.workbench import Workbench

    root = tmp_path / "data"
    for name, note in (("mine", ""), ("posing", "not what it seems"), ("close", "")):
        write_set(root, name, {"test": 30}, note=note)
    plain = Workbench.suite

    def suite(bench: Workbench, reference: str) -> Suite:
        return _with_kinds(plain(bench, reference))

    monkeypatch.setattr(Workbench, "suite", suite)
    monkeypatch.setattr(
        "oodbench.leaderboard.means.suite_called", lambda name: _with_kinds(_tiny(tiny))
    )
    assert module.suite_called("tiny") is None

    def run(*arguments: object) -> Any:
        places = ("--store", shared_store, "--data-root", root, "--device", "cpu")
        chosen = ("--suite", tiny, "--results", tmp_path / "results", *places)
        return call("run", *chosen, "--ood", "rings,noise,close,posing,mine", *arguments)

    return run


def _tiny(path: str) -> Suite:
    from oodbench.registry import load

    found: Suite = load("datasets", path)()
    return found


def _with_kinds(suite: Suite) -> Suite:
    return replace(
        suite,
        near=("close",),
        stand_ins={"true": "posing"},
        groups={"drawn": ("rings", "noise"), "brought": ("mine", "posing")},
    )


def test_the_means_of_a_table_are_those_of_their_sets(everything_shown: Any) -> None:
    records = {r["set"]: r for r in everything_shown("--detector", "msp", "--json").json}
    assert len(records) == 5
    assert "not what it seems" in records["posing"]["notes"]
    table = everything_shown("--detector", "msp").out
    rows = {line.split("  ")[0].strip(): line for line in table.splitlines() if "  " in line}
    wanted = {
        "mean": ("rings", "noise", "posing", "mine"),
        "without stand-ins": ("rings", "noise", "mine"),
        "drawn (2)": ("rings", "noise"),
        "brought (2)": ("posing", "mine"),
    }
    order = [name for name in rows if name in {*records, *wanted}]
    assert order == ["rings", "noise", "posing", "mine", "close", *wanted]
    for title, sets in wanted.items():
        for metric in ("fpr95", "auroc"):
            mean = sum(records[name][metric] for name in sets) / len(sets)
            assert f" {100 * mean:.2f} " in rows[title], (title, metric)
    assert "Near, and in no mean: close." in table
    assert "without stand-ins (posing)." in table


def test_a_row_of_means_shows_the_one_without_stand_ins_beside(everything_shown: Any) -> None:
    result = everything_shown("--detector", "msp,energy")
    records = everything_shown("--detector", "msp,energy", "--json").json
    (row,) = [line for line in result.out.splitlines() if line.startswith("msp")]
    mine = {r["set"]: r["auroc"] for r in records if r["detector"] == "msp"}
    for sets in (("rings", "noise", "posing", "mine"), ("rings", "noise", "mine")):
        assert f" {100 * sum(mine[name] for name in sets) / len(sets):.2f} " in row
    assert "AUROC *" in result.out


def test_the_leaderboard_has_a_table_for_each_view(
    everything_shown: Any, call: Any, tmp_path: Path
) -> None:
    records = everything_shown("--detector", "msp", "--json").json
    out = call("leaderboard", "--results", tmp_path / "results").out
    headings = [line for line in out.splitlines() if line.startswith("####")]
    assert headings == [
        "#### without stand-ins",
        "#### drawn",
        "#### brought",
        "#### near: close",
    ]
    rows = [line for line in out.splitlines() if line.startswith("| msp")]
    by_set = {r["set"]: r for r in records}
    wanted = [
        ("rings", "noise", "posing", "mine"),
        ("rings", "noise", "mine"),
        ("rings", "noise"),
        ("posing", "mine"),
        ("close",),
    ]
    assert len(rows) == len(wanted)
    for row, sets in zip(rows, wanted, strict=True):
        fpr, auroc = (
            100 * sum(by_set[name][metric] for name in sets) / len(sets)
            for metric in ("fpr95", "auroc")
        )
        assert f"{fpr:.2f} / {auroc:.2f}" in row
    assert "posing: not what it seems" in out


def test_an_unknown_set_is_refused_with_what_could_be_done(run: Any) -> None:
    result = run("--detector", "msp", "--ood", "nowhere")
    assert result.code == 2
    assert "--ood nowhere" in result.err
    assert "oodbench data import nowhere" in result.err
