"""The reference results and weights that ship."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from oodbench.api import Places
from oodbench.audit.storing import belongs, find_audits, read_audit, record_path
from oodbench.files import shipped_results
from oodbench.leaderboard.parting import parted
from oodbench.plan import Plan, Request, make_plan
from oodbench.plots.source import Results
from oodbench.records import arrays_digest, find_records, read_named, read_record, read_scores
from oodbench.registry import entries, load
from oodbench.store import tensors_digest

ROOT = Path(__file__).parents[1] / "results"
SEEDS = (0, 1, 2)
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def all_records() -> dict[Path, dict[str, Any]]:
    """All reference records of `mini` by path below results/."""
    return {path.relative_to(ROOT): read_record(path) for path in find_records(ROOT / "mini")}


@pytest.fixture(scope="module")
def records(all_records: Any) -> dict[Path, dict[str, Any]]:
    """Those of the preset ``standard``."""
    return {path: one for path, one in all_records.items() if one["preset"] == "standard"}


def _plan(folder: Path, preset: str) -> Plan:
    bench = Places(device="cpu", store=folder).workbench()
    request = Request(attacks=("all",), seeds=SEEDS, preset=preset)
    return make_plan(request, bench, folder)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The whole table, as it would be asked for now."""
    return _plan(tmp_path_factory.mktemp("nothing"), "standard")


def _published(detector: str) -> bool:
    return load("detectors", detector)().published_objective() is not None


@pytest.mark.parametrize("preset", ["standard", "paper"])
def test_the_reference_has_every_cell_of_the_table_under_its_present_identity(
    preset: str, all_records: Any, tmp_path: Path
) -> None:
    plan = _plan(tmp_path, preset)
    wanted = {plan.record_path(cell).relative_to(plan.results) for cell in plan.cells}
    detectors = [name for name in entries("detectors") if preset != "paper" or _published(name)]
    assert len(wanted) == len(detectors) * 4 * 5 * len(SEEDS)
    records = {path for path, record in all_records.items() if record["preset"] == preset}
    lacking = sorted(map(str, wanted - records))
    assert not lacking, (
        f"{len(lacking)} records, such as {lacking[0]}, are not in results/: what makes them has "
        "changed; compute them again with `oodbench run --detector all --attack all "
        f"--seed 0,1,2 --preset {preset} --results results --store results`"
    )
    assert records == wanted


def test_every_reference_record_is_whole_and_stands_on_weights_that_ship(
    records: Any, plan: Plan
) -> None:
    for path, record in records.items():
        assert len(read_scores(ROOT / path, record)["scores"]) == record["n_ood"]
    for cell in plan.cells:
        stored = plan.bench.stored_weights(cell.subject.taught)
        assert stored is not None, cell.title
        assert stored.path.is_relative_to(shipped_results())
        record = records[plan.record_path(cell).relative_to(plan.results)]
        assert stored.digest == record["digests"]["weights"]


def test_the_reference_is_small() -> None:
    files = [p for p in (ROOT / "mini").rglob("*") if p.is_file() and p.name != ".lock"]
    assert sum(path.stat().st_size for path in files) < 12 * MEGABYTE
    assert {path.suffix for path in files} == {".json", ".npz", ".safetensors"}


def test_everything_that_ships_is_small_and_whole() -> None:
    kept = [path for path in ROOT.rglob("*") if path.is_file() and path.name != ".lock"]
    assert sum(path.stat().st_size for path in kept) < 25 * MEGABYTE
    shipped, cards_alone = {}, set()
    for card in ROOT.glob("*/weights/*/*.json"):
        known = json.loads(card.read_text(encoding="utf-8"))
        weights = card.with_suffix(".safetensors")
        if weights.exists():
            assert tensors_digest(load_file(weights)) == known["digest"]
        else:
            taught = known["identity"]
            cards_alone.add((card.parts[-4], taught["recipe"]["name"], taught["schedule"]["name"]))
        shipped[known["digest"]] = known["facts"]
        assert 0.8 < known["facts"]["held_out"]["accuracy"] <= 1, card
    # Too large to ship; their cards say how they were taught, and their records hold scores.
    assert cards_alone == {
        ("cifar10", "DensityAware", "zoom"),
        ("cifar10", "MinedAdversarialOutliers", "fast"),
        ("cifar10", "MinedAdversarialOutliers", "whole"),
        ("cifar10", "MinedOutliers", "zoom"),
        ("cifar10", "OutlierExposure", "whole"),
        ("cifar10", "OutlierExposure", "zoom"),
        ("cifar10", "SelfLabelledOutliers", "zoom"),
    }
    of_id = set()
    for path in find_records(ROOT):
        record = read_record(path)
        of_id.add((path.parents[1], record["digests"]["id_scores"]))
        assert record["digests"]["weights"] in shipped, path
        pool = shipped[record["digests"]["weights"]].get("pool", {})
        own = set(record["notes"])
        assert not pool.get("note") or own & {
            pool["note"],
            f"outlier pool {pool['name']}: {pool['note']}",
        }
    for path in find_audits(ROOT):
        assert belongs(read_audit(path), read_record(record_path(path))), path
    for path in ROOT.glob("*/*/*/id--*.npz"):
        arrays, _ = read_named(path, path.parents[2])
        assert (path.parent, arrays_digest(arrays)) in of_id, f"no record stands on {path}"


