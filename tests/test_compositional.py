"""The worst corruption, then L∞ about it; and what cells with the same first stage share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.api import Places
from oodbench.attacks.compositional import Compositional
from oodbench.attacks.corruption import Corruption
from oodbench.attacks.linf import LInf
from oodbench.judging import final_scores, worst_case
from oodbench.metrics import at_threshold, auroc
from oodbench.plan import Request, make_plan
from oodbench.records import find_records, read_arrays, read_record, read_scores
from oodbench.searched import Ledger
from oodbench.testing import check

ATTACKS = ("corruption", "compositional")


@pytest.fixture(scope="module")
def cells(everything: Any) -> dict[tuple[str, str, str], Path]:
    """Records of everything, by detector, perturbation and set."""
    found = {}
    for path in find_records(everything[0]):
        record = read_record(path)
        found[record["detector"], record["perturbation"], record["set"]] = path
    return found


def test_its_stages_keep_the_contract() -> None:
    assert check("attacks", "compositional") == ["frozen-dataclass", "stages"]


def test_it_is_the_published_pair_and_passes_on_what_both_share() -> None:
    assert Compositional.stages == ("corruption", "linf")
    assert Compositional.in_all
    with pytest.raises(TypeError, match="stage by stage"):
        Compositional().search({}, None, [], 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("detector", ["oe", "odin"])
def test_it_is_each_stage_done_by_hand_about_its_own_centre(
    detector: str, cells: Any, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    bench = Places(device="cpu", store=shared_store).workbench()
    plan = make_plan(Request(suite=tiny, detectors=(detector,)), bench, tmp_path)
    subject = bench.subject(plan.cells[0].subject.detector, plan.cells[0].subject.taught, "float32")
    images = bench.images(tiny, "rings", "test")
    pixels = bench.pixels(images, range(len(images)))
    (corrupted,) = worst_case([subject], [Corruption()], pixels, images.ids, 0, Ledger())
    linf = LInf(budget=6)
    (attacked,) = worst_case([subject], [linf], corrupted.images, images.ids, 0, Ledger())
    arrays = read_scores(cells[detector, "compositional", "rings"])
    assert arrays["ids"].tolist() == list(images.ids)
    np.testing.assert_array_equal(
        arrays["scores"], final_scores(subject, linf, attacked, images.ids).numpy()
    )
    assert arrays["tags"].tolist() == [
        f"{a} > {b}" for a, b in zip(corrupted.tags, attacked.tags, strict=True)
    ]
    moved = (attacked.images.int() - corrupted.images.int()).abs().amax()
    assert 0 < moved <= 8


def test_no_image_scores_higher_for_more_perturbation(cells: Any) -> None:
    for detector, perturbation, name in cells:
        if perturbation != "compositional":
            continue
        scores = {
            stage: read_scores(cells[detector, stage, name])["scores"]
            for stage in ("none", "corruption", "linf", "compositional")
        }
        assert (scores["corruption"] <= scores["none"]).all()
        assert (scores["linf"] <= scores["none"]).all()
        assert (scores["compositional"] <= scores["corruption"]).all()


def test_the_record_counts_what_won_by_stage(cells: Any) -> None:
    for (detector, perturbation, name), path in cells.items():
        if perturbation != "compositional":
            continue
        attack = read_record(path)["attack"]
        assert (attack["budget"], attack["queries"]) == (6, 95)
        assert set(attack["won"]) == {"corruption", "linf"}
        alone = read_record(cells[detector, "corruption", name])["attack"]
        assert attack["won"]["corruption"] == alone["won"]
        tags = read_scores(path)["tags"].tolist()
        assert attack["won"]["linf"] == Counter(tag.split(" > ")[1] for tag in tags)
        assert sum(alone["won"].values()) == 30
        assert set(alone["params"]) == {"preset", "severity"}
        assert attack["params"] == {"preset": "standard", "eps": 8, "budget": 6}


def test_records_say_which_corruptions_are_approximate_and_which_plugins_made_them(
    cells: Any,
) -> None:
    for (detector, perturbation, _), path in cells.items():
        record = read_record(path)
        told = any("frost, motion blur, snow and spatter" in note for note in record["notes"])
        assert told == (perturbation in ATTACKS)
        plugins = record["versions"]["plugins"]
        assert plugins[detector] >= 1
        assert set(plugins) >= {detector, perturbation, "conv3", record["recipe"]["name"]}
        if perturbation == "compositional":
            assert set(plugins) >= {"corruption", "linf"}


def test_corruptions_are_made_once_for_all_detectors_and_both_attacks(
    run: Any, monkeypatch: pytest.MonkeyPatch, cells: Any, tmp_path: Path
) -> None:
    calls = []
    search = Corruption.search

    def counted(self: Any, *arguments: Any) -> Any:
        calls.append(len(arguments[1]))
        return search(self, *arguments)

    monkeypatch.setattr(Corruption, "search", counted)
    chosen = ("--detector", "msp,oe,atom", "--attack", ",".join(ATTACKS))
    assert run(*chosen).code == 0
    assert calls == [30, 30]  # two sets of thirty images, each in one batch
    found = find_records(tmp_path / "results")
    assert len(found) == 3 * 2 * 2
    for path in found:
        record = read_record(path)
        known = cells[record["detector"], record["perturbation"], record["set"]]
        assert (read_scores(path)["scores"] == read_scores(known)["scores"]).all()


def test_it_gives_the_same_where_nothing_is_shared(run: Any, cells: Any, tmp_path: Path) -> None:
    assert run("--detector", "oe", "--attack", "compositional", "--ood", "rings").code == 0
    (path,) = find_records(tmp_path / "results")
    known = cells["oe", "compositional", "rings"]
    assert path.name == known.name
    assert (read_scores(path)["scores"] == read_scores(known)["scores"]).all()


def test_rowl_has_the_figures_of_its_own_decision_beside_those_at_95_percent(
    cells: Any, everything: Any
) -> None:
    (id_path,) = (everything[0] / "tiny" / "rowl" / "0").glob("id--*.npz")
    ours = read_arrays(id_path)[0]["scores"]
    for (detector, _, _), path in cells.items():
        extras = read_record(path)["extras"]
        if detector != "rowl":
            assert "decision" not in extras
            continue
        theirs = read_scores(path)["scores"]
        assert extras["decision"] == at_threshold(ours, theirs, 0.0)


# The preset paper


def test_paper_leaves_out_what_has_no_published_loss_where_all_are_asked_for(
    run: Any, tmp_path: Path
) -> None:
    chosen = ("--attack", "compositional,corruption", "--preset", "paper", "--ood", "rings")
    result = run("--detector", "all", *chosen)
    assert result.code == 0
    assert (
        "--preset paper leaves out energy, energy_finetuned, mahalanobis_single: no loss was"
        in result.err
    )
    records = {}
    for path in find_records(tmp_path / "results"):
        record = read_record(path)
        records[record["detector"], record["perturbation"]] = record
    assert {d for d, _ in records} == {
        *("acet", "atom", "ccu", "mahalanobis", "msp", "ntom", "odin", "oe", "rowl", "sofl")
    }
    for (detector, _), record in records.items():
        assert record["preset"] == "paper"
        assert record["precision"] == "float32"
        extras = record["extras"]
        if detector == "rowl":
            assert extras["fpr95_published"] == extras["decision"]["fpr"]
            assert extras["auroc_published"] == extras["decision"]["auroc"]
    by_name = run("--detector", "msp,energy", *chosen)
    assert by_name.code == 2
    assert "energy has no published loss" in by_name.err


def test_under_paper_a_corruption_is_chosen_by_the_published_score(
    run: Any, tmp_path: Path, tiny: str, shared_store: Path
) -> None:
    chosen = ("--detector", "rowl", "--attack", "corruption", "--ood", "rings")
    assert run(*chosen, "--preset", "paper").code == 0
    (path,) = find_records(tmp_path / "results")
    arrays, record = read_scores(path), read_record(path)
    bench = Places(device="cpu", store=shared_store).workbench()
    plan = make_plan(Request(suite=tiny, detectors=("rowl",)), bench, tmp_path)
    subject = bench.subject(plan.cells[0].subject.detector, plan.cells[0].subject.taught, "float32")
    images = bench.images(tiny, "rings", "test")
    pixels = bench.pixels(images, range(len(images)))
    (verdict,) = worst_case(
        [subject], [Corruption(preset="paper")], pixels, images.ids, 0, Ledger()
    )
    np.testing.assert_array_equal(arrays["published"], verdict.values.numpy())
    assert (verdict.values > 0).all()
    assert (verdict.values < 1).all()
    (id_path,) = (tmp_path / "results" / "tiny" / "rowl" / "0").glob("id--*.npz")
    ours = read_arrays(id_path)[0]["scores"]
    assert record["auroc"] == pytest.approx(auroc(ours, arrays["scores"]), abs=1e-12)
