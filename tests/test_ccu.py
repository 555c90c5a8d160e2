"""CCU and its mixtures against SciPy, scikit-learn and hand calculation."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from oodbench.detectors.ccu import (
    CCU,
    Densities,
    DensityAware,
    class_log_probabilities,
    excess_log_odds,
)
from oodbench.detectors.msp import MSP
from oodbench.identity import parameters
from oodbench.images import ArrayImages
from oodbench.mixtures import ImageMetric, SphericalMixture
from oodbench.model import Backbone, Model
from oodbench.networks.conv3 import Conv3
from oodbench.plugins import PluginSpec, resolved
from oodbench.progress import Progress
from oodbench.recipe import Batch
from oodbench.schedule import Schedule
from oodbench.trainer import TrainingRequest, build, train
from oodbench.training import DeviceImages
from oodbench.views import suite_called

CPU = torch.device("cpu")
FAST = Schedule(epochs=2, learning_rate=0.05, batch_size=8, crop_padding=0)
SIDE = 8
D = 3 * SIDE * SIDE


def smooth(count: int, seed: int, level: float) -> np.ndarray:
    """Pictures whose pixels go together, as those of photographs do; uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    slopes = rng.normal(0, 40, (count, 3, 1, 1)) * x + rng.normal(0, 40, (count, 3, 1, 1)) * y
    noise = rng.normal(0, 6, (count, 3, SIDE, SIDE))
    return (level + slopes + noise).clip(0, 255).astype(np.uint8)


def sets() -> tuple[ArrayImages, ArrayImages]:
    labels = np.arange(150) % 3
    ours = ArrayImages(smooth(150, 0, 90), [str(i) for i in range(150)], labels)
    return ours, ArrayImages(smooth(120, 1, 170), [str(i) for i in range(120)])


def floats(pixels: Any) -> Tensor:
    return torch.from_numpy(np.asarray(pixels, np.float32) / 255)


DETECTOR = CCU(components=4, directions=5)


@cache
def request() -> TrainingRequest:
    images, pool = sets()
    return TrainingRequest(DETECTOR.recipe, FAST, Conv3, 3, 0, images, pool)


@cache
def trained() -> dict[str, Tensor]:
    return train(request(), CPU).tensors()


def model(detector: CCU = DETECTOR) -> Model:
    built, _ = build(replace(request(), recipe=detector.recipe), CPU)
    built.load_tensors(trained())
    return Model(Backbone(built.network, 3, built.modules))


def densities() -> Densities:
    found = model().modules["densities"]
    assert isinstance(found, Densities)
    return found


@cache
def metric(directions: int = 5) -> ImageMetric:
    made = ImageMetric(directions, D)
    made.fit(smooth(150, 0, 90).reshape(150, D) / 255.0, seed=0)
    return made


def matrix(of: ImageMetric, power: float) -> np.ndarray:
    """T² or its inverse as a full matrix: the kept directions, and the rest alike."""
    basis, deviations, rest = (v.double().numpy() for v in (of.basis, of.deviations, of.rest))
    others = np.eye(D) - basis.T @ basis
    result: np.ndarray = (
        basis.T @ np.diag(deviations**power) @ basis + others * float(rest) ** power
    )
    return result


def test_the_metric_scales_principal_components_by_the_root_of_their_deviation() -> None:
    flat = smooth(150, 0, 90).reshape(150, D) / 255.0
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    kept, rest = values[::-1][:5], values[::-1][5:]
    assert np.allclose(metric().deviations.numpy(), np.sqrt(kept), rtol=1e-3)
    assert float(metric().rest) == pytest.approx(math.sqrt(rest.mean()), rel=1e-3)
    basis = metric().basis.double().numpy()
    assert np.allclose(basis @ basis.T, np.eye(5), atol=1e-5)
    assert np.allclose(np.abs(np.sum(basis[0] * vectors[:, -1])), 1, atol=1e-3)
    points = np.random.default_rng(0).normal(size=(7, D))
    ours = metric().whiten(torch.from_numpy(points)).square().sum(1).numpy()
    theirs = np.einsum("ni,ij,nj->n", points, matrix(metric(), -1.0), points)
    assert np.allclose(ours, theirs, rtol=1e-6)


def test_colouring_undoes_whitening_and_the_determinant_is_that_of_the_matrix() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(7, D)))
    there_and_back = metric().colour(metric().whiten(points))
    assert torch.allclose(there_and_back, points, atol=1e-6)
    sign, expected = np.linalg.slogdet(matrix(metric(), -0.5))
    assert sign == 1
    assert float(metric().log_determinant) == pytest.approx(expected, rel=1e-6)


