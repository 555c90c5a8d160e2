"""All formats of the leaderboard: the same figures, nothing of a name taken for markup."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from oodbench import leaderboard as lb
from oodbench import metrics
from oodbench.errors import RequestError
from oodbench.identity import digest
from oodbench.leaderboard.evidence import Evidence
from oodbench.leaderboard.formats import latex
from oodbench.leaderboard.formats.markdown import escaped
from oodbench.leaderboard.sections import sections
from oodbench.published import published
from oodbench.records import Place, arrays_digest, read_record, write_named, write_record

HISTORIC = Path(__file__).parent / "historic"
TEMPLATE = read_record(next(HISTORIC.glob("*.json")))
SEARCH = {"budget": 100, "steps": 100.0}
LINF = {"perturbation": "linf", "eps": "8/255", "attack": SEARCH}
HOSTILE = r"""<script>alert(1)</script>|_a_&amp;%$\ {#}~^ `x` *b* "q" 'r' [l](u) --"""
FORMATS = ("markdown", "csv", "latex", "json", "html")
SCHEMA = json.loads(files("oodbench.schemas").joinpath("leaderboard-1.json").read_text("utf-8"))


def stored(root: Path, shift: float = 1.0, size: int = 60, **changed: Any) -> dict[str, Any]:
    """Write a record with scores by image, and return it; all are of the same images."""
    rng = np.random.default_rng(int(digest(changed)[:8], 16))
    ood = rng.normal(shift, 1, size)
    of_training = digest([changed.get(name) for name in ("detector", "seed", "params")])
    rng = np.random.default_rng(int(of_training[:8], 16))
    known = rng.normal(0, 1, size)
    names = {part: np.array([f"{part}-{i}" for i in range(size)]) for part in ("id", "ood")}
    # In another order for every detector.
    order = rng.permutation(size)
    clean = {
        "ids": names["id"][order],
        "scores": known[order].astype(np.float32),
        "correct": np.ones(size, bool),
    }
    found = metrics.compute(clean["scores"], ood.astype(np.float32))
    found.pop("threshold")
    digests = {k: v for k, v in TEMPLATE["digests"].items() if k != "record"}
    digests |= {"set": digest(changed.get("set", "rings")), "id_scores": arrays_digest(clean)}
    record = {
        **TEMPLATE,
        **found,
        **{"perturbation": "none", "eps": None, "attack": None, "notes": []},
        **{"n_id": size, "n_ood": size},
        **changed,
        "digests": digests | {"weights": of_training} | changed.get("digests", {}),
    }
    record["identity"] = digest({**record, "seconds": 0})
    # A name of a folder cannot hold all that a name of a plugin might.
    place = Place(root, record["suite"], digest(record["detector"])[:12], record["seed"])
    attack = digest(record["perturbation"])[:12]
    path = place.record(attack, digest(record["set"])[:12], record["identity"])
    suite_folder = path.parents[3]
    id_file = place.id_scores(record["identity"])
    write_named(id_file, clean, {"identity": record["identity"]}, suite_folder, "ID")
    safe = {**record, "set": "set"}
    scores = {"ids": names["ood"], "scores": ood.astype(np.float32)}
    write_record(path, safe, scores)
    text = json.loads(path.read_text())
    rewritten = {**text, "set": record["set"]}
    rewritten["digests"].pop("record")
    rewritten["digests"]["record"] = digest(rewritten)
    path.write_text(json.dumps(rewritten))
    return read_record(path)


Add = Callable[..., dict[str, Any]]


@pytest.fixture
def add(tmp_path: Path) -> Add:
    return lambda *shift, **changed: stored(tmp_path, *shift, **changed)


@pytest.fixture
def show(call: Any, tmp_path: Path) -> Callable[..., str]:
    """Print the results of the test in a format."""

    def show(form: str, *arguments: object) -> str:
        result = call("leaderboard", "--results", tmp_path, "--format", form, *arguments)
        assert result.code == 0, result.err
        return str(result.out)

    return show


@pytest.fixture(scope="session")
def reference(reference_board: Any) -> pd.DataFrame:
    """The whole reference, with each OOD set."""
    frame: pd.DataFrame = reference_board[0]
    return frame


# The same figures


def test_csv_of_the_reference_reads_back_to_the_same_numbers(reference: pd.DataFrame) -> None:
    read = pd.read_csv(io.StringIO(lb.render(reference, "csv")))
    key = ["suite", "preset", "view", "row", "column"]
    right = reference.set_index(key).sort_index()
    read = read.set_index(key).sort_index()
    assert list(read.index) == list(right.index)
    assert len(read) == (13 + 10) * 4 * 6
    for metric in (*lb.METRICS, "accuracy"):
        for name in (metric, f"{metric}_std"):
            assert read[name].tolist() == pytest.approx(right[name].tolist(), abs=0, rel=0), name
    assert [tuple(json.loads(sets)) for sets in read["sets"]] == list(right["sets"])
    assert [tuple(json.loads(best)) for best in read["best"]] == list(right["best"])


def test_json_of_the_reference_is_valid_and_has_the_same_numbers(
    reference: pd.DataFrame, reference_board: Any
) -> None:
    document = json.loads(lb.render(reference, "json"))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    rows = [row for table in document["tables"] for row in table["rows"]]
    by_records = {tuple(row["records"]): row for row in rows if row["set"]}
    records = {record["identity"]: record for record in reference_board[1]}
    assert len(by_records) == (13 + 10) * 4 * 5
    for identities, row in by_records.items():
        mine = [records[identity] for identity in identities]
        assert {r["set"] for r in mine} == {row["set"]}
        assert row["auroc"] == pytest.approx(np.mean([r["auroc"] for r in mine]))
        assert row["auroc_std"] == pytest.approx(np.std([r["auroc"] for r in mine], ddof=1))
    broken = json.loads(json.dumps(document))
    broken["tables"][0]["rows"][0]["auroc"] = 55.6
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(broken)


def test_every_format_shows_each_figure_of_the_reference(reference: pd.DataFrame) -> None:
    means = reference[reference["view"] == "mean"]
    for form, spread in (
        ("markdown", "{} ± {}"),
        ("latex", r"\,{{\scriptsize$\pm$\,{1}}}"),
        ("html", '<span class="spread">± {1}</span>'),
    ):
        text = lb.render(means, form)
        for metric in ("fpr95", "auroc"):
            for value, deviation in zip(means[metric], means[f"{metric}_std"], strict=True):
                assert spread.format(f"{100 * value:.2f}", f"{100 * deviation:.2f}") in text
                assert f"{100 * value:.2f}" in text


def test_notes_of_stand_ins_and_of_fewer_sets_and_marks_stand_in_every_format(
    add: Add, show: Any
) -> None:
    add(detector="whole", set="page", notes=["MiniPlaces stands in for LSUN"])
    add(detector="whole", set="rings")
    add(detector="part", set="page")
    unsure = {**SEARCH, "gradient": {"zero": 0.9, "nonfinite": 0.0, "wrong": 0.0, "random": 0.0}}
    add(detector="whole", set="page", **LINF | {"attack": unsure})
    for form in FORMATS:
        text = show(form)
        assert "MiniPlaces stands in for LSUN" in text, form
        assert "mean over 1 of 2 sets (page)" in text, form


def test_marks_of_failed_checks_stand_in_every_format(reference: pd.DataFrame) -> None:
    failed = reference[(reference["view"] == "mean") & (reference["findings"].map(len) > 0)]
    assert set(failed["row"]) == {"sofl", "oe", "energy_finetuned", "ccu", "odin"}
    for form in FORMATS:
        text = lb.render(reference, form)
        assert "twice the gradient steps lower AUROC by" in text, form
        assert "images made against other detectors go lower" in text, form
    page = lb.render(failed, "html")
    assert page.count("<sup>†</sup>") == len(failed)
    assert lb.render(failed, "latex").count(r"\textsuperscript{{\textdagger}}") == len(failed)
    assert lb.render(failed, "markdown").count(" † |") == len(failed)


def test_code_in_a_note_is_code_in_every_format_for_people(add: Add, show: Any) -> None:
    note = r"made by `run --<x> a_b|c`, not by \`b` or `"
    add(detector="one", set="page", notes=[note])
    add(detector="two", set="page", notes=[note])
    page, tex, text = map(show, ("html", "latex", "markdown"))
    shown = r"made by <code>run --&lt;x&gt; a_b|c</code>, not by \<code>b</code> or `"
    assert f"<li>{shown}</li>" in page
    assert r"made by \texttt{run -{}-\ensuremath{<}x\ensuremath{>} a\_b{\textbar}c}, not by " in tex
    assert r"- made by `run --<x> a_b|c`, not by \\`b` or \`" in text


# By OOD set


def test_by_ood_has_a_table_for_each_set_with_the_figures_of_its_records(
    add: Add, show: Any
) -> None:
    made = {name: add(set=name) for name in ("page", "rings")}
    text = show("markdown", "--by", "ood")
    for name, record in made.items():
        part = text.partition(f"#### OOD set: {name}\n")[2]
        assert f"| {100 * record['fpr95']:.2f} / {100 * record['auroc']:.2f} |" in part
    assert "#### OOD set" not in show("markdown")
    frame = pd.read_csv(io.StringIO(show("csv", "--by", "ood")))
    assert frame["set"].fillna("").tolist() == ["", "page", "rings"]
    with pytest.raises(RequestError, match="--by size: there are mean, ood"):
        lb.summary(list(made.values()), by="size")


# Bold


@pytest.fixture
def three(add: Add) -> None:
    for seed in (0, 1):
        for name in ("page", "rings"):
            add(3.0, detector="good", seed=seed, set=name)
            add(3.0, detector="equal", seed=seed, set=name)
            add(0.2, detector="bad", seed=seed, set=name)


def test_the_best_and_what_cannot_be_told_from_it_are_bold_in_every_format(
    three: None, show: Any, tmp_path: Path
) -> None:
    frame = lb.leaderboard(tmp_path)
    best = {cell["row"]: cell["best"] for cell in frame.to_dict("records")}
    assert best == {"good": ("fpr95", "auroc"), "equal": ("fpr95", "auroc"), "bad": ()}
    text = show("markdown")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert [rows[name].count("**") for name in ("good", "equal", "bad")] == [4, 4, 0]
    assert "cannot tell from it" in text
    tex = [line for line in show("latex").splitlines() if line.endswith(r"\\")]
    assert [r"\textbf" in line for line in tex if line.startswith(("good", "equal", "bad"))] == (
        [name != "bad" for name in frame["row"]]
    )
    assert show("html").count('class="number best"') == 4
    csv = pd.read_csv(io.StringIO(show("csv"))).set_index("row")["best"].map(json.loads)
    assert {name: tuple(value) for name, value in csv.items()} == best
    ((table),) = json.loads(show("json"))["tables"]
    assert {row["row"]: tuple(row["best"]) for row in table["rows"]} == best


def test_images_are_aligned_by_id_before_they_are_compared(add: Add, tmp_path: Path) -> None:
    for detector in ("one", "two"):
        add(detector=detector)
    evidence = Evidence(lb.load_files(tmp_path), pytest.fail)
    found = [evidence.scored(record["identity"]) for record in lb.load(tmp_path)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][0] == found[1][0]
    for record, (_, scored) in zip(lb.load(tmp_path), filter(None, found), strict=True):
        assert metrics.auroc(scored.clean, scored.ood) == record["auroc"]


def test_figures_of_attacked_id_images_are_compared_by_their_attacked_scores(
    run: Any, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    chosen = ("--detector", "msp,energy", "--attack", "fgsm", "--side", "both", "--limit", 20)
    assert run(*chosen).code == 0
    frame = lb.leaderboard(root)
    assert not frame["uncompared"].any()
    assert all(set(best) <= {"fpr95", "fnr", "auroc"} for best in frame["best"])
    assert any("fnr" in best for best in frame["best"])
    evidence = Evidence(lb.load_files(root), pytest.fail)
    for record in lb.load(root):
        found = evidence.scored(record["identity"])
        assert found is not None
        scored = found[1]
        assert np.array_equal(scored.clean, scored.known) == (record["side"] == "ood")
        again = metrics.compute(scored.known, scored.ood, clean_id_scores=scored.clean)
        for metric in ("fpr95", "fnr", "auroc"):
            assert again[metric] == record[metric]


def test_a_mean_over_fewer_sets_is_never_the_best(add: Add, tmp_path: Path) -> None:
    for name in ("page", "rings"):
        add(0.5, detector="whole", set=name)
        add(0.0, detector="other", set=name)
    add(9.0, detector="part", set="page")
    frame = lb.leaderboard(tmp_path).set_index("row")
    assert frame.loc["part", "auroc"] > frame.loc["whole", "auroc"]
    assert frame.loc["part", "best"] == ()
    assert frame.loc["whole", "best"]


def test_means_over_other_sets_have_no_best_among_them(add: Add, tmp_path: Path) -> None:
    for number, name in enumerate(("page", "rings")):
        for shift in (0.0, 3.0):
            add(shift, detector=f"{name}_{shift:g}", set=name, notes=[str(number)])
    frame = lb.leaderboard(tmp_path)
    assert len(frame) == 4
    assert not any(frame["best"])


def test_a_lone_row_is_not_bold(add: Add, show: Any) -> None:
    add(3.0)
    assert "**" not in show("markdown")
    assert "Bold" not in show("markdown")


def test_where_all_figures_are_the_same_none_is_bold(add: Add, tmp_path: Path) -> None:
    for shift, name in ((-90.0, "one"), (-80.0, "other")):
        add(shift, detector=name)
    frame = lb.leaderboard(tmp_path)
    assert set(frame["fpr95"]) == {1.0}
    assert list(frame["best"]) == [(), ()]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_scores_that_are_not_there_are_told_and_compared_with_nothing(
    damage: str, three: None, call: Any, tmp_path: Path
) -> None:
    record = next(r for r in lb.load(tmp_path) if r["detector"] == "equal")
    path = next(p for p, r in lb.load_files(tmp_path).items() if r == record)
    scores = path.with_suffix(".npz")
    if damage == "gone":
        scores.unlink()
    else:
        scores.write_bytes(scores.read_bytes()[:-30])
    result = call("leaderboard", "--results", tmp_path)
    assert result.code == 0
    assert (str(scores) in result.err) == (damage == "cut")
    assert "their scores by image not being at hand: equal." in result.out
    (row,) = [line for line in result.out.splitlines() if line.startswith("| equal")]
    frame = lb.leaderboard(tmp_path, tell=lambda line: None).set_index("row")
    if frame["auroc"].idxmax() != "equal":
        assert "auroc" not in frame.loc["equal", "best"]
        assert "** |" not in row


def test_a_row_without_a_parameter_that_others_name_keeps_its_name(
    add: Add, tmp_path: Path
) -> None:
    for params in ({"eps": 8}, {"eps": 8, "mixed": True}):
        add(detector="atom", params=params)
    frame = lb.leaderboard(tmp_path)
    assert set(frame["row"]) == {"atom", "atom (mixed=true)"}


@pytest.mark.parametrize(
    ("detector", "params", "name"),
    [
        ("atom", {"weight": 1.0, "quantile": 0.125}, "atom"),
        ("atom", {"weight": 4.0, "quantile": 0.125}, "atom (weight=4)"),
        ("atom", {"weight": 1.0, "mixed": True}, "atom (mixed=true)"),
        ("odin", {"noise": 0.0016}, "odin"),
        ("odin", {"noise": 0.01}, "odin (noise=0.01)"),
        ("mine", {"weight": 4.0}, "mine"),
        ("mine", {"weight": 4.0, "tta": "mirror"}, "mine (tta=mirror)"),
    ],
)
def test_a_row_alone_tells_what_of_it_is_not_as_published(
    add: Add, tmp_path: Path, detector: str, params: dict[str, Any], name: str
) -> None:
    add(detector=detector, suite="cifar10", params=params)
    assert set(lb.leaderboard(tmp_path)["row"]) == {name}


def test_a_value_that_only_an_unknown_suite_gives_is_not_told(add: Add, tmp_path: Path) -> None:
    add(detector="odin", suite="of_a_user", params={"noise": 0.01})
    assert set(lb.leaderboard(tmp_path)["row"]) == {"odin"}


def test_another_outlier_pool_is_another_row(add: Add, tmp_path: Path) -> None:
    for letter in "ab":
        add(detector="oe", digests={"pool": 64 * letter, "weights": 64 * letter})
    frame = lb.leaderboard(tmp_path)
    assert set(frame["row"]) == {f"oe (outlier pool {12 * letter})" for letter in "ab"}


def test_outliers_shown_otherwise_are_another_row_of_the_table(add: Add, tmp_path: Path) -> None:
    schedule = {"name": "fast", "epochs": 24, "pool_views": 4}
    zoom = {**schedule, "name": "zoom", "pool_zoom": 0.25}
    add(detector="msp", schedule=schedule)
    for each in (schedule, zoom):
        add(detector="oe", schedule=each, digests={"pool": "c" * 64})
    mixed = {"params": {"mixed": True}, "schedule": zoom}
    add(detector="atom", params={}, schedule=schedule, digests={"pool": "c" * 64})
    add(detector="atom", **mixed, digests={"pool": "c" * 64})
    add(detector="acet", **mixed, digests={"pool": "c" * 64})
    frame = lb.leaderboard(tmp_path)
    assert set(frame["row"]) == {
        "msp",
        "oe (schedule fast)",
        "oe (schedule zoom)",
        "atom (schedule fast)",
        "atom (mixed=true, schedule zoom)",
        "acet (mixed=true, schedule zoom)",
    }
    (title,) = set(frame["table"])
    assert ", schedule fast, zoom, " in title
    assert set(frame["schedule"]) == {"fast, zoom"}


def test_more_images_come_first_whichever_schedules_a_table_has(add: Add, tmp_path: Path) -> None:
    fast = {"name": "fast", "epochs": 24}
    add(detector="atom", schedule=fast, n_id=100)
    for each in (fast, {**fast, "name": "zoom", "pool_zoom": 0.25}):
        add(detector="oe", schedule=each, n_id=1000)
    titles = list(lb.leaderboard(tmp_path)["table"].unique())
    assert [title.partition("schedule ")[2].partition(", preset")[0] for title in titles] == [
        "fast, zoom",
        "fast",
    ]


def test_views_of_outliers_that_differ_under_one_name_are_told(add: Add, tmp_path: Path) -> None:
    for share in (0.25, 0.5):
        add(detector="oe", schedule={"name": "fast", "epochs": 24, "pool_zoom": share})
    frame = lb.leaderboard(tmp_path)
    assert set(frame["row"]) == {"oe (pool_zoom=0.25)", "oe (pool_zoom=0.5)"}


def test_tables_that_share_one_of_their_schedules_tell_how_it_differs(
    add: Add, tmp_path: Path
) -> None:
    short, long = ({"name": "fast", "epochs": epochs} for epochs in (16, 24))
    add(detector="msp", schedule=short)
    add(detector="msp", schedule=long)
    add(detector="oe", schedule={**long, "name": "zoom", "pool_zoom": 0.5})
    titles = lb.leaderboard(tmp_path)["table"].unique()
    named = [title.partition("schedule ")[2].partition(", preset")[0] for title in titles]
    assert named == ["fast (epochs=16)", "fast, zoom (epochs=24)"]


# Published figures


def test_published_figures_stand_beside_ours_in_every_format(
    add: Add, show: Any, tmp_path: Path, call: Any
) -> None:
    right = published().query("suite == 'cifar10' and detector == 'msp'").set_index("perturbation")
    for changed in ({}, LINF):
        add(suite="cifar10", detector="msp", **changed)
        add(suite="cifar10", detector="energy", **changed)
    add(suite="cifar10", detector="msp", **LINF | {"eps": "4/255"})
    pair = [
        f"{100 * right.loc[a, 'fpr95']:.2f} / {100 * right.loc[a, 'auroc']:.2f}"
        for a in ("none", "linf")
    ]
    text = show("markdown", "--paper")
    (line,) = [line for line in text.splitlines() if line.startswith("| msp, published")]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == [pair[0], "", pair[1], ""]
    assert "energy, published" not in text
    assert "Published: Table 2 image" in text
    frame = pd.read_csv(io.StringIO(show("csv", "--paper")))
    mine = frame[frame["detector"] == "msp"].set_index("column")
    assert mine.loc["linf 8/255", "published_auroc"] == right.loc["linf", "auroc"]
    assert np.isnan(mine.loc["linf 4/255", "published_auroc"])
    document = json.loads(show("json", "--paper"))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    figure = f"{100 * right.loc['linf', 'auroc']:.2f}"
    assert rf"\textit{{{figure}}}" in show("latex", "--paper")
    assert f'<span class="published">paper {figure}</span>' in show("html", "--paper")
    assert "published" not in show("markdown")


def test_published_figures_stand_beside_the_published_hyper_parameters_alone(
    add: Add, tmp_path: Path
) -> None:
    add(suite="cifar10", detector="msp")
    add(suite="cifar10", detector="msp", params={"temperature": 2.0})
    add(suite="cifar10", detector="msp_of_another")
    frame = lb.leaderboard(tmp_path, paper=True).set_index("row")
    with_figures = frame.index[frame["published_auroc"].notna()]
    assert len(frame) == 3
    assert [frame.loc[row, "params"] for row in with_figures] == [{}]


def test_a_suite_without_published_figures_is_told(add: Add, call: Any, tmp_path: Path) -> None:
    add(suite="tiny")
    result = call("leaderboard", "--results", tmp_path, "--paper")
    assert result.code == 0
    assert "--paper: no figures are published that could stand beside tiny" in result.err


# Hostile names


class Texts(HTMLParser):
    """Collects the elements and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: list[str | None] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names += [value for name, value in attrs if name == "data-name"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def hostile(add: Add) -> None:
    add(detector=HOSTILE, set="page", notes=[HOSTILE])
    add(detector=HOSTILE, set=HOSTILE, params={HOSTILE: HOSTILE})
    add(detector="plain", set=HOSTILE, **LINF | {"perturbation": HOSTILE})
    for name in ("[x]", "*", "1. first", "# title"):
        add(detector=name, set="page")


def test_a_hostile_name_is_a_name_in_csv_and_json(hostile: None, show: Any) -> None:
    frame = pd.read_csv(io.StringIO(show("csv", "--by", "ood")))
    assert HOSTILE in set(frame["detector"])
    assert HOSTILE in set(frame["set"].dropna())
    document = json.loads(show("json", "--by", "ood"))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert HOSTILE in {row["detector"] for row in document["tables"][0]["rows"]}


def test_a_hostile_name_adds_no_element_to_the_page(
    hostile: None, add: Add, show: Any, tmp_path: Path
) -> None:
    page = show("html", "--by", "ood")
    found = Texts()
    found.feed(page)
    assert found.tags.count("script") == 2
    assert page.count("</script>") == 2
    assert {name for name in found.names if name and HOSTILE in name}
    assert "alert(1)</script>" not in page
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert any(HOSTILE in cell["row"] for cell in json.loads(block)["cells"])


def test_a_hostile_name_leaves_the_columns_of_markdown_alone(hostile: None, show: Any) -> None:
    text = show("markdown", "--by", "ood")
    assert "<script>" not in text.replace(r"\<script\>", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {5}
    assert any(escaped(HOSTILE) in row for row in rows)


@pytest.mark.parametrize("character", r"\|*<>`[]&$~")
def test_markdown_escapes_what_it_would_take_for_markup(character: str) -> None:
    assert escaped(f"a{character}b") == f"a\\{character}b"
    assert escaped("mahalanobis_single _a_") == r"mahalanobis_single \_a\_"
    assert escaped("# a") == r"\# a"
    assert escaped("1. a") == r"1\. a"


def unescaped(tex: str) -> str:
    """LaTeX of names less all commands that stand for a character."""
    tex = re.sub(r"\\ensuremath\{[<>]\}|\\ensuremath\{\\\w+\}|\{\\text\w+\}", "", tex)
    return re.sub(r"\\[%&_#${}]", "", tex)


def test_latex_escapes_every_special_character() -> None:
    for character in r"<>|_&%$\{}#~^":
        assert unescaped(latex.escaped(f"a{character}b")).replace("{}", "") == "ab", character
    assert latex.escaped("a--b") == "a-{}-b"
    # After the end of a row these would be its arguments.
    assert [latex.escaped(name) for name in ("[x]", "*")] == ["{[}x]", "{*}"]


def test_latex_is_balanced_and_every_row_has_all_columns(hostile: None, show: Any) -> None:
    text = show("latex", "--by", "ood")
    bare = re.sub(r"^%.*$", "", text, flags=re.M)
    bare = re.sub(r"\\[%&_#${}]", "", bare)
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", bare)) % 2 == 0
    assert re.findall(r"\\begin\{(\w+)", bare).count("table") == bare.count(r"\end{table}") == 3
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", bare, re.S):
        columns, body = tabular
        for row in body.split("\n"):
            if row.endswith(r"\\") and "multicolumn" not in row:
                assert row.count("&") == len(columns) - 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_latex_compiles(hostile: None, show: Any, tmp_path: Path) -> None:
    head = "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage{booktabs,graphicx}"
    body = show("latex", "--by", "ood")
    (tmp_path / "t.tex").write_text(f"{head}\n\\begin{{document}}\n{body}\\end{{document}}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


# The command


def test_a_file_is_written_whole_and_nothing_is_printed(
    add: Add, call: Any, tmp_path: Path, show: Any
) -> None:
    add()
    out = tmp_path / "board" / "page.html"
    result = call("leaderboard", "--results", tmp_path, "--format", "html", "--output", out)
    assert (result.code, result.out) == (0, "")
    assert out.read_text(encoding="utf-8") == show("html")
    (tmp_path / "file").touch()
    bad = call("leaderboard", "--results", tmp_path, "--output", tmp_path / "file" / "x.md")
    assert (bad.code, bad.err.count("\n")) == (2, 1)
    assert "choose another file" in bad.err


def test_formats_of_the_command_are_those_of_the_package(add: Add, tmp_path: Path) -> None:
    from oodbench.commands.leaderboard import command

    choices = {p.name: list(getattr(p.type, "choices", [])) for p in command.params}
    assert tuple(choices["form"]) == lb.FORMATS == FORMATS
    assert tuple(choices["by"]) == lb.BY
    assert tuple(choices["sort"]) == lb.SORTS
    add()
    with pytest.raises(RequestError, match="--format pdf: there are markdown, csv"):
        lb.render(lb.leaderboard(tmp_path), "pdf")


def test_a_page_is_the_same_every_time(add: Add, show: Any) -> None:
    add()
    assert show("html") == show("html")


def test_sections_hold_plain_texts(hostile: None, tmp_path: Path) -> None:
    (section,) = sections(lb.leaderboard(tmp_path))
    assert any(HOSTILE in line.name for grid in section.grids for line in grid.lines)
