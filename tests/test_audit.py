"""Audits: each check on figures made by hand, and on detectors that hide what they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from scipy.stats import binom

from oodbench import leaderboard as lb
from oodbench import marks
from oodbench.audit import checks, storing
from oodbench.errors import DamagedFileError
from oodbench.records import find_records, read_record, read_scores

HISTORIC = Path(__file__).parent / "historic"
QUICK = ("--sample", 4, "--queries", 20)
CHOSEN = ("--limit", 8, "--ood", "rings,noise")


# Checks


def attack(**changed: Any) -> dict[str, Any]:
    """What a record says of a healthy search."""
    health = {"score": {"zero_gradient": 0.0, "nonfinite_gradient": 0.0, "zero_entries": 0.02}}
    return {
        "budget": 100,
        "queries": 0,
        "won": {"score/clean+": 96, "clean": 4},
        "health": health,
        "gradient": {"zero": 0.0, "nonfinite": 0.0, "wrong": 0.0, "random": 0.0},
        **changed,
    }


def verdicts(**changed: Any) -> dict[str, str]:
    return {check.name: check.verdict for check in checks.free_checks(attack(**changed))}


def test_a_healthy_search_passes_what_a_record_can_tell() -> None:
    assert verdicts() == {"gradient": "pass", "repeat": "pass", "search": "pass"}
    assert checks.free_checks(None) == []


@pytest.mark.parametrize(
    ("fault", "most", "more"),
    # A hundredth of 100 images, and so many that more than a hundredth of all must be so.
    [("zero", 0.001, 0.002), ("nonfinite", 0.001, 0.002), ("wrong", 0.03, 0.04)],
)
def test_more_broken_gradients_than_may_be_fail(fault: str, most: float, more: float) -> None:
    assert sum(attack()["won"].values()) == 100
    for share, verdict in ((most, "pass"), (more, "fail"), (1.0, "fail")):
        gradient = {**attack()["gradient"], fault: share}
        check = checks.gradient(attack(gradient=gradient))
        assert (check.verdict, check.value) == (verdict, share)
        assert check.values["zero_entries"] == 0.02
    assert verdicts(gradient=gradient) == {"gradient": "fail", "repeat": "pass", "search": "pass"}


def test_a_record_of_before_gradients_were_looked_at_goes_by_the_first_that_were_taken() -> None:
    old = attack(health={"score": {**attack()["health"]["score"], "nonfinite_gradient": 0.01}})
    del old["gradient"]
    found = {check.name: check for check in checks.free_checks(old)}
    assert found["gradient"].verdict == "fail"
    assert found["gradient"].told == "the score's gradient is not finite on 1 % of images"
    assert found["repeat"].verdict == "skipped"


def test_a_search_that_never_had_a_gradient_says_what_searched() -> None:
    gradient = {"zero": 1.0, "nonfinite": 0.0, "wrong": 0.0, "random": 0.0}
    fallback = {"name": "squares", "images": 30, "queries": 5000}
    check = checks.gradient(attack(gradient=gradient, health={}, fallback=fallback))
    assert check.failed
    assert check.told == (
        "the score offers no gradient to search by; functions of the logits, then squares, were"
        " searched in its place"
    )
    assert checks.gradient({"budget": 0, "won": {}, "health": {}}).verdict == "skipped"


def test_a_score_that_is_another_the_second_time_fails() -> None:
    gradient = {**attack()["gradient"], "random": 0.5}
    assert verdicts(gradient=gradient)["repeat"] == "fail"


def test_a_search_that_finds_nothing_on_more_than_one_image_in_ten_fails() -> None:
    assert verdicts(won={"clean": 10, "score/clean": 90})["search"] == "pass"
    assert verdicts(won={"clean": 11, "score/clean": 89})["search"] == "fail"
    assert verdicts(won={})["search"] == "skipped"


@pytest.mark.parametrize("found", [{"score/clean+": 50}, {}])
def test_of_a_composition_it_is_the_last_stage_that_counts(found: dict[str, int]) -> None:
    won = {"zzz": {"blur": 30, "clean": 70}, "aaa": {"clean": 50, **found}}
    for last in (None, "aaa"):
        check = checks.search(attack(won=won), last)
        assert (check.verdict, check.value) == ("fail", 0.5 if found else 1.0)
    assert checks.search(attack(won=won), "zzz").value == 0.7


def test_lower_is_by_more_than_a_hundredth_of_the_larger_drop() -> None:
    clean = np.full(8, 10.0)
    own = np.array([5, 5, 5, 10, 10, 5, -np.inf, 5])
    other = np.array([4.94, 4.96, 6, 9, 10, -np.inf, -np.inf, 5])
    wanted = [True, False, False, True, False, True, False, False]
    assert checks.lower(clean, own, other).tolist() == wanted
    for scale, shift in ((1e-3, 0), (1e3, 0), (1, -40)):
        moved = [scale * each + shift for each in (clean, own, other)]
        assert checks.lower(*moved).tolist() == wanted
    ninth = np.array([9.0])
    # What float32 rounds is no difference.
    assert not checks.lower(ninth, ninth, ninth - 1e-6).any()


def test_a_sample_fails_when_more_than_one_in_a_hundred_is_shown_with_95_percent() -> None:
    for total in (2, 8, 20, 100, 500):
        failing = [count for count in range(total + 1) if checks.too_many(count, total)]
        by_scipy = [k for k in range(2, total + 1) if binom.sf(k - 1, total, 0.01) <= 0.05]
        assert failing == by_scipy
    assert not checks.too_many(1, 20)
    assert checks.too_many(2, 20)
    assert checks.too_many(1, 1)


CLEAN = np.linspace(1, 2, 20)
APART = {"search": 0.2, "other": 0.8}
ALIKE = {"search": 0.795, "other": 0.8}


def test_noise_must_not_go_lower_and_must_be_beaten_clearly() -> None:
    def verdict(own: Any, noise: Any, aurocs: Any) -> tuple[str, str]:
        check = checks.floor("hiss", 100, CLEAN, own, noise, aurocs)
        return check.verdict, check.told

    assert verdict(CLEAN - 1, CLEAN - 0.1, APART) == ("pass", "the search beats 100 draws of hiss")
    once = np.where(np.arange(20) < 1, CLEAN - 2, CLEAN - 0.1)
    assert verdict(CLEAN - 1, once, APART) == (
        "pass",
        "the search beats 100 draws of hiss, but for 1 of 20 images, which may be luck",
    )
    # A robust detector: AUROC hardly moves, the score far more than by noise.
    assert verdict(CLEAN - 1, CLEAN - 0.1, ALIKE)[0] == "pass"
    assert verdict(CLEAN - 0.15, CLEAN - 0.1, ALIKE) == (
        "fail",
        "the search hardly beats hiss: AUROC 79.50 against 80.00",
    )
    assert verdict(CLEAN, CLEAN, {"search": 0.5, "other": 0.5})[0] == "fail"
    twice = np.where(np.arange(20) < 2, CLEAN - 2, CLEAN - 0.1)
    assert verdict(CLEAN - 1, twice, APART) == (
        "fail",
        "hiss goes lower than the search on 2 of 20 images",
    )


def test_a_search_without_gradients_must_not_go_lower() -> None:
    for count, verdict in ((0, "pass"), (1, "pass"), (2, "fail")):
        other = np.where(np.arange(20) < count, CLEAN - 2, CLEAN)
        check = checks.black_box("walk", 1000, CLEAN, CLEAN - 1, other, APART)
        assert (check.verdict, check.value) == (verdict, count / 20)
        if verdict == "pass":
            # What is within the bound is no failure, and not nothing either.
            lower = "goes lower than the search on 1 of 20 images, which may be luck"
            told = lower if count else "does not go lower than the search"
            assert check.told == f"walk with 1000 queries {told}"
    assert check.told == "walk goes lower than the search on 2 of 20 images, without a gradient"


def test_of_foreign_images_the_best_of_each_counts() -> None:
    one, two, three = (np.where(np.arange(20) == k, CLEAN - 2, CLEAN) for k in (3, 4, 5))
    own = CLEAN - 1
    assert checks.transfer(["a"], CLEAN, own, one[None]).verdict == "pass"
    assert checks.transfer(["a", "b"], CLEAN, own, np.stack([one, one])).verdict == "pass"
    check = checks.transfer(["a", "b", "c"], CLEAN, own, np.stack([one, two, three]))
    assert check.verdict == "fail"
    assert check.values == {"images": 3, "by_source": {"a": 1, "b": 1, "c": 1}}


def test_what_a_single_detector_finds_is_not_lost_in_company() -> None:
    def verdict(count: int, others: int) -> str:
        best = np.where(np.arange(20) < count, CLEAN - 2, CLEAN)
        every = np.stack([best, *[CLEAN] * others])
        return checks.transfer([str(k) for k in range(len(every))], CLEAN, CLEAN - 1, every).verdict

    # One in a hundred on four of twenty is luck in 4 of 100,000, among twelve in 5 of 10,000.
    assert verdict(4, 0) == verdict(4, 11) == "fail"
    assert (verdict(2, 0), verdict(2, 11)) == ("fail", "pass")


def test_company_alone_makes_no_detector_fail_the_transfer() -> None:
    # Each of several is within its bound: a hundredth of the images, independent of the others.
    rng = np.random.default_rng(0)
    for sources in (1, 3, 12):
        failed = 0
        for _ in range(400):
            hits = rng.random((sources, 20)) < checks.LOWER_IMAGES
            other = np.where(hits, CLEAN - 2, CLEAN)
            names = [str(number) for number in range(sources)]
            failed += checks.transfer(names, CLEAN, CLEAN - 1, other).failed
        assert failed <= 0.08 * 400, sources


def test_a_larger_ball_must_not_help_and_the_whole_box_must_leave_nothing() -> None:
    def verdict(aurocs: Any, last: float = 1.0) -> tuple[str, str]:
        by_radius = dict(zip((0, 1, 8, 255), aurocs, strict=True))
        check = checks.radius(by_radius, {0: 0.1, 1: 0.2, 8: 0.9, 255: last}, 255)
        return check.verdict, check.told

    assert verdict((0.9, 0.8, 0.3, 0.0))[0] == "pass"
    assert verdict((0.9, 0.8, 0.805, 0.0)) == (
        "pass",
        "a larger ball hardly ever helps the detector, and any image allowed fools it always",
    )
    # Two small steps up are one large one.
    assert verdict((0.1, 0.106, 0.112, 0.0)) == (
        "fail",
        "a larger ball helps the detector: AUROC rises by 1.20 points from radius 0/255 to 8/255",
    )
    assert verdict((0.9, 0.8, 0.85, 0.0)) == (
        "fail",
        "a larger ball helps the detector: AUROC rises by 5.00 points from radius 1/255 to 8/255",
    )
    assert verdict((0.9, 0.8, 0.3, 0.0), 0.95) == (
        "fail",
        "even with any image allowed the search fools the detector on only 95 % of images",
    )


def test_twice_the_budget_must_gain_less_than_a_point() -> None:
    assert checks.budget(0.5, 0.491, 100, "steps").verdict == "pass"
    check = checks.budget(0.5, 0.48, 100, "steps")
    assert check.verdict == "fail"
    assert check.told == "twice the steps lower AUROC by 2.00 points more, to 48.00"


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.0001, "0.01 %"), (0.9996, "%")]
)
def test_a_share_is_never_rounded_to_nothing_or_all(share: float, text: str) -> None:
    told = checks._percent(share)
    assert told.endswith(text)
    assert (told == "100 %") == (share == 1)


# On a suite


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, tiny: str, shared_store: Path, call: Any
) -> Path:
    """Records of two detectors under two attacks, audited."""
    root = tmp_path_factory.mktemp("audit") / "results"
    places = ("--suite", tiny, "--device", "cpu", "--store", shared_store, "--results", root)
    for detector, sets, attacks in (
        ("msp", "rings,noise", "none,linf"),
        ("msp", "rings", "compositional"),
        ("odin", "rings", "linf"),
    ):
        chosen = ("--detector", detector, "--ood", sets, "--attack", attacks, "--limit", 8)
        assert call("run", *places, *chosen).code == 0
    result = call("audit", *places, *CHOSEN, "--detector", "msp", *QUICK)
    assert result.code == 0, result.err
    return root


@pytest.fixture
def results(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def audit(tmp_path: Path, tiny: str, shared_store: Path, call: Any) -> Callable[..., Any]:
    def audit(*arguments: object, size: tuple[object, ...] = QUICK) -> Any:
        places = ("--results", tmp_path / "results", "--store", shared_store, "--device", "cpu")
        return call("audit", "--suite", tiny, *places, *size, *arguments)

    return audit


MSP = (*CHOSEN, "--detector", "msp")


def the_audits(root: Path) -> dict[str, Path]:
    found = storing.find_audits(root)
    return {storing.read_audit(path)["set"]: path for path in found if "msp" in path.parts}


def test_an_audit_lies_beside_its_record_which_is_left_as_it_is(stored: Path) -> None:
    schema = json.loads(files("oodbench.schemas").joinpath("audit-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert tuple(schema["$defs"]["check"]["properties"]["name"]["enum"]) == checks.NAMES
    found = the_audits(stored)
    assert set(found) == {"rings", "noise"}
    for path in found.values():
        record_file = storing.record_path(path)
        record, audit = read_record(record_file), storing.read_audit(path)
        read_scores(record_file, record)
        assert storing.audit_beside(record_file, record) == audit
        assert audit["n"] == 4
        assert audit["notes"] == []  # the search done again ends with the scores of the record
        assert [check["name"] for check in audit["checks"]] == list(checks.NAMES)
        jsonschema.validate(json.loads(path.read_text()), schema)
    assert not [path for path in find_records(stored) if path.name.endswith(storing.SUFFIX)]
    assert len(find_records(stored)) == 6


def test_json_is_the_stored_audits_and_nothing_is_computed_twice(
    audit: Any, results: Path, stamps: Any
) -> None:
    before = stamps(results)
    result = audit(*MSP, "--json")
    assert result.code == 0
    assert result.json == [storing.read_audit(the_audits(results)[n]) for n in ("rings", "noise")]
    assert stamps(results) == before


def test_force_finds_the_same_again_and_another_sample_is_another_audit(
    audit: Any, results: Path
) -> None:
    paths = the_audits(results)
    before = {name: storing.read_audit(path) for name, path in paths.items()}
    assert audit("--detector", "msp", "--limit", 8, "--ood", "rings", "--force").code == 0
    again = storing.read_audit(paths["rings"])
    assert again["seconds"] != before["rings"]["seconds"]
    for each in (again, before["rings"]):
        del each["seconds"], each["digest"]
    assert again == before["rings"]
    size = ("--sample", 2, "--queries", 10)
    assert audit("--detector", "msp", "--limit", 8, "--ood", "noise", size=size).code == 0
    assert storing.read_audit(paths["noise"])["n"] == 2


def test_a_stopped_audit_goes_on_where_it_was(
    audit: Any, results: Path, monkeypatch: pytest.MonkeyPatch, stamps: Any
) -> None:
    paths = the_audits(results)
    for path in paths.values():
        path.unlink()
    replace, done = os.replace, []

    def stopped(source: Any, target: Any) -> None:
        if done:
            raise KeyboardInterrupt
        replace(source, target)
        done.append(target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopped)
        assert audit(*MSP).code == 130
    assert done == [paths["rings"]]
    assert not paths["noise"].exists()
    first = stamps(results)
    assert audit(*MSP).code == 0
    assert first.items() <= stamps(results).items()
    assert paths["noise"].exists()


def test_the_audit_of_a_record_that_was_replaced_counts_no_more(
    audit: Any, results: Path, run: Any
) -> None:
    path = the_audits(results)["rings"]
    record_file = storing.record_path(path)
    assert storing.audit_beside(record_file, read_record(record_file)) is not None
    one = ("--limit", 8, "--ood", "rings", "--detector", "msp")
    before = record_file.read_text()
    # On another run only its time differs, and now and then not even that.
    while record_file.read_text() == before:
        assert run(*one, "--attack", "linf", "--force").code == 0
    assert storing.audit_beside(record_file, read_record(record_file)) is None
    assert audit(*one).code == 0
    assert storing.audit_beside(record_file, read_record(record_file)) is not None


def test_another_detector_that_comes_along_is_tried_too(
    audit: Any, results: Path, run: Any
) -> None:
    paths = the_audits(results)
    before = {name: storing.read_audit(path) for name, path in paths.items()}
    assert list(before["rings"]["sources"]) == ["odin"]
    assert before["noise"]["sources"] == {}
    skipped = {c["name"]: c["told"] for c in before["noise"]["checks"] if c["value"] is None}
    assert skipped == {"transfer": "no other detector's record of this attack is there"}
    assert run("--limit", 8, "--ood", "noise", "--detector", "odin", "--attack", "linf").code == 0
    assert audit(*MSP).code == 0
    after = storing.read_audit(paths["noise"])
    assert list(after["sources"]) == ["odin"]
    assert after["checks"][5]["values"]["by_source"].keys() == {"odin"}
    assert storing.read_audit(paths["rings"]) == before["rings"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path) -> None:
    audit = json.loads(path.read_text())
    audit["checks"][0]["verdict"] = "pass" if audit["checks"][0]["verdict"] == "fail" else "fail"
    path.write_text(json.dumps(audit))


DAMAGE = {
    "truncated": _truncate,
    "edited": _edit,
    "a list": lambda path: path.write_text("[]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_audit_is_named_and_no_table_fails_for_it(
    damage: str, audit: Any, results: Path, run: Any, call: Any
) -> None:
    path = the_audits(results)["rings"]
    DAMAGE[damage](path)
    spoilt = path.read_bytes()
    with pytest.raises(DamagedFileError):
        storing.read_audit(path)
    result = audit(*MSP)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("oodbench: ")
    assert str(path) in result.err
    assert result.err.count("\n") == 1
    for table in (
        run(*MSP, "--attack", "linf"),
        call("leaderboard", "--results", results),
    ):
        assert table.code == 0
        assert "rings" in table.out
        (line,) = [line for line in table.err.splitlines() if str(path) in line]
        assert line.endswith("`oodbench audit --force` replaces it; the table goes without it")
    assert path.read_bytes() == spoilt


def test_an_audit_of_a_later_format_is_not_read(stored: Path, tmp_path: Path) -> None:
    from oodbench.identity import digest

    late = {**storing.read_audit(the_audits(stored)["rings"]), "schema": 99}
    del late["digest"]
    path = tmp_path / "late.audit.json"
    path.write_text(json.dumps({**late, "digest": digest(late)}))
    with pytest.raises(DamagedFileError, match="schema 99; this oodbench reads up to 1"):
        storing.read_audit(path)


def test_of_a_composition_the_last_stage_is_audited_about_the_corrupted_images(
    audit: Any, results: Path
) -> None:
    result = audit(
        *("--limit", 8, "--ood", "rings", "--detector", "msp"),
        *("--attack", "compositional", "--json"),
    )
    assert result.code == 0, result.err
    (found,) = result.json
    assert found["notes"] == []
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["transfer"]["verdict"] == "skipped"
    assert "centres of their own" in by_name["transfer"]["told"]
    (path,) = find_records(results / "tiny/msp/0/compositional")
    record = read_record(path)
    assert by_name["search"]["value"] == record["attack"]["won"]["linf"].get("clean", 0) / 8
    assert by_name["floor"]["values"]["draws"] == 6


def test_the_table_is_whole_at_80_columns_and_tells_what_failed(
    audit: Any, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = audit(*MSP)
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    assert "…" not in result.out
    table = result.out.partition("\n\n")[0].splitlines()
    assert table[0].strip() == "audit, suite tiny, msp, linf, eps 8/255, seed 0"
    rows = {line.split()[0]: line.split()[1:] for line in table[3:]}
    told = " ".join(result.out.split())
    words = {"pass": "pass", "fail": "FAIL", "skipped": "–"}
    for name, path in the_audits(results).items():
        found = storing.read_audit(path)["checks"]
        assert rows[name] == [words[check["verdict"]] for check in found]
        for check in found:
            if check["verdict"] == "fail" and not any(c.isdigit() for c in check["told"]):
                assert check["told"] in told


def test_what_is_not_there_or_cannot_be_audited_is_told(
    audit: Any, results: Path, call: Any, tmp_path: Path
) -> None:
    nothing = audit("--detector", "energy")
    assert nothing.code == 2
    assert nothing.err.startswith("oodbench: no record of what was asked for is there; `oodbench ")
    assert "--detector energy --attack linf --results" in nothing.err
    part = audit(*CHOSEN, "--detector", "msp,odin", "--json", "--ood", "noise,rings")
    assert part.code == 0
    assert "1 of 4 cells have no record; `oodbench run --suite" in part.err
    assert len(part.json) == 3
    clean = audit(*MSP, "--attack", "none")
    assert (clean.code, clean.out) == (2, "")
    assert "none is not audited" in clean.err
    both = audit(*MSP, "--attack", "none,linf", "--json")
    assert both.code == 0
    assert both.err.count("none is not audited") == 1
    for wrong in (("--preset", "paper"), ("--sample", 0), ("--queries", 0), ("--eps", "8")):
        result = audit(*MSP, *wrong)
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert wrong[0] in result.err


def test_rivals_have_the_ball_of_the_attack_and_the_effort_asked_for() -> None:
    from oodbench.attacks.linf import LInf
    from oodbench.audit.measuring import Trials

    trials = object.__new__(Trials)
    trials._last = LInf(eps=4, budget=100)
    for role, kind in (("floor", "noise"), ("black_box", "square")):
        name, rival = trials._rival(role, 7)
        assert (name, rival.role, rival.queries) == (kind, role, 7)
        assert getattr(rival, "eps") == 4  # noqa: B009


# Detectors that hide something


@pytest.fixture
def cheap_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What searches without a gradient has other tests; here it need not be thorough."""
    from oodbench import judging, recording
    from oodbench.attacks.square import Square

    def few(perturbation: Any) -> Any:
        return Square(eps=perturbation.eps, queries=10) if perturbation.fallback else None

    monkeypatch.setattr(judging, "fallback_of", few)
    monkeypatch.setattr(recording, "fallback_of", few)


