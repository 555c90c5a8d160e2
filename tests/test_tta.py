"""Test-time augmentation: one field of every detector, seen by whatever its outputs are for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from oodbench.api import Places
from oodbench.cells import Identities, Subjected
from oodbench.detector import Detector
from oodbench.detectors.msp import MSP
from oodbench.errors import RequestError
from oodbench.identity import digest, parameters
from oodbench.keeping import Kept, read_kept
from oodbench.model import Backbone, Model
from oodbench.network import initialised
from oodbench.networks.conv3 import Conv3
from oodbench.plugins import PluginSpec
from oodbench.records import find_records
from oodbench.selecting import select
from oodbench.threat import to_float
from oodbench.workbench import Workbench


def probabilities_of_both_views(
    bench: Workbench, suite: str, images: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Softmax of the mean of a plain network's logits of images and of their mirror images."""
    taught = bench.taught(PluginSpec("detectors", "msp"), suite, "fast", "conv3", 0)
    network = bench.backbone(taught).network
    pixels = to_float(torch.from_numpy(images))
    with torch.no_grad():
        logits = (network(pixels) + network(pixels.flip(3))).double() / 2
    return np.asarray(logits.softmax(1))


def test_views_are_of_a_detector_and_its_network_is_taught_without(
    run: Any, tiny: str, shared_store: Path
) -> None:
    (alone,) = run("--detector", "msp", "--ood", "rings", "--json").json
    (found,) = run("--detector", "msp", "--ood", "rings", "--set", "msp.tta=mirror", "--json").json
    assert found["params"] == {"tta": "mirror"}
    assert alone["params"] == {}
    assert found["digests"]["weights"] == alone["digests"]["weights"]
    assert found["digests"]["scores"] != alone["digests"]["scores"]
    bench = Places("cpu", store=shared_store).workbench()
    images = [bench.images(tiny, name, "test") for name in (bench.suite(tiny).id_set, "rings")]
    known, outliers = (
        probabilities_of_both_views(bench, tiny, each.batch(range(len(each)))) for each in images
    )
    sides = np.repeat([0, 1], [len(known), len(outliers)])
    # In float64 p_max has no ties at 1, where the score's float32 log-odds have none either.
    likeliest = np.concatenate([known, outliers]).max(1)
    assert found["auroc"] == pytest.approx(roc_auc_score(sides, -likeliest), abs=1e-4)
    assert found["accuracy"] == (known.argmax(1) == images[0].labels).mean()


def test_what_is_fitted_searched_and_judged_sees_the_views_of_the_detector(
    tiny: str, shared_store: Path
) -> None:
    bench = Places("cpu", store=shared_store).workbench()
    spec = PluginSpec("detectors", "mahalanobis_single", (("tta", "mirror"),))
    taught = bench.taught(spec, tiny, "fast", "conv3", 0)
    subject = bench.subject(spec, taught, "bfloat16")
    assert subject.model.backbone.tta == subject.search_model.backbone.tta == "mirror"
    assert subject.search_model.backbone.dtype == torch.bfloat16
    images = bench.images(tiny, bench.suite(tiny).id_set, "train")
    labels = torch.from_numpy(images.labels)
    pixels = to_float(torch.from_numpy(images.batch(range(len(images)))))
    network, tap = subject.model.backbone.network, subject.model.taps[-1]
    with torch.no_grad():
        both = [network.tapped(x)[0][tap].mean((2, 3)).double() for x in (pixels, pixels.flip(3))]
    features = (both[0] + both[1]) / 2
    means = torch.stack([features[labels == label].mean(0) for label in labels.unique()])
    assert torch.allclose(subject.model.state[f"{tap}.centres"], means, atol=1e-5)