def test_the_density_is_that_of_scipy() -> None:
    mixture = SphericalMixture(3, D)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        mixture.means.copy_(torch.from_numpy(rng.uniform(0, 1, (3, D))))
        mixture.log_variances.copy_(torch.tensor([0.3, 0.0, -0.5]))
    points = rng.uniform(0, 1, (9, D))
    ours = mixture.log_density(metric().whiten(torch.from_numpy(points)), metric())
    parts = [
        multivariate_normal(
            mean.double().numpy(), matrix(metric(), 1.0) * math.exp(v), allow_singular=False
        ).logpdf(points)
        for mean, v in zip(mixture.means.detach(), mixture.log_variances.tolist(), strict=True)
    ]
    expected = logsumexp(parts, axis=0) - math.log(3)
    assert ours.dtype == torch.float64
    assert np.allclose(ours.detach().numpy(), expected, rtol=1e-6, atol=1e-4)


def test_the_mixture_starts_at_expectation_maximisation_with_equal_weights_and_variances() -> None:
    flat = smooth(150, 0, 90).reshape(150, D) / 255.0
    mixture = SphericalMixture(4, D)
    mixture.fit(flat, metric(), seed=3)
    whitened = metric().whiten(torch.from_numpy(flat)).numpy()
    theirs = GaussianMixture(4, covariance_type="spherical", random_state=3).fit(whitened)
    ours = metric().whiten(mixture.means.detach()).numpy()
    assert np.allclose(np.sort(ours[:, 0]), np.sort(theirs.means_[:, 0]), atol=1e-4)
    assert np.allclose(mixture.log_variances.detach().exp(), theirs.covariances_.mean(), rtol=1e-5)


def textures(count: int, seed: int) -> np.ndarray:
    """Smooth and rough images, flat, as photographs are."""
    rng = np.random.default_rng(seed)
    contrast = np.exp(rng.uniform(np.log(0.01), np.log(0.2), (count, 1)))
    return (0.5 + contrast * rng.normal(size=(count, D))).clip(0, 1)


def test_the_floor_is_added_to_variances_as_in_the_published_maximisation() -> None:
    """A step of the maximisation that the published code used (scikit-learn 0.18), by hand."""
    images, whole = textures(120, 0), metric()
    mixture = SphericalMixture(6, D)
    mixture.fit(images, whole, seed=1, floor=0.1)
    whitened = whole.whiten(torch.from_numpy(images)).numpy()
    centres = whole.whiten(mixture.means.detach()).numpy()
    theirs = GaussianMixture(6, covariance_type="spherical", random_state=1, reg_covar=0.1)
    shares = theirs.fit(whitened).predict_proba(whitened)
    weights = shares.sum(0)
    assert np.allclose(centres, shares.T @ whitened / weights[:, None], atol=1e-2)
    squares = shares.T @ whitened**2 / weights[:, None] - centres**2
    expected = (squares.mean(1) + 0.1).mean()
    assert mixture.log_variances.detach().exp().numpy() == pytest.approx(expected, rel=1e-2)


def test_with_the_published_floor_components_of_one_image_do_not_leave_the_others_outside() -> None:
    suite = suite_called("cifar10")
    assert suite is not None
    published = resolved(PluginSpec("detectors", "ccu"), suite.published).instance.recipe
    assert published == DensityAware(100, 128, least_variance=1e-3)

    def flat(pixels: np.ndarray) -> ArrayImages:
        shaped = (255 * pixels).round().astype(np.uint8).reshape(-1, 3, SIDE, SIDE)
        return ArrayImages(shaped, [str(i) for i in range(len(shaped))], np.arange(len(shaped)) % 3)

    asked = replace(request(), images=flat(textures(300, 0)), pool=flat(textures(300, 1)))
    outside = {}
    for least in (0.0, 1e-3):
        recipe = replace(published, components=40, directions=5, least_variance=least)
        built, training = build(replace(asked, recipe=recipe), CPU)
        assert asked.pool is not None
        training.images = DeviceImages(asked.images, CPU)
        training.outliers = DeviceImages(asked.pool, CPU)
        recipe.start(training)
        both = built.modules["densities"]
        assert isinstance(both, Densities)
        inside, out = both.log_densities(torch.from_numpy(textures(300, 2)))
        outside[least] = float((inside < out).double().mean())
    assert outside[0.0] > 0.7
    assert outside[1e-3] < 0.4