HIDDEN = {
    "none": ({}, ""),
    "stopped": ({"gradient"}, "the score offers no gradient to search by; functions of "),
    "rounded": ({"gradient"}, "the score's gradient is zero on 100 % of images"),
    "saturated": ({"gradient"}, "the score's gradient is zero on 100 % of images"),
    "shift": ({"repeat"}, "the score is another the second time on "),
    "scrambled": ({"gradient"}, "the score's gradient is wrong on "),
}


@pytest.mark.parametrize("mask", HIDDEN)
def test_a_detector_that_hides_its_gradient_is_marked_for_that_reason(
    mask: str, run: Any, plugins: Path, cheap_fallback: None
) -> None:
    chosen = ("--detector", plugins / "masked.py", "--set", f"mask={mask}", "--set", "level=40")
    result = run(*chosen, "--attack", "linf", "--ood", "rings", "--limit", 6, "--json")
    assert result.code == 0, result.err
    found = {finding.check: finding.told for finding in marks.marks(result.json[0])}
    wanted, told = HIDDEN[mask]
    if not wanted:
        assert found == {}
    assert set(wanted) <= set(found)
    for check in wanted:
        assert found[check].startswith(told)


def test_a_gradient_that_is_right_and_leads_nowhere_is_found_by_trying_others(
    run: Any, audit: Any, plugins: Path, tmp_path: Path, call: Any
) -> None:
    chosen = ("--detector", f"{plugins}/masked.py,msp", "--ood", "rings", "--limit", 6)
    bait = ("--set", "mask=bait", "--set", "level=1.0")
    assert run(*chosen, *bait, "--attack", "linf").code == 0
    result = audit(*chosen, *bait, "--json", size=("--sample", 6, "--queries", 60))
    assert result.code == 0, result.err
    found = {a["detector"]: {c["name"]: c["verdict"] for c in a["checks"]} for a in result.json}
    masked = found["masked"]
    assert (masked["gradient"], masked["repeat"]) == ("pass", "pass")
    for check in ("floor", "black_box", "transfer", "radius"):
        assert masked[check] == "fail", check
        assert found["msp"][check] == "pass", check
    table = run(*chosen, *bait, "--attack", "linf").out
    marked = [line.split() for line in table.splitlines() if line.startswith(("masked", "msp"))]
    assert [(row[0], row[-1] == "†") for row in marked] == [("masked", True), ("msp", False)]
    said = " ".join(table.split())
    assert "† linf on masked: square goes lower than the search on 6 of 6 images" in said
    board = call("leaderboard", "--results", tmp_path / "results").out
    (row,) = [line for line in board.splitlines() if line.startswith("| masked")]
    assert " † |" in row
    assert "linf 8/255 on masked: square goes lower than the search on 6 of 6 images" in board


