"""The page of published figures beside ours, made of the records of `mini` that ship."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score

from oodbench.files import shipped_results
from oodbench.published import published
from oodbench.records import find_records, read_record, write_record

SETS = ("flower", "digits")


def _script(name: str) -> Any:
    """Import a script of `benchmarks`, which is no package."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while the class is being made.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


reproduction = _script("reproduction")


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(reproduction, "COMPARED", SETS)
    return reproduction.stored(shipped_results(), "mini")


def test_means_are_those_of_the_scores(mini: Any) -> None:
    records = mini.of("atom", "linf", "standard")
    expected = []
    for name in SETS:
        known = mini.results.id_scores(records[name])
        other = mini.results.ood_scores(records[name])
        truth = np.repeat([0, 1], [len(known), len(other)])
        expected.append(roc_auc_score(truth, np.concatenate([known, other])))
    mean = reproduction.means(mini, "linf", "standard")
    assert mean["atom"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert len(mean) == 13


def test_preset_paper_shows_what_was_published_of_a_detector(mini: Any) -> None:
    record = mini.of("rowl", "linf", "paper")["digits"]
    decision = record["extras"]["decision"]
    assert reproduction.figures(record) == {"fpr95": decision["fpr"], "auroc": decision["auroc"]}
    ccu = mini.of("ccu", "linf", "paper")["digits"]
    assert reproduction.figures(ccu)["auroc"] == ccu["extras"]["auroc_published"] != ccu["auroc"]
    standard = mini.of("ccu", "linf", "standard")["digits"]
    assert reproduction.figures(standard)["auroc"] == standard["auroc"]


def test_agreement_is_kendalls_tau_with_the_published_column(
    mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = published().query("suite == 'cifar10'").assign(suite="mini")
    monkeypatch.setattr(reproduction, "published", lambda: table)
    theirs = table.query("perturbation == 'none'").set_index("detector")["auroc"]
    ours = reproduction.means(mini, "none", "standard")
    names = [name for name in theirs.index if name in ours]
    expected = kendalltau([ours[n] for n in names], theirs[names]).statistic
    everything, without = reproduction.agreement(mini)
    assert f"{len(names)} detectors" in everything
    assert f": {expected:.2f}, 95 %" in everything
    low, _, high = everything.partition("interval ")[2].rstrip(".").partition(" to ")
    assert -1 <= float(low) <= expected <= float(high) <= 1
    assert f"{len(names) - 2} detectors" in without
    assert "ccu" not in without
    assert "rowl" not in without


def test_the_order_is_of_all_tiers() -> None:
    def said(mean: dict[str, float], way: str = "") -> str:
        return reproduction.order_holds(reproduction.claimed(mean, way))

    mean = {"atom": 0.9, "acet": 0.8, "msp": 0.1, "oe": 0.2}
    assert said(mean) == "The order holds."
    assert said({**mean, "ntom": 0.85}) == "The order does not hold."
    assert said({**mean, "acet": 0.95}) == "The order does not hold."
    assert said({"atom": 0.9, "msp": 0.1}) == "The order holds, of the tiers measured."
    assert "Too few" in said({"atom": 0.9, "rowl": 0.95})


def test_each_way_of_teaching_has_an_order_of_its_own() -> None:
    mean = {"acet mixed (zoom)": 0.6, "atom": 0.5, "atom mixed": 0.1, "atom mixed (zoom)": 0.7}
    below = {"msp": 0.2, "oe (zoom)": 0.3}
    for way, wanted in {
        "": [{"atom": 0.5}, {}, below],
        "mixed": [{"atom mixed": 0.1}, {}, below],
        "mixed (zoom)": [{"atom mixed (zoom)": 0.7}, {"acet mixed (zoom)": 0.6}, below],
    }.items():
        assert reproduction.claimed(mean | below, way) == wanted


def test_each_way_of_teaching_has_an_agreement_of_its_own(
    mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = published().query("suite == 'cifar10'").assign(suite="mini")
    monkeypatch.setattr(reproduction, "published", lambda: table)
    shown = {"msp": "msp", "odin": "odin", "atom": "atom", "ntom": "ntom (zoom)"}
    shown |= {"oe": "atom mixed (zoom)"}
    records = {
        (shown[key[0]], *key[1:]): record for key, record in mini.records.items() if key[0] in shown
    }
    usual, zoomed = reproduction.agreement(replace(mini, records=records))
    assert "3 detectors (msp, odin, atom)" in usual
    assert "4 detectors (msp, odin, ntom (zoom), atom mixed (zoom))" in zoomed
    theirs = table.query("perturbation == 'none'").set_index("detector")["auroc"]
    ours = reproduction.means(mini, "none", "standard")
    expected = kendalltau(
        [ours[name] for name in ("msp", "odin", "oe", "ntom")],
        theirs[["msp", "odin", "atom", "ntom"]],
    ).statistic
    assert f": {expected:.2f}, 95 %" in zoomed


def test_gaps_between_tiers_have_the_interval_of_resampled_images(mini: Any) -> None:
    mean = reproduction.means(mini, "linf", "standard")
    claim = [{"atom": mean["atom"]}, {}, {"msp": mean["msp"], "oe": mean["oe"]}]
    below = max("msp", "oe", key=mean.__getitem__)
    (told,) = reproduction.gaps(mini, "linf", claim)
    gap = 100 * (mean["atom"] - mean[below])
    assert told.startswith(f"atom is ahead of {below} by {gap:.2f}, 95 % interval ")
    low, high = map(float, told.partition("interval ")[2].rstrip(".").split(" to "))
    scores = {
        (row, name): (mini.results.id_scores(record), mini.results.ood_scores(record))
        for row in ("atom", below)
        for name, record in mini.of(row, "linf", "standard").items()
        if name in SETS
    }
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        known = rng.integers(640, size=640)
        others = {name: rng.integers(250, size=250) for name in SETS}
        of = {
            (row, name): roc_auc_score(
                np.repeat([0, 1], [640, 250]), np.concatenate([ids[known], ood[others[name]]])
            )
            for (row, name), (ids, ood) in scores.items()
        }
        drawn.append(100 * np.mean([of["atom", name] - of[below, name] for name in SETS]))
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.15 * (high - low))


def test_gaps_of_other_images_have_no_interval(mini: Any) -> None:
    fewer = {
        key: record | {"n_ood": 100} if key[0] == "oe" else record
        for key, record in mini.records.items()
    }
    claim = [{"atom": 0.9}, {"oe": 0.5}, {}]
    (told,) = reproduction.gaps(replace(mini, records=fewer), "linf", claim)
    assert told == "atom is ahead of oe by 40.00."


def test_other_radii_and_parameters_are_not_shown_and_more_images_win(tmp_path: Path) -> None:
    source = shipped_results() / "mini"
    kept = tmp_path / "mini"
    shutil.copytree(source / "ids", kept / "ids")
    shutil.copytree(source / "msp" / "0", kept / "msp" / "0")
    paths = [
        path
        for path in find_records(tmp_path)
        if (record := read_record(path))["perturbation"] == "linf"
        and record["preset"] == "standard"
        and record["set"] == "digits"
    ]
    assert len(paths) == 1
    record = read_record(paths[0])
    del record["digests"]["record"]
    arrays = np.load(paths[0].with_suffix(".npz"))
    scores = {"scores": arrays["scores"]}

    def beside(number: int, **changed: object) -> None:
        write_record(paths[0].with_name(f"digits--other{number}.json"), record | changed, scores)

    beside(1, eps="16/255", n_ood=9000)
    beside(2, params={"temperature": 2.0}, n_ood=9000)
    found = reproduction.stored(tmp_path, "mini").of("msp", "linf", "standard")["digits"]
    assert found["n_ood"] == record["n_ood"]
    beside(3, n_ood=1000)
    assert (
        reproduction.stored(tmp_path, "mini").of("msp", "linf", "standard")["digits"]["n_ood"]
        == 1000
    )
    beside(4, n_ood=1000)
    with pytest.raises(ValueError, match="two records of msp, linf, standard, digits"):
        reproduction.stored(tmp_path, "mini")


def test_a_training_attack_that_was_not_published_has_a_row_of_its_own(
    mini: Any, tmp_path: Path
) -> None:
    usual = {"quantile": 0.125, "weight": 1.0, "eps": 8, "steps": 5, "step": 2}
    for changed, row in (
        ({}, "atom"),
        ({"mixed": True}, "atom mixed"),
        ({"mixed": True, "steps": 7}, None),
    ):
        record = {
            "suite": "cifar10",
            "detector": "atom",
            "params": usual | changed,
            "schedule": {"name": "fast"},
            "digests": {"pool": "a"},
        }
        assert reproduction.shown_as(record, "fast") == row
        assert reproduction.shown_as(record, "zoom") == (row and f"{row} (fast)")
        without = record | {"digests": {}}
        assert reproduction.shown_as(without, "zoom") == row
    records = {
        (name, *key[1:]): record
        for key, record in mini.records.items()
        if key[0] == "atom"
        for name in ("atom", "atom mixed")
    }
    both = replace(mini, records=records)
    published_one, mixed, *_ = reproduction.tiers(both, "standard")
    mean = 100 * reproduction.means(both, "linf", "standard")["atom mixed"]
    assert published_one.startswith(f"- linf, preset standard: atom {mean:.2f} | not measured | ")
    assert mixed.startswith(f"- linf, preset standard: atom mixed {mean:.2f} | not measured | ")
    as_cifar10 = replace(both, suite="cifar10")
    (natural, *_) = [row for row in reproduction.beside(as_cifar10) if "| atom mixed" in row]
    rows = dict(line.strip("|").split("|", 1) for line in natural.splitlines() if "|" in line)
    figures = {name.strip(): cells for name, cells in rows.items()}
    known = published().query(
        "suite == 'cifar10' and detector == 'atom' and perturbation == 'none'"
    )
    assert f"{100 * known['auroc'].item():.2f}" in figures["atom mixed"]
    assert figures["atom mixed"].split() == figures["atom"].split()


def test_the_page_tells_on_how_many_images_it_stands(mini: Any) -> None:
    text = reproduction.page(mini, 0)
    assert "Images: 640 ID images, at most 250 of an OOD set." in text
    assert "### compositional" in text
    assert "apart rowl" in text
