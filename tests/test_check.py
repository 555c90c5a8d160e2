"""``oodbench check``: what is worse is named and refused, and nothing passes unmeasured."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

from oodbench import gate
from oodbench.api import Places
from oodbench.cells import described_cell
from oodbench.files import shipped_results
from oodbench.gate import reporting, rerunning
from oodbench.gate.comparing import Finding, Report, Status
from oodbench.identity import digest, parameters, question
from oodbench.plan import Request, make_plan
from oodbench.records import (
    Place,
    arrays_digest,
    find_records,
    read_record,
    read_scores,
    write_arrays,
    write_record,
)

SHIPPED = shipped_results() / "mini"
CELLS = 10


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """The clean cells of one seed of two detectors, as they ship."""
    for detector in ("msp", "mahalanobis"):
        for name in ("none", "id--*.npz"):
            (found,) = (SHIPPED / detector / "0").glob(name)
            target = tmp_path / "reference" / "mini" / detector / "0" / found.name
            if found.is_dir():
                shutil.copytree(found, target)
            else:
                shutil.copy(found, target)
    shutil.copytree(SHIPPED / "ids", tmp_path / "reference" / "mini" / "ids")
    for path in find_records(tmp_path / "reference"):
        if read_record(path)["preset"] == "paper":
            path.unlink()
    return tmp_path / "reference"


@pytest.fixture
def results(reference: Path, tmp_path: Path) -> Path:
    """A copy of the reference."""
    shutil.copytree(reference, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def check(call: Any, reference: Path, results: Path) -> Callable[..., Any]:
    """Check the copy against the reference."""
    return lambda *given: call("check", "--results", results, "--against", reference, *given)


def one(root: Path, detector: str = "mahalanobis", image_set: str = "flower") -> Path:
    (path,) = (root / "mini" / detector / "0" / "none").glob(f"{image_set}--*.json")
    return path


def rewrite(path: Path, scores: Any = None, **changed: Any) -> None:
    """Change a record, and its OOD scores, as oodbench would write them."""
    record, arrays = read_record(path), read_scores(path)
    digests = {**record["digests"], **changed.pop("digests", {})}
    del digests["record"]
    if scores is not None:
        arrays["scores"] = scores(arrays["scores"]).astype(np.float32)
    write_record(path, {**record, **changed, "digests": digests}, arrays)


def damaged(scores: np.ndarray) -> np.ndarray:
    """Lower a tenth of the scores below all others."""
    scores = scores.copy()
    scores[: len(scores) // 10] = scores.min() - 20
    return scores


def row(out: str, *texts: str) -> list[str]:
    return [line for line in out.splitlines() if all(text in line for text in texts)]


def test_the_reference_against_itself_exits_0(check: Any) -> None:
    result = check()
    assert result.code == 0
    assert f"{CELLS} cells" in result.out
    assert f"{CELLS} same." in result.out


def test_a_folder_against_itself_is_told_so_since_it_can_never_fail(
    call: Any, check: Any, reference: Path
) -> None:
    told = "Both are one folder"
    result = call("check", "--results", reference, "--against", reference / ".." / reference.name)
    assert result.code == 0
    assert told in result.out
    assert told not in check().out


def test_what_ships_is_what_results_are_held_against(call: Any, results: Path) -> None:
    result = call("check", "--results", results, "--detector", "msp", "--seed", 0)
    assert result.code == 2
    assert "of the reference that ships" in result.err
    named = ("--detector", "msp", "--seed", 0, "--attack", "none", "--preset", "standard")
    result = call("check", "--results", results, *named)
    assert result.code == 0
    assert "5 cells" in result.out
    assert "the reference that ships: 5 same." in result.out


@pytest.mark.parametrize("form", ["table", "md"])
def test_a_tenth_of_a_detectors_scores_damaged_exits_1_and_names_the_cells(
    form: str, check: Any, results: Path
) -> None:
    sets = ("flower", "astronaut", "page", "motorcycle")
    for image_set in sets:
        rewrite(one(results, image_set=image_set), damaged)
    result = check("--format", form)
    assert result.code == 1
    for image_set in sets:
        assert row(result.out, "worse", f"mahalanobis, seed 0, none on {image_set}", "AUROC")
    assert not row(result.out, "msp, seed")
    assert "4 worse" in result.out


def test_a_drift_that_harms_nothing_is_told_as_changed_and_passes(
    check: Any, results: Path
) -> None:
    rewrite(one(results), lambda scores: scores + np.where(np.arange(len(scores)) == 3, 2e-4, 0))
    rewrite(one(results, image_set="page"), lambda scores: scores + 2e-5)
    result = check()
    assert result.code == 0
    assert "1 changed" in result.out
    assert row(result.out, "changed", "mahalanobis, seed 0, none on flower")
    assert "drifted by up to 0.0002" in result.out


def test_images_are_paired_by_id_whatever_their_order(check: Any, results: Path) -> None:
    path = one(results)
    record, arrays = read_record(path), read_scores(path)
    del record["digests"]["record"]
    order = np.random.default_rng(0).permutation(len(arrays["ids"]))
    write_record(path, record, {name: array[order] for name, array in arrays.items()})
    result = check()
    assert result.code == 0
    assert f"{CELLS} same." in result.out


def test_tolerance_lets_a_loss_pass(check: Any, results: Path) -> None:
    rewrite(one(results), damaged)
    assert check().code == 1
    assert check("--tolerance", 0.9).code == 0


def test_a_stored_figure_that_got_worse_is_seen_though_scores_are_the_same(
    check: Any, results: Path
) -> None:
    path = one(results)
    rewrite(path, auroc=read_record(path)["auroc"] - 0.1)
    result = check()
    assert result.code == 1
    assert row(result.out, "worse", "none on flower", "-10.00")
    assert "do not follow" in result.out


# Other weights


def retrain(root: Path, detector: str, noise: float, harm: float = 0.0) -> None:
    """Give a detector other weights: scores of the same spread, and OOD scores lower by so much."""
    rng = np.random.default_rng(0)

    def again(scores: np.ndarray) -> np.ndarray:
        spread = scores.std()
        mixed = scores + noise * spread * rng.normal(size=scores.size)
        return (mixed - mixed.mean()) * (spread / mixed.std()) + scores.mean()

    (path,) = (root / "mini" / detector / "0").glob("id--*.npz")
    record = read_record(one(root, detector))
    arrays = gate.matching.Results(root).clean(gate.Stored(one(root, detector), record))
    arrays = {**arrays, "scores": again(arrays["scores"]).astype(np.float32)}
    write_arrays(path, arrays, {})
    digests = {"weights": "0" * 64, "id_scores": arrays_digest(arrays)}
    for record_path in find_records(root / "mini" / detector):
        rewrite(
            record_path,
            lambda scores: again(scores) - harm * scores.std(),
            digests=digests,
        )


def test_other_weights_that_are_no_worse_pass(check: Any, results: Path) -> None:
    retrain(results, "msp", noise=0.02)
    result = check()
    assert result.code == 0
    assert "5 retrained, 5 same" in result.out


def test_stored_figures_of_other_weights_have_to_follow_from_their_scores(
    check: Any, results: Path
) -> None:
    # Scores as they were, so that the figures stored before still follow.
    retrain(results, "msp", noise=0)
    path = one(results, "msp")
    assert "do not follow" not in check().out
    rewrite(path, auroc=read_record(path)["auroc"] - 0.1)
    result = check()
    # The decision is made from the scores, which are no worse.
    assert result.code == 0
    assert "do not follow from stored scores: msp, seed 0, none on flower." in result.out


def test_other_weights_that_are_worse_beyond_chance_are_refused(check: Any, results: Path) -> None:
    retrain(results, "mahalanobis", noise=0.3, harm=1.5)
    result = check("--format", "json")
    assert result.code == 1
    found = {cell["title"]: cell for cell in result.json["cells"]}
    cell = found["mahalanobis, seed 0, none on page"]
    assert cell["status"] == "worse"
    margins = {change["metric"]: change["margin"] for change in cell["changes"]}
    assert margins["auroc"] > 0
    assert margins["fpr95"] > 0
    # What each image is classified as is the same.
    assert margins["accuracy"] == 0
    assert found["msp, seed 0, none on page"]["status"] == "same"


# Nothing passes unmeasured


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


BAD_FILES: dict[str, Callable[[Path], Any]] = {
    "truncated record": lambda root: truncated(one(root)),
    "truncated scores": lambda root: truncated(one(root).with_suffix(".npz")),
    "edited record": lambda root: one(root).write_text(
        one(root).read_text().replace('"seed": 0', '"seed": 1')
    ),
    "foreign file": lambda root: one(root).write_text('{"hello": "world"}'),
    "record of another cell": lambda root: shutil.copy(one(root), one(root, image_set="page")),
    "scores of another record": lambda root: shutil.copy(
        one(root).with_suffix(".npz"), one(root, image_set="page").with_suffix(".npz")
    ),
    "no scores": lambda root: one(root).with_suffix(".npz").unlink(),
    "truncated ID scores": lambda root: truncated(next(root.rglob("id--*.npz"))),
    "no ID scores": lambda root: next(root.rglob("id--*.npz")).unlink(),
    "empty folder": lambda root: shutil.rmtree(root / "mini"),
    "missing cell": lambda root: one(root).unlink(),
    "no folder": lambda root: shutil.rmtree(root),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_what_cannot_be_checked_exits_2_with_one_line(
    what: str, check: Any, results: Path, tmp_path: Path
) -> None:
    BAD_FILES[what](results)
    result = check("--junit", tmp_path / "junit.xml")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert result.err.startswith("oodbench: ")
    assert str(results) in result.err
    root = ET.parse(tmp_path / "junit.xml").getroot()
    assert root[0].get("errors") == "1"


def test_a_missing_cell_passes_where_it_may_and_is_still_told(check: Any, results: Path) -> None:
    one(results).unlink()
    result = check()
    assert result.code == 2
    assert "mahalanobis, seed 0, none on flower" in result.err
    result = check("--allow-missing")
    assert (result.code, result.err) == (0, "")
    assert "Missing: mahalanobis, seed 0, none on flower." in result.out


def test_a_folder_beside_the_one_of_results_is_said_to_be_so_and_nothing_is_to_be_deleted(
    call: Any, reference: Path, tmp_path: Path
) -> None:
    meant = tmp_path / "above" / "results"
    shutil.copytree(reference, meant)
    for named in (meant / "mini", meant / "mini" / "msp", meant.parent):
        for sides in (("--results", named, "--against", meant), ("--against", named)):
            result = call("check", "--results", meant, *sides)
            assert result.code == 2
            assert f"{named} is no folder of results, but {meant} is one; name that" in result.err
            assert "delete" not in result.err


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "protocol": ({"protocol": 2}, "protocol 2 instead of 1"),
    "ID images": ({"digests": {"id": "a" * 64}}, "other ID test images"),
    "OOD images": ({"digests": {"set": "a" * 64}}, "other OOD images"),
    "training images": ({"digests": {"train": "a" * 64}}, "other training images"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_incomparable_cells_exit_2_whatever_else_is_found(
    what: str, check: Any, results: Path
) -> None:
    changed, told = CHANGED[what]
    rewrite(one(results, image_set="page"), **changed)
    rewrite(one(results), damaged)
    result = check("--allow-missing")
    assert result.code == 2
    assert told in result.err
    assert result.err.count("\n") == 1
    assert row(result.out, "worse", "none on flower")


def test_nan_and_other_images_are_incomparable(check: Any, results: Path) -> None:
    rewrite(one(results), lambda scores: scores * np.nan)
    path = one(results, image_set="page")
    record, arrays = read_record(path), read_scores(path)
    arrays["ids"] = np.char.add(arrays["ids"], "x")
    del record["digests"]["record"]
    write_record(path, record, arrays)
    result = check()
    assert result.code == 2
    assert "NaN" in result.out
    assert "scores of other images" in result.out


def test_no_common_cell_exits_2_even_where_cells_may_be_missing(
    call: Any, reference: Path, results: Path
) -> None:
    shutil.rmtree(reference / "mini" / "msp")
    shutil.rmtree(results / "mini" / "mahalanobis")
    places = ("--results", results, "--against", reference)
    result = call("check", *places, "--allow-missing")
    assert result.code == 2
    assert "no cell of" in result.err
    assert result.err.count("\n") == 1


def test_results_never_fall_back_to_the_reference(call: Any, in_folder: Path) -> None:
    result = call("check")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("oodbench: --results oodbench-results: no such folder")
    assert not list(in_folder.iterdir())


def test_new_cells_are_listed_and_pass(check: Any, reference: Path) -> None:
    one(reference).unlink()
    result = check()
    assert result.code == 0
    assert "New: mahalanobis, seed 0, none on flower." in result.out


def test_two_records_of_one_question_are_refused(check: Any, results: Path) -> None:
    record, arrays = read_record(one(results)), read_scores(one(results))
    del record["digests"]["record"]
    record["identity"] = "f" * 64
    place = Place(results, "mini", "mahalanobis", 0)
    write_record(place.record("none", "flower", "f" * 64), record, arrays)
    result = check()
    assert result.code == 2
    assert "answer the same question; keep one of them" in result.err


def test_another_version_of_a_plugin_is_compared_and_named(check: Any, results: Path) -> None:
    path = one(results)
    record, arrays = read_record(path), read_scores(path)
    del record["digests"]["record"]
    versions = record["versions"]
    plugins = {**versions["plugins"], "mahalanobis": 99}
    old = versions["plugins"]["mahalanobis"]
    changed = {**record, "identity": "e" * 64, "versions": {**versions, "plugins": plugins}}
    path.unlink()
    place = Place(results, "mini", "mahalanobis", 0)
    write_record(place.record("none", "flower", "e" * 64), changed, arrays)
    result = check()
    assert result.code == 0
    assert f"Other versions: mahalanobis {old} → 99 (1 cell)." in result.out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--tolerance", 5), "--tolerance 5: a fraction such as 0.005"),
        (("--tolerance", "nan"), "--tolerance nan: a fraction"),
        (("--tolerance", -0.1), "--tolerance -0.1: a fraction"),
        (("--detector", "atom"), "has mahalanobis, msp"),
        (("--attack", "linf"), "--attack linf:"),
        (("--ood", "moon"), "--ood moon:"),
        (("--seed", 7), "--seed 7:"),
        (("--eps", 8), "did you mean 8/255?"),
        (("--against", "/nowhere"), "--against /nowhere: no such folder"),
        (("--against", __file__), "is a file, not a folder"),
        (("--rerun", "--allow-missing"), "--allow-missing means nothing with --rerun"),
        (("--store", "/nowhere"), "--store means nothing without --rerun"),
        (("--junit", "/"), "--junit /: is a folder"),
        (("--junit", f"{__file__}/junit.xml"), "cannot write --junit to"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(given: Any, told: str, check: Any) -> None:
    result = check(*given)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert told in result.err


def test_filters_leave_what_they_name(check: Any, results: Path) -> None:
    rewrite(one(results), damaged)
    assert check("--detector", "msp").code == 0
    assert check("--ood", "page,digits").code == 0
    assert check("--detector", "mahalanobis", "--ood", "flower").code == 1


# Computing again


def test_rerun_computes_the_reference_again_from_the_weights_that_ship(
    call: Any, reference: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    asked = ("--detector", "msp", "--seed", 0, "--attack", "none", "--ood", "digits,page")
    asked = (*asked, "--preset", "standard", "--device", "cpu", "--results", fresh)
    result = call("check", "--rerun", *asked)
    assert result.code == 0, result.err
    assert "2 cells" in result.out
    assert len(find_records(fresh)) == 2
    # What is there already is computed again, not believed; the reference was better.
    rewrite(one(fresh, "msp", "page"), damaged)
    rewrite(one(reference, "msp", "digits"), lambda scores: scores + 100)
    places = ("--against", reference, "--store", shipped_results())
    result = call("check", "--rerun", *places, *asked)
    assert result.code == 1
    assert row(result.out, "worse", "msp, seed 0, none on digits")
    assert "1 worse, 1 same" in result.out


def test_rerun_never_writes_into_the_reference_nor_trains(
    call: Any, reference: Path, tmp_path: Path, stamps: Any
) -> None:
    before = stamps(reference)
    result = call("check", "--rerun", "--results", reference, "--against", reference)
    assert result.code == 2
    assert "would replace the reference" in result.err
    assert stamps(reference) == before

    def asked_of_seed(seed: int, cell_key: str) -> Any:
        path = one(reference, "msp", "page")
        record, arrays = read_record(path), read_scores(path)
        del record["digests"]["record"]
        place = Place(reference, "mini", "msp", seed)
        moved = place.record("none", "page", record["identity"])
        write_record(moved, {**record, "seed": seed, "cell_key": cell_key}, arrays)
        places = ("--results", tmp_path / "new", "--store", tmp_path / "none")
        asked = ("--detector", "msp", "--ood", "page", "--seed", seed)
        return call("check", "--rerun", "--against", reference, *places, *asked)

    bench = Places(device="cpu", store=tmp_path / "none").workbench()
    plan = make_plan(Request(detectors=("msp",), ood=("page",), seeds=(77,)), bench, tmp_path)
    key = digest(question(plan.identities.cell(plan.cells[0])))
    result = asked_of_seed(77, key)
    assert result.code == 2
    assert "--rerun trains nothing, and there are no weights of msp, seed 77" in result.err
    assert not (tmp_path / "new").exists()
    # A question that nobody asks now, as of a parameter that there was.
    result = asked_of_seed(1, "0" * 64)
    assert result.code == 2
    assert "cannot be asked for any more" in result.err


@pytest.mark.parametrize("detector", ["odin", "mahalanobis"])
def test_a_request_made_of_a_record_plans_that_cell(detector: str, tmp_path: Path) -> None:
    reference = gate.matching.reference_of(None)
    bench = Places(device="cpu", store=tmp_path).workbench()
    paths = [path for path in find_records(SHIPPED / detector / "1") if "page--" in path.name]
    assert len(paths) >= 4
    stored = [gate.Stored(path, read_record(path)) for path in paths]
    # Of parameters of its own, and of fewer images.
    changed = Request(
        detectors=(detector,),
        ood=("page",),
        limit=30,
        settings=(
            "tta=mirror",
            "mahalanobis.samples=100" if detector == "mahalanobis" else "temperature=5",
        ),
        attacks=("linf",),
        eps=4,
        budget=30,
    )
    plan = make_plan(changed, bench, tmp_path)
    (cell,) = plan.cells
    described = described_cell(cell, plan.identities)
    attack = {"budget": 30, "params": parameters(cell.perturbation.instance)}
    own = {**described, "attack": attack, "n_id": 30, "n_ood": 30}
    wanted = [*stored, gate.Stored(tmp_path, own)]
    found = rerunning._requests(wanted, bench)
    planned = [
        digest(question(plan.identities.cell(cell)))
        for request, each in found.items()
        for plan in [make_plan(request, bench, tmp_path / "none", force=True)]
        for cell in plan.cells
    ]
    assert {each.record["cell_key"] for each in wanted} <= set(planned)
    assert reference.ships


# Forms


def test_junit_has_a_case_for_each_cell(check: Any, results: Path, tmp_path: Path) -> None:
    rewrite(one(results), damaged)
    rewrite(one(results, "msp", "page"), protocol=2)
    one(results, "msp", "digits").unlink()
    assert check("--junit", tmp_path / "j.xml", "--allow-missing").code == 2
    (suite,) = ET.parse(tmp_path / "j.xml").getroot()
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": str(CELLS), "failures": "1", "errors": "1", "skipped": "1"}
    (failure,) = suite.iter("failure")
    assert "AUROC" in str(failure.get("message"))
    names = [case.get("name") for case in suite if case.find("failure") is not None]
    assert names == ["mahalanobis, seed 0, none on flower"]


HOSTILE = "<script>|`a`_b_*c*&lt;%@me[x](y)[red]\x07"


def report_of(detector: str) -> Report:
    record = read_record(next(SHIPPED.glob("msp/0/none/*.json"))) | {"detector": detector}
    change = gate.Change("auroc", 0.9, 0.5)
    return Report([Finding(record, Status.WORSE, [change])], "results", "reference")


def test_a_hostile_name_is_escaped_in_every_form() -> None:
    report = report_of(HOSTILE)
    text = reporting.markdown(report)
    (line,) = [line for line in text.splitlines() if "**worse**" in line]
    assert line.replace("\\|", "").count("|") == len(reporting.HEADER) + 1
    assert "<script" not in text.replace("\\<", "")
    assert "&lt;" not in text.replace("\\&", "")
    assert "@me" not in text
    console = Console(file=io.StringIO(), width=200)
    reporting.print_report(console, report)
    assert HOSTILE.replace("\x07", "") in console.file.getvalue()
    root = ET.fromstring(reporting.junit(report))
    assert HOSTILE.replace("\x07", "") in str(root[0][0].get("name"))
    assert HOSTILE in json.loads(reporting.as_json(report))["cells"][0]["title"]


def test_cells_of_one_name_are_told_apart() -> None:
    record = read_record(next(SHIPPED.glob("odin/0/none/*.json")))
    others = [{**record, "params": {**record["params"], "temperature": value}} for value in (1, 10)]
    names = reporting.titles([Finding(other, Status.SAME) for other in others])
    assert [name.partition(" (")[2] for name in names] == ["temperature 1)", "temperature 10)"]
    others = [record, {**record, "params": {**record["params"], "tta": "mirror"}}]
    names = reporting.titles([Finding(other, Status.SAME) for other in others])
    assert [name.partition(" (")[2] for name in names] == ["no tta)", "tta mirror)"]
