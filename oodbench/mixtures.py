"""Mixtures of spherical Gaussians over images, in a metric fitted to the training images."""

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LEAST_VARIANCE = 1e-6
"""What scikit-learn adds to variances by default."""
# Standard deviations below this share of the largest are raised to it (Meinke & Hein, 2020, code).
_LEAST_DEVIATION = 1e-6


class ImageMetric(nn.Module):
    """A metric d(x, μ)² = ‖T(x − μ)‖² that half undoes the spread of the training images.

    T scales each principal component of the images by one over the root of its standard
    deviation (Meinke & Hein, ICLR 2020, code: singular values, not variances). Of D components
    the first r are kept; all others share the root mean square of their standard deviations, so
    that r rows describe a metric of full rank.

    Args:
        directions: r, principal components with a scale of their own.
        dimensions: D, pixels times channels.
    """

    basis: Tensor
    deviations: Tensor
    rest: Tensor

    def __init__(self, directions: int, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.register_buffer("basis", torch.zeros(directions, dimensions))
        self.register_buffer("deviations", torch.ones(directions))
        self.register_buffer("rest", torch.ones(()))

    def fit(self, images: NDArray[np.float64], seed: int) -> None:
        """Fit to images, float64 [N, D] in [0, 1]; at most N − 1 and D directions can be kept.

        Raises:
            ValueError: If there are too few images.
        """
        from sklearn.decomposition import PCA

        directions = len(self.deviations)
        if directions >= images.shape[0] or directions > self.dimensions:
            raise ValueError(
                f"{directions} directions need more than {directions} images of at least as many "
                f"pixels, not {images.shape[0]} of {images.shape[1]}; set ccu.directions lower"
            )
        pca = PCA(directions, svd_solver="randomized", random_state=seed).fit(images)
        deviations = np.sqrt(pca.explained_variance_)
        left_over = images.var(axis=0, ddof=1).sum() - pca.explained_variance_.sum()
        others = self.dimensions - directions
        rest = math.sqrt(max(left_over, 0.0) / others) if others else deviations[-1]
        least = _LEAST_DEVIATION * deviations[0]
        self.basis.copy_(torch.from_numpy(pca.components_))
        self.deviations.copy_(torch.from_numpy(np.maximum(deviations, least)))
        self.rest.fill_(max(rest, least))

    def whiten(self, vectors: Tensor) -> Tensor:
        """Return T x of vectors [N, D], float64."""
        return self._scaled(vectors, -0.5)

    def colour(self, vectors: Tensor) -> Tensor:
        """Return T⁻¹ y of vectors [N, D], float64."""
        return self._scaled(vectors, 0.5)

    def _scaled(self, vectors: Tensor, power: float) -> Tensor:
        basis, rest = self.basis.double(), self.rest.double() ** power
        along = vectors.double() @ basis.T
        return (
            vectors.double() * rest + (along * (self.deviations.double() ** power - rest)) @ basis
        )

    @property
    def log_determinant(self) -> Tensor:
        """Logarithm of |det T|, float64."""
        others = self.dimensions - len(self.deviations)
        own = self.deviations.double().log().sum()
        return -0.5 * (own + others * self.rest.double().log())


class SphericalMixture(nn.Module):
    """A mixture of equally likely Gaussians that are spherical in a metric.

    Args:
        components: Number of Gaussians M.
        dimensions: D, pixels times channels.
    """

    def __init__(self, components: int, dimensions: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(components, dimensions))
        self.log_variances = nn.Parameter(torch.zeros(components))

    def fit(
        self,
        images: NDArray[np.float64],
        metric: ImageMetric,
        seed: int,
        floor: float = LEAST_VARIANCE,
    ) -> None:
        """Fit to images by expectation maximisation from k-means.

        Weights stay equal, and all components start with their mean variance (Meinke & Hein,
        2020, code).

        Args:
            images: float64 [N, D] in [0, 1].
            metric: The metric.
            seed: Seed of k-means.
            floor: Added to the variance of every component at every iteration, in the metric's
                units, so that one of a single image has a density.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        device = self.means.device
        whitened = metric.whiten(torch.from_numpy(images).to(device)).cpu().numpy()
        mixture = GaussianMixture(
            len(self.log_variances),
            covariance_type="spherical",
            random_state=seed,
            reg_covar=floor,
        )
        with warnings.catch_warnings():
            # The training goes on from wherever the 100 iterations end.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = mixture.fit(whitened)
        with torch.no_grad():
            self.means.copy_(metric.colour(torch.from_numpy(fitted.means_).to(device)))
            self.log_variances.fill_(math.log(fitted.covariances_.mean()))

    def log_density(self, whitened: Tensor, metric: ImageMetric) -> Tensor:
        """Return the log density of images, float64 [N] (Meinke & Hein, ICLR 2020, eq. 8).

        Args:
            whitened: Images in units of the pixel range after ``metric.whiten``, float64 [N, D].
            metric: The metric.
        """
        centres = metric.whiten(self.means)
        squares = whitened.square().sum(1)[:, None] + centres.square().sum(1)
        distances = (squares - 2 * whitened @ centres.T).clamp(min=0)
        log_variances = self.log_variances.double()
        half = metric.dimensions / 2
        exponents = -half * log_variances - distances / (2 * log_variances.exp())
        constant = metric.log_determinant - half * math.log(2 * math.pi)
        return exponents.logsumexp(1) - math.log(len(log_variances)) + constant
