"""Networks that a user brings are measured as those trained here are."""

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench import evaluate
from oodbench.api import Places
from oodbench.errors import RequestError
from oodbench.files import shipped_results
from oodbench.foreign import PENULTIMATE, is_factory, network_class
from oodbench.given import given_network, read_weights
from oodbench.model import Backbone
from oodbench.network import initialised
from oodbench.plan import Request, make_plan
from oodbench.records import find_records, read_arrays, read_record
from oodbench.testing import check_network

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).parent / "plugins" / "own_networks.py"
PLAIN = "msp,odin,energy,mahalanobis,mahalanobis_single"


def build(name: str, outputs: int = 3) -> Any:
    network = initialised(network_class(f"{OWN}:{name}"), outputs, 0).eval()
    # Fresh batch norm computes nothing.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            rng = torch.Generator().manual_seed(1)
            nn.init.uniform_(module.running_var, 0.5, 2, rng)
            nn.init.uniform_(module.running_mean, -1, 1, rng)
            nn.init.uniform_(module.weight.data, 0.5, 2, rng)
    return network


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, name: str = "Net", outputs: int = 3, **places: Any) -> Path:
    path = folder / f"{name}.pth"
    torch.save(build(name, outputs).module.state_dict(), path)
    return path


def trained(tiny: str, store: Path) -> Path:
    """Weights of the plainly trained network of the tiny suite."""
    bench = Places("cpu", store=store).workbench()
    request = Request(suite=tiny, detectors=("msp",))
    (subject,) = {cell.subject for cell in make_plan(request, bench, store / "none").cells}
    return bench.weights(subject.taught).path


def scores(results: Path) -> dict[tuple[str, str], np.ndarray]:
    found = {}
    for path in find_records(results):
        record = read_record(path)
        found[record["detector"], record["set"]] = read_arrays(path.with_suffix(".npz"))[0]
    return {key: arrays["scores"] for key, arrays in found.items()}


def test_a_users_copy_of_the_network_with_the_same_weights_has_the_same_scores(
    run: Any, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    weights = trained(tiny, shared_store)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert run("--detector", PLAIN, results=ours).code == 0
    brought = ("--model", f"{OWN}:Net", "--weights", weights)
    result = run("--detector", "all", *brought, "--json", results=theirs)
    assert result.code == 0, result.err
    expected, found = scores(ours), scores(theirs)
    assert set(expected) == set(found)
    assert len(found) == 10
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-6, atol=1e-6, err_msg=str(key))
    accuracies = {read_record(path)["accuracy"] for path in find_records(ours)}
    assert {record["accuracy"] for record in result.json} == accuracies
    assert {record["network"] for record in result.json} == {"own_networks:net"}
    assert {record["schedule"]["name"] for record in result.json} == {"given"}
    assert "left out, since a plainly trained network is not theirs: acet, atom" in result.err


def test_the_shipped_weights_of_mini_in_a_users_network_have_the_shipped_scores(
    tmp_path: Path,
) -> None:
    reference = shipped_results() / "mini"
    (weights,) = (reference / "weights" / "plain").glob("conv3-fast-0--*.safetensors")
    detectors = ("msp", "odin", "energy")
    evaluate(
        detectors,
        ood=["digits"],
        model=f"{OWN}:Net",
        weights=weights,
        device="cpu",
        results=tmp_path / "results",
        store=tmp_path / "store",
    )
    found = scores(tmp_path / "results")
    assert set(found) == {(name, "digits") for name in detectors}
    for name in detectors:
        (record,) = [
            path
            for path in (reference / name / "0" / "none").glob("digits--*.json")
            if read_record(path)["preset"] == "standard"
        ]
        arrays, _ = read_arrays(record.with_suffix(".npz"))
        # Stored on a machine whose convolutions round otherwise; the gate allows as much.
        np.testing.assert_allclose(found[name, "digits"], arrays["scores"], rtol=0, atol=1e-4)


def test_a_users_network_is_attacked_and_an_attack_never_helps_it(
    run: Any, tiny: str, shared_store: Path
) -> None:
    brought = ("--model", f"{OWN}:Net", "--weights", trained(tiny, shared_store))
    attacks = ("--attack", "none,linf", "--eps", "8/255", "--ood", "rings")
    result = run("--detector", "msp,mahalanobis_single", *attacks, *brought, "--json")
    assert result.code == 0, result.err
    figures = {(r["detector"], r["perturbation"]): r["auroc"] for r in result.json}
    for detector in ("msp", "mahalanobis_single"):
        assert figures[detector, "linf"] < figures[detector, "none"]


