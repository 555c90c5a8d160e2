"""What is computed, what is reused, and what makes two computations the same."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench import execute, registry
from oodbench.api import Places, mean_intervals
from oodbench.api import run as run_request
from oodbench.foreign import network_name
from oodbench.identity import digest, question
from oodbench.plan import Request, make_plan
from oodbench.records import find_records, read_arrays, read_record, read_scores
from oodbench.tables import group_key
from oodbench.views import ALL
from oodbench.workbench import Settings, Workbench

CELL = ("--detector", "odin", "--attack", "linf", "--ood", "rings")


def _scores(root: Path) -> dict[str, np.ndarray]:
    paths = [*find_records(root), *root.rglob("id--*.npz")]
    return {
        str(path.relative_to(root)): read_arrays(path.with_suffix(".npz"))[0]["scores"]
        for path in paths
    }


ALL_SLOWLY = pytest.param("all", marks=pytest.mark.slow)


@pytest.mark.parametrize("detectors", ["atom,mahalanobis", ALL_SLOWLY])
def test_the_same_command_from_nothing_gives_identical_scores(
    detectors: str, everything: Any, call: Any, tiny: str, tmp_path: Path, contents: Any
) -> None:
    results, store = tmp_path / "results", tmp_path / "store"
    places = ("--results", results, "--store", store, "--device", "cpu")
    result = call("run", "--suite", tiny, "--detector", detectors, "--attack", "all", *places)
    assert result.code == 0
    ours, theirs = contents(results), contents(everything[0])
    if detectors == "all":
        assert ours == theirs
    assert ours == {path: theirs[path] for path in ours}
    assert len(ours) > 20


@pytest.mark.parametrize("detectors", ["atom,mahalanobis,odin", ALL_SLOWLY])
@pytest.mark.parametrize("batch_size", [7, 16, 64])
def test_the_batch_size_does_not_change_the_scores(
    batch_size: int, detectors: str, everything: Any, run: Any, tmp_path: Path
) -> None:
    chosen = ("--detector", detectors, "--attack", "all", "--ood", "rings")
    assert run(*chosen, "--batch-size", batch_size, "--precision", "float32").code == 0
    ours, theirs = _scores(tmp_path / "results"), _scores(everything[0])
    if detectors == "all":
        assert ours.keys() == {path for path in theirs if "/noise--" not in path}
    for path, scores in ours.items():
        scale = max(1.0, float(np.abs(theirs[path]).max()))
        np.testing.assert_allclose(scores, theirs[path], rtol=0, atol=1e-5 * scale, err_msg=path)


def test_a_limit_leaves_the_scores_of_the_images_it_keeps_unchanged(
    everything: Any, run: Any, tmp_path: Path
) -> None:
    assert run("--detector", "all", "--attack", "all", "--limit", 11).code == 0
    whole = {}
    for path in find_records(everything[0]):
        arrays = read_scores(path)
        key = path.parent.parent, path.parent.name, read_record(path)["set"]
        scores = dict(zip(arrays["ids"].tolist(), arrays["scores"].tolist(), strict=True))
        whole[key[0].parent.name, key[1], key[2]] = scores
    for path in find_records(tmp_path / "results"):
        arrays, record = read_scores(path), read_record(path)
        assert record["n_id"] == record["n_ood"] == 11
        full = whole[record["detector"], record["perturbation"], record["set"]]
        expected = [full[image] for image in arrays["ids"].tolist()]
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(arrays["scores"], expected, rtol=0, atol=1e-5 * scale)


def test_a_second_run_computes_and_writes_nothing(
    everything: Any, run: Any, stamps: Any, shared_store: Path, tiny: str, copied: Path
) -> None:
    results, store = stamps(copied), stamps(shared_store)
    assert run("--detector", "all", "--attack", "all").code == 0
    places = Places("cpu", results=copied, store=shared_store)
    request = Request(suite=tiny, detectors=("all",), attacks=("all",))
    plan, outcome = run_request(request, places)
    assert outcome.computed == 0
    assert len(outcome.records) == len(plan.cells)
    assert stamps(copied) == results
    # Other tests may train recipes of their own into the shared store meanwhile.
    now = stamps(shared_store)
    assert {path: now[path] for path in store} == store
    recipes = {path.parent for path in store}
    assert not {path for path in now.keys() - store.keys() if path.parent in recipes}


OTHERS = {
    "eps": ("--eps", "4/255"),
    "preset": ("--preset", "paper"),
    "budget": ("--budget", 5),
    "limit": ("--limit", 20),
    "search precision": ("--precision", "bfloat16"),
    "detector's parameter": ("--set", "odin.temperature=10"),
    "detector's parameter given by the suite": ("--set", "noise=0.002"),
    "training seed": ("--seed", 1),
    "schedule": ("--schedule", "other"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_question_never_reuses_nor_overwrites_a_record(
    change: str, run: Any, copied: Path, stamps: Any
) -> None:
    before = stamps(copied)
    known = {read_record(path)["identity"]: path for path in find_records(copied)}
    result = run(*CELL, *OTHERS[change], "--json")
    assert result.code == 0, result.err
    (record,) = result.json
    assert record["identity"] not in known
    assert record["cell_key"] not in {read_record(path)["cell_key"] for path in known.values()}
    after = stamps(copied)
    assert {path: after[path] for path in before} == before
    assert len(find_records(copied)) == len(known) + 1


@pytest.mark.parametrize(
    "spelling", [("--eps", "16/510"), ("--eps", "0.0314"), ("--set", "temperature=1000.0")]
)
def test_the_same_question_in_other_words_is_the_same_cell(
    spelling: tuple[str, str], run: Any, copied: Path, stamps: Any
) -> None:
    before = stamps(copied)
    assert run(*CELL, *spelling).code == 0
    assert stamps(copied) == before


def test_an_edited_plugin_file_is_another_detector(
    run: Any, plugins: Path, in_folder: Path, tmp_path: Path
) -> None:
    file = in_folder / "mine.py"
    text = (plugins / "mine.py").read_text()
    file.write_text(text)
    call = ("--detector", "./mine.py", "--ood", "rings", "--json")
    (first,) = run(*call).json
    (again,) = run(*call).json
    assert first == again
    # In the same process, as in a notebook: what is run must be what the identity names.
    file.write_text(text.replace("-self.scale", "-2 * self.scale"))
    (edited,) = run(*call).json
    assert edited["identity"] != first["identity"]
    assert edited["cell_key"] == first["cell_key"]
    assert edited["threshold"] == pytest.approx(2 * first["threshold"], rel=1e-4)
    file.write_text(text)
    assert run(*call).json == [first]
    assert len(find_records(tmp_path / "results")) == 2


def _identity(tiny: str, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    bench = Workbench(Settings("cpu", 256, tmp_path, tmp_path))
    values = {"suite": tiny, "detectors": ("odin",), "attacks": ("linf",), "ood": ("rings",)}
    plan = make_plan(Request(**(values | changes)), bench, tmp_path)
    return plan.identities.cell(plan.cells[0])


def test_records_call_a_network_by_its_name_and_not_by_that_of_its_class(
    tiny: str, tmp_path: Path
) -> None:
    file = tmp_path / "half_size.py"
    file.write_text("from oodbench.networks.conv3 import Conv3\nclass Smaller(Conv3): pass\n")
    assert _identity(tiny, tmp_path, network=str(file))["network"]["name"] == "half_size"


def test_a_network_of_a_package_is_called_by_its_whole_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two networks of a package share the digest of its source; with their first word alone one
    # would be given the other's weights.
    known = registry.entries("networks")
    more = {f"acme.{name}": replace(known["conv3"], name=f"acme.{name}") for name in ("big", "low")}
    monkeypatch.setattr(registry, "entries", lambda kind: known | more)
    for name in more:
        assert network_name(name) == name


def test_the_cell_key_leaves_out_protocol_digests_versions_and_source(
    tiny: str, tmp_path: Path
) -> None:
    identity = _identity(tiny, tmp_path)
    key = digest(question(identity))

    def altered(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: 99 if name in ("protocol", "version", "source") else altered(item)
                for name, item in value.items()
            }
        return [altered(item) for item in value] if isinstance(value, list) else value

    other = altered(identity) | {"digests": {"set": "other"}}
    assert other != identity
    assert digest(question(other)) == key
    assert "version" in str(identity)
    assert "version" not in str(question(identity))
    for name in set(identity) - {"protocol", "digests"}:
        assert digest(question(identity | {name: "other"})) != key, name


def test_identity_holds_resolved_parameters_preset_and_what_an_attack_means(
    tiny: str, tmp_path: Path
) -> None:
    identity = _identity(tiny, tmp_path)
    assert identity["detector"]["params"] == {"temperature": 1000.0, "noise": 0.0016}
    assert identity["perturbation"]["params"] == {"preset": "standard", "eps": 8, "budget": 6}
    assert identity["protocol"] >= 1
    clean = _identity(tiny, tmp_path, attacks=("none",), eps=4, budget=3, precision="bfloat16")
    assert clean == _identity(tiny, tmp_path, attacks=("none",))
    paper = _identity(tiny, tmp_path, attacks=("none",), preset="paper")
    assert digest(paper) != digest(clean)


def test_retrain_and_force_compute_again(
    run: Any, copied: Path, stamps: Any, contents: Any, tmp_path: Path, shared_store: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(shared_store, store)
    whole = contents(copied)
    (cell,) = (copied / "tiny/odin/0/linf").glob("rings--*.json")
    (weights,) = (store / "tiny/weights/plain").glob("conv3-fast-0--*.safetensors")

    def written(*options: str) -> tuple[bool, bool]:
        before = cell.stat().st_mtime_ns, weights.stat().st_mtime_ns
        assert run(*CELL, *options, store=store).code == 0
        return cell.stat().st_mtime_ns != before[0], weights.stat().st_mtime_ns != before[1]

    assert written() == (False, False)
    assert written("--force") == (True, False)
    assert written("--retrain") == (True, True)
    assert contents(copied) == whole


def test_records_are_reused_when_weights_that_were_lost_come_back_the_same(
    run: Any, copied: Path, stamps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(copied)
    # Not only is nothing written: nothing but the training is done.
    monkeypatch.setattr(execute, "run_work", None)
    assert run(*CELL, store=tmp_path / "empty").code == 0
    assert list((tmp_path / "empty").rglob("*.safetensors"))
    assert stamps(copied) == before


def test_records_of_other_weights_are_not_mixed_with_new_ones(
    run: Any, copied: Path, tmp_path: Path, shared_store: Path
) -> None:
    from safetensors.torch import load_file

    from oodbench.store import TensorStore, tensors_digest

    store = tmp_path / "store"
    shutil.copytree(shared_store, store)
    (weights,) = (store / "tiny/weights/plain").glob("conv3-fast-0--*.safetensors")
    identity = read_card(weights)["identity"]
    tensors = load_file(weights)
    tensors["network.head.weight"] = tensors["network.head.weight"] * 1.5
    TensorStore(store).save(weights, tensors, identity, {})
    (old,) = (copied / "tiny/odin/0/linf").glob("rings--*.json")
    before, scores = read_record(old), read_scores(old)["scores"]
    (record,) = run(*CELL, "--json", store=store).json
    assert record["identity"] == before["identity"]
    assert record["digests"]["weights"] == tensors_digest(tensors) != before["digests"]["weights"]
    assert record["digests"]["id_scores"] != before["digests"]["id_scores"]
    assert read_record(old) == record
    assert not np.array_equal(read_scores(old)["scores"], scores)
    # And back: the cell that was not asked for still has the old weights, but no ID scores.
    assert run("--detector", "odin", "--attack", "all").code == 0
    for path in (copied / "tiny/odin/0").rglob("*--*.json"):
        assert read_record(path)["digests"]["weights"] == before["digests"]["weights"]


def read_card(path: Path) -> Any:
    import json

    return json.loads(path.with_suffix(".json").read_text())


def test_mean_intervals_belong_to_the_rows_of_their_records(
    tiny: str, shared_store: Path, tmp_path: Path, plugins: Path
) -> None:
    from oodbench import intervals

    request = Request(
        suite=tiny,
        detectors=(f"{plugins}/faulty.py", "odin", "msp"),
        attacks=("linf", "none"),
        seeds=(1, 0),
        settings=("fault=search",),
    )
    places = Places("cpu", results=tmp_path, store=shared_store)
    plan, outcome = run_request(request, places)
    assert len(outcome.failures) == 4  # linf, on two sets, for two seeds
    bounds = mean_intervals(plan)
    keys = list(dict.fromkeys(group_key(record) for record in outcome.records))
    assert list(bounds) == keys
    for key in keys:
        rows = [r for r in outcome.records if group_key(r) == key]
        cells = [c for c in plan.cells if c in plan.done and group_key(plan.done[c]) == key]
        known = read_arrays(plan.id_path(cells[0].subject))[0]["scores"]
        scores = [read_scores(plan.record_path(cell))["scores"] for cell in cells]
        assert bounds[key][ALL] == intervals.mean_intervals(known, scores)
        for metric in ("fpr95", "auroc"):
            low, high = bounds[key][ALL][metric]
            assert low <= np.mean([row[metric] for row in rows]) <= high


def test_a_detector_that_fails_takes_no_other_along_and_a_second_run_goes_on(
    run: Any, plugins: Path, stamps: Callable[[Path], Any], tmp_path: Path
) -> None:
    chosen = ("--detector", f"msp,{plugins}/faulty.py,odin", "--attack", "all")
    result = run(*chosen)
    assert result.code == 3
    assert "faulty, seed 0: the score is NaN on 120 of 120 images" in result.err
    assert "Traceback" not in result.err
    written = stamps(tmp_path / "results")
    assert {read_record(p)["detector"] for p in find_records(tmp_path / "results")} == {
        "msp",
        "odin",
    }
    again = run(*chosen)
    assert again.code == 3
    assert stamps(tmp_path / "results") == written
    mended = run(*chosen, "--set", "fault=none", "--json")
    assert mended.code == 0
    assert len(mended.json) == 3 * len({(r["perturbation"], r["set"]) for r in mended.json})
    assert {p: stamps(tmp_path / "results")[p] for p in written} == written


@pytest.mark.parametrize(("raw", "value"), [("true", True), ("False", False), ("FALSE", False)])
def test_true_and_false_are_read_however_they_are_spelt(raw: str, value: bool) -> None:
    from oodbench.plugins import PluginSpec, with_settings

    (spec,) = with_settings([PluginSpec("detectors", "rowl")], [f"adversary={raw}"])
    assert spec.instance.adversary is value
