"""Records: complete, valid, consistent with the stored scores, and never silently wrong."""

import json
import os
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from oodbench import metrics
from oodbench.errors import DamagedFileError
from oodbench.records import find_records, read_record, read_scores

# The list of design.md, §7.
FIELDS = [
    "schema",
    "identity",
    "cell_key",
    "suite",
    "detector",
    "params",
    "recipe",
    "schedule",
    "network",
    "seed",
    "perturbation",
    "preset",
    "eps",
    "side",
    "kind",
    "precision",
    "set",
    "n_id",
    "n_ood",
    "fpr95",
    "fpr95_ood",
    "auroc",
    "aupr_out",
    "aupr_in",
    "detection_error",
    "fnr",
    "accuracy",
    "threshold",
    "intervals",
    "attack",
    "protocol",
    "digests",
    "versions",
    "device",
    "seconds",
    "notes",
    "extras",
]
METRICS = ("fpr95", "fpr95_ood", "auroc", "aupr_out", "aupr_in", "detection_error", "fnr")
HISTORIC = Path(__file__).parent / "historic"


@pytest.fixture(scope="session")
def records(everything: Any) -> list[Path]:
    found = find_records(everything[0])
    assert found
    return found


def test_a_record_has_the_fields_of_the_design_and_no_other(records: list[Path]) -> None:
    for path in records:
        assert list(json.loads(path.read_text())) == FIELDS


def test_json_of_the_command_is_the_stored_records_in_the_order_of_the_plan(
    everything: Any, records: list[Path]
) -> None:
    printed = everything[1].json
    stored = {read_record(path)["identity"]: read_record(path) for path in records}
    assert [stored[record["identity"]] for record in printed] == printed
    assert len(printed) == len(stored)


def test_a_record_fits_the_schema_that_ships(records: list[Path]) -> None:
    schema = json.loads(files("oodbench.schemas").joinpath("record-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in records:
        jsonschema.validate(json.loads(path.read_text()), schema)


def test_metrics_are_those_of_the_stored_scores(records: list[Path]) -> None:
    for path in records:
        record, scores = read_record(path), read_scores(path)
        (known,) = path.parent.parent.glob("id--*.npz")
        with np.load(known) as stored:
            id_scores, correct = stored["scores"], stored["correct"]
        assert id_scores.dtype == scores["scores"].dtype == np.float32
        expected = metrics.compute(id_scores, scores["scores"])
        assert {name: record[name] for name in METRICS} == {n: expected[n] for n in METRICS}
        assert record["threshold"] == expected["threshold"]
        assert record["accuracy"] == correct.mean()
        assert record["n_id"] == len(id_scores) == 120
        assert record["n_ood"] == len(scores["scores"]) == 30
        assert len(set(scores["ids"].tolist())) == 30
        for name, (low, high) in record["intervals"].items():
            assert low <= record[name] <= high
            assert low < high
        assert set(record["intervals"]) >= {*METRICS, "accuracy"} - {"detection_error"}


def test_the_attack_says_what_was_spent_and_what_won(records: list[Path]) -> None:
    linf = [r for r in map(read_record, records) if r["perturbation"] == "linf"]
    assert linf
    for record in linf:
        attack = record["attack"]
        expected = {
            "params",
            "budget",
            "queries",
            "steps",
            "restarts",
            "objectives",
            "won",
            "health",
            "gradient",
        }
        assert set(attack) - {"fallback"} == expected
        assert attack["budget"] == 6
        assert 0 < attack["steps"] <= 6 or "fallback" in attack
        assert attack["restarts"] == 1  # six steps are too few for more
        assert "score" in attack["objectives"]
        assert sum(attack["won"].values()) == record["n_ood"]
        assert set(attack["health"]) == set(attack["objectives"])
        assert record["eps"] == "8/255"
    for record in map(read_record, records):
        if record["perturbation"] == "none":
            assert record["attack"] is None
            assert record["eps"] is None


def test_under_standard_no_attack_makes_a_score_higher(records: list[Path]) -> None:
    clean = {}
    for path in records:
        if path.parent.name == "none":
            arrays = read_scores(path)
            clean[path.parent.parent, path.stem.partition("--")[0]] = arrays
    for path in records:
        before, after = clean[path.parent.parent, path.stem.partition("--")[0]], read_scores(path)
        assert before["ids"].tolist() == after["ids"].tolist()
        assert (after["scores"] <= before["scores"]).all()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path) -> None:
    record = json.loads(path.read_text())
    record["auroc"] = 1 - record["auroc"]
    path.write_text(json.dumps(record))


def _from_another(path: Path) -> None:
    (other,) = path.parent.glob(f"noise--*{path.suffix}")
    shutil.copy(other, path)


def _from_another_detector(path: Path) -> None:
    (other,) = (path.parent.parent.parent / "odin" / "0").glob("id--*.npz")
    shutil.copy(other, path)


CELL = ("--detector", "msp", "--attack", "linf", "--ood", "rings")
DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated record": ("linf/rings--*.json", _truncate),
    "empty record": ("linf/rings--*.json", lambda path: path.write_bytes(b"")),
    "record that is a list": ("linf/rings--*.json", lambda path: path.write_text("[]")),
    "record that is no text": ("linf/rings--*.json", lambda path: path.write_bytes(b"\xff\xfe\0")),
    "edited number": ("linf/rings--*.json", _edit),
    "record of another cell": ("linf/rings--*.json", _from_another),
    "truncated scores": ("linf/rings--*.npz", _truncate),
    "missing scores": ("linf/rings--*.npz", Path.unlink),
    "scores of another cell": ("linf/rings--*.npz", _from_another),
    "scores that are no archive": ("linf/rings--*.npz", lambda path: path.write_bytes(b"PK\3\4")),
    "truncated ID scores": ("id--*.npz", _truncate),
    "ID scores of another detector": ("id--*.npz", _from_another_detector),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_left_and_force_replaces_it(
    damage: str, run: Any, copied: Path, contents: Any
) -> None:
    before = contents(copied)
    pattern, spoil = DAMAGE[damage]
    (path,) = (copied / "tiny" / "msp" / "0").glob(pattern)
    spoil(path)
    spoilt = path.read_bytes() if path.exists() else None

    for _ in range(2):
        result = run(*CELL)
        assert result.code == 2
        assert result.out == ""
        assert result.err.startswith("oodbench: ")
        assert str(path) in result.err
        assert result.err.count("\n") == 1
        assert (path.read_bytes() if path.exists() else None) == spoilt

    forced = run(*CELL, "--force")
    assert forced.code == 0, forced.err
    assert contents(copied) == before


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_run_stopped_between_two_writes_leaves_no_record_beside_scores_of_another_run(
    writes: int, run: Any, copied: Path, contents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copied)
    (record,) = (copied / "tiny/msp/0/linf").glob("rings--*.json")
    replace, done = os.replace, []

    def stopped(source: Any, target: Any) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        replace(source, target)
        done.append(Path(target).name.partition("--")[0])

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopped)
        assert run(*CELL, "--force").code == 130
    assert done == ["id", "rings"][:writes]
    assert record.exists() == (writes == 0)
    assert run(*CELL).code == 0
    assert contents(copied) == before