def test_a_gradient_that_is_right_in_a_few_pixels_is_found_by_trying_others(
    run: Any, audit: Any, plugins: Path
) -> None:
    chosen = ("--detector", f"{plugins}/masked.py,msp", "--ood", "rings", "--limit", 6)
    patchy = ("--set", "mask=patchy")
    assert run(*chosen, *patchy, "--attack", "linf").code == 0
    result = audit(*chosen, *patchy, "--json", size=("--sample", 6, "--queries", 60))
    assert result.code == 0, result.err
    found = {a["detector"]: {c["name"]: c["verdict"] for c in a["checks"]} for a in result.json}
    assert found["masked"]["transfer"] == "fail"
    assert found["msp"]["transfer"] == "pass"


# Marks

TEMPLATE = read_record(next(HISTORIC.glob("*.json")))


def made(**changed: Any) -> dict[str, Any]:
    """A record of a healthy attack."""
    asked = {"perturbation": "linf", "eps": "8/255", "attack": attack(params={}), **changed}
    record = {**TEMPLATE, **asked}
    key = json.dumps([record[k] for k in ("detector", "set", "seed", "perturbation")])
    return {**record, "identity": key, "digests": {**TEMPLATE["digests"], "record": key}}


def audited(record: dict[str, Any], **told: str) -> dict[str, Any]:
    """An audit of a record with some failed checks."""
    found = [{"name": name, "verdict": "pass", "told": "fine"} for name in checks.NAMES]
    for check in found:
        if check["name"] in told:
            check |= {"verdict": "fail", "told": told[check["name"]]}
    return {
        "record": record["digests"]["record"],
        "identity": record["identity"],
        "scores": record["digests"].get("scores"),
        "checks": found,
    }