def test_an_unnamed_floor_is_none_and_a_negative_one_is_refused() -> None:
    assert "least_variance" not in parameters(DETECTOR)
    assert "least_variance" not in parameters(DETECTOR.recipe)
    with pytest.raises(ValueError, match="least_variance must be at least 0"):
        CCU(least_variance=-1e-3)


def test_a_start_that_has_not_converged_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = smooth(150, 0, 90).reshape(150, D) / 255.0
    hasty = partial(GaussianMixture, max_iter=1, tol=0)
    with pytest.warns(ConvergenceWarning):
        hasty(4, covariance_type="spherical", random_state=3).fit(flat)
    monkeypatch.setattr("sklearn.mixture.GaussianMixture", hasty)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SphericalMixture(4, D).fit(flat, metric(), seed=3)


def test_the_long_fit_before_the_first_step_is_announced() -> None:
    told: list[str] = []

    class Told(Progress):
        def note(self, message: str) -> None:
            told.append(message)

    asked = request()
    train(replace(asked, schedule=replace(asked.schedule, epochs=1)), CPU, progress=Told())
    (line,) = told
    assert "150 images and 120 outliers" in line


def test_more_directions_than_the_images_span_are_refused() -> None:
    with pytest.raises(ValueError, match="directions need more than"):
        ImageMetric(20, D).fit(np.random.default_rng(0).random((20, D)), 0)
    with pytest.raises(ValueError, match="directions need more than"):
        ImageMetric(D + 1, D).fit(np.random.default_rng(0).random((2 * D, D)), 0)


def test_all_directions_can_be_kept_as_published() -> None:
    points = np.random.default_rng(0).normal(size=(2 * D, D)) * np.linspace(1, 3, D)
    whole = ImageMetric(D, D)
    whole.fit(points, 0)
    root = np.linalg.inv(scipy.linalg.sqrtm(np.cov(points.T)))
    ours = whole.whiten(torch.from_numpy(points)).square().sum(1).numpy()
    assert np.allclose(ours, np.einsum("ni,ij,nj->n", points, root, points), rtol=1e-4)
    expected = 0.5 * np.linalg.slogdet(root)[1]
    assert float(whole.log_determinant) == pytest.approx(expected, rel=1e-4)


def test_outliers_stay_the_wider_density_through_training() -> None:
    inside, outside = densities().inside.log_variances, densities().outside.log_variances
    assert (outside >= inside.max() + math.log(4) - 1e-5).all()
    assert not torch.equal(inside, inside[:1].expand(4))  # trained, each on its own


def test_training_moves_both_densities_at_their_own_rate_without_decay() -> None:
    recipe = DETECTOR.recipe
    _, training = build(request(), CPU)
    network, own = list(recipe.parameter_groups(training))
    assert "lr" not in network
    assert (own["lr"], own["weight_decay"]) == (1e-5, 0.0)
    assert len(own["params"]) == 4
    training.images, training.outliers = (DeviceImages(images, CPU) for images in sets())
    recipe.start(training)
    before = training.modules["densities"]
    after = densities()
    assert isinstance(before, Densities)
    for name in ("inside", "outside"):
        moved = (getattr(after, name).means - getattr(before, name).means).abs().max()
        assert 0 < moved < 0.05
    assert torch.equal(before.metric.basis, after.metric.basis)