def test_missing_id_scores_are_made_again_and_the_cell_is_reused(
    run: Any, copied: Path, contents: Any, stamps: Any
) -> None:
    before = contents(copied)
    (path,) = (copied / "tiny" / "msp" / "0").glob("id--*.npz")
    path.unlink()
    old = stamps(copied)
    assert run(*CELL).code == 0
    assert contents(copied) == before
    assert {p: t for p, t in stamps(copied).items() if p != path} == old


def test_ids_are_stored_once_for_all_scores_of_the_same_images(copied: Path) -> None:
    shared = sorted((copied / "tiny" / "ids").iterdir())
    assert [path.name.partition("--")[0] for path in shared if path.suffix == ".npz"] == [
        "noise",
        "rings",
        "textures",
    ]
    for path in copied.rglob("*--*.npz"):
        with np.load(path) as file:
            assert ("ids" in file.files) == (path.parent.name == "ids")
    for path in find_records(copied):
        assert len(set(read_scores(path)["ids"].tolist())) == read_record(path)["n_ood"]


@pytest.mark.parametrize("damage", ["gone", "truncated", "of other images"])
def test_damaged_ids_are_named(damage: str, run: Any, copied: Path) -> None:
    shared = {path.name.partition("--")[0]: path for path in (copied / "tiny/ids").glob("*.npz")}
    path = shared["rings"]
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.write_bytes(shared["noise"].read_bytes())
    result = run(*CELL)
    assert result.code == 2
    assert str(path) in result.err
    assert result.err.count("\n") == 1
    assert run(*CELL, "--force").code == 0
    assert run(*CELL).code == 0


def test_damaged_weights_are_named_and_left(
    run: Any, copied: Path, shared_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(shared_store, store)
    (weights,) = (store / "tiny/weights/plain").glob("conv3-fast-0--*.safetensors")
    pixels = bytearray(weights.read_bytes())
    pixels[-5] ^= 1
    weights.write_bytes(pixels)
    result = run(*CELL, store=store)
    assert result.code == 2
    assert str(weights) in result.err
    assert result.err.count("\n") == 1
    assert weights.read_bytes() == bytes(pixels)
    assert run(*CELL, "--retrain", store=store).code == 0
    assert weights.read_bytes() != bytes(pixels)
    assert run(*CELL, store=store).code == 0


def test_a_record_of_a_later_format_is_not_read(copied: Path, tmp_path: Path) -> None:
    from oodbench.identity import digest

    record = json.loads(find_records(copied)[0].read_text()) | {"schema": 99}
    del record["digests"]["record"]
    record["digests"]["record"] = digest(record)
    path = tmp_path / "late.json"
    path.write_text(json.dumps(record))
    with pytest.raises(DamagedFileError, match="schema 99; this oodbench reads up to"):
        read_record(path)


def test_a_record_stored_in_the_past_still_reads() -> None:
    paths = sorted(HISTORIC.glob("*.json"))
    assert paths
    for path in paths:
        record, scores = read_record(path), read_scores(path)
        assert list(record) == FIELDS
        assert record["n_ood"] == len(scores["scores"])
        assert record["fpr95"] == np.mean(scores["scores"] <= record["threshold"])