def test_what_a_record_tells_is_marked_without_an_audit_and_an_audit_adds_the_rest() -> None:
    assert marks.marks(made()) == []
    assert marks.marks(TEMPLATE) == []
    broken = made(attack=attack(won={"clean": 50, "score/clean": 50}))
    (finding,) = marks.marks(broken)
    assert (finding.check, finding.told) == ("search", "the search found nothing on 50 % of images")
    added = marks.marks(broken, audited(broken, search="nothing", floor="noise is lower"))
    assert [finding.check for finding in added] == ["search", "floor"]


def test_an_audit_of_another_record_and_the_published_attack_mark_nothing() -> None:
    record = made()
    audit = audited(record, floor="noise is lower")
    assert len(marks.marks(record, audit)) == 1
    assert marks.marks(record, {**audit, "record": "of before"}) == []
    assert marks.marks(made(preset="paper"), audit) == []
    corrupting = made(attack={"budget": 0, "queries": 95, "won": {"clean": 9}, "health": {}})
    assert marks.marks(corrupting) == []


def test_where_both_sides_are_attacked_both_searches_are_looked_at() -> None:
    lost = attack(won={"clean": 1})
    both = made(attack={**attack(), "id": lost}, side="both")
    assert [f.check for f in marks.marks(both)] == ["search"]
    # An audit has looked at the search on OOD images alone.
    assert [f.check for f in marks.marks(both, audited(both))] == ["search"]
    assert {f.check for f in marks.marks(both, audited(both, floor="low"))} == {"search", "floor"}


