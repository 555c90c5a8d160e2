"""The leaderboard: the stored figures, averaged as said, and nothing mixed that differs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from oodbench import leaderboard as lb
from oodbench.errors import RequestError
from oodbench.identity import digest
from oodbench.leaderboard import selection
from oodbench.leaderboard.formats.markdown import escaped
from oodbench.records import Place, find_records, read_record, write_record
from oodbench.registry import load

HISTORIC = Path(__file__).parent / "historic"
TEMPLATE = read_record(next(HISTORIC.glob("*.json")))
SEARCH = {"budget": 100, "steps": 100.0}
CORRUPTING = {"budget": 0, "queries": 95}
BOTH = {"budget": 100, "queries": 95}
FIGURES = lb.METRICS
Add = Callable[..., dict[str, Any]]


def plugins(**known: Any) -> dict[str, Any]:
    """Versions of a record with those of plugins."""
    return {"versions": {**TEMPLATE["versions"], "plugins": known}}


def made(root: Path, **changed: Any) -> dict[str, Any]:
    """Write a record that differs from a real one as said, with figures of its own."""
    rng = np.random.default_rng(int(digest(changed)[:8], 16))
    digests = {
        **{key: value for key, value in TEMPLATE["digests"].items() if key != "record"},
        "weights": digest([changed.get(key) for key in ("detector", "seed")]),
        "set": digest(changed.get("set", "rings")),
        **changed.pop("digests", {}),
    }
    record = {
        **TEMPLATE,
        **{metric: float(rng.random()) for metric in FIGURES},
        "perturbation": "none",
        "eps": None,
        "attack": None,
        "notes": [],
        **changed,
        "digests": digests,
    }
    figures = [record["detector"], record["seed"], record["params"], record["network"]]
    record["digests"]["id_scores"] = digest(figures)
    record["identity"] = digest({**record, "seconds": 0})
    place = Place(root, record["suite"], record["detector"], record["seed"])
    path = place.record(record["perturbation"], record["set"], record["identity"])
    write_record(path, record, {"scores": rng.random(4).astype(np.float32)})
    return read_record(path)


@pytest.fixture
def add(tmp_path: Path) -> Add:
    return lambda **changed: made(tmp_path, **changed)


@pytest.fixture
def board(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    return lambda **wanted: lb.leaderboard(tmp_path, **wanted)


Parsed = tuple[str, dict[str, dict[str, str]], str]


def parsed(text: str) -> list[Parsed]:
    """Read markdown back: title, cells by row and column, and footnotes of each table."""
    found = []
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        title, _, rest = section.partition("\n")
        lines = [line for line in rest.splitlines() if line.startswith("|")]
        split = [
            [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines
        ]
        assert len({len(row) for row in split}) == 1
        cells = {row[0]: dict(zip(split[0][1:], row[1:], strict=True)) for row in split[2:]}
        assert len(cells) == len(split) - 2
        found.append((title, cells, rest.rpartition("|\n")[2]))
    return found


# Figures


def test_every_cell_is_the_mean_of_the_stored_figures_over_the_sets(
    run: Any, call: Any, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    assert run("--detector", "msp,odin", "--attack", "all", "--limit", 20).code == 0
    records = pd.DataFrame([json.loads(path.read_text()) for path in find_records(root)])
    wanted = records.groupby(["detector", "perturbation"])[[*FIGURES, "accuracy"]].mean()
    frame = lb.leaderboard(root)
    assert len(frame) == len(wanted) == 8
    for _, cell in frame.iterrows():
        right = wanted.loc[(cell["detector"], cell["perturbation"])]
        assert [cell[m] for m in right.index] == pytest.approx(list(right), abs=1e-12)
        assert (cell["n_sets"], cell["n_seeds"], cell["remark"]) == (2, 1, "")
    order = frame.drop_duplicates("column_rank").sort_values("column_rank")["perturbation"]
    assert list(order) == ["none", "corruption", "linf", "compositional"]
    ((title, cells, notes),) = parsed(call("leaderboard", "--results", root).out)
    for word in ("suite tiny", "network conv3", "schedule fast", "preset standard", "protocol"):
        assert word in title
    assert "20 ID and 40 OOD test images" in title
    assert set(cells) == set(records["detector"])
    for (detector, attack), right in wanted.iterrows():  # type: ignore[misc]
        (column,) = [c for c in cells[detector] if c.split()[0] == attack]
        text = f"{100 * right['fpr95']:.2f} / {100 * right['auroc']:.2f}"
        assert cells[detector][column].replace("**", "") == text
        assert cells[detector]["ID acc."] == f"{100 * right['accuracy']:.2f}"
    assert "fpr95; OpenOOD's convention is fpr95_ood" in notes


def test_columns_go_from_clean_to_the_composition_then_to_what_searches_without_gradients(
    add: Add, board: Any
) -> None:
    add(perturbation="zzz")
    add(perturbation="bbb", eps="8/255", attack=BOTH)
    add(perturbation="aaa", eps="8/255", attack=CORRUPTING)
    add(perturbation="ccc", eps="16/255", attack=SEARCH)
    add(perturbation="ccc", eps="8/255", attack=SEARCH)
    add(perturbation="ddd", attack=CORRUPTING)
    assert list(board()["column"]) == [
        *("zzz", "ddd", "ccc 8/255", "ccc 16/255", "bbb 8/255", "aaa 8/255")
    ]


def test_seeds_are_averaged_with_the_sample_standard_deviation(add: Add, board: Any) -> None:
    made = [add(seed=seed, set=name) for seed in (0, 1, 2) for name in ("page", "rings")]
    (cell,) = board().to_dict("records")
    for metric in FIGURES:
        means = np.array([record[metric] for record in made]).reshape(3, 2).mean(1)
        assert cell[metric] == pytest.approx(means.mean())
        assert cell[f"{metric}_std"] == pytest.approx(means.std(ddof=1))
    assert cell["seeds"] == (0, 1, 2)
    ((_, cells, notes),) = parsed(lb.markdown(board()))
    shown = [f"{100 * cell[m]:.2f} ± {100 * cell[m + '_std']:.2f}" for m in ("fpr95", "auroc")]
    assert cells["msp"]["none"] == " / ".join(shown)
    assert "Training seeds 0, 1, 2." in notes


# What is not there


def test_a_missing_cell_is_a_dash_and_explained(add: Add, board: Any) -> None:
    add(detector="one")
    add(detector="one", perturbation="linf", eps="8/255", attack=SEARCH)
    add(detector="two")
    ((_, cells, notes),) = parsed(lb.markdown(board()))
    assert cells["two"]["linf 8/255"] == "–"
    assert "– no record." in notes
    ((_, _, notes),) = parsed(lb.markdown(board(selection=lb.Selection(detectors=["one"]))))
    assert "– no record." not in notes


def test_a_mean_over_fewer_sets_is_marked_and_says_over_which(add: Add, board: Any) -> None:
    for name in ("page", "rings", "noise"):
        add(detector="whole", set=name)
    part = [add(detector="part", set=name) for name in ("page", "rings")]
    ((_, cells, notes),) = parsed(lb.markdown(board()))
    mean = 100 * np.mean([record["fpr95"] for record in part])
    assert cells["part"]["none"].startswith(f"{mean:.2f} / ")
    assert cells["part"]["none"].endswith(" †")
    assert "†" not in cells["whole"]["none"]
    assert "- † mean over 2 of 3 sets (page, rings)." in notes


def test_all_seeds_of_a_cell_are_averaged_over_the_same_sets(add: Add, board: Any) -> None:
    whole = [add(seed=0, set=name) for name in ("page", "rings")]
    add(seed=1, set="page")
    (cell,) = board().to_dict("records")
    assert cell["fpr95"] == pytest.approx(np.mean([record["fpr95"] for record in whole]))
    assert cell["seeds"] == (0,)
    assert cell["remark"] == "mean over 1 of 2 seeds (0)"


def test_fewer_seeds_than_others_are_marked(add: Add, board: Any) -> None:
    for seed in (0, 1):
        add(detector="two", seed=seed)
    add(detector="one", seed=1)
    ((_, cells, notes),) = parsed(lb.markdown(board()))
    assert cells["one"]["none"].endswith(" †")
    assert "± " in cells["two"]["none"]
    assert "† mean over 1 of 2 seeds (1)." in notes


def test_different_trainings_of_one_seed_in_a_row_are_said(add: Add, board: Any) -> None:
    add(set="page", digests={"weights": "a" * 64})
    add(set="rings", digests={"weights": "b" * 64})
    ((_, cells, notes),) = parsed(lb.markdown(board()))
    assert cells["msp"]["none"].endswith(" †")
    assert "† the row holds several trainings or fits of seed 0." in notes


# Never mixed

OTHER_TABLE: dict[str, dict[str, Any]] = {
    "suite": {"suite": "other"},
    "network": {"network": "wide"},
    "preset": {"preset": "paper"},
    "protocol": {"protocol": 2},
    "network version": plugins(conv3=2),
    "schedule": {"schedule": {**TEMPLATE["schedule"], "name": "paper", "epochs": 100}},
    "schedule of the same name": {"schedule": {**TEMPLATE["schedule"], "epochs": 3}},
    "limit": {"n_id": 10, "n_ood": 10},
    "OOD limit": {"n_ood": 10},
    "OOD images": {"digests": {"set": "c" * 64}},
    "ID images": {"digests": {"id": "c" * 64}},
    "training images": {"digests": {"train": "c" * 64}},
}


@pytest.mark.parametrize("what", OTHER_TABLE)
def test_what_differs_in_setting_is_in_tables_of_its_own(what: str, add: Add, board: Any) -> None:
    both = [add(), add(**OTHER_TABLE[what])]
    tables = parsed(lb.markdown(board()))
    assert len({title for title, _, _ in tables}) == 2
    shown = {cells["msp"]["none"] for _, cells, _ in tables}
    assert shown == {f"{100 * r['fpr95']:.2f} / {100 * r['auroc']:.2f}" for r in both}


LINF = {"perturbation": "linf", "eps": "8/255", "attack": SEARCH}
OTHER_COLUMN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "eps": ({"eps": "4/255"}, {"linf 4/255", "linf 8/255"}),
    "budget": (
        {"attack": {"budget": 500}},
        {"linf 8/255, 100 steps", "linf 8/255, 500 steps"},
    ),
    "candidates": (
        {"attack": BOTH},
        {"linf 8/255, 0 candidates", "linf 8/255, 95 candidates"},
    ),
    "precision": (
        {"precision": "bfloat16"},
        {"linf 8/255, float32", "linf 8/255, bfloat16"},
    ),
    "side": ({"side": "id"}, {"linf 8/255", "linf 8/255 on id"}),
    "kind": ({"kind": "certified"}, {"linf 8/255", "linf 8/255 certified"}),
    "parameters": (
        {"attack": {**SEARCH, "params": {"preset": "standard", "eps": 8, "momentum": 0.5}}},
        {"linf 8/255", "linf 8/255, momentum=0.5"},
    ),
    "version": (plugins(linf=2), {"linf 8/255, version unknown", "linf 8/255, version 2"}),
    "version of a stage": (
        plugins(linf=1, corruption=2),
        {"linf 8/255, version unknown", "linf 8/255, version 1 (corruption 2)"},
    ),
}


@pytest.mark.parametrize("what", OTHER_COLUMN)
def test_what_differs_in_threat_is_in_columns_of_its_own(what: str, add: Add, board: Any) -> None:
    changed, columns = OTHER_COLUMN[what]
    both = [add(**LINF), add(**LINF | changed)]
    ((_, cells, _),) = parsed(lb.markdown(board()))
    del cells["msp"]["ID acc."]
    assert set(cells["msp"]) == columns
    shown = {
        " / ".join(
            f"{100 * record[metric]:.2f}"
            for metric in ("fpr95", *(("fnr",) if record["side"] != "ood" else ()), "auroc")
        )
        for record in both
    }
    assert set(cells["msp"].values()) == shown


def test_parameters_that_differ_are_rows_of_their_own_and_name_the_difference(
    add: Add, board: Any
) -> None:
    for temperature in (1000.0, 100.0):
        add(detector="odin", params={"temperature": temperature, "noise": 0.0016})
    add(detector="msp", recipe={"name": "Plain", "version": 1, "params": {}})
    add(detector="msp", recipe={"name": "Plain", "version": 2, "params": {}})
    assert set(board()["row"]) == {
        "odin (temperature=1000)",
        "odin (temperature=100)",
        "msp (recipe.version=1)",
        "msp (recipe.version=2)",
    }


def test_other_versions_of_a_plugin_are_told_apart_and_never_averaged(add: Add, board: Any) -> None:
    source = "ab" * 32
    both = [add(**plugins(msp=version, conv3=1, none=1)) for version in (1, source)]
    frame = board(sort="name")
    assert list(frame["row"]) == ["msp (version 1)", f"msp (version {source[:12]})"]
    assert list(frame["fpr95"]) == [record["fpr95"] for record in both]


def test_parameters_of_a_perturbation_are_told_where_they_differ(add: Add, board: Any) -> None:
    for severity in (5, 3):
        attack = {**CORRUPTING, "params": {"preset": "standard", "severity": severity}}
        add(perturbation="corruption", attack=attack)
        add(perturbation="other", attack=attack | {"params": {"severity": 5}}, seed=severity)
    assert list(board()["column"]) == ["corruption, severity=3", "corruption, severity=5", "other"]


def test_usual_parameters_of_a_perturbation_make_no_difference_to_old_records(
    add: Add, board: Any
) -> None:
    params = {"preset": "standard", "eps": 8, "budget": 100}
    add(set="page", **LINF)
    add(set="rings", **LINF | {"attack": {**SEARCH, "params": params}})
    assert list(board()["column"]) == ["linf 8/255"]


def test_a_set_in_one_version_stands_in_the_tables_of_both_versions_of_another(
    add: Add, board: Any
) -> None:
    add(set="page")
    add(set="rings", n_ood=30)
    add(set="rings", n_ood=10)
    frame = board()
    assert list(frame["n_ood"]) == [60, 40]
    assert list(frame["sets"]) == [("page", "rings")] * 2


def test_records_that_do_not_say_how_they_differ_are_refused(
    add: Add, call: Any, tmp_path: Path
) -> None:
    add(cell_key="0" * 64, fpr95=0.1)
    add(cell_key="1" * 64, fpr95=0.2)
    result = call("leaderboard", "--results", tmp_path)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    for path in find_records(tmp_path):
        assert path.name in result.err


def test_one_record_twice_counts_once(add: Add, board: Any, tmp_path: Path) -> None:
    record = add(set="page")
    add(set="rings", fpr95=record["fpr95"] / 2)
    path = next(tmp_path.rglob("page--*.json"))
    path.with_name("page--copy.json").write_bytes(path.read_bytes())
    assert list(board()["fpr95"]) == pytest.approx([0.75 * record["fpr95"]])


# Order


def test_rows_are_sorted_by_their_lowest_auroc_and_incomplete_ones_come_last(
    add: Add, board: Any
) -> None:
    figures = {"b": (0.9, 0.3), "a": (0.8, 0.5), "c": (0.99, None), "d": (0.7, 0.4)}
    for detector, (clean, attacked) in figures.items():
        add(detector=detector, auroc=clean)
        if attacked is not None:
            add(detector=detector, auroc=attacked, **LINF)
    assert list(dict.fromkeys(board()["row"])) == ["a", "d", "b", "c"]
    assert list(dict.fromkeys(board(sort="name")["row"])) == ["a", "b", "c", "d"]
    with pytest.raises(RequestError, match="--sort size: there are worst, name"):
        board(sort="size")


# Notes


def test_notes_are_said_once_and_of_whom(add: Add, board: Any) -> None:
    for detector in ("one", "two"):
        add(detector=detector, set="page", notes=["stands in for LSUN", "all"])
        add(detector=detector, set="rings", notes=["all"])
    add(detector="one", set="rings", notes=["Only 98.10 % distinct"], **LINF)
    add(detector="one", set="page", notes=["Only 9.30 % distinct"], **LINF)
    ((_, _, notes),) = parsed(lb.markdown(board()))
    lines = notes.split("\n")
    assert lines.count("- all") == 1
    assert lines.count("- page: stands in for LSUN") == 1
    assert lines.count("- one: Only 9.30–98.10 % distinct") == 1


def test_the_budget_and_the_judge_stand_under_the_table(add: Add, board: Any) -> None:
    add(**LINF)
    add(perturbation="corruption", attack=CORRUPTING)
    add(**LINF | {"preset": "paper", "precision": "bfloat16"})
    (_, _, standard), (_, _, paper) = parsed(lb.markdown(board()))
    search = "linf 8/255: 100 gradient steps an image"
    assert f"{search}, the worst case chosen by the true score." in standard
    assert "corruption: 95 candidates an image, the worst case" in standard
    assert f"{search}, searched in bfloat16, the worst case chosen by the published" in paper


def test_the_note_of_the_suite_stands_under_its_tables_once(add: Add, board: Any) -> None:
    note = load("datasets", "mini")().note
    assert note
    add(suite="mini")
    add(suite="mini", preset="paper", notes=[note])
    add(suite="nobody knows")
    assert [notes.count(note) for _, _, notes in parsed(lb.markdown(board()))] == [1, 1, 0]


def test_what_markdown_would_take_for_markup_is_escaped(add: Add, board: Any) -> None:
    add(detector="a|b", params={"x": "1|2*_"}, notes=["<b>|\n`c`"])
    add(detector="a|b", params={"x": "3"})
    text = lb.markdown(board())
    ((_, cells, _),) = parsed(text)
    assert set(cells) == {"a|b (x=1|2*_)", "a|b (x=3)"}
    assert r"\<b\>\| `c`" in text
    assert escaped("mahalanobis_single") == "mahalanobis_single"


# Filters


@pytest.fixture
def several(add: Add) -> None:
    for detector in ("msp", "oe"):
        for seed in (0, 10, 2):
            add(detector=detector, seed=seed)
            add(detector=detector, seed=seed, **LINF)
    add(detector="oe", seed=0, **LINF | {"eps": "4/255"})
    longer = TEMPLATE["schedule"] | {"name": "long", "epochs": 1000}
    add(suite="other", network="wide", schedule=longer, preset="paper", detector="atom")


@pytest.mark.parametrize(
    ("arguments", "rows", "columns"),
    [
        ("--suite tiny", {"msp", "oe"}, {"none", "linf 8/255", "linf 4/255"}),
        ("--suite other", {"atom"}, {"none"}),
        ("--network wide", {"atom"}, {"none"}),
        ("--schedule long", {"atom"}, {"none"}),
        ("--schedule fast --attack linf --seed 2", {"msp", "oe"}, {"linf 8/255"}),
        ("--schedule fast,long --attack none", {"atom", "msp", "oe"}, {"none"}),
        ("--preset paper", {"atom"}, {"none"}),
        ("--detector msp,atom", {"msp", "atom"}, {"none", "linf 8/255"}),
        ("--detector all --preset paper", {"atom"}, {"none"}),
        ("--attack linf --seed 2", {"msp", "oe"}, {"linf 8/255"}),
        ("--attack all --preset paper", {"atom"}, {"none"}),
        ("--eps 16/510 --detector oe", {"oe"}, {"none", "linf 8/255"}),
        ("--eps 4/255,8/255 --detector oe", {"oe"}, {"none", "linf 8/255", "linf 4/255"}),
    ],
)
def test_filters_choose_records(
    arguments: str, rows: set[str], columns: set[str], several: None, call: Any, tmp_path: Path
) -> None:
    tables = parsed(call("leaderboard", "--results", tmp_path, *arguments.split()).out)
    assert {row for _, cells, _ in tables for row in cells} == rows
    found = {column for _, cells, _ in tables for row in cells.values() for column in row}
    assert found - {"ID acc."} == columns


def test_a_filter_of_seeds_gives_their_mean(several: None, board: Any) -> None:
    frame = board(selection=lb.Selection(seeds=[0, 2], detectors=["msp"]))
    assert list(frame["seeds"]) == [(0, 2), (0, 2)]
    assert list(frame["remark"]) == ["", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--suite nope", "--suite nope: {root} has other, tiny"),
        ("--detector msp,nope", "--detector nope: {root} has atom, msp, oe"),
        ("--network nope", "--network nope: {root} has conv3, wide"),
        ("--schedule nope", "--schedule nope: {root} has fast, long"),
        ("--preset nope", "--preset nope: {root} has paper, standard"),
        ("--seed 7", "--seed 7: {root} has 0, 2, 10"),
        ("--attack lnf", "--attack lnf: {root} has linf, none"),
        ("--seed x", "--seed x: not a whole number"),
        ("--eps 2/255", "--eps 2/255: {root} has 4/255, 8/255"),
        ("--eps 8", "did you mean 8/255?"),
        ("--suite other --detector msp", "--detector msp: {root} has atom for --suite other"),
        ("--detector ,", "--detector is empty"),
        ("--reference", "--results and --reference are two places"),
        ("--sort size", "'size' is not one of 'worst', 'name'"),
    ],
)
def test_a_filter_that_nothing_fits_is_told_in_one_line(
    arguments: str, message: str, several: None, call: Any, tmp_path: Path
) -> None:
    result = call("leaderboard", "--results", tmp_path, *arguments.split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message.format(root=tmp_path) in result.err


# Where it reads


def test_the_default_is_where_run_writes_and_else_the_reference_that_ships(
    in_folder: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "shipped_results", lambda: tmp_path / "shipped")
    made(tmp_path / "shipped", detector="shipped")
    result = call("leaderboard")
    assert list(parsed(result.out)[0][1]) == ["shipped"]
    assert result.err == (
        "oodbench: no ./oodbench-results here; reading the reference results that ship with"
        " oodbench\n"
    )
    made(in_folder / "oodbench-results", detector="mine")
    result = call("leaderboard")
    assert (list(parsed(result.out)[0][1]), result.err) == (["mine"], "")
    result = call("leaderboard", "--reference")
    assert list(parsed(result.out)[0][1]) == ["shipped"]
    assert result.err.count("\n") == 1


def test_nothing_to_read_is_told_in_one_line(call: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, message in (
        ("gone", "no such folder"),
        ("file", "no such folder"),
        ("empty", "holds no record; `oodbench run` makes some"),
    ):
        result = call("leaderboard", "--results", tmp_path / name)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert message in result.err


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace("msp", "oe")]
)
def test_a_damaged_record_is_named(
    damage: Callable[[str], str], add: Add, call: Any, tmp_path: Path
) -> None:
    add(set="page")
    add(set="rings")
    path = next(tmp_path.rglob("page--*.json"))
    path.write_text(damage(path.read_text()))
    for arguments in ((), ("--detector", "oe")):
        result = call("leaderboard", "--results", tmp_path, *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert str(path) in result.err


def test_records_of_the_past_are_shown() -> None:
    frame = lb.summary([read_record(path) for path in sorted(HISTORIC.glob("*.json"))])
    ((_, cells, _),) = parsed(lb.markdown(frame))
    text = f"{100 * TEMPLATE['fpr95']:.2f} / {100 * TEMPLATE['auroc']:.2f}"
    assert cells[TEMPLATE["detector"]][f"linf {TEMPLATE['eps']}"] == text


def test_help_loads_nothing_heavy_and_a_table_needs_no_torch(add: Add, tmp_path: Path) -> None:
    add()
    add(suite="cifar10", detector="atom")
    heavy = ["torch", "scipy", "sklearn", "rich"]
    for arguments, banned in (
        (["--help"], [*heavy, "numpy", "pandas"]),
        (["--results", str(tmp_path)], heavy),
    ):
        script = (
            "import sys\n"
            "from oodbench.__main__ import main\n"
            f"try:\n    main(['leaderboard', *{arguments}])\n"
            "except SystemExit as left:\n    assert not left.code, left.code\n"
            f"found = set({banned}) & set(sys.modules)\n"
            "assert not found, found\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout
