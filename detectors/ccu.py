"""CCU: certified certain uncertainty."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.detector import Objective
from oodbench.families import MaxProbability
from oodbench.fields import at_least, positive
from oodbench.identity import UNNAMED_AT_DEFAULT
from oodbench.mixtures import LEAST_VARIANCE, ImageMetric, SphericalMixture
from oodbench.model import Model
from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.scores import max_probability
from oodbench.threat import to_float
from oodbench.training import Augmented, DeviceImages, Training

OUTLIERS_PER_IMAGE = 50 / 64
_LEAST_VARIANCE_RATIO = 4.0
_FIT_BATCH = 1024


class Densities(nn.Module):
    """Densities of images and of outliers, mixtures in one metric.

    Args:
        components: Gaussians of each mixture.
        directions: Principal components of the metric.
        dimensions: Pixels times channels.
    """

    def __init__(self, components: int, directions: int, dimensions: int) -> None:
        super().__init__()
        self.metric = ImageMetric(directions, dimensions)
        self.inside = SphericalMixture(components, dimensions)
        self.outside = SphericalMixture(components, dimensions)

    def widen_outside(self) -> None:
        """Raise the variances of outliers to at least 4 times the largest of images.

        Far from the data the density of outliers is then the larger one, whatever the
        direction: the certificate of Meinke & Hein (ICLR 2020, theorem 3.1).
        """
        with torch.no_grad():
            least = self.inside.log_variances.max() + math.log(_LEAST_VARIANCE_RATIO)
            self.outside.log_variances.clamp_(min=least)

    def log_densities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return log g_in and log g_out, float64 [N] each, of images [N, 3, H, W] in [0, 1]."""
        whitened = self.metric.whiten(images.flatten(1))
        return (
            self.inside.log_density(whitened, self.metric),
            self.outside.log_density(whitened, self.metric),
        )


@dataclass(frozen=True)
class DensityAware(Recipe):
    """A network and two densities, trained together for the likelihood of labels and images.

    Attributes are those of `CCU`.
    """

    components: int = 100
    directions: int = 128
    prior_ratio: float = 1.0
    learning_rate: float = 1e-5
    outliers_per_image: float = OUTLIERS_PER_IMAGE
    least_variance: float = field(default=0.0, metadata=UNNAMED_AT_DEFAULT)

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one stage with random outliers."""
        return (Stage(schedule, self.outliers_per_image),)

    def modules(self, training: Training) -> dict[str, nn.Module]:
        """Build the two densities."""
        dimensions = math.prod(training.image_shape)
        return {"densities": Densities(self.components, self.directions, dimensions)}

    def start(self, training: Training) -> None:
        """Fit the metric to augmented images, then a mixture to them and one to outliers."""
        assert training.images is not None
        assert training.outliers is not None
        densities = _densities(training.modules)
        images = _flattened(training, training.images, "ccu/images")
        outliers = _flattened(training, training.outliers, "ccu/outliers")
        if self.components > min(len(images), len(outliers)):
            raise ValueError(
                f"ccu.components is {self.components}, but there are {len(images)} images and "
                f"{len(outliers)} outliers to fit them to; set fewer"
            )
        training.progress.note(
            f"fitting {self.components} Gaussians each to {len(images):,} images and "
            f"{len(outliers):,} outliers on the CPU, before the first step; of tens of thousands "
            "this takes minutes"
        )
        densities.metric.fit(images, training.seed)
        floor = self.floor(len(images))
        densities.inside.fit(images, densities.metric, training.seed, floor)
        densities.outside.fit(outliers, densities.metric, training.seed, floor)
        densities.widen_outside()

    def floor(self, images: int) -> float:
        """Return the least variance in units of a metric that is fitted to so many images."""
        # Published distances are by singular values, which are √(N − 1) deviations.
        return max(LEAST_VARIANCE, self.least_variance * math.sqrt(images - 1))

    def parameter_groups(self, training: Training) -> Iterable[dict[str, Any]]:
        """Return the network's group, and one of the densities without weight decay."""
        return [
            {"params": list(training.network.parameters())},
            {
                "params": list(training.modules["densities"].parameters()),
                "lr": self.learning_rate,
                "weight_decay": 0.0,
            },
        ]

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return the negative log likelihood of labels and images, and of outliers, halved.

        ½(−log p(y|x) − log(½g_in + ½g_out)) on images and ½(−mean_k log p(k|x) − log(½g_in +
        ½g_out)) on outliers (Meinke & Hein, 2020, eq. 5 with p_in = p_out = ½).
        """
        densities = _densities(training.modules)
        known, evidence = self._terms(densities, batch.images, logits)
        labelled = F.nll_loss(known, batch.labels) - evidence
        unknown, outlier_evidence = self._terms(densities, batch.outliers, outlier_logits)
        return (labelled - unknown.mean() - outlier_evidence) / 2

    def _terms(self, densities: Densities, images: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        inside, outside = densities.log_densities(images)
        ratio = inside - outside - math.log(self.prior_ratio)
        evidence = (torch.logaddexp(inside, outside) - math.log(2)).mean()
        return class_log_probabilities(logits, ratio), evidence

    def after_step(self, training: Training) -> None:
        """Keep the density of outliers the wider one."""
        _densities(training.modules).widen_outside()


def _densities(modules: Mapping[str, nn.Module]) -> Densities:
    found = modules["densities"]
    assert isinstance(found, Densities)
    return found


def _flattened(training: Training, images: DeviceImages, purpose: str) -> Any:
    """Return one augmented view of each image, float64 [N, D] in [0, 1], as a NumPy array."""
    views = Augmented(images, training.schedule, 1, training.generator(purpose))
    parts = [
        to_float(views.batch(positions)).flatten(1).double().cpu()
        for positions in torch.split(torch.arange(len(views)), _FIT_BATCH)
    ]
    return torch.cat(parts).numpy()


def class_log_probabilities(logits: Tensor, ratio: Tensor) -> Tensor:
    """Return log p(k|x) of the network and the densities together, float64 [N, K].

    p(k|x) = (p_θ(k|x) g_in + λ g_out / K) / (g_in + λ g_out) (Meinke & Hein, 2020, eq. 3).

    Args:
        logits: Logits of the network, [N, K].
        ratio: log g_in − log(λ g_out), [N].
    """
    inside, outside = (F.logsigmoid(sign * ratio.double()) for sign in (1, -1))
    own = logits.double().log_softmax(1) + inside[:, None]
    return torch.logaddexp(own, (outside - math.log(logits.shape[1]))[:, None].expand_as(own))


def excess_log_odds(logits: Tensor, ratio: Tensor) -> Tensor:
    """Return the log-odds against the excess E = (K·p_max − 1)/(K − 1) of p(k|x) of eq. 3.

    It ranks as −p_max, and neither end saturates: E is the network's own excess times the share
    of g_in, so where g_out is larger by far and p_max is 1/K to the last bit, log E still says
    how far.

    Args:
        logits: Logits of the network, [N, K].
        ratio: log g_in − log(λ g_out), [N].

    Returns:
        float64 [N].
    """
    z = logits.double()
    gaps = z - z.amax(1, keepdim=True)
    mass = gaps.exp().sum(1)
    others = logits.shape[1] - 1
    # Where all logits are equal there is no excess, and still a finite score.
    shortfall = (-gaps.expm1().sum(1) / others).clamp(min=torch.finfo(z.dtype).tiny)
    log_excess = shortfall.log() - mass.log()
    log_rest = math.log((others + 1) / others) + F.logsigmoid(max_probability(z))
    inside, outside = (F.logsigmoid(sign * ratio.double()) for sign in (1, -1))
    against = torch.logaddexp(log_rest, log_excess + outside)
    return against - (log_excess + inside)


@dataclass(frozen=True)
class CCU(MaxProbability):
    """Certified Certain Uncertainty (Meinke & Hein, ICLR 2020).

    A network beside two Gaussian mixtures over pixels, one of images and one of outliers; the
    farther the mixture of outliers is the likelier one, the nearer the class probabilities are to
    1/K. The score is the log-odds against the excess of p_max over 1/K, which ranks as −p_max.
    The certificate concerns points far from the data, not small balls about natural outliers.

    The comparison of Chen et al. (2021) loads the mixtures, but scores and attacks the softmax of
    the network alone (difference D1). So does ``--preset paper`` where it chooses and in its
    published figures; ``use_densities=False`` makes that the detector's score altogether.

    Attributes:
        components: Gaussians of each mixture; published 100 for 50000 images.
        directions: Principal components of the metric with a scale of their own. Published all
            3072, which take 37 MB and, on a CPU, hours of training; the suites of the paper keep
            128, which hold 91.9 % of the variance of CIFAR-10's pixels.
        prior_ratio: λ, prior of outliers over that of images; 1.
        learning_rate: Learning rate of the mixtures, without weight decay; 1e-5.
        least_variance: Added to the components' variances while they are fitted, before training,
            in the units of the published metric; 1e-3 there, by the scikit-learn of its time. Of
            100 components most hold one image of CIFAR-10, and without it their variance of 0
            draws down the mean, with which all start. None: what the suite says, else 0.
        use_densities: Whether the score is that of the whole model.
    """

    components: int | None = None
    directions: int | None = None
    prior_ratio: float = 1.0
    learning_rate: float = 1e-5
    use_densities: bool = True
    least_variance: float | None = field(default=None, metadata=UNNAMED_AT_DEFAULT)

    def __post_init__(self) -> None:
        positive(self, "prior_ratio")
        at_least(self, 0, "learning_rate", "least_variance")
        at_least(self, 1, "components", "directions")

    @property
    def recipe(self) -> Recipe:
        """A network and two mixtures trained together."""
        if self.components is None or self.directions is None:
            raise ValueError(
                "components or directions has no value for this suite; set ccu.components and "
                "ccu.directions"
            )
        return DensityAware(
            components=self.components,
            directions=self.directions,
            prior_ratio=self.prior_ratio,
            learning_rate=self.learning_rate,
            least_variance=self.least_variance or 0.0,
        )

    def log_ratio(self, model: Model, images: Tensor) -> Tensor:
        """Return log g_in − log(λ g_out), float64 [N]."""
        inside, outside = _densities(model.modules).log_densities(images)
        return inside - outside - math.log(self.prior_ratio)

    def class_log_probabilities(self, model: Model, images: Tensor) -> Tensor:
        """Return log p(k|x) of the whole model, float64 [N, K]."""
        return class_log_probabilities(model.logits(images), self.log_ratio(model, images))

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return the log-odds against the excess of p_max over 1/K; float64."""
        if not self.use_densities:
            return super().score(model, images)
        return excess_log_odds(model.logits(images), self.log_ratio(model, images))

    def attack_objectives(self) -> Mapping[str, Objective]:
        """Return the network's own score and the density ratio, which the score adds up."""
        if not self.use_densities:
            return {}
        return {
            "network": super().score,
            "densities": lambda model, images: -self.log_ratio(model, images),
        }