def test_faults_that_differ_in_numbers_alone_are_told_as_one() -> None:
    def figure(row: str, cells: int, check: str = "floor", **told: str) -> marks.Figure:
        found = [marks.Finding(row, "linf", name, 0, check, text) for name, text in told.items()]
        return marks.Figure(row, "linf", cells, min(cells, 5), found)

    lines = marks.explained(
        [
            figure("msp", 5, a="x on 2 of 20", b="x on 12 of 20"),
            figure("oe", 1, a="x on 5 of 20"),
            figure("odin", 5, a="another"),
            figure("acet", 5),
            figure("atom", 15, a="x on 2 of 20"),
            figure("sofl", 15, "search", a="nothing"),
        ]
    )
    assert lines == [
        "linf on msp (2 of 5 sets), oe, atom (1 of 5 audited cells, of 15 in all): x on 2–12 of 20",
        "linf on odin (1 of 5 sets): another",
        "linf on sofl (1 of 15 sets): nothing",
    ]


def test_a_leaderboard_marks_a_mean_with_a_failed_check_in_any_of_its_cells() -> None:
    records = [
        made(detector=detector, set=name, seed=seed)
        for detector in ("good", "bad")
        for name in ("page", "rings")
        for seed in (0, 1)
    ]
    chosen = [r for r in records if (r["detector"], r["set"]) == ("bad", "page")]
    audits = {r["identity"]: audited(r, budget=f"{r['seed']} points more") for r in chosen}
    frame = lb.summary(records, audits)
    found = {row: len(each) for row, each in zip(frame["row"], frame["findings"], strict=True)}
    assert found == {"bad": 2, "good": 0}
    text = lb.markdown(frame)
    rows = {line.split()[1]: line for line in text.splitlines() if line.startswith("| ")}
    assert " † |" in rows["bad"]
    assert "†" not in rows["good"]
    told = "- † linf 8/255 on bad (2 of 2 audited cells, of 4 in all): 0–1 points more."
    assert told in text
    assert "†" not in lb.markdown(lb.summary(records))


