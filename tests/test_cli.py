"""The command line: results alone on standard output, one clear line for what is wrong."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BAD = {
    "a detector that is nearly atom": ("--detector atm", "did you mean atom?"),
    "one of several attacks": ("--attack linf,nope", "no attack is called 'nope'"),
    "division by zero": ("--eps 8/0", "division by zero"),
    "a negative radius": ("--eps -1", "negative"),
    "grey levels for a radius": ("--eps 8", "did you mean 8/255?"),
    "a radius below one level": ("--eps 1/1000", "less than one grey level"),
    "a radius that is no number": ("--eps abc", "not a number"),
    "a radius that takes for ever": ("--eps 1e999999999", "not a number"),
    "no images": ("--limit 0", "--limit 0: at least 1 image"),
    "negative limit": ("--limit -5", "--limit -5: at least 1 image"),
    "limit that is no number": ("--limit ten", "'ten' is not a valid integer"),
    "empty batches": ("--batch-size 0", "--batch-size 0: at least 1 image"),
    "no budget": ("--attack linf --budget 0", "--budget 0: at least 1 gradient step"),
    "no budget, which nothing uses": ("--budget 0", "--budget 0: at least 1 gradient step"),
    "unknown suite": ("--suite nope", "no data set is called 'nope'; there are cifar10"),
    "missing file": ("--suite ./nope.py", "no file ./nope.py"),
    "unknown schedule": ("--schedule nope", "no schedule 'nope'"),
    "unknown network": ("--network nope", "no network is called 'nope'"),
    "unknown OOD set": ("--ood nope", "--ood nope: the suite has rings, noise"),
    "device that is not there": ("--device cuda:7", "--device cuda:7: not here; there is cpu"),
    "device that is none": ("--device nonsense", "--device nonsense: not here"),
    "parameter of nobody": ("--set foo=1", "has no field foo"),
    "parameter of another": ("--detector odin --set odin.foo=1", "odin has no field foo"),
    "parameter of one not asked for": ("--detector msp --set odin.noise=0", "odin has no field"),
    "parameter that is no number": ("--set odin.temperature=abc", "'abc' is not a number"),
    "parameter that is neither a number nor left open": (
        "--detector atom --set first_weight=x",
        "'x' is not a number or None",
    ),
    "parameter that is refused": ("--set odin.temperature=-1", "temperature must be positive"),
    "views that there are not": (
        "--set msp.tta=flip",
        "'flip' is not one of none, mirror, mirror_s",
    ),
    "attack of no steps": ("--detector rowl --set steps=-1", "steps must be at least 1, not -1"),
    "ball past the pixel range": ("--detector acet --set eps=300", "eps is in grey levels"),
    "a step that nothing uses": (
        "--detector atom --set atom.mixed=true --set step=1",
        "step has no effect on a mixed attack",
    ),
    "negative weight of a first training": (
        "--detector atom --set first_weight=-1",
        "first_weight must be at least 0",
    ),
    "attack of no steps in a first training": (
        "--detector atom --set first_weight=1 --set first_steps=0",
        "first_steps must be at least 1",
    ),
    "steps of no first training": ("--detector atom --set first_steps=7", "set first_weight too"),
    "negative weight": ("--detector oe --set beta=-1", "beta must be at least 0"),
    "no epochs": ("--detector energy_finetuned --set epochs=0", "epochs must be at least 1"),
    "no components": ("--detector ccu --set components=0", "components must be at least 1"),
    "no such severity": ("--attack corruption --set severity=9", "severity must be 1 to 5"),
    "infinite parameter": ("--set odin.temperature=1e999", "not a finite number"),
    "parameter without a value": ("--set odin.temperature", "write NAME=VALUE"),
    "seed that is no number": ("--seed x", "--seed x: not a whole number"),
    "negative seed": ("--seed -1", "must not be negative"),
    "no detector": ("--detector ,", "--detector is empty"),
    "unknown preset": ("--preset nope", "'nope' is not one of 'standard', 'paper'"),
    "published attack with a budget": (
        "--detector msp --attack linf --preset paper --budget 50",
        "the published attack has 40 steps; leave --budget out",
    ),
    "nothing published to attack": (
        "--detector {plugins}/mine.py --attack linf --preset paper",
        "mine has no published loss for linf",
    ),
    "unknown option": ("--nope", "No such option"),
    "option without a value": ("--detector", "requires an argument"),
    "what is no option": ("atom", "unexpected extra argument"),
    "a detector for an attack": ("--attack {plugins}/mine.py", "subclass of Perturbation"),
    "an image for a plugin": ("--detector {plugins}", "no file"),
}


@pytest.mark.parametrize("request_", BAD)
def test_what_is_wrong_with_a_request_is_told_in_one_line_and_leaves_nothing(
    request_: str, run: Any, plugins: Path, tmp_path: Path, in_folder: Path
) -> None:
    arguments, message = BAD[request_]
    result = run(*arguments.format(plugins=plugins).split())
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("oodbench: ")
    assert result.err.count("\n") == 1
    assert re.sub(r"\s", "", message) in re.sub(r"\s", "", result.err)
    assert not (tmp_path / "results").exists()
    assert not list(in_folder.iterdir())


def test_a_wrong_request_loses_nothing(run: Any, copied: Path, stamps: Any) -> None:
    before = stamps(copied)
    assert run("--detector", "atm", "--force").code == 2
    assert run("--eps", "8", "--force").code == 2
    assert stamps(copied) == before


@pytest.mark.parametrize("place", ["results", "store"])
@pytest.mark.parametrize("where", ["below a file", "/proc/x"])
def test_a_folder_that_cannot_be_written_is_named(
    place: str, where: str, run: Any, tmp_path: Path
) -> None:
    folder = Path(where)
    if where == "below a file":
        folder = tmp_path / "file" / "folder"
        folder.parent.write_text("a file")
    result = run("--detector", "msp", **{place: folder})
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("oodbench: cannot write ")
    assert result.err.count("\n") == 1
    assert str(folder) in result.err


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "the score is NaN on 120 of 120 images"),
        ("shape", "must be (120,)"),
        ("raises", "ArithmeticError: two and two make five"),
        ("fit", "fit reads labels without needs_labels = True"),
    ],
)
def test_a_detector_that_fails_exits_3_and_the_others_are_stored_and_shown(
    fault: str, message: str, run: Any, plugins: Path
) -> None:
    chosen = ("--detector", f"{plugins}/faulty.py,msp", "--set", f"fault={fault}")
    result = run(*chosen, "--json")
    assert result.code == 3
    assert [record["detector"] for record in result.json] == ["msp", "msp"]
    # On a busy machine lines of progress come before.
    *_, failed, summary = result.err.strip().splitlines()
    assert failed.startswith("oodbench: faulty, seed 0: ")
    assert message in failed
    assert summary == "oodbench: 1 failed, 2 cells are stored"


def test_an_attack_that_fails_leaves_the_clean_cells(run: Any, plugins: Path) -> None:
    chosen = ("--detector", plugins / "faulty.py", "--set", "fault=search")
    result = run(*chosen, "--attack", "all", "--json")
    assert result.code == 3
    assert "no way down" in result.err
    assert {r["perturbation"] for r in result.json} >= {"none"}
    assert "linf" not in {r["perturbation"] for r in result.json}


def test_debug_shows_where(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from oodbench.__main__ import main
    from oodbench.errors import RequestError

    with pytest.raises(RequestError):
        main(["run", "--detector", "atm", "--debug"])


def test_an_unknown_command_is_told(call: Any) -> None:
    result = call("rnu")
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("oodbench: no command is called 'rnu'; there are run, train, list")
    assert call("list", "nothing").code == 2


def test_without_a_command_the_help_is_shown_as_it_is(call: Any) -> None:
    result = call()
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("Usage: oodbench")
    assert call("--help").out.startswith("Usage: oodbench")


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodbench import api

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "execute", interrupted)
    result = run("--detector", "msp")
    assert result.code == 130
    assert result.out == ""
    assert "finished cells" in result.err
    assert "the same command goes on from there" in result.err


def test_an_unforeseen_error_is_no_traceback_and_not_what_a_check_found(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodbench import api

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device", "/disk/file")

    monkeypatch.setattr(api, "execute", full)
    result = run("--detector", "msp")
    assert result.code == 2
    assert result.err.strip().endswith(
        "oodbench: /disk/file: No space left on device; --debug shows where"
    )


def test_train_prints_where_the_weights_are(call: Any, tiny: str, tmp_path: Path) -> None:
    options = ("--suite", tiny, "--detector", "msp,odin,mahalanobis", "--store", tmp_path)
    result = call("train", *options, "--device", "cpu")
    assert result.code == 0
    (line,) = result.out.splitlines()
    title, _, path = line.partition(": ")
    assert title == "msp, odin, mahalanobis, seed 0"
    assert Path(path).is_file()
    assert list(tmp_path.rglob("*.safetensors"))
    before = Path(path).stat().st_mtime_ns
    assert call("train", *options, "--device", "cpu").out == result.out
    assert Path(path).stat().st_mtime_ns == before


# Tables


def _table(text: str) -> list[str]:
    return text.partition("\n\n")[0].splitlines()


def test_the_table_of_everything_is_plain_and_whole_at_80_columns(
    run: Any, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("--detector", "all", "--attack", "all")
    assert "…" not in result.out
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    rows = [line.split() for line in _table(result.out)[3:]]
    records = run("--detector", "all", "--attack", "all", "--json").json
    groups: dict[tuple[str, str], list[Any]] = {}
    for record in records:
        groups.setdefault((record["detector"], record["perturbation"]), []).append(record)
    assert [(row[0], row[1]) for row in rows] == list(groups)
    for row, members in zip(rows, groups.values(), strict=True):
        mean = sum(member["fpr95"] for member in members) / len(members)
        assert row[2] == f"{100 * mean:.2f}"
    assert "fpr95" in result.out  # a table names its convention


def test_the_widest_names_are_whole_at_80_columns_and_intervals_go_before_metrics(
    everything: Any,
) -> None:
    from rich.console import Console

    from oodbench.tables import print_tables

    first = everything[1].json[0]
    records = [
        {**first, "detector": detector, "perturbation": attack, "seed": seed, "eps": "8/255"}
        for detector in ("mahalanobis_single", "energy_finetuned")
        for attack in ("none", "corruption", "linf", "compositional")
        for seed in (0, 10)
    ]
    console = Console(width=80, file=io.StringIO())
    print_tables(console, records, ["note"])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for word in ("mahalanobis_single", "compositional", "seed", "FPR@95", "AUROC", "AUPR"):
        assert word in text
    gone = "95 % of FPR@95, 95 % of AUROC, acc."
    assert f"A wider terminal also shows {gone}; --json has all." in text


def test_a_table_says_what_was_changed_and_how_the_worst_case_was_chosen(
    run: Any, copied: Path
) -> None:
    chosen = ("--detector", "msp", "--attack", "all", "--limit", 12)
    standard = " ".join(run(*chosen).out.split())
    assert "preset standard, seed 0, limit 12 " in standard
    assert "corruption: 95 candidates an image, the worst case chosen by the true score" in standard
    assert "frost, motion blur, snow and spatter are approximations of CIFAR-C's" in standard
    assert standard.count("tiny: drawn textures") == 1
    paper = " ".join(run(*chosen, "--preset", "paper").out.split())
    assert "95 candidates an image, the worst case chosen by the published score." in paper
    assert "linf: 40 gradient steps an image, the worst case chosen by the published loss" in paper
    assert (
        "compositional: 95 candidates an image, 40 gradient steps an image, the worst case"
        " chosen by the published score, then by the published loss." in paper
    )
    hot = run("--detector", "odin", "--set", "odin.temperature=10").out
    assert "none, preset standard, seed 0, odin.temperature=10" in " ".join(hot.split())


def test_one_detector_under_one_attack_has_a_row_for_each_set_and_their_mean(
    run: Any, copied: Path
) -> None:
    chosen = ("--detector", "msp", "--attack", "linf")
    lines = _table(run(*chosen).out)
    assert "suite tiny, network conv3, msp, linf, eps 8/255, preset standard" in lines[0]
    under = next(number for number, line in enumerate(lines) if line.strip().startswith("──"))
    rows = {line.split()[0]: line.split()[1:] for line in lines[under + 1 :] if line.strip()}
    assert list(rows) == ["rings", "noise", "mean"]
    for record in run(*chosen, "--json").json:
        low, high = record["intervals"]["fpr95"]
        assert rows[record["set"]][:2] == [
            f"{100 * record['fpr95']:.2f}",
            f"{100 * low:.2f}–{100 * high:.2f}",
        ]
    assert all(len(row) == 5 for row in rows.values())


def test_one_detector_under_several_attacks_has_a_row_for_each_attack(
    run: Any, copied: Path
) -> None:
    lines = _table(run("--detector", "msp", "--attack", "none,linf").out)
    assert "suite tiny, network conv3, msp, eps 8/255" in lines[0]
    assert lines[1].split()[0] == "attack"
    assert [line.split()[0] for line in lines[3:]] == ["none", "linf"]


def test_a_mean_over_fewer_sets_than_the_others_says_so(everything: Any) -> None:
    from rich.console import Console

    from oodbench.tables import print_tables

    console = Console(width=100, file=io.StringIO())
    print_tables(console, everything[1].json[1:], "")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 2" in text
    assert "2 of 2" in text


def test_json_is_one_strict_document_and_evaluate_gives_the_same_as_a_frame(
    run: Any, copied: Path, tiny: str, shared_store: Path
) -> None:
    import pandas as pd

    from oodbench import evaluate

    records = run("--detector", "odin,msp", "--attack", "linf", "--json").json
    assert [(r["detector"], r["set"]) for r in records] == [
        (detector, name) for detector in ("odin", "msp") for name in ("rings", "noise")
    ]
    frame = evaluate(
        "odin,msp", "linf", suite=tiny, results=copied, store=shared_store, device="cpu"
    )
    pd.testing.assert_frame_equal(frame, pd.DataFrame(records))


def test_an_eps_that_nothing_uses_is_noted_on_standard_error(
    run: Callable[..., Any], copied: Path
) -> None:
    result = run("--detector", "msp", "--eps", "4/255")
    assert result.code == 0
    assert "--eps 4/255 means nothing to the attacks chosen" in result.err
    assert "means nothing" not in result.out


@pytest.mark.parametrize(
    ("eps", "note"),
    [("9/256", "--eps 9/256 is 8.96 grey levels; images have whole ones, so 8/255 is used")]
    + [(same, "") for same in ("8/255", "0.0314")],
)
def test_an_eps_between_two_grey_levels_is_noted(
    eps: str, note: str, run: Callable[..., Any]
) -> None:
    result = run("--detector", "msp", "--attack", "linf", "--limit", 2, "--eps", eps)
    assert result.code == 0
    assert note in result.err
    assert ("grey levels" in result.err) == bool(note)


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "list", "--data-root", "~nosuchuser/x"),
        ("train", "--store", "~nosuchuser/x"),
        ("run", "--detector", "~nosuchuser/x.py"),
        ("run", "--detector", "msp", "--suite", "~nosuchuser/x.py"),
    ],
    ids=lambda arguments: " ".join(arguments[:-1]),
)
def test_a_home_folder_that_is_not_there_is_told_in_one_line(
    arguments: tuple[str, ...], call: Any
) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert "there is no such user" in result.err
    assert len(result.err.strip().splitlines()) == 1
