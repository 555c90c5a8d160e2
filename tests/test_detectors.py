"""Detectors against the published formulas, scikit-learn and SciPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from oodbench.class_gaussians import fit_class_gaussians
from oodbench.datasets.mini import Mini
from oodbench.detector import Detector, FitData, detached_sign_step
from oodbench.detectors.atom import ATOM
from oodbench.detectors.energy import Energy
from oodbench.detectors.energy_finetuned import EnergyFinetuned
from oodbench.detectors.mahalanobis import Mahalanobis, _logistic
from oodbench.detectors.msp import MSP
from oodbench.detectors.odin import ODIN
from oodbench.detectors.oe import OE
from oodbench.detectors.rowl import ROWL
from oodbench.detectors.sofl import SelfLabelledOutliers
from oodbench.errors import ConformanceError
from oodbench.images import ArrayImages
from oodbench.metrics import at_threshold, fpr95
from oodbench.model import Backbone, Model
from oodbench.networks.conv3 import Conv3
from oodbench.recipe import Recipe
from oodbench.registry import entries
from oodbench.schedule import Schedule
from oodbench.scores import tempered_max_probability
from oodbench.subject import Shown, judged
from oodbench.threat import to_float
from oodbench.trainer import TrainingRequest, build, train

CPU = torch.device("cpu")
NOWHERE = Path("/nowhere")
SUITE = Mini()
BRIEF = Schedule(epochs=3, policy="one_cycle", crop_padding=0)
# The outlier term of SOFL weighs five times that of others: within a few steps at the full rate
# all features of most images die.
GENTLE = replace(BRIEF, learning_rate=0.03)
NAMES = sorted(entries("detectors"))


@cache
def pixels(name: str, split: str, count: int, first: int = 0) -> Tensor:
    images = SUITE.image_set(name).open(split, NOWHERE)
    chosen = np.arange(first, len(images), len(images) // count)[:count]
    return torch.from_numpy(images.batch(chosen))


@cache
def known(split: str, count: int) -> tuple[Tensor, Tensor]:
    images = SUITE.image_set("pictures").open(split, NOWHERE)
    chosen = np.arange(0, len(images), len(images) // count)[:count]
    assert images.labels is not None
    return torch.from_numpy(images.batch(chosen)), torch.from_numpy(images.labels[chosen])


def request(recipe: Recipe) -> TrainingRequest:
    """A training for a second or two, on an eighth of the images."""
    images, labels = known("train", 300)
    data = ArrayImages(images.numpy(), [str(i) for i in range(300)], labels.numpy())
    pool = ArrayImages(pixels("outliers", "train", 600).numpy(), [str(i) for i in range(600)])
    start = None if recipe.start_from is None else weights(recipe.start_from)
    schedule = GENTLE if isinstance(recipe, SelfLabelledOutliers) else BRIEF
    return TrainingRequest(recipe, schedule, Conv3, 8, 0, data, pool, start)


@cache
def weights(recipe: Recipe) -> dict[str, Tensor]:
    return train(request(recipe), CPU).tensors()


def backbone(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Backbone:
    trained, _ = build(request(recipe), CPU)
    trained.load_tensors(weights(recipe))
    return Backbone(trained.network, 8, trained.modules, dtype)


def detector(name: str) -> Detector:
    instance = entries("detectors")[name].load()(**SUITE.published.get(name, {}))
    assert isinstance(instance, Detector)
    if isinstance(instance, Mahalanobis):
        return replace(instance, samples=60)
    return instance


def fit_data(plugin: Detector, count: int = 300) -> FitData:
    images, labels = known("train", count)
    return FitData(
        images,
        labels if plugin.needs_labels else None,
        pixels("outliers", "train", 300) if plugin.needs_pool else None,
        seed=0,
        batch_size=100,
    )


@cache
def state(name: str) -> dict[str, Tensor]:
    plugin = detector(name)
    return plugin.fit(Model(backbone(plugin.recipe)), fit_data(plugin))


def model(name: str, dtype: torch.dtype = torch.float32) -> Model:
    return Model(backbone(detector(name).recipe, dtype), state(name))


def test_images() -> Tensor:
    sets = [known("test", 128)[0], *(pixels(name, "test", 125) for name in SUITE.ood_sets)]
    return torch.cat(sets)


test_images.__test__ = False  # type: ignore[attr-defined]


# All that are registered


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_distinct_in_float32_and_all_of_them_in_float64(name: str) -> None:
    plugin, images = detector(name), test_images()
    single = judged(plugin.score, model(name), Shown.of(images))
    assert len(single.unique()) >= 0.995 * len(images)
    with torch.no_grad():
        double = plugin.score(model(name, torch.float64), to_float(images).double())
    assert len(double.unique()) == len(images)
    # Where both say that one image is more OOD than another they agree on which.
    assert np.corrcoef(single.double().argsort().argsort(), double.argsort().argsort())[0, 1] > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_directional_derivatives_equal_central_differences_in_float64(name: str) -> None:
    plugin, double = detector(name), model(name, torch.float64)
    images = torch.cat([known("test", 8)[0], pixels("flower", "test", 8)])
    rng = torch.Generator().manual_seed(0)
    # Off the grid: equal pixels side by side tie in max pooling, a kink at the image itself.
    jitter = torch.rand(images.shape, generator=rng, dtype=torch.float64) / 500
    inputs = to_float(images).double() + jitter
    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plugin.score(double, leaf).sum(), leaf)
    compared = 0
    for _ in range(12):
        direction = torch.randn(inputs.shape, generator=rng, dtype=torch.float64)
        direction /= direction.flatten(1).norm(dim=1)[:, None, None, None]
        exact = (gradient * direction).flatten(1).sum(1)
        estimates, bends = [], []
        for size in (1e-5, 3e-6):
            with torch.no_grad():
                here, ahead, behind = (
                    plugin.score(double, inputs + step * direction) for step in (0, size, -size)
                )
            estimates.append((ahead - behind) / (2 * size))
            bends.append((ahead - 2 * here + behind).abs() / size)
        scale = 1e-3 + gradient.flatten(1).norm(dim=1)
        # Two sizes that disagree have a kink between them: ReLU, a maximum, a sign. So has an image
        # where the two sides disagree, however small the step: curvature would fall with it.
        smooth = (estimates[0] - estimates[1]).abs() < 1e-5 * scale
        smooth &= bends[1] < 0.5 * bends[0] + 1e-6 * scale
        compared += int(smooth.sum())
        assert bool(((exact - estimates[0]).abs()[smooth] < 1e-4 * scale[smooth]).all())
    assert compared >= 0.3 * 12 * 16
    assert bool((gradient.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_score_of_an_image_does_not_depend_on_the_batch(name: str) -> None:
    plugin, target, images = detector(name), model(name), test_images()[::8]
    whole = judged(plugin.score, target, Shown.of(images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert torch.equal(judged(plugin.score, target, Shown.of(images[order])), whole[order])
    for rows in ([0], [5, 1], list(range(20))):
        assert torch.equal(judged(plugin.score, target, Shown.of(images[rows])), whole[rows])


# ROWL was published as a decision, and CCU without the densities of its score.
OTHERWISE_PUBLISHED = {"rowl", "ccu"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERWISE_PUBLISHED])
def test_published_score_and_score_rank_alike_in_float64(name: str) -> None:
    plugin, double = detector(name), model(name, torch.float64)
    published = plugin.published_score()
    if published is None:
        pytest.skip("it is the score itself")
    images = to_float(test_images()[::3]).double()
    with torch.no_grad():
        ours, theirs = plugin.score(double, images), published(double, images).double()
    apart = (theirs[:, None] - theirs) > 1e-7  # published in float32 in places
    assert apart.float().mean() > 0.2
    assert bool((ours[:, None] > ours)[apart].all())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rowl"])
def test_predictions_are_the_likeliest_of_the_known_classes(name: str) -> None:
    plugin, target = detector(name), model(name)
    images = to_float(test_images()[::8])
    with torch.no_grad():
        expected = target.logits(images)[:, :8].argmax(1)
        assert torch.equal(plugin.predict(target, images), expected)


def test_rowl_rejects_where_background_is_the_likeliest_class_and_predicts_it() -> None:
    plugin = ROWL(background=0.1)
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(200, 4, generator=rng)
    z[0] = torch.tensor([0.0, 1.0, 0.0, 1.0])  # a tie is no rejection
    given: Any = Sharp(z, classes=3)
    likeliest = z.argmax(1)
    assert torch.equal(plugin.predict(given, z), likeliest)
    assert plugin.decision == 0.0
    rejected = plugin.score(given, z) > plugin.decision
    assert torch.equal(rejected, likeliest == 3)
    assert 20 < rejected.sum() < 180


def test_the_figures_of_a_decision_are_those_of_scikit_learn_on_the_binary_scores() -> None:
    plugin, target = detector("rowl"), model("rowl")
    with torch.no_grad():
        ours = plugin.score(target, to_float(known("test", 128)[0])).numpy()
        theirs = plugin.score(target, to_float(pixels("flower", "test", 125))).numpy()
    figures = at_threshold(ours, theirs, 0.0)
    labels = np.repeat([0, 1], [len(ours), len(theirs)])
    binary = np.concatenate([ours, theirs]) > 0
    assert figures["auroc"] == pytest.approx(roc_auc_score(labels, binary), abs=1e-12)
    assert figures["auroc"] == pytest.approx(1 - (figures["fpr"] + figures["fnr"]) / 2, abs=1e-12)
    assert figures["fnr"] == np.mean(ours > 0)
    assert figures["fpr"] == np.mean(theirs <= 0)


def test_energy_is_minus_t_times_the_log_sum_of_exponentials() -> None:
    given: Any = Sharp(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    for temperature in (1.0, 2.5):
        z = given.logits_given.double().numpy() / temperature
        expected = -temperature * np.log(np.exp(z).sum(1))
        ours = Energy(temperature=temperature).score(given, given.logits_given)
        assert np.allclose(ours.numpy(), expected, atol=1e-6)
        tuned = EnergyFinetuned(temperature=temperature)
        assert torch.equal(tuned.score(given, given.logits_given), ours)


def test_a_single_layer_is_the_last_layer_of_the_ensemble_before_its_weights() -> None:
    plugin, target = detector("mahalanobis_single"), model("mahalanobis_single")
    ensemble = model("mahalanobis")
    images = to_float(test_images()[::9])
    with torch.no_grad():
        ours = plugin.score(target, images)
        layers = detector("mahalanobis")._distances(ensemble, images, 0.0)  # type: ignore[attr-defined]
    assert torch.allclose(ours, -layers[:, -1], rtol=1e-9)
    assert (ours >= 0).all()
    assert set(target.state) == {"block3.centres", "block3.whitening"}


# Softmax scores


@pytest.mark.parametrize("name", ["msp", "oe", "atom"])
def test_the_score_is_the_log_odds_of_the_published_probability(name: str) -> None:
    plugin, double = detector(name), model(name, torch.float64)
    images = to_float(test_images()[::3]).double()
    with torch.no_grad():
        p = double.logits(images).softmax(1)
        ours = plugin.score(double, images)
    if name == "atom":
        assert p.shape[1] == 9
        expected = (p[:, 8] / p[:, :8].sum(1)).log()
    else:
        top = p.argmax(1)
        others = p.scatter(1, top[:, None], 0.0).sum(1)
        expected = (others / p.amax(1)).log()
    assert torch.allclose(ours, expected, atol=1e-9)


@dataclass(frozen=True)
class Sharp:
    """In place of a model: its logits are given."""

    logits_given: Tensor
    classes: int = 3

    def logits(self, images: Tensor) -> Tensor:
        return self.logits_given


def test_published_objectives_are_the_surrogates_of_the_published_attack() -> None:
    z = torch.tensor([[10.0, 10.0, *[0.0] * 8], [4.0, *[0.0] * 9]])
    given: Any = Sharp(z, classes=9)
    for plugin in (MSP(), OE(), ODIN(noise=0.0)):
        objective = plugin.published_objective()
        assert objective(given, z).tolist() == pytest.approx([-8.69, -3.75], abs=0.01)
    reject = ATOM(quantile=0.0).published_objective()(given, z)
    assert reject.tolist() == pytest.approx(F.log_softmax(z, 1)[:, 9].tolist())


def test_the_published_objective_of_atom_is_blind_where_the_detector_is_surest() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0, 18.0], [0.0, 0.0, 0.0, 40.0]])
    given: Any = Sharp(z)
    assert (ATOM(quantile=0.0).published_objective()(given, z) == 0).all()
    assert len(ATOM(quantile=0.0).score(given, z).unique()) == 2
    assert len(ATOM(quantile=0.0).published_score()(given, z).unique()) == 1


# ODIN


@pytest.mark.parametrize(("temperature", "noise"), [(1000.0, 0.0016), (10.0, 0.01), (1.0, 0.0)])
def test_odin_equals_the_computation_by_hand(temperature: float, noise: float) -> None:
    double = model("odin", torch.float64)
    images = to_float(test_images()[::16]).double()
    network = double.backbone.network
    leaf = images.clone().requires_grad_()
    z = network(leaf) / temperature
    loss = F.cross_entropy(z, z.argmax(1))  # averaged as published; the sign is the same
    (gradient,) = torch.autograd.grad(loss, leaf)
    moved = images - noise * ((gradient >= 0).double() * 2 - 1)
    with torch.no_grad():
        p = (network(moved) / temperature).softmax(1).amax(1)
        ours = ODIN(temperature, noise).score(double, images)
    expected = temperature * ((1 - p) / (7 * p)).log()
    assert torch.allclose(ours, expected, atol=1e-6 * max(1.0, temperature / 100))
    if noise:
        assert float(moved.min()) < 0 or float(moved.max()) > 1  # not clipped


def test_odin_raises_confidence_and_counts_a_zero_gradient_as_positive() -> None:
    def flat_on_the_left(model: Model, x: Tensor) -> Tensor:
        return (x[..., 4:] * torch.tensor([1.0, -1.0, 2.0, -2.0])).sum((1, 2, 3))

    images = torch.full((2, 3, 8, 8), 0.001)
    images[..., 4:] = 0.999
    moved = detached_sign_step(flat_on_the_left, None, images, 0.01)  # type: ignore[arg-type]
    expected = torch.tensor([-0.01] * 4 + [-0.01, 0.01, -0.01, 0.01])
    assert torch.allclose(moved - images, expected.expand_as(images), atol=1e-7)
    assert moved.min() < 0
    assert moved.max() > 1
    double = model("odin", torch.float64)
    inputs = to_float(test_images()[::16]).double()
    with torch.no_grad():
        before = ODIN(noise=0.0).score(double, inputs)
        after = ODIN(noise=0.002).score(double, inputs)
    assert (after < before).double().mean() > 0.9


def test_the_gradient_of_odin_takes_the_shift_for_a_constant() -> None:
    double = model("odin", torch.float64)
    inputs = to_float(test_images()[::40]).double()
    plugin = ODIN(noise=0.0016)
    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plugin.score(double, leaf).sum(), leaf)
    with torch.no_grad():
        moved = plugin._preprocessed(double, inputs)
    at = moved.clone().requires_grad_()
    value = tempered_max_probability(double.backbone.network(at), 1000.0)
    (expected,) = torch.autograd.grad(value.sum(), at)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_odin_without_noise_for_the_suite_is_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        ODIN().score(model("odin"), torch.rand(2, 3, 32, 32))
    for wrong in ({"temperature": 0.0}, {"temperature": float("nan")}, {"noise": -0.1}):
        with pytest.raises(ValueError, match="must"):
            ODIN(**wrong)


def test_atom_refuses_quantiles_that_leave_less_than_a_quarter() -> None:
    for quantile in (-0.01, 0.76, 1.0):
        with pytest.raises(ValueError, match="quantile"):
            ATOM(quantile=quantile)
    with pytest.raises(ValueError, match="quantile"):
        _ = ATOM().recipe
    assert ATOM(quantile=0.75).recipe.outputs(8) == 9


# Mahalanobis


def pooled(target: Model, images: Tensor, tap: str) -> np.ndarray:
    with torch.no_grad():
        maps, _ = target.backbone.network.tapped(to_float(images))
    return maps[tap].double().mean((2, 3)).numpy()


@pytest.mark.parametrize("tap", Conv3.taps)
def test_distances_equal_scikit_learn_and_scipy(tap: str) -> None:
    target = model("mahalanobis")
    images, labels = known("train", 300)
    features = pooled(target, images, tap)
    y = labels.numpy()
    means = np.stack([features[y == k].mean(0) for k in range(8)])
    assert np.allclose(target.state[f"{tap}.centres"].numpy(), means, atol=1e-9)
    fitted = EmpiricalCovariance().fit(features - means[y])
    ours = detector("mahalanobis")._distances(target, to_float(test_images()[::5]), 0.0)
    ours = ours.numpy()[:, Conv3.taps.index(tap)]
    tested = pooled(target, test_images()[::5], tap)
    by_class = np.stack([fitted.mahalanobis(tested - mean) for mean in means], 1)
    assert np.allclose(ours, -0.5 * by_class.min(1), rtol=1e-6)
    precision = fitted.get_precision()
    for row in range(0, len(tested), 17):
        nearest = min(mahalanobis(tested[row], mean, precision) for mean in means)
        assert ours[row] == pytest.approx(-0.5 * nearest**2, rel=1e-6)


def test_a_distance_is_never_positive_and_all_statistics_are_float64() -> None:
    target, plugin = model("mahalanobis"), detector("mahalanobis")
    assert {value.dtype for value in target.state.values()} == {torch.float64}
    images = torch.cat([test_images(), known("train", 300)[0]])
    with torch.no_grad():
        for noise in (0.0, 0.01):
            assert (plugin._distances(target, to_float(images), noise) <= 0).all()
        assert plugin.score(target, to_float(images)).dtype == torch.float64


def test_a_degenerate_covariance_is_inverted_on_its_range_alone() -> None:
    target = Model(backbone(MSP().recipe))
    with torch.no_grad():  # two equal channels and a dead one in the first layer
        conv, norm = target.backbone.network.block1[0], target.backbone.network.block1[1]
        for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor[1] = tensor[0]
        norm.weight[2] = norm.bias[2] = 0.0
    plugin = detector("mahalanobis")
    fitted = fit_class_gaussians(target, fit_data(plugin), target.taps)
    assert fitted["block1.whitening"].shape[1] <= 14
    assert all(value.isfinite().all() for value in fitted.values())
    features = pooled(target, known("train", 300)[0], "block1")
    y = known("train", 300)[1].numpy()
    means = np.stack([features[y == k].mean(0) for k in range(8)])
    inverse = np.linalg.pinv(np.cov((features - means[y]).T, bias=True), rcond=1e-9, hermitian=True)
    whitening = fitted["block1.whitening"].numpy()
    assert np.allclose(whitening @ whitening.T, inverse, rtol=1e-4, atol=1e-4 * abs(inverse).max())


def test_input_noise_and_weights_of_the_layers_are_those_of_the_documented_fit() -> None:
    plugin, target = detector("mahalanobis"), model("mahalanobis")
    assert isinstance(plugin, Mahalanobis)
    from oodbench.randomness import generator

    images, labels = known("train", 300)
    order = generator(0, "mahalanobis/samples").permutation(300)[:120]
    clean, truth = to_float(images[order]), labels[order]
    leaf = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(target.logits(leaf), truth), leaf)
    attacked = (clean + 0.05 * gradient.sign()).clamp(0, 1)
    errors = {}
    for noise in plugin.noises:
        with torch.no_grad():
            a = plugin._distances(target, clean, noise).numpy()
            b = plugin._distances(target, attacked, noise).numpy()
        weights, bias = _logistic(a[:60], b[:60])
        errors[noise] = (fpr95(a[60:] @ weights + bias, b[60:] @ weights + bias), weights, bias)
    best = min(plugin.noises, key=lambda noise: errors[noise][0])
    assert float(target.state["noise"]) == best
    assert np.allclose(target.state["weights"].numpy(), errors[best][1], rtol=1e-6)
    assert float(target.state["bias"]) == pytest.approx(errors[best][2], rel=1e-6)


class Rigged(Mahalanobis):
    """One noise separates what the regression is fitted on, the other what it is held out on."""

    def _with_fgsm_copies(self, model: Model, data: FitData, indices: Any) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(indices)), torch.ones(len(indices))

    def _all_distances(self, model: Model, images: Tensor, noise: float, size: int) -> np.ndarray:
        rng = np.random.default_rng(int(1e4 * noise) + int(images[0]))
        half, copies = len(images) // 2, bool(images[0])
        gaps = (3.0, 0.2) if noise == 0.1 else (1.0, 3.0)  # on the first half, on the second
        shift = np.repeat(gaps, half) * copies
        return (rng.normal(size=2 * half) - 10 + shift)[:, None]


def test_input_noise_is_judged_on_images_that_the_regression_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "oodbench.detectors.mahalanobis.fit_class_gaussians", lambda model, data, taps: {}
    )
    data = FitData(torch.zeros(400, 3, 2, 2).byte(), None, None, 0)
    fitted = Rigged(noises=(0.1, 0.2), samples=200).fit(Model(backbone(MSP().recipe)), data)
    assert float(fitted["noise"]) == 0.2


def test_input_noise_moves_each_layer_towards_its_nearest_class() -> None:
    plugin, target = detector("mahalanobis"), model("mahalanobis", torch.float64)
    assert isinstance(plugin, Mahalanobis)
    images = to_float(test_images()[::40]).double()
    with torch.no_grad():
        ours = plugin._distances(target, images, 0.002)
        plain = plugin._distances(target, images, 0.0)
    assert (ours > plain).double().mean() > 0.9
    for column, tap in enumerate(Conv3.taps):
        leaf = images.clone().requires_grad_()
        f = target.backbone.network.tapped(leaf)[0][tap].mean((2, 3))
        white, means = target.state[f"{tap}.whitening"], target.state[f"{tap}.centres"]
        precision = white @ white.T
        gaps = f[:, None] - means
        quadratic = 0.5 * torch.einsum("nci,ij,ncj->nc", gaps, precision, gaps)
        closest = quadratic.argmin(1, keepdim=True)
        (gradient,) = torch.autograd.grad(quadratic.gather(1, closest).sum(), leaf)
        moved = images - 0.002 * torch.where(gradient >= 0, 1.0, -1.0)
        with torch.no_grad():
            f = target.backbone.network.tapped(moved)[0][tap].mean((2, 3))
            gaps = f[:, None] - means
            expected = -0.5 * torch.einsum("nci,ij,ncj->nc", gaps, precision, gaps).amin(1)
        same = torch.isclose(ours[:, column], expected, rtol=1e-5)
        # A gradient that is zero up to rounding may fall on either side.
        assert same.double().mean() >= 0.9


def test_the_weights_are_a_logistic_regression_on_standardised_distances() -> None:
    rng = np.random.default_rng(0)
    ours = -rng.gamma(2.0, [1.0, 50.0, 3.0], (80, 3))
    theirs = -rng.gamma(3.0, [1.3, 60.0, 3.0], (80, 3))
    weights, bias = _logistic(ours, theirs)
    both = np.concatenate([ours, theirs])
    truth = np.repeat([0, 1], 80)
    scaler = StandardScaler().fit(both)
    candidates = [
        LogisticRegression(C=c)
        .fit(scaler.transform(both), truth)
        .decision_function(scaler.transform(both))
        for c in np.logspace(-4, 4, 10)
    ]
    mine = both @ weights + bias
    assert min(np.abs(mine - candidate).max() for candidate in candidates) < 1e-6
    assert mine[80:].mean() > mine[:80].mean()


class Steep(Mahalanobis):
    """The log-odds are a number times the mean of the image."""

    def _distances(self, model: Model, images: Tensor, noise: float) -> Tensor:
        return images.double().mean((1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("log_odds", "moves"),
    [(0.0, True), (10.0, True), (17.5, True), (50.0, True), (100.0, True), (105.0, False)],
)
def test_the_published_objective_of_mahalanobis_loses_its_gradient_beyond_103_only(
    log_odds: float, moves: bool
) -> None:
    given: Any = type("State", (), {})()
    given.state = {
        "weights": torch.tensor([1.0], dtype=torch.float64),
        "bias": torch.tensor(log_odds - 0.5, dtype=torch.float64),
    }
    images = torch.full((1, 3, 1, 1), 0.5, requires_grad=True)
    objective = Steep().published_objective()
    value = objective(given, images)
    (gradient,) = torch.autograd.grad(value.sum(), images)
    assert bool((gradient != 0).all()) is moves
    p = 1 / (1 + np.exp(-log_odds))
    expected = -np.log1p(np.exp((1 - p) - p))
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert -1.32 < value.item() < -0.31


# Fitting


def test_what_a_detector_does_not_declare_it_cannot_read() -> None:
    images, labels = known("train", 300)
    data = FitData(images, None, None, 0)
    assert torch.equal(data.images, images)
    with pytest.raises(ConformanceError, match="needs_labels"):
        _ = data.labels
    with pytest.raises(ConformanceError, match="needs_pool"):
        _ = data.pool
    with pytest.raises(ConformanceError):
        detector("mahalanobis").fit(Model(backbone(MSP().recipe)), data)
    assert torch.equal(FitData(images, labels, images, 0).pool, images)


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_gives_the_same(name: str) -> None:
    plugin = detector(name)
    again = plugin.fit(Model(backbone(plugin.recipe)), fit_data(plugin))
    first = state(name)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], value) for key, value in first.items())