def test_a_failed_check_and_a_remark_have_marks_of_their_own() -> None:
    whole = [made(detector="whole", set=name) for name in ("page", "rings")]
    part = made(detector="part", set="page")
    text = lb.markdown(lb.summary([*whole, part], {part["identity"]: audited(part, floor="low")}))
    (row,) = [line for line in text.splitlines() if line.startswith("| part")]
    assert " † ‡ |" in row
    assert "- † linf 8/255 on part: low." in text
    assert "- ‡ mean over 1 of 2 sets (page)." in text


def test_a_table_by_set_marks_the_set_and_the_mean() -> None:
    import io

    from rich.console import Console

    from oodbench.tables import print_tables

    bounds = {name: [0.0, 1.0] for name in ("fpr95", "auroc", "accuracy")}
    records = [made(set=name, intervals=bounds) for name in ("page", "rings")]
    audits = {records[1]["identity"]: audited(records[1], radius="it rises")}
    shown = {}
    for known in ({}, audits):
        console = Console(width=80, file=io.StringIO())
        print_tables(console, records, audits=known)
        shown[bool(known)] = console.file.getvalue()  # type: ignore[attr-defined]
    assert "†" not in shown[False]
    rows = {line.split()[0]: line for line in shown[True].splitlines() if line.strip()}
    assert "†" not in rows["page"]
    for row in ("rings", "mean"):
        assert rows[row].rstrip().endswith(" †")
    told = "† linf on msp (1 of 1 audited cells, of 2 in all): it rises."
    assert told in shown[True]