def test_weights_and_source_are_part_of_the_identity_and_the_file_is_not(
    tiny: str, tmp_path: Path
) -> None:
    def identity(model: Path, weights: Path) -> tuple[str, str]:
        (record,) = evaluate(
            "mahalanobis_single",
            suite=tiny,
            ood=["rings"],
            limit=4,
            model=f"{model}:Net",
            weights=weights,
            device="cpu",
            results=tmp_path / "results",
            store=tmp_path / "store",
        ).to_dict("records")
        return record["identity"], record["cell_key"]

    first = saved(tmp_path)
    state = torch.load(first)
    other, prefixed = tmp_path / "other.pth", tmp_path / "prefixed.pth"
    torch.save(state | {"head.bias": state["head.bias"] + 1}, other)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, prefixed)
    copy = tmp_path / "copy" / OWN.name
    copy.parent.mkdir()
    shutil.copy(OWN, copy)
    changed = tmp_path / "changed" / OWN.name
    changed.parent.mkdir()
    changed.write_text(OWN.read_text().replace("amax", "mean"))
    usual = identity(OWN, first)
    assert identity(OWN, prefixed) == usual
    assert identity(copy, first) == usual
    assert identity(OWN, other)[0] != usual[0]
    assert identity(changed, first)[0] != usual[0]
    assert identity(OWN, other)[1] == identity(changed, first)[1] == usual[1]
    # What Mahalanobis fitted belongs to what the source computes, not to the weights alone.
    assert len(list((tmp_path / "store").rglob("statistics/**/*.safetensors"))) == 3


@pytest.mark.parametrize("name", ["Net", "Untapped", "Flat", "Skipping", "InPlace", "wrapped"])
def test_a_wrapped_network_keeps_the_contract_of_a_network(name: str) -> None:
    check_network(network_class(f"{OWN}:{name}"))


@pytest.mark.parametrize("name", ["no_arguments", "with_keywords", "wrapped", "Net", "Flat"])
def test_a_factory_is_called_with_the_classes_as_it_takes_them(name: str) -> None:
    assert build(name)(pictures()).shape == (3, 3)


def test_without_taps_the_feature_is_what_the_last_linear_layer_is_given() -> None:
    network, images = build("Flat"), pictures()
    flat = network.module
    by_hand = flat.fc1(flat.conv(images).relu().flatten(1)).relu()
    maps, logits = network.tapped(images)
    assert network.taps == (PENULTIMATE,)
    assert torch.equal(maps[PENULTIMATE][:, :, 0, 0], by_hand)
    assert torch.equal(logits, flat.fc2(by_hand))


def test_a_tap_is_kept_as_it_was_before_the_next_layer_wrote_over_it() -> None:
    network, images = build("InPlace"), pictures()
    maps, _ = network.tapped(images)
    assert torch.equal(maps["norm"], network.module.norm(network.module.conv(images)))
    assert float(maps["norm"].amin().detach()) < 0


def test_the_copy_for_searching_computes_the_same_whatever_is_folded() -> None:
    for name, folds in (("Net", True), ("Skipping", False)):
        network, images = build(name), pictures()
        with torch.no_grad():
            before, _ = network.tapped(images)
            logits = network(images)
            quick = network.for_search()
            np.testing.assert_allclose(quick(images), logits, rtol=1e-4, atol=1e-4)
            for tap, value in quick.tapped(images)[0].items():
                np.testing.assert_allclose(value, before[tap], rtol=1e-4, atol=1e-4)
        norms = [module for module in quick.modules() if isinstance(module, nn.BatchNorm2d)]
        assert bool(norms) != folds


