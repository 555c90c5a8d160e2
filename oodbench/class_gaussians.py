"""Gaussians of one mean a class and one covariance, fitted to the features of a layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oodbench.detector import FitData, Objective
from oodbench.model import Model
from oodbench.threat import to_float

# Directions of a layer's covariance below this share of the largest carry rounding only.
_RANK_TOLERANCE = 1e-10


def fit_class_gaussians(model: Model, data: FitData, taps: Sequence[str]) -> dict[str, Tensor]:
    """Fit the spatial means of the features at each tap (Lee et al., NeurIPS 2018, eq. 1).

    Returns:
        By tap, float64: ``<tap>.centres`` [K, C], the class means, and ``<tap>.whitening``
        [C, rank], a root of the pseudo-inverse of the covariance of the class-centred features.
    """
    labels = data.labels
    means: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    for part in torch.split(data.images, data.batch_size):
        with torch.no_grad():
            maps, _ = model.outputs(to_float(part))
        for tap in taps:
            means[tap].append(_pooled(maps[tap]))
    state = {}
    for tap in taps:
        features = torch.cat(means[tap])
        centres = torch.stack([features[labels == label].mean(0) for label in range(model.classes)])
        residuals = features - centres[labels]
        residuals = residuals - residuals.mean(0)
        values, vectors = torch.linalg.eigh(residuals.T @ residuals / len(residuals))
        kept = values > _RANK_TOLERANCE * values.max()
        state[f"{tap}.centres"] = centres
        state[f"{tap}.whitening"] = vectors[:, kept] / values[kept].sqrt()
    return state


def nearest_class(model: Model, tap: str, features: Tensor) -> Tensor:
    """Return min_c ½ (f − μ_c)ᵀ Λ (f − μ_c) of features [N, C, h, w], float64 [N], never negative.

    ``model.state`` holds what `fit_class_gaussians` returned.
    """
    whitening = model.state[f"{tap}.whitening"]
    centres = model.state[f"{tap}.centres"] @ whitening
    offsets = (_pooled(features) @ whitening)[:, None] - centres
    return 0.5 * offsets.square().sum(2).amin(1)


def class_distance(tap: str) -> Objective:
    """Return the distance of an image to the nearest class at a tap, as a function to lower."""
    return lambda model, images: nearest_class(model, tap, model.features(images, tap))


def _pooled(features: Tensor) -> Tensor:
    return features.double().mean((2, 3))