@pytest.mark.parametrize("suite", ["mini", "cifar10"])
def test_figures_of_every_record_that_ships_follow_from_its_scores(suite: str) -> None:
    records = [read_record(path) for path in find_records(ROOT / suite)]
    results = Results(ROOT, parted(records)[0], records)
    # Of these the in-distribution scores are those of clean images.
    of_clean_id = [record for record in records if record["side"] == "ood"]
    assert len(of_clean_id) >= len(records) / 2 > 0
    for record in of_clean_id:
        known, unknown = results.id_scores(record), results.ood_scores(record)
        assert (len(known), len(unknown)) == (record["n_id"], record["n_ood"])
        is_ood = np.arange(len(known) + len(unknown)) >= len(known)
        auroc = roc_auc_score(is_ood, np.concatenate([known, unknown]).astype(np.float64))
        assert record["auroc"] == pytest.approx(auroc, abs=1e-9), results.path(record)
        # The lowest score that accepts 19 of 20.
        threshold = np.sort(known)[-(-19 * len(known) // 20) - 1]
        assert record["fpr95"] == np.mean(unknown <= threshold), results.path(record)


def test_every_format_shows_all_suites_that_ship(call: Any) -> None:
    suites = {path.parent.name for path in ROOT.glob("*/ids")}
    for form in ("markdown", "csv", "latex", "json", "html"):
        result = call("leaderboard", "--reference", "--format", form)
        assert result.code == 0, result.err
        assert all(suite in result.out for suite in suites)


def test_an_attacker_with_more_means_never_helps_the_defender(records: Any) -> None:
    means: dict[Any, list[float]] = defaultdict(list)
    for record in records.values():
        means[record["detector"], record["seed"], record["perturbation"]].append(record["auroc"])
    for detector in entries("detectors"):
        for seed in SEEDS:
            none, corruption, linf, both = (
                np.mean(means[detector, seed, name])
                for name in ("none", "corruption", "linf", "compositional")
            )
            assert corruption <= none, (detector, seed)
            assert linf <= none, (detector, seed)
            assert both <= corruption, (detector, seed)


@pytest.mark.parametrize("detector", ["msp", "ccu", "mahalanobis", "atom"])
def test_shipped_weights_give_the_reference_scores_again(
    detector: str, call: Any, records: Any, tmp_path: Path
) -> None:
    places = ("--results", tmp_path / "results", "--store", tmp_path / "store", "--device", "cpu")
    asked = ("--detector", detector, "--ood", "digits", "--seed", 1)
    result = call("run", *asked, *places)
    assert result.code == 0
    assert f"using shipped weights for {detector}, seed 1" in result.err
    assert not list((tmp_path / "store").rglob("*.safetensors"))
    (path,) = find_records(tmp_path / "results")
    again = read_scores(path)
    known = read_scores(ROOT / path.relative_to(tmp_path / "results"))
    assert again["ids"].tolist() == known["ids"].tolist()
    scale = np.abs(known["scores"]).max()
    assert np.abs(again["scores"] - known["scores"]).max() <= 1e-4 * max(1.0, scale)


def test_the_leaderboard_of_the_reference_has_every_detector(call: Any) -> None:
    result = call("leaderboard", "--reference", "--suite", "mini", "--preset", "standard")
    assert result.code == 0
    rows = [line for line in result.out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(entries("detectors"))
    assert "–" not in "".join(rows)


def test_the_readme_shows_the_reference_as_it_is(call: Any) -> None:
    def rows(text: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if line.startswith("| ") and " / " in line]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    shipped = call("leaderboard", "--reference", "--suite", "mini", "--preset", "standard").out
    assert len(rows(shipped)) == len(entries("detectors"))
    assert [row for row in rows(readme) if row[0] in entries("detectors")] == rows(shipped)
    marked = [line for line in shipped.splitlines() if line.startswith("- †")]
    joined = " ".join(readme.split())
    for line in marked:
        assert " ".join(line.removeprefix("- ").split()) in joined