def test_only_what_the_views_change_has_another_identity(tiny: str, tmp_path: Path) -> None:
    bench = Places("cpu", store=tmp_path).workbench()
    identities = Identities(bench)
    specs = {
        tta: PluginSpec("detectors", "mahalanobis_single", (("tta", tta),) if tta else ())
        for tta in ("", "none", "mirror", "mirror_shift")
    }
    taught = {tta: bench.taught(spec, tiny, "fast", "conv3", 0) for tta, spec in specs.items()}
    assert len(set(taught.values())) == 1
    subjects = {
        tta: digest(identities.subject(Subjected(spec, taught[tta], None)))
        for tta, spec in specs.items()
    }
    assert subjects["none"] == subjects[""]
    assert len({subjects[tta] for tta in ("none", "mirror", "mirror_shift")}) == 3
    detectors = {tta: digest(spec.identity()) for tta, spec in specs.items()}
    assert len(set(detectors.values())) == 3
    assert parameters(MSP(tta="none")) == {}
    assert parameters(MSP(tta="mirror")) == {"tta": "mirror"}


def test_an_attack_lowers_the_score_of_the_mean_over_views(
    run: Any, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    def searched(*settings: str) -> tuple[dict[str, Any], Kept]:
        results = tmp_path / "-".join(("results", *settings))
        chosen = ("--detector", "msp", "--ood", "rings", "--attack", "linf", "--limit", 20)
        asked = (*chosen, *(x for text in settings for x in ("--set", text)), "--keep-images", 20)
        (record,) = run(*asked, "--json", results=results).json
        (path,) = (path for path in find_records(results) if "linf" in path.parts)
        kept = read_kept(path, record)
        assert kept is not None
        order = kept.ids.argsort()
        return record, Kept(**{name: value[order] for name, value in kept.arrays.items()})

    alone, of_one_view = searched()
    record, found = searched("msp.tta=mirror")
    assert (found.ids == of_one_view.ids).all()
    assert record["digests"]["weights"] == alone["digests"]["weights"]
    bench = Places("cpu", store=shared_store).workbench()

    def score(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        likeliest = probabilities_of_both_views(bench, tiny, images).max(1)
        return np.log((1 - likeliest) / likeliest)

    np.testing.assert_allclose(score(found.attacked), found.after, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(score(found.original), found.before, rtol=1e-4, atol=1e-4)
    # Images made against one view are a worse attack on the mean of two.
    assert score(found.attacked).mean() < score(of_one_view.attacked).mean() - 0.05


@pytest.mark.parametrize("wrong", ["flip", "", "Mirror"])
def test_other_views_are_refused_before_anything_is_taught(
    wrong: str, tiny: str, tmp_path: Path
) -> None:
    bench = Places("cpu", store=tmp_path).workbench()
    spec = PluginSpec("detectors", "atom", (("quantile", 0.0), ("tta", wrong)))
    with pytest.raises(RequestError, match="tta must be one of none, mirror, mirror_shift, not"):
        bench.taught(spec, tiny, "fast", "conv3", 0)
    with pytest.raises(ValueError, match="tta must be one of"):
        Backbone(initialised(Conv3, 3, 0), 3, tta=wrong)  # type: ignore[arg-type]


def test_a_detector_has_no_field_of_its_own_that_is_called_so() -> None:
    with pytest.raises(TypeError, match=r"Own\.tta: every detector has a field of this name"):

        class Own(Detector):
            tta: int = 5  # type: ignore[assignment]

    with pytest.raises(TypeError, match="choose another"):

        class Bare(Detector):
            tta = "mirror"

    @dataclass(frozen=True)
    class Other(Detector):
        rank: int

        def score(self, model: Model, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))

    assert (Other(3, tta="mirror").rank, Other(3).tta) == (3, "none")


def test_the_quantile_chosen_with_views_is_kept_beside_that_without(
    tiny: str, shared_store: Path
) -> None:
    bench = Places("cpu", store=shared_store).workbench()
    kept = [
        select(PluginSpec("detectors", "ntom", params), tiny, "fast", "conv3", 3, bench).path
        for params in ((), (("tta", "mirror"),))
    ]
    assert [path.name for path in kept] == [
        "ntom-conv3-fast-3.json",
        "ntom-conv3-fast-3-mirror.json",
    ]
    assert [json.loads(path.read_text())["tta"] for path in kept] == ["none", "mirror"]
