"""Mahalanobis distance in several layers, weighted by a logistic regression."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from oodbench.class_gaussians import class_distance, fit_class_gaussians, nearest_class
from oodbench.detector import Detector, FitData, Objective, detached_sign_step
from oodbench.metrics import fpr95
from oodbench.model import Model
from oodbench.randomness import generator
from oodbench.threat import to_float


@dataclass(frozen=True)
class Mahalanobis(Detector):
    """Feature ensemble of Mahalanobis distances (Lee et al., NeurIPS 2018).

    Of each layer the spatial means of the features are compared with Gaussians of one mean a
    class and one covariance; the distance is taken after a step of the image towards the nearest
    class; a logistic regression weights the layers. Its log-odds are the score.

    Following Chen et al. (2021) the regression tells images from their FGSM copies, and the
    noise is chosen for the lowest FPR95 between the two; unlike there, training images alone
    serve both, none of the test images, and the regression's inputs are standardised.

    Attributes:
        noises: Values of η to choose from, in units of the pixel range (Chen et al., 2021, code).
        fgsm: ε of the FGSM copies, in units of the pixel range; 0.05.
        samples: Images for the regression, and as many more for choosing η; 500.
    """

    needs_labels: ClassVar[bool] = True

    noises: tuple[float, ...] = (0.0, 0.01, 0.005, 0.002, 0.0014, 0.001, 0.0005)
    fgsm: float = 0.05
    samples: int = 500

    def fit(self, model: Model, data: FitData) -> dict[str, Tensor]:
        """Fit means and covariances, choose η, weight the layers; float64 throughout."""
        state = fit_class_gaussians(model, data, model.taps)
        fitted = Model(model.backbone, state)
        order = generator(data.seed, "mahalanobis/samples").permutation(len(data.images))
        count = min(self.samples, len(order) // 2)
        clean, copies = self._with_fgsm_copies(model, data, order[: 2 * count])
        chosen: tuple[float, float, NDArray[np.float64], float] | None = None
        for noise in self.noises:
            ours = self._all_distances(fitted, clean, noise, data.batch_size)
            theirs = self._all_distances(fitted, copies, noise, data.batch_size)
            weights, bias = _logistic(ours[:count], theirs[:count])
            error = fpr95(ours[count:] @ weights + bias, theirs[count:] @ weights + bias)
            if chosen is None or error < chosen[0]:
                chosen = (error, noise, weights, bias)
        assert chosen is not None
        _, noise, weights, bias = chosen
        state["noise"] = torch.tensor(noise, dtype=torch.float64)
        state["weights"] = torch.from_numpy(weights)
        state["bias"] = torch.tensor(bias, dtype=torch.float64)
        return {name: tensor.to(data.images.device) for name, tensor in state.items()}

    def _with_fgsm_copies(
        self, model: Model, data: FitData, indices: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(indices).to(data.images.device)
        images, labels = to_float(data.images[chosen]), data.labels[chosen]
        copies = []
        for part, truth in zip(
            torch.split(images, data.batch_size), torch.split(labels, data.batch_size), strict=True
        ):
            inputs = part.detach().requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(model.logits(inputs)[:, : model.classes], truth)
            (gradient,) = torch.autograd.grad(loss, inputs)
            copies.append((part + self.fgsm * gradient.sign()).clamp(0, 1))
        return images, torch.cat(copies)

    def _all_distances(
        self, model: Model, images: Tensor, noise: float, batch_size: int
    ) -> NDArray[np.float64]:
        with torch.no_grad():
            parts = [
                self._distances(model, part, noise) for part in torch.split(images, batch_size)
            ]
        return torch.cat(parts).cpu().numpy()

    def _distances(self, model: Model, images: Tensor, noise: float) -> Tensor:
        """Return M of every layer, each at its own perturbed image, float64 [N, layers]."""
        if noise == 0:
            maps, _ = model.outputs(images)
            return torch.stack([-nearest_class(model, tap, maps[tap]) for tap in model.taps], 1)
        columns = []
        for tap in model.taps:
            moved = detached_sign_step(class_distance(tap), model, images, noise)
            columns.append(-class_distance(tap)(model, moved))
        return torch.stack(columns, 1)

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return Σ w_ℓ M_ℓ + b, the log-odds of the logistic regression; float64."""
        distances = self._distances(model, images, float(model.state["noise"]))
        return distances @ model.state["weights"] + model.state["bias"]

    def published_objective(self) -> Objective:
        """Return −CE of (1 − π, π) taken for logits, without input noise: fault F3."""

        def objective(model: Model, images: Tensor) -> Tensor:
            log_odds = self._distances(model, images, 0.0) @ model.state["weights"]
            # Spelt out as published: the gradient of torch's sigmoid is 0 from 17 on, that of
            # this quotient only where exp(-103) underflows.
            probability = 1 / (1 + (-(log_odds + model.state["bias"]).float()).exp())
            pair = torch.stack([1 - probability, probability], 1)
            return -F.cross_entropy(pair, torch.ones_like(pair[:, 0]).long(), reduction="none")

        return objective

    def published_score(self) -> Objective:
        """Return the probability in float32, which saturates."""
        return lambda model, images: self.score(model, images).float().sigmoid()


def _logistic(
    ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return weights and bias of the log-odds of being OOD, for distances as they are.

    The L2 penalty is chosen by cross validation among ten values, as the published code does.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.repeat([0, 1], [len(ours), len(theirs)])
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": np.logspace(-4, 4, 10)})
    search.fit(np.concatenate([ours, theirs]), labels)
    scaler, regression = search.best_estimator_[0], search.best_estimator_[1]
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)
