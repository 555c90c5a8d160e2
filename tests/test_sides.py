"""In-distribution images attacked too: the figures, what they stand on, and what is stored."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from oodbench import execute, intervals, metrics, work
from oodbench import leaderboard as lb
from oodbench.api import Places, evaluate, mean_intervals
from oodbench.api import run as run_request
from oodbench.detectors.msp import MSP
from oodbench.errors import RequestError
from oodbench.files import shipped_results
from oodbench.plan import Plan, Request, make_plan
from oodbench.records import (
    arrays_digest,
    find_records,
    read_arrays,
    read_named,
    read_record,
    read_scores,
    write_arrays,
    write_record,
)
from oodbench.sides import id_search, ood_source, with_clean_floor
from oodbench.tables import group_key, print_tables
from oodbench.views import ALL
from oodbench.workbench import Settings, Workbench

Array = npt.NDArray[np.float64]
Record = dict[str, Any]
SIDES = ("ood", "id", "both")
EPS = 8


@pytest.fixture(scope="session")
def bright(plugins: Path) -> str:
    """A detector whose score is the mean level of an image."""
    return str(plugins / "bright.py")


@pytest.fixture(scope="session")
def attacked(
    bright: str, call: Any, tiny: str, shared_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Record]]:
    """Results and records of the brightness, clean and attacked on all sides."""
    results = tmp_path_factory.mktemp("sides")
    places = ("--results", results, "--store", shared_store, "--device", "cpu")
    chosen = ("--detector", bright, "--attack", "none,linf", "--side", "both")
    result = call("run", "--suite", tiny, *chosen, *places, "--json")
    assert result.code == 0, result.err
    return results, result.json


@pytest.fixture
def mine(attacked: tuple[Path, list[Record]], tmp_path: Path) -> Path:
    """A copy of ``attacked`` in the folder that ``run`` writes to."""
    shutil.copytree(attacked[0], tmp_path / "results")
    return tmp_path / "results"


def images(tiny: str, name: str) -> Array:
    """Return the test images of a set of the tiny suite in levels, in the order of their ids."""
    bench = Workbench(Settings("cpu", 256, Path(), Path()))
    found = bench.images(tiny, name, "test")
    return found.batch(range(len(found))).astype(np.float64)


def of(records: list[Record], attack: str, side: str, name: str) -> Record:
    (found,) = [
        r for r in records if (r["perturbation"], r["side"], r["set"]) == (attack, side, name)
    ]
    return found


def id_files(root: Path, attack: str = "linf", detector: str = "bright") -> list[Path]:
    return sorted((root / "tiny" / detector / "0" / attack).glob("id--*.npz"))


# Figures


@pytest.mark.parametrize("name", ["rings", "noise"])
@pytest.mark.parametrize("side", SIDES)
def test_the_figures_are_those_of_the_brightest_id_images_and_the_darkest_ood_images(
    side: str, name: str, attacked: tuple[Path, list[Record]], tiny: str
) -> None:
    clean, ood = images(tiny, "textures"), images(tiny, name)
    mean = (1, 2, 3)
    threshold = sorted(clean.mean(mean))[int(np.ceil(0.95 * len(clean))) - 1]
    # The end of the ball and the box is reached by a score that rises with every pixel.
    a = (clean if side == "ood" else np.minimum(clean + EPS, 255)).mean(mean)
    b = (ood if side == "id" else np.maximum(ood - EPS, 0)).mean(mean)
    truth, scores = np.repeat([0, 1], [len(a), len(b)]), np.concatenate([a, b])
    caught = sorted(b)[len(b) - int(np.ceil(0.95 * len(b)))]
    expected = {
        "fpr95": np.mean(b <= threshold),
        "fnr": np.mean(a > threshold),
        "fpr95_ood": np.mean(a >= caught),
        "auroc": roc_auc_score(truth, scores),
        "aupr_out": average_precision_score(truth, scores),
        "aupr_in": average_precision_score(1 - truth, -scores),
        "detection_error": min(
            (np.mean(a > t) + np.mean(b <= t)) / 2 for t in [-np.inf, *scores.tolist()]
        ),
    }
    record = of(attacked[1], "linf", side, name)
    assert {metric: record[metric] for metric in expected} == pytest.approx(expected, abs=1e-9)
    assert record["threshold"] == pytest.approx(threshold, abs=1e-3)
    assert (record["n_id"], record["n_ood"]) == (len(a), len(b))
    for metric in (*expected, "accuracy"):
        low, high = record["intervals"][metric]
        assert low <= record[metric] <= high
    if side != "ood":
        assert record["fnr"] > 0.05


def test_the_attacked_scores_are_the_best_that_the_ball_has_and_stored_by_id(
    attacked: tuple[Path, list[Record]], tiny: str
) -> None:
    (path,) = id_files(attacked[0])
    arrays, meta = read_named(path, attacked[0] / "tiny")
    known, _ = read_named(next((attacked[0] / "tiny/bright/0").glob("id--*.npz")), path.parents[3])
    assert arrays["ids"].tolist() == known["ids"].tolist()
    expected = np.minimum(images(tiny, "textures") + EPS, 255).mean((1, 2, 3))
    assert arrays["scores"].dtype == np.float32
    np.testing.assert_allclose(arrays["scores"], expected, atol=1e-3)
    assert len(meta["identity"]) == len(meta["weights"]) == 64
    assert meta["id_scores"] == arrays_digest(known)
    assert meta["attack"]["budget"] == 6
    assert sum(meta["attack"]["won"].values()) == len(expected)


def test_threshold_accuracy_and_what_the_ood_images_give_are_the_same_on_all_sides(
    attacked: tuple[Path, list[Record]],
) -> None:
    records = attacked[1]
    for name in ("rings", "noise"):
        none = of(records, "none", "ood", name)
        ood, ids, both = (of(records, "linf", side, name) for side in SIDES)
        for field in ("threshold", "accuracy"):
            assert none[field] == ood[field] == ids[field] == both[field]
        assert none["fpr95"] == ids["fpr95"]
        assert ood["fpr95"] == both["fpr95"]
        assert none["fnr"] == ood["fnr"] < ids["fnr"] == both["fnr"]
        assert none["intervals"]["fpr95"] == ids["intervals"]["fpr95"]
        assert ids["intervals"]["fnr"] == both["intervals"]["fnr"]


def test_both_is_the_search_on_each_put_together(attacked: tuple[Path, list[Record]]) -> None:
    root, records = attacked
    (path,) = id_files(root)
    arrays, meta = read_named(path, root / "tiny")
    for name in ("rings", "noise"):
        none = of(records, "none", "ood", name)
        ood, ids, both = (of(records, "linf", side, name) for side in SIDES)
        assert both["digests"]["scores"] == ood["digests"]["scores"]
        assert ids["digests"]["scores"] == none["digests"]["scores"]
        for record in (ids, both):
            assert record["digests"]["id_attacked"] == arrays_digest(arrays)
            assert record["digests"]["id_scores"] == ood["digests"]["id_scores"]
        assert "id_attacked" not in ood["digests"]
        assert ids["attack"] == meta["attack"]
        assert both["attack"] == {**ood["attack"], "id": meta["attack"]}
        assert both["seconds"] == pytest.approx(ood["seconds"] + meta["seconds"], abs=2e-3)
    for path in find_records(root):
        read_scores(path)
    assert len({record["identity"] for record in records}) == len(records) == 8
    assert len({record["cell_key"] for record in records}) == 8


def test_an_attack_on_id_images_never_helps_the_defender(
    run: Any, tmp_path: Path, call: Any
) -> None:
    chosen = ("--detector", "msp,odin", "--attack", "all", "--side", "both", "--limit", 24)
    records = run(*chosen, "--json").json
    assert len(records) == 2 * 2 * (1 + 3 * 3)
    for detector in ("msp", "odin"):
        mine = [record for record in records if record["detector"] == detector]
        for attack in ("corruption", "linf", "compositional"):
            for name in ("rings", "noise"):
                none = of(mine, "none", "ood", name)
                ood, ids, both = (of(mine, attack, side, name) for side in SIDES)
                assert both["fnr"] == ids["fnr"] >= none["fnr"]
                assert ids["auroc"] <= none["auroc"]
                assert both["auroc"] <= min(ids["auroc"], ood["auroc"])
                assert both["fpr95_ood"] >= max(ids["fpr95_ood"], ood["fpr95_ood"])
                # Images, not means: the clean image is a candidate.
                (path,) = id_files(tmp_path / "results", attack, detector)
                (known,) = path.parents[1].glob("id--*.npz")
                assert (read_arrays(path)[0]["scores"] >= read_arrays(known)[0]["scores"]).all()
        first, second = (
            id_files(tmp_path / "results", a, detector)[0] for a in ("corruption", "compositional")
        )
        assert (read_arrays(second)[0]["scores"] >= read_arrays(first)[0]["scores"]).all()
        assert {*of(mine, "compositional", "id", "rings")["attack"]["won"]} == {
            "corruption",
            "linf",
        }


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 9)), min_size=1, max_size=50),
    st.lists(st.integers(-9, 12), min_size=1, max_size=40),
)
def test_metrics_with_a_clean_threshold_are_those_written_out(
    pairs: list[tuple[int, int]], others: list[int]
) -> None:
    clean = np.array([score for score, _ in pairs], float)
    a, b = clean + [gain for _, gain in pairs], np.array(others, float)
    found = metrics.compute(a, b, clean_id_scores=clean)
    threshold = next(t for t in sorted(clean) if 100 * np.sum(clean <= t) >= 95 * len(clean))
    assert found["threshold"] == threshold
    assert found["fpr95"] == np.mean(b <= threshold)
    assert found["fnr"] == np.mean(a > threshold) >= metrics.compute(clean, b)["fnr"]
    assert found["auroc"] <= metrics.compute(clean, b)["auroc"]
    plain = metrics.compute(a, b)
    for metric in set(plain) - {"threshold", "fpr95", "fnr"}:
        assert found[metric] == plain[metric]


# Intervals


def test_the_interval_of_fnr_is_jeffreys_where_the_threshold_is_certain() -> None:
    clean = np.linspace(0, 1, 400_001)
    attacked = np.concatenate([np.full(70, 0.5), np.full(30, 0.99)])
    low, high = intervals.intervals(attacked, [2.0, 3.0], clean_id_scores=clean)["fnr"]
    expected = stats.beta.ppf([0.025, 0.975], 30.5, 70.5)
    assert [low, high] == pytest.approx(expected, abs=0.006)


def test_only_the_intervals_of_what_the_threshold_decides_depend_on_the_clean_images() -> None:
    rng = np.random.default_rng(0)
    clean, b = rng.normal(size=200), rng.normal(1, 1, 150)
    attacked = clean + rng.uniform(0, 2, 200)
    found = intervals.intervals(attacked, b, clean_id_scores=clean)
    plain, unattacked = intervals.intervals(attacked, b), intervals.intervals(clean, b)
    assert set(found) == {*plain, "fnr"}
    assert found["fpr95"] == unattacked["fpr95"] != plain["fpr95"]
    for metric in set(plain) - {"fpr95"}:
        assert found[metric] == plain[metric]
    alone = intervals.mean_intervals(attacked, [b], clean_id_scores=clean)
    several = intervals.mean_intervals(attacked, [b, b + 1], clean_id_scores=clean)
    assert alone["fnr"] == several["fnr"] == found["fnr"]


@pytest.mark.parametrize("shift", [0.5, 1.5, 4.0])
def test_the_interval_of_fnr_covers_the_population_value(shift: float) -> None:
    rng = np.random.default_rng(int(10 * shift))
    true = stats.norm.sf(stats.norm.ppf(0.95) - shift)
    hits = 0
    for seed in range(100):
        clean = rng.normal(size=120)
        moved = shift + 0.5 * clean + np.sqrt(0.75) * rng.normal(size=120)
        bounds = intervals.mean_intervals(moved, [[9.0]], clean_id_scores=clean, seed=seed)
        hits += bounds["fnr"][0] <= true <= bounds["fnr"][1]
    assert hits >= 92  # measured 98 to 99 of 100


def test_intervals_of_the_means_are_those_of_the_scores_of_each_side(
    attacked: tuple[Path, list[Record]], bright: str, tiny: str, shared_store: Path
) -> None:
    root, _ = attacked
    request = Request(tiny, (bright,), ("none", "linf"), side="both")
    plan, outcome = run_request(request, Places("cpu", results=root, store=shared_store))
    assert outcome.computed == 0
    (path,) = id_files(root)
    known = read_arrays(next((root / "tiny/bright/0").glob("id--*.npz")))[0]["scores"]
    raised = read_arrays(path)[0]["scores"]
    bounds = mean_intervals(plan)
    assert len(bounds) == 4
    for key, by_view in bounds.items():
        found = by_view[ALL]
        cells = [cell for cell in plan.cells if group_key(plan.done[cell]) == key]
        side = cells[0].side
        others = [read_scores(plan.record_path(cell))["scores"] for cell in cells]
        if side == "ood":
            assert found == intervals.mean_intervals(known, others)
        else:
            assert found == intervals.mean_intervals(raised, others, clean_id_scores=known)
            low, high = found["fnr"]
            assert low <= plan.done[cells[0]]["fnr"] <= high


# What stands on what


def planned(suite: str, tmp_path: Path, **changes: Any) -> Plan:
    bench = Workbench(Settings("cpu", 256, tmp_path, tmp_path))
    return make_plan(Request(suite=suite, **changes), bench, tmp_path)


@pytest.mark.parametrize("side", ["ood", "both"])
def test_identities_of_attacked_ood_images_are_those_of_before_there_were_sides(
    side: str, tmp_path: Path
) -> None:
    """Those of the shipped records; of attacks whose version has not changed since."""
    plan = planned("mini", tmp_path, attacks=("none", "corruption"), side=side)
    shipped = {str(p.relative_to(shipped_results())) for p in find_records(shipped_results())}
    cells = [cell for cell in plan.cells if cell.side == "ood"]
    assert len(cells) == 13 * 2 * 5
    for cell in cells:
        assert str(plan.record_path(cell).relative_to(tmp_path)) in shipped, cell.title
        assert list(plan.identities.cell(cell)["side"]) == list("ood")


def test_both_plans_all_three_sides_and_what_does_nothing_has_none(
    tiny: str, tmp_path: Path
) -> None:
    plan = planned(tiny, tmp_path, detectors=("msp",), attacks=("none", "linf"), side="both")
    wanted = [("none", "ood"), *(("linf", side) for side in SIDES)]
    assert [(cell.perturbation.name, cell.side, cell.image_set) for cell in plan.cells] == [
        (attack, side, name) for attack, side in wanted for name in ("rings", "noise")
    ]
    plan = planned(tiny, tmp_path, detectors=("msp",), attacks=("none", "linf"), side="id")
    assert [cell.side for cell in plan.cells] == ["ood", "ood", "id", "id"]
    none, ids = plan.cells[0], plan.cells[2]
    # The very cell that a run of no perturbation has.
    assert ood_source(ids) == none
    searches = {plan.id_search(cell) for cell in plan.cells if cell.side == "id"}
    assert searches == {id_search(ids, "textures")}


def test_a_side_that_means_nothing_is_said_once_and_gives_the_clean_cell(run: Any) -> None:
    result = run("--detector", "msp", "--side", "id", "--ood", "rings", "--json")
    assert [record["side"] for record in result.json] == ["ood"]
    assert result.err.count("--side id means nothing to none: no image is attacked\n") == 1
    chosen = ("--detector", "msp", "--attack", "none,linf", "--ood", "rings", "--side", "id")
    assert "means nothing" not in run(*chosen).err


@pytest.mark.parametrize("side", ["id", "both"])
def test_paper_has_no_attack_on_id_images(
    side: str, run: Any, tmp_path: Path, tiny: str, shared_store: Path
) -> None:
    result = run("--detector", "msp", "--attack", "linf", "--preset", "paper", "--side", side)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"--side {side}: no attack on in-distribution images was published" in result.err
    assert not (tmp_path / "results").exists()
    with pytest.raises(RequestError, match="there are ood, id, both"):
        evaluate("msp", "linf", suite=tiny, side="ID", store=shared_store, results=tmp_path)


def worked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int, int]]:
    """Take note of all work: set, side, first image and the one after the last."""
    done: list[tuple[str, str, int, int]] = []
    real = execute.run_work

    def noting(piece: work.Work, *rest: Any) -> Any:
        first = piece.cells[0]
        done.append((first.image_set, first.side, piece.start, piece.stop))
        return real(piece, *rest)

    monkeypatch.setattr(execute, "run_work", noting)
    return done


def test_the_id_images_are_searched_once_for_five_ood_sets(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = worked(monkeypatch)
    places = ("--results", tmp_path / "results", "--store", tmp_path / "store", "--device", "cpu")
    chosen = ("--detector", "msp", "--attack", "linf", "--limit", 20, "--budget", 2)
    result = call("run", *chosen, "--side", "both", *places, "--json")
    assert result.code == 0, result.err
    assert len(result.json) == 15
    sets = {record["set"] for record in result.json}
    assert len(sets) == 5
    # Each OOD set as it is and attacked, and the ID set once.
    assert sorted(name for name, side, *_ in done if side == "ood") == sorted([*sets, *sets])
    assert [side for *_, side, start, stop in done if (start, stop) != (0, 20)] == []
    assert len([side for _, side, *_ in done if side == "id"]) == 1
    assert len(done) == 11
    done.clear()
    again = call("run", *chosen, "--side", "both", *places, "--json")
    assert again.json == result.json
    for asked in ("--side id", "--side ood --attack none"):
        assert call("run", *chosen, *asked.split(), *places).code == 0
    assert done == []


def test_shared_candidates_are_made_once_for_all_detectors_on_id_images_too(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[work.Work] = []
    real = execute.run_work
    monkeypatch.setattr(execute, "run_work", lambda w, *rest: (pieces.append(w), real(w, *rest))[1])
    chosen = ("--detector", "msp,odin", "--attack", "corruption", "--ood", "rings", "--limit", 5)
    assert run(*chosen, "--side", "id").code == 0
    groups = [([c.subject.detector.name for c in w.cells], w.cells[0].side) for w in pieces]
    assert groups == [(["msp", "odin"], "ood"), (["msp", "odin"], "id")]


OTHERS = {
    "eps": ("--eps", "4/255"),
    "budget": ("--budget", 5),
    "limit": ("--limit", 20),
    "search precision": ("--precision", "bfloat16"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_search_is_not_reused_for_another_question(
    change: str, run: Any, bright: str, mine: Path, stamps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, before = worked(monkeypatch), stamps(mine)
    chosen = ("--detector", bright, "--attack", "linf", "--ood", "rings", "--side", "id")
    assert run(*chosen, *OTHERS[change]).code == 0
    assert [name for name, side, *_ in done if side == "id"] == ["textures"]
    assert len(id_files(mine)) == 2
    after = stamps(mine)
    assert {path: after[path] for path in before} == before


def test_a_search_by_other_weights_is_made_again(
    run: Any, tmp_path: Path, shared_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from oodbench.store import TensorStore

    store = tmp_path / "store"
    chosen = ("--detector", "msp", "--attack", "linf", "--ood", "rings", "--side", "id", "--json")
    (first,) = run(*chosen).json
    shutil.copytree(shared_store, store)
    (weights,) = (store / "tiny/weights/plain").glob("conv3-fast-0--*.safetensors")
    identity = json.loads(weights.with_suffix(".json").read_text())["identity"]
    tensors = load_file(weights)
    tensors["network.head.weight"] = tensors["network.head.weight"] * 1.5
    TensorStore(store).save(weights, tensors, identity, {})
    done = worked(monkeypatch)
    (second,) = run(*chosen, store=store).json
    assert [(name, side) for name, side, *_ in done] == [("rings", "ood"), ("textures", "id")]
    assert second["identity"] == first["identity"]
    assert second["digests"]["id_attacked"] != first["digests"]["id_attacked"]
    (path,) = id_files(tmp_path / "results", detector="msp")
    assert read_arrays(path)[1]["weights"] == second["digests"]["weights"]


def test_only_what_is_missing_is_made_and_force_makes_all_again(
    run: Any, bright: str, mine: Path, stamps: Any, contents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, before = contents(mine), stamps(mine)
    chosen = ("--detector", bright, "--attack", "none,linf", "--side", "both")
    done = worked(monkeypatch)
    assert run(*chosen).code == 0
    assert stamps(mine) == before
    for record in find_records(mine):
        if read_record(record)["side"] != "ood":
            record.unlink()
    assert run(*chosen).code == 0
    assert done == []
    assert contents(mine) == whole
    # Without the search all that stood on it is in doubt, but on a CPU it comes back the same.
    (path,) = id_files(mine)
    path.unlink()
    kept = {file: at for file, at in stamps(mine).items() if file.suffix == ".json"}
    assert run(*chosen).code == 0
    assert [(name, side) for name, side, *_ in done] == [("textures", "id")]
    assert {file: stamps(mine)[file] for file in kept} == kept
    done.clear()
    assert run(*chosen, "--force").code == 0
    assert len(done) == 5
    assert contents(mine) == whole
    assert path.stat().st_mtime_ns not in before.values()


@pytest.mark.parametrize("part", ["the search", "the OOD scores"])
def test_a_record_is_made_again_if_what_it_stands_on_was_made_anew_and_differs(
    part: str, run: Any, bright: str, mine: Path
) -> None:
    """As on a GPU, or by another release of a library."""
    (search,) = id_files(mine)
    (ood,) = [
        path
        for path in (mine / "tiny/bright/0/linf").glob("rings--*.json")
        if read_record(path)["side"] == "ood"
    ]
    if part == "the search":
        arrays, meta = read_arrays(search)
        write_arrays(search, arrays | {"scores": arrays["scores"] + 1}, meta)
    else:
        arrays, record = read_scores(ood), read_record(ood)
        del record["digests"]["record"]
        write_record(ood, record, arrays | {"scores": arrays["scores"] - 1})
    chosen = ("--detector", bright, "--attack", "linf", "--ood", "rings", "--side", "both")
    records = run(*chosen, "--json").json
    both = records[-1]
    assert both["digests"]["scores"] == read_record(ood)["digests"]["scores"]
    assert both["digests"]["id_attacked"] == arrays_digest(read_named(search, mine / "tiny")[0])
    raised, lowered = read_arrays(search)[0]["scores"], read_scores(ood)["scores"]
    assert both["auroc"] == metrics.auroc(raised, lowered)
    assert records[1]["digests"]["id_attacked"] == both["digests"]["id_attacked"]


def test_rounding_of_another_batch_never_lowers_an_id_image_below_its_clean_score() -> None:
    clean = {"scores": np.array([1.0, 2.0, 3.0], np.float32)}
    found = {"scores": np.nextafter(clean["scores"], np.float32(0)), "tags": np.array(["a"] * 3)}
    found["scores"][1] = 5
    floored = with_clean_floor(MSP(), found, clean)
    assert floored["scores"].tolist() == [1, 5, 3]
    assert floored["tags"] is found["tags"]

    class Random(MSP):
        draws = 4

    assert with_clean_floor(Random(), found, clean) is found


# Damage, failures, kills


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _edit(path: Path) -> None:
    arrays, meta = read_arrays(path)
    with path.open("wb") as file:
        np.savez(file, **(arrays | {"scores": arrays["scores"] + 1}), meta=json.dumps(meta))


def _foreign(path: Path) -> None:
    shutil.copy(next(path.parents[1].glob("id--*.npz")), path)


@pytest.mark.parametrize("damage", [_truncate, _edit, _foreign])
@pytest.mark.parametrize("with_records", [True, False])
def test_a_damaged_search_is_named_and_left_and_force_replaces_it(
    with_records: bool,
    damage: Callable[[Path], None],
    run: Any,
    bright: str,
    mine: Path,
    contents: Any,
) -> None:
    whole = contents(mine)
    (path,) = id_files(mine)
    damage(path)
    spoilt = path.read_bytes()
    if not with_records:
        for record in find_records(mine):
            record.unlink()
    chosen = ("--detector", bright, "--attack", "none,linf", "--side", "both")
    for _ in range(2):
        result = run(*chosen)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert str(path) in result.err
        assert path.read_bytes() == spoilt
    assert run("--detector", bright, "--attack", "linf").code == 0  # has nothing to do with it
    assert run(*chosen, "--force").code == 0
    assert contents(mine) == whole


def test_a_search_that_fails_leaves_the_cells_of_attacked_ood_images(
    run: Any, plugins: Path, tmp_path: Path
) -> None:
    chosen = ("--detector", "msp", "--attack", f"{plugins}/picky.py", "--side", "both")
    result = run(*chosen)
    assert result.code == 3
    assert "msp, seed 0, picky on textures, side id: ArithmeticError: no stripes" in result.err
    assert "1 failed, 2 cells are stored" in result.err
    assert not id_files(tmp_path / "results", "picky", "msp")
    stored = [read_record(path) for path in find_records(tmp_path / "results")]
    assert {(r["perturbation"], r["side"]) for r in stored} == {("none", "ood"), ("picky", "ood")}


def test_a_search_stopped_half_way_does_only_the_rest(
    run: Any, bright: str, tmp_path: Path, contents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("--detector", bright, "--attack", "linf", "--side", "both", "--budget", 4)
    monkeypatch.setattr(execute, "_RANGE", 32)
    whole = tmp_path / "whole"
    assert run(*chosen, results=whole).code == 0
    killed = (
        "import os, signal\n"
        "from oodbench import execute\n"
        "from oodbench.__main__ import main\n"
        "execute._RANGE = 32\n"
        "real = execute.run_work\n"
        "def killing(piece, *rest):\n"
        "    if piece.cells[0].side == 'id' and piece.start == 64:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(piece, *rest)\n"
        "execute.run_work = killing\n"
        "main(@)\n"
    )
    real_main = []
    monkeypatch.setattr("oodbench.__main__.main", lambda arguments: real_main.append(arguments))
    with pytest.raises(pytest.fail.Exception):
        run(*chosen)
    monkeypatch.undo()
    script = killed.replace("@", repr(real_main[0]))
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -9
    (parts,) = (tmp_path / "results").rglob(".id--*.parts")
    assert sorted(path.name for path in parts.glob("*.npz")) == ["0-32.npz", "32-64.npz"]
    monkeypatch.setattr(execute, "_RANGE", 32)
    done = worked(monkeypatch)
    assert run(*chosen).code == 0
    assert [(*_, start, stop) for name, *_, start, stop in done if name == "textures"] == [
        ("id", 64, 96),
        ("id", 96, 120),
    ]
    assert contents(tmp_path / "results") == contents(whole)


def test_a_search_on_id_images_is_plain_data_too(
    bright: str, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    import pickle

    settings = Settings("cpu", 256, tmp_path, shared_store)
    request = Request(tiny, (bright,), ("linf",), ("rings",), side="id")
    plan = make_plan(request, Workbench(settings), tmp_path)
    piece = work.Work((plan.id_search(plan.cells[0]),), 0, 120)
    (found,) = work.run_in_process(pickle.loads(pickle.dumps(piece)), settings)
    expected = np.minimum(images(tiny, "textures") + EPS, 255).mean((1, 2, 3))
    np.testing.assert_allclose(found.arrays["scores"], expected, atol=1e-3)


# Tables


def shown(records: list[Record], width: int, **more: Any) -> str:
    from rich.console import Console

    console = Console(width=width, file=StringIO())
    print_tables(console, records, **more)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    return text


def test_a_table_of_several_sides_has_a_row_for_each_with_its_fnr(
    attacked: tuple[Path, list[Record]],
) -> None:
    records = attacked[1]
    text = shown(records, 80)
    rows = [line.split() for line in text.partition("\n\n")[0].splitlines()[3:]]
    assert [row[:2] for row in rows] == [["none", "ood"], *(["linf", side] for side in SIDES)]
    for attack, side, *figures in rows:
        mine = [r for r in records if (r["perturbation"], r["side"]) == (attack, side)]
        for figure, metric in zip(figures, ("fpr95", "fnr", "auroc", "aupr_out"), strict=False):
            assert figure == f"{100 * np.mean([r[metric] for r in mine]):.2f}"
    assert "FNR@95: share of in-distribution images rejected" in text
    alone = shown([r for r in records if r["side"] == "ood"], 80)
    assert "FNR" not in alone
    assert "side" not in alone


@pytest.mark.parametrize("side", ["id", "both"])
def test_a_table_of_one_side_names_it_in_the_title_and_shows_fnr_for_each_set(
    side: str, attacked: tuple[Path, list[Record]]
) -> None:
    records = [r for r in attacked[1] if r["side"] == side]
    text = shown(records, 80)
    title = f"suite tiny, network conv3, bright, linf, side {side}, eps 8/255, preset"
    assert text.startswith(title)
    header = next(line for line in text.splitlines() if "FPR@95 ↓" in line)
    assert re.findall(r"\w+(?:@95)? [↓↑]", header) == ["FPR@95 ↓", "FNR@95 ↓", "AUROC ↑", "AUPR ↑"]
    wide = shown(records, 140)
    low, high = records[0]["intervals"]["fnr"]
    row = next(line for line in wide.splitlines() if line.startswith(records[0]["set"]))
    assert f"{100 * records[0]['fnr']:.2f}   {100 * low:.2f}–{100 * high:.2f}" in row


def test_the_leaderboard_has_a_column_for_each_side_with_the_means_of_its_records(
    attacked: tuple[Path, list[Record]], call: Any
) -> None:
    root, records = attacked
    frame = lb.leaderboard(root)
    assert list(frame["column"]) == [
        *("none", "linf 8/255", "linf 8/255 on id", "linf 8/255 on both")
    ]
    for cell in frame.to_dict("records"):
        mine = [
            r
            for r in records
            if (r["perturbation"], r["side"]) == (cell["perturbation"], cell["side"])
        ]
        assert cell["n_sets"] == len(mine) == 2
        for metric in lb.METRICS:
            assert cell[metric] == pytest.approx(np.mean([r[metric] for r in mine]))
    assert "fnr" in frame.columns
    text = call("leaderboard", "--results", root).out
    (row,) = [line for line in text.splitlines() if line.startswith("| bright")]
    last = {cell["side"]: cell for cell in frame.to_dict("records")}["both"]
    figures = " / ".join(f"{100 * last[m]:.2f}" for m in ("fpr95", "fnr", "auroc"))
    assert figures in row
    assert [cell.count("/") for cell in row.split("|")[2:6]] == [1, 1, 2, 2]
    assert "FPR@95 ↓ / FNR@95 ↓ / AUROC ↑" in text
    assert "that of the clean ones" in text


def test_the_same_ood_scores_beside_other_id_scores_are_not_the_same_cell(
    attacked: tuple[Path, list[Record]],
) -> None:
    one = of(attacked[1], "linf", "id", "rings")
    copy = {**one, "identity": "f" * 64}
    assert len(lb.summary([one, copy])) == 1
    other = {**copy, "digests": {**one["digests"], "id_attacked": "f" * 64}}
    with pytest.raises(RequestError, match="cannot be told apart"):
        lb.summary([one, other])


def test_evaluate_gives_the_sides_as_rows_of_a_frame(
    attacked: tuple[Path, list[Record]], bright: str, tiny: str, shared_store: Path
) -> None:
    frame = evaluate(
        bright,
        "linf",
        suite=tiny,
        ood=["rings"],
        side="both",
        device="cpu",
        results=attacked[0],
        store=shared_store,
    )
    assert list(frame["side"]) == list(SIDES)
    assert frame["fnr"].is_monotonic_increasing
