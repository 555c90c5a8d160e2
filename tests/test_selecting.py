"""Choosing the mining quantile on held-out images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench import metrics
from oodbench.api import Places
from oodbench.mining import QUANTILES
from oodbench.plan import Request
from oodbench.plugins import PluginSpec
from oodbench.selecting import Selection, Tried, select, selections
from oodbench.subject import Shown, judged
from oodbench.threat import farthest


@pytest.fixture(scope="module")
def chosen(tiny: str, shared_store: Path) -> Selection:
    bench = Places("cpu", store=shared_store).workbench()
    (found,) = selections(Request(tiny, ("ntom",), seeds=(3,)), bench)
    return found


def test_the_value_chosen_has_the_lowest_mean_the_first_of_several() -> None:
    tried = tuple(
        Tried(q, a, b, 0.5) for q, a, b in [(0.0, 0.5, 0.7), (0.1, 0.3, 0.3), (0.2, 0.6, 0)]
    )
    selection = Selection("ntom", "quantile", 0, tried, 1, 1, Path())
    assert [one.mean for one in tried] == pytest.approx([0.6, 0.3, 0.3])
    assert selection.chosen == 0.1


def test_every_quantile_is_tried_on_images_that_no_training_and_no_test_sees(
    chosen: Selection, tiny: str, shared_store: Path
) -> None:
    assert tuple(one.value for one in chosen.tried) == QUANTILES
    assert (chosen.images, chosen.outliers) == (30, 20)
    bench = Places("cpu", store=shared_store).workbench()
    suite = bench.suite(tiny)
    held_out = {
        *bench.images(tiny, suite.id_set, "val").ids,
        *bench.images(tiny, suite.pool, "val").ids,
    }
    seen = [bench.images(tiny, suite.id_set, split).ids for split in ("train", "test")]
    seen += [bench.images(tiny, suite.pool, "train").ids]
    seen += [bench.images(tiny, name, "test").ids for name in suite.ood_sets]
    assert not held_out & {name for part in seen for name in part}


def test_figures_are_those_of_the_scores_and_an_attack_never_helps(
    chosen: Selection, tiny: str, shared_store: Path
) -> None:
    bench = Places("cpu", store=shared_store).workbench()
    suite = bench.suite(tiny)
    for one in chosen.tried:
        spec = PluginSpec("detectors", "ntom").replaced(quantile=one.value)
        taught = bench.taught(spec, tiny, "fast", "conv3", 3)
        assert bench.stored_weights(taught) is not None
        subject = bench.subject(spec, taught, "float32")
        scores = {}
        for name in (suite.id_set, suite.pool):
            images = bench.images(tiny, name, "val")
            shown = Shown.of(bench.pixels(images, range(len(images))))
            scores[name] = judged(subject.detector.score, subject.model, shown).numpy()
        known, outliers = scores.values()
        assert one.fpr95 == metrics.fpr95(known, outliers)
        assert one.fpr95_attacked >= one.fpr95
        labels = bench.images(tiny, suite.id_set, "val").labels
        images = bench.images(tiny, suite.id_set, "val")
        with torch.no_grad():
            logits = subject.model.logits(
                torch.from_numpy(images.batch(range(len(images)))).float() / 255
            )
        right = logits[:, :3].argmax(1).numpy() == labels
        assert one.accuracy == pytest.approx(float(np.mean(right)))
        told = bench.weights(taught).card["facts"]["held_out"]
        assert told == {"accuracy": pytest.approx(float(np.mean(right))), "images": 30}


def test_the_attack_is_the_published_one_on_the_outliers_and_what_it_finds_is_counted(
    monkeypatch: pytest.MonkeyPatch, tiny: str, shared_store: Path
) -> None:
    from oodbench import selecting

    seen = []
    plain = selecting.worst_case

    def watched(subjects: Any, attacks: Any, images: Any, *rest: Any) -> Any:
        verdicts = plain(subjects, attacks, images, *rest)
        seen.append((attacks[0], images, verdicts[0].images, subjects[0]))
        return verdicts

    monkeypatch.setattr(selecting, "worst_case", watched)
    bench = Places("cpu", store=shared_store).workbench()
    chosen = select(PluginSpec("detectors", "ntom"), tiny, "fast", "conv3", 3, bench)
    assert len(seen) == len(QUANTILES)
    held_out = bench.images(tiny, bench.suite(tiny).id_set, "val")
    clean = torch.from_numpy(held_out.batch(range(len(held_out)))).float() / 255
    for one, (attack, images, attacked, subject) in zip(chosen.tried, seen, strict=True):
        assert (attack.preset, attack.eps, attack.gradient_steps) == ("paper", 8, 40)
        assert 0 < farthest(attacked, images) <= 8
        with torch.no_grad():
            known, found = (
                subject.detector.score(subject.model, pixels).numpy()
                for pixels in (clean, attacked.float() / 255)
            )
        assert one.fpr95_attacked == metrics.fpr95(known, found)


def test_the_choice_is_kept_with_all_it_stands_on(chosen: Selection) -> None:
    told = json.loads(chosen.path.read_text())
    assert told["chosen"] == chosen.chosen
    assert told["detector"] == "ntom"
    assert told["field"] == "quantile"
    assert (told["seed"], told["images"], told["outliers"]) == (3, 30, 20)
    assert [one["value"] for one in told["tried"]] == list(QUANTILES)
    assert [one["mean"] for one in told["tried"]] == [one.mean for one in chosen.tried]


def test_a_run_with_the_value_chosen_trains_no_more(
    chosen: Selection, run: Any, shared_store: Path
) -> None:
    before = set(shared_store.rglob("*.safetensors"))
    field = f"ntom.{chosen.field}={chosen.chosen}"
    result = run("--detector", "ntom", "--seed", 3, "--set", field, "--json")
    assert result.code == 0, result.err
    assert result.json[0]["params"]["quantile"] == chosen.chosen
    assert set(shared_store.rglob("*.safetensors")) == before


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--detector", "msp"), "msp has no mining quantile"),
        (("--detector", "ntom", "--set", "quantile=0.5"), "--select-q chooses quantile"),
        (("--detector", "nothing"), "no detector is called 'nothing'"),
        (("--detector", "ntom", "--schedule", "no"), "no schedule 'no'"),
    ],
)
def test_what_cannot_be_chosen_is_told_in_one_line(
    asked: tuple[str, ...], told: str, call: Any, tiny: str, tmp_path: Path
) -> None:
    result = call("train", "--suite", tiny, "--store", tmp_path, "--select-q", *asked)
    assert result.code == 2
    assert told in result.err
    assert result.err.count("\n") == 1


def test_the_command_shows_each_value_and_how_to_use_the_one_chosen(
    chosen: Selection, call: Any, tiny: str, shared_store: Path
) -> None:
    asked = ("--suite", tiny, "--store", shared_store, "--detector", "ntom", "--seed", 3)
    result = call("train", *asked, "--select-q")
    assert result.code == 0, result.err
    assert f"Chosen: --set ntom.quantile={chosen.chosen:g}" in result.out
    rows = [line.split() for line in result.out.splitlines()]
    for one in chosen.tried:
        figures = [one.fpr95, one.fpr95_attacked, one.mean, one.accuracy]
        assert [f"{one.value:g}", *(f"{100 * x:.2f}" for x in figures)] in rows
