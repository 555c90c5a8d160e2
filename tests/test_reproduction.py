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
    assert f": {expected:.2f} (p " in everything
    low, _, high = everything.partition("interval ")[2].rstrip(".").partition(" to ")
    assert -1 <= float(low) <= expected <= float(high) <= 1
    assert f"{len(names) - 2} detectors" in without
    assert "ccu" not in without
    assert "rowl" not in without


def test_the_order_is_of_all_tiers() -> None:
    def said(mean: dict[str, float], of_images: Any = None) -> str:
        there = reproduction.claimed(mean, "")
        gaps = [reproduction.Gap(*pair, of_images) for pair in reproduction.neighbours(there)]
        text: str = reproduction.order_holds(gaps, reproduction.unmeasured(there))
        return text

    mean = {"atom": 0.9, "acet": 0.8, "oe": 0.2}
    mean |= dict.fromkeys(("msp", "odin", "mahalanobis", "sofl", "ccu", "ntom (zoom)"), 0.1)
    assert said(mean) == said(mean, (0.01, 0.2)) == "The order holds."
    assert said({**mean, "ntom (zoom)": 0.85}) == "The order does not hold."
    assert said({**mean, "acet": 0.95}) == "The order does not hold."
    assert said({**mean, "acet": 0.95}, (-0.1, -0.01)) == "The order does not hold."
    assert said(mean, (-0.01, 0.2)) == "These images do not decide the order."
    assert said({**mean, "acet": 0.95}, (-0.1, 0.01)) == "These images do not decide the order."
    del mean["sofl"], mean["acet"]
    assert said(mean) == "The order holds of those measured; acet, sofl are not."
    assert said({**mean, "ccu": 0.95}) == "The order does not hold."
    assert "Too few" in said({"atom": 0.9, "rowl": 0.95})


def test_neighbours_are_the_nearest_rows_of_two_tiers() -> None:
    claim = [{"a": 0.9, "b": 0.7}, {}, {"c": 0.1, "d": 0.5}]
    assert reproduction.neighbours(claim) == [("b", "d", pytest.approx(0.2))]


def test_the_nearest_row_of_a_detector_without_attack_is_of_the_same_schedule() -> None:
    rows = {"msp", "oe", "oe (zoom)", "ntom (zoom)", "atom", "atom mixed (zoom)", "acet"}
    for way, wanted in {
        "": {"msp": "msp", "oe": "oe", "ntom": None, "atom": "atom", "acet": "acet"},
        "mixed": {"msp": "msp", "oe": "oe", "ntom": None, "atom": None, "acet": None},
        "mixed (zoom)": {
            "msp": "msp",
            "oe": "oe (zoom)",
            "ntom": "ntom (zoom)",
            "atom": "atom mixed (zoom)",
            "acet": None,
        },
    }.items():
        assert {name: reproduction.nearest_row(name, way, rows) for name in wanted} == wanted


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
    shown = {name: name for name in ("msp", "odin", "mahalanobis", "sofl", "atom")}
    shown |= {"ntom": "ntom (zoom)", "oe": "atom mixed (zoom)"}
    records = {
        (shown[key[0]], *key[1:]): record for key, record in mini.records.items() if key[0] in shown
    }
    usual, zoomed = reproduction.agreement(replace(mini, records=records))
    assert "5 detectors (msp, odin, mahalanobis, sofl, atom)" in usual
    assert "6 detectors (msp, odin, mahalanobis, sofl, ntom (zoom), atom mixed (zoom))" in zoomed
    theirs = table.query("perturbation == 'none'").set_index("detector")["auroc"]
    ours = reproduction.means(mini, "none", "standard")
    expected = kendalltau(
        [ours[name] for name in ("msp", "odin", "mahalanobis", "sofl", "oe", "ntom")],
        theirs[["msp", "odin", "mahalanobis", "sofl", "atom", "ntom"]],
    )
    assert f": {expected.statistic:.2f} (p {expected.pvalue:.2g} against none)" in zoomed