def test_help_loads_nothing_heavy_and_marks_need_no_torch() -> None:
    code = (
        "import sys; from oodbench.__main__ import cli\n"
        "try: cli(['audit', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'pandas', 'scipy', 'rich'} & set(sys.modules)\n"
        "import oodbench.marks\n"
        "assert not {'torch', 'scipy', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--sample" in done.stdout


def test_a_cell_with_both_sides_attacked_has_the_audit_of_its_search_on_ood_images() -> None:
    alone = made()
    both = {**alone, "side": "both", "identity": "another"}
    audit = audited(alone, radius="it rises")
    known = {audit["identity"]: audit, audit["scores"]: audit}
    assert marks.audit_of(both, known) is audit
    assert [finding.check for finding in marks.marks(both, audit)] == ["radius"]
    other = {**both, "digests": {**both["digests"], "scores": "0" * 64}}
    assert marks.audit_of(other, known) is None
    assert marks.marks(other, audit) == []
    assert marks.audit_of({**both, "side": "id"}, known) is None


@pytest.mark.parametrize("name", ["[red]x", "x[/]", ":warning:"])
def test_a_name_in_a_table_is_a_name_and_no_markup(name: str) -> None:
    import io

    from rich.console import Console

    from oodbench.audit.showing import print_audits
    from oodbench.progress import BarProgress
    from oodbench.tables import print_tables

    def console() -> Console:
        return Console(
            width=200, file=io.StringIO(), emoji=False, force_terminal=True, color_system=None
        )

    def printed(console: Console) -> str:
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    bounds = {metric: [0.0, 1.0] for metric in ("fpr95", "auroc", "accuracy")}
    records = [made(set=each, detector=name, intervals=bounds) for each in (name, "page")]
    table = console()
    print_tables(table, records, changed=[f"{name}.k=[1]"])
    assert printed(table).count(name) >= 3  # the title twice, the row of the set
    assert f"{name}.k=[1]" in printed(table)

    audits = [{**audited(record), **record, "notes": [], "n": 20} for record in records]
    table = console()
    print_audits(table, audits)
    assert printed(table).count(name) >= 2
    several = console()
    print_audits(several, [*audits, {**audits[0], "detector": "msp"}])
    assert name in printed(several)

    bars = console()
    with BarProgress(bars) as progress, progress.task(name, 1) as task:
        task.advance(1, f"{name} note")
        progress._bars.refresh()
    assert name in printed(bars)
    assert f"{name} note" in printed(bars)


def test_tables_say_on_how_many_images_what_else_searched() -> None:
    import io

    from rich.console import Console

    from oodbench.tables import print_tables

    searches = [{"name": "squares", "images": count, "queries": 5000} for count in (1, 3)]
    names = ("page", "rings")
    bounds = {name: [0.0, 1.0] for name in ("fpr95", "auroc", "accuracy")}
    records = [
        made(set=name, intervals=bounds, attack=attack(fallback=fallback))
        for name, fallback in zip(names, searches, strict=True)
    ]
    console = Console(width=200, file=io.StringIO())
    print_tables(console, records)
    told = "functions of the logits and squares with 5000 queries on the 4 images whose gradient"
    assert f"linf: besides, {told}" in console.file.getvalue()  # type: ignore[attr-defined]
    assert f"linf 8/255 on msp: besides, {told}" in lb.markdown(lb.summary(records))
    assert "besides" not in lb.markdown(lb.summary([made()]))