def test_the_loss_is_the_negative_log_likelihood_of_labels_and_images() -> None:
    recipe = DETECTOR.recipe
    _, training = build(request(), CPU)
    training.modules = model().modules
    images, outliers = floats(smooth(5, 7, 90)), floats(smooth(3, 8, 170))
    labels = torch.tensor([0, 1, 2, 1, 0])
    rng = torch.Generator().manual_seed(0)
    z, w = torch.randn(5, 3, generator=rng), torch.randn(3, 3, generator=rng)

    def terms(x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        inside, outside = densities().log_densities(x)
        # In probabilities, after dividing both densities by the larger one.
        top = torch.maximum(inside, outside)
        g_in, g_out = (inside - top).exp(), (outside - top).exp()
        p = (logits.double().softmax(1) * g_in[:, None] + g_out[:, None] / 3) / (g_in + g_out)[
            :, None
        ]
        return p, top + (g_in / 2 + g_out / 2).log()

    p, evidence = terms(images, z)
    q, other = terms(outliers, w)
    expected = 0.5 * (-p[torch.arange(5), labels].log() - evidence).mean()
    expected += 0.5 * (-q.log().mean(1) - other).mean()
    got = recipe.loss(training, Batch(images, labels, outliers), z, w)
    assert got.item() == pytest.approx(expected.item(), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.floats(-2000, 2000))
def test_probabilities_sum_to_one_and_lie_between_the_networks_and_uniform(
    logits: list[float], ratio: float
) -> None:
    z = torch.tensor([logits], dtype=torch.float64)
    p = class_log_probabilities(z, torch.tensor([ratio], dtype=torch.float64)).exp()[0]
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    own, uniform = z.softmax(1)[0], 1 / len(logits)
    low, high = own.clamp(max=uniform), own.clamp(min=uniform)
    assert ((p >= low - 1e-12) & (p <= high + 1e-12)).all()


def test_the_score_is_the_log_odds_of_the_excess_and_ranks_as_the_probability() -> None:
    rng = torch.Generator().manual_seed(0)
    z = 6 * torch.randn(400, 5, generator=rng, dtype=torch.float64)
    ratio = 6 * torch.randn(400, generator=rng, dtype=torch.float64)
    p = class_log_probabilities(z, ratio).exp().amax(1)
    excess = (5 * p - 1) / 4
    score = excess_log_odds(z, ratio)
    clear = (excess > 1e-7) & (excess < 1 - 1e-7)
    assert clear.sum() > 200
    assert torch.allclose(score[clear], ((1 - excess) / excess).log()[clear], atol=1e-6)
    apart = (p[:, None] - p) > 1e-12
    assert bool((score[:, None] < score)[apart].all())


def test_the_score_saturates_at_neither_end_and_keeps_its_gradient() -> None:
    z = torch.tensor([[40.0, 0.0, 0.0], [0.1, 0.0, 0.0]], dtype=torch.float64).repeat(4, 1)
    ratio = torch.tensor([-3000.0, -3000.0, -400.0, -400.0, 50.0, 50.0, 900.0, 900.0])
    z, ratio = z.requires_grad_(), ratio.double().requires_grad_()
    score = excess_log_odds(z, ratio)
    assert len(score.detach().float().unique()) >= 6
    by_logits, by_ratio = torch.autograd.grad(score.sum(), (z, ratio))
    assert by_logits.isfinite().all()
    assert by_ratio.isfinite().all()
    assert torch.allclose(by_ratio[:4], torch.full((4,), -1.0, dtype=torch.float64))
    assert (by_logits.abs().sum(1) > 0).all()


def test_far_from_the_data_probabilities_are_uniform_and_the_score_still_tells_how_far() -> None:
    images = floats(smooth(20, 5, 90))
    target = model()
    with torch.no_grad():
        near = DETECTOR.class_log_probabilities(target, images).exp()
        far = DETECTOR.class_log_probabilities(target, 1000 * images).exp()
        scores = [DETECTOR.score(target, scale * images) for scale in (1, 10, 100, 1000)]
    assert near.dtype == torch.float64
    assert torch.allclose(near.sum(1), torch.ones(20).double(), atol=1e-12)
    assert (near.amax(1) > 1 / 3 + 0.05).float().mean() > 0.5
    assert torch.allclose(far, torch.full_like(far, 1 / 3), atol=1e-12)
    for lower, higher in pairwise(scores):
        assert higher.isfinite().all()
        assert (higher > lower).all()


def test_the_density_is_finite_on_noise_and_on_extremes() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.uniform(0, 1, (50, 3, SIDE, SIDE))).float()
    extremes = torch.stack([torch.zeros(3, SIDE, SIDE), torch.ones(3, SIDE, SIDE)])
    for images in (noise, extremes, 1000 * noise):
        for density in densities().log_densities(images):
            assert density.dtype == torch.float64
            assert density.isfinite().all()


def test_without_densities_it_is_the_plain_softmax_of_its_network_as_published() -> None:
    images = floats(smooth(20, 5, 90))
    plain = replace(DETECTOR, use_densities=False)
    assert plain.recipe == DETECTOR.recipe
    with torch.no_grad():
        assert torch.equal(plain.score(model(), images), MSP().score(model(), images))
        assert not torch.equal(DETECTOR.score(model(), images), MSP().score(model(), images))
    assert plain.attack_objectives() == {}


def test_an_attacker_may_lower_the_density_ratio_and_the_network_each_alone() -> None:
    images = floats(smooth(20, 5, 90))
    objectives = DETECTOR.attack_objectives()
    with torch.no_grad():
        ratio = DETECTOR.log_ratio(model(), images)
        assert torch.equal(objectives["densities"](model(), images), -ratio)
        assert torch.equal(objectives["network"](model(), images), MSP().score(model(), images))


@pytest.mark.parametrize(
    ("field", "value"), [("components", 0), ("directions", 0), ("prior_ratio", 0.0)]
)
def test_parameters_that_mean_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        CCU(**{field: value})  # type: ignore[arg-type]