@pytest.mark.parametrize(("name", "quick"), [("Net", True), ("Flat", False)])
def test_the_order_in_memory_is_one_in_which_the_network_works(
    name: str, quick: bool, files: dict[str, Path]
) -> None:
    weights = {"Net": files["good"], "Flat": files["flat"]}[name]
    kind = network_class(f"{OWN}:{name}")
    given_network(f"{OWN}:{name}", 3, weights, pictures())
    assert (kind.memory_format == torch.channels_last) == quick
    built = build(name)
    expected = built.module(pictures()).detach()
    found = Backbone(built, 3).tapped(pictures())[1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_tensors_in_other_wrappings_and_types_are_read_alike(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = build("Net").module.state_dict()
    forms = {
        "plain": state,
        "nested": {"optimizer": {"lr": 1}, "model": state},
        "one_of_a_name": {"epoch": 1, "ema": dict(state)},
    }
    for name, form in forms.items():
        torch.save(form, tmp_path / name)
    save_file(state, tmp_path / "by_content_not_by_name.pth")
    for path in tmp_path.iterdir():
        found = read_weights(path)
        assert set(found) == set(state)
        assert all(torch.equal(found[key], value) for key, value in state.items())


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/oodbench-was-here"),)


BAD = {
    "no colon": ("mynet", "{good}", "write MODULE:FACTORY"),
    "no such module": ("no_such_module:make", "{good}", "No module named 'no_such_module'"),
    "no such file": ("./nope.py:make", "{good}", "no file ./nope.py"),
    "no such factory": ("{own}:Nett", "{good}", "has no Nett; did you mean Net?"),
    "an instance": ("{own}:INSTANCE", "{good}", "INSTANCE is Net; name a function or class"),
    "a factory that fails": ("{own}:fails", "{good}", "cannot make a network: RuntimeError"),
    "a factory of something else": ("{own}:a_number", "{good}", "gives int; it must give"),
    "taps that are none": ("{own}:bad_taps", "{good}", "there is no block9"),
    "ten outputs": ("{own}:ten", "{ten}", "has 10 outputs; the suite has 3 classes"),
    "other images": ("{own}:Wants64", "{flat}", "does not take images [4, 3, 32, 32]"),
    "random": ("{own}:Random", "{good}", "other logits the second time"),
    "batches that mix": ("{own}:Batchwise", "{good}", "other logits in another batch"),
    "taps that do not run": ("{own}:Untouched", "{good}", "block3, a tap of the network, did not"),
    "maps for logits": ("{own}:Maps", "{good}", "gives [4, 16, 16, 16] for 4 images"),
    "no weights": ("{own}:Net", None, "needs --weights FILE"),
    "missing weights": ("{own}:Net", "{folder}/nope", "No such file or directory"),
    "a text for weights": ("{own}:Net", "{own}", "it is no file of weights"),
    "code for weights": ("{own}:Net", "{evil}", "holds more than tensors"),
    "no tensors": ("{own}:Net", "{empty}", "no state_dict in it; it holds epoch"),
    "weights of another": (
        "{own}:Net",
        "{flat}",
        "17 missing: block1.0.weight, block1.1.weight, block1.1.bias, …; 6 unexpected: conv.weight",
    ),
    "weights of another size": (
        "{own}:Net",
        "{ten}",
        "head.weight is [10, 64] in place of [3, 64]",
    ),
    "weights that are not finite": ("{own}:Net", "{nan}", "logits that are not finite"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    good, flat = saved(folder), saved(folder, "Flat")
    evil, empty, nan = folder / "evil", folder / "empty", folder / "nan"
    torch.save({"state_dict": _Evil()}, evil)
    torch.save({"epoch": 1}, empty)
    state = torch.load(good)
    torch.save(state | {"head.bias": state["head.bias"] / 0}, nan)
    ten = saved(folder, "ten", 10)
    return {"own": OWN, "good": good, "flat": flat, "ten": ten, "evil": evil, "empty": empty} | {
        "nan": nan,
        "folder": folder,
    }


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_network_is_told_in_one_line_and_leaves_nothing(
    case: str, run: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    model, weights, message = BAD[case]
    arguments = ["--model", model.format(**files)]
    arguments += [] if weights is None else ["--weights", weights.format(**files)]
    result = run("--detector", "msp", *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("oodbench: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert not (tmp_path / "results").exists()
    assert not Path("/tmp/oodbench-was-here").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--detector msp,oe", "oe needs a network taught in another way"),
        ("--detector energy_finetuned", "energy_finetuned needs a network taught"),
        ("--detector oe,atom", "oe, atom need a network taught in another way"),
        ("--detector {plugins}/mine.py", "mine needs a network taught in another way"),
        ("--detector msp --network conv3", "both name the network"),
        ("--detector msp --schedule fast", "--schedule fast: weights that are given are not"),
        ("--detector msp --retrain", "--retrain: weights that are given are not trained"),
        ("--detector msp --seed 0,1", "--seed 0,1: weights that are given are not trained"),
    ],
)
def test_what_a_given_network_cannot_have_is_refused(
    options: str, message: str, run: Any, plugins: Path, files: dict[str, Path]
) -> None:
    brought = ("--model", f"{OWN}:Net", "--weights", files["good"])
    result = run(*options.format(plugins=plugins).split(), *brought)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_detector_whose_recipe_lacks_a_value_for_the_suite_is_not_of_a_plain_network(
    tiny: str, files: dict[str, Path], tmp_path: Path
) -> None:
    bench = Places("cpu", store=tmp_path).workbench()
    # As ccu's does for any suite that does not say how many components there are.
    bench.suite(tiny).published["ccu"].clear()
    request = Request(suite=tiny, model=f"{OWN}:Net", weights=str(files["good"]))
    plan = make_plan(request, bench, tmp_path / "results")
    assert {cell.subject.detector.name for cell in plan.cells} == set(PLAIN.split(","))


def test_a_detector_of_a_users_own_takes_a_users_network(
    run: Any, plugins: Path, files: dict[str, Path]
) -> None:
    brought = ("--model", f"{OWN}:Net", "--weights", files["good"])
    result = run("--detector", plugins / "bright.py", "--ood", "rings", *brought, "--json")
    assert result.code == 0, result.err


def test_weights_alone_go_into_the_suites_network(
    run: Any, tiny: str, shared_store: Path, tmp_path: Path
) -> None:
    weights = trained(tiny, shared_store)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert run("--detector", "msp", results=ours).code == 0
    result = run("--detector", "msp", "--weights", weights, "--json", results=theirs)
    assert result.code == 0, result.err
    assert {record["network"] for record in result.json} == {"conv3"}
    expected, found = scores(ours), scores(theirs)
    assert all(np.array_equal(found[key], values) for key, values in expected.items())


def test_a_module_beside_the_working_folder_is_found(
    monkeypatch: pytest.MonkeyPatch, in_folder: Path
) -> None:
    monkeypatch.syspath_prepend("/nowhere")
    (in_folder / "a_users_net.py").write_text(OWN.read_text())
    assert network_class("a_users_net:Net").__name__ == "a_users_net:Net"


def test_the_network_of_the_documentation_works(run: Any, in_folder: Path) -> None:
    text = (ROOT / "docs" / "own_network.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(# mynet.py\n.*?)```", text, re.DOTALL)
    (in_folder / "mynet.py").write_text(source, encoding="utf-8")
    made = initialised(network_class("mynet:Net"), 3, 0)
    torch.save(made.module.state_dict(), in_folder / "mynet.pth")
    brought = ("--model", "mynet:Net", "--weights", "mynet.pth")
    result = run("--detector", "msp,mahalanobis", "--ood", "rings", *brought, "--json")
    assert result.code == 0, result.err
    assert [record["network"] for record in result.json] == ["mynet:net"] * 2


def test_only_a_colon_before_a_name_makes_a_factory() -> None:
    assert all(map(is_factory, ["a.b:c", "./x.py:make", "C:/x.py:make", "a:Net.make"]))
    assert not any(map(is_factory, ["conv3", "./x.py", "C:/x.py", "C:\\x.py", ":x", "x:", ""]))


def test_work_on_a_users_network_can_be_sent_to_another_process(
    tiny: str, files: dict[str, Path], tmp_path: Path
) -> None:
    import pickle

    bench = Places("cpu", store=tmp_path).workbench()
    chosen = partial(Request, suite=tiny, detectors=("msp",), model=f"{OWN}:Net")
    plan = make_plan(chosen(weights=str(files["good"])), bench, tmp_path / "results")
    assert pickle.loads(pickle.dumps(plan.cells)) == plan.cells
    with pytest.raises(RequestError, match=re.escape("needs --weights")):
        make_plan(chosen(), bench, tmp_path / "results")