def test_the_interval_of_a_gap_is_that_of_resampled_images(mini: Any) -> None:
    pair = ("msp", "odin")
    records = [mini.of(row, "none", "standard") for row in pair]
    scores = {
        (row, name): (mini.results.id_scores(each[name]), mini.results.ood_scores(each[name]))
        for row, each in zip(pair, records, strict=True)
        for name in SETS
    }
    rng = np.random.default_rng(0)

    def gap(known: Any, others: Any, below: Any) -> float:
        differences = []
        for name in SETS:
            of = []
            for row, drawn in (("msp", known), ("odin", below)):
                ids, ood = scores[row, name]
                both = np.concatenate([ids[drawn], ood[others[name]]])
                of.append(roc_auc_score(np.repeat([0, 1], [640, 250]), both))
            differences.append(of[0] - of[1])
        return float(np.mean(differences))

    def resampled(*, paired: bool) -> Any:
        drawn = []
        for _ in range(400):
            known, other = rng.integers(640, size=(2, 640))
            others = {name: rng.integers(250, size=250) for name in SETS}
            drawn.append(gap(known, others, known if paired else other))
        return np.quantile(drawn, [0.025, 0.975])

    low, high = reproduction.interval(mini, "none", "standard", pair)
    margin = 0.15 * (high - low)
    mean = reproduction.means(mini, "none", "standard")
    assert low < mean["msp"] - mean["odin"] < high
    assert [low, high] == pytest.approx(resampled(paired=True), abs=margin)
    assert [low, high] != pytest.approx(resampled(paired=False), abs=margin)


def test_other_images_have_no_interval(mini: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_oe(**changed: Any) -> Any:
        records = {
            key: record | changed if key[0] == "oe" and key[3] == SETS[1] else record
            for key, record in mini.records.items()
        }
        return replace(mini, records=records)

    pair = ("atom", "oe")
    assert reproduction.interval(mini, "linf", "standard", pair) is not None
    digests = mini.of("oe", "linf", "standard")[SETS[1]]["digests"]
    for changed in (
        {"n_ood": 100},
        {"n_id": 100},
        {"digests": digests | {"id": "another"}},
        {"digests": digests | {"set": "another"}},
    ):
        assert reproduction.interval(with_oe(**changed), "linf", "standard", pair) is None
    table = published().query("suite == 'cifar10'").assign(suite="mini")
    monkeypatch.setattr(reproduction, "published", lambda: table)
    assert "without an interval" in next(reproduction.agreement(with_oe(n_id=100)))
    ccu = reproduction.interval(mini, "linf", "paper", ("atom", "ccu"))
    assert ccu is None, "its published score is another than its own"


def test_too_few_detectors_have_no_agreement(mini: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = published().query("suite == 'cifar10'").assign(suite="mini")
    monkeypatch.setattr(reproduction, "published", lambda: table)
    two = {key: record for key, record in mini.records.items() if key[0] in ("msp", "oe")}
    (told,) = reproduction.agreement(replace(mini, records=two))
    assert told == "Kendall's τ needs 5 detectors on flower, digits."


def test_the_page_that_ships_is_of_the_records_that_ship() -> None:
    # Bootstrapped ends may differ in the last digit between processors.
    def without_intervals(text: str) -> list[str]:
        return [line.partition("95 % interval")[0] for line in text.strip().splitlines()]

    found = reproduction.by_schedule(shipped_results(), "cifar10")
    figures = reproduction.PAGE.read_text(encoding="utf-8").split(reproduction.MARK)[1]
    assert without_intervals(figures) == without_intervals(reproduction.page(found, 0))


def test_schedules_that_differ_in_more_than_outliers_are_shown_apart() -> None:
    found = reproduction.by_schedule(shipped_results(), "cifar10")
    shown = {
        name: {record["schedule"]["name"] for record in each.records.values()}
        for name, each in found.items()
    }
    assert shown == {"fast": {"fast"}, "zoom": {"zoom", "whole"}}
    assert "oe (whole)" in found["zoom"].detectors
    assert list(reproduction.by_schedule(shipped_results(), "mini")) == ["fast"]
    with pytest.raises(ValueError, match="no record of cifar10, seed 1, in "):
        reproduction.by_schedule(shipped_results(), "cifar10", seed=1)


def test_ways_of_teaching_are_those_measured() -> None:
    assert reproduction.ways(["msp", "oe (whole)"]) == []
    assert reproduction.ways(["msp", "acet mixed", "atom (whole)"]) == ["(whole)", "mixed"]


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
    beside(4, schedule=record["schedule"] | {"epochs": 1})
    with pytest.raises(ValueError, match="msp is of another fast than mini has now"):
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
    lines = list(reproduction.tiers(both, "standard"))
    assert lines[-1].startswith("- compositional, ")
    published_one, mixed = (line for line in lines if line.startswith("- linf, "))
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
    text = reproduction.page({"fast": mini}, 0)
    assert "### Taught with `fast`\n\n#### natural\n" in text
    assert "Images: 640 ID images, at most 250 of an OOD set." in text
    assert "#### compositional" in text
    assert "apart rowl" in text
    mean = reproduction.means(mini, "linf", "standard")
    gap = f"  atom less acet: {100 * (mean['atom'] - mean['acet']):.2f}, 95 % interval "
    assert any(line.startswith(gap) for line in text.splitlines())
