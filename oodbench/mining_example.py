"""Why outliers are mined, and why from a quantile on: an example in two dimensions.

Chen et al. (ATOM, ECML PKDD 2021) illustrate mining by three Gaussian classes and outliers spread
over the plane. Means, variances and counts of the original are not known; those here are ours.
A network with a reject class is trained on the classes and, each epoch, on a quarter of a pool of
outliers: drawn at random, or mined by the rule of `oodbench.mining.mined_ranks`. A few outliers
of the pool are drawn from the classes themselves, as any large pool holds some.
"""

from dataclasses import dataclass
from math import log, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.metrics import threshold95
from oodbench.mining import mined_ranks
from oodbench.randomness import generator, torch_generator
from oodbench.scores import reject_class

Points = NDArray[np.float32]

CLASSES = 3
SIDE = 8.0
"""The plane is [−8, 8]²."""
SIGMA = 0.25
"""Standard deviation of a class, in either direction."""
CONTOUR = SIGMA * (-2 * log(0.01)) ** 0.5
"""Distance from a class mean within which 99 % of its points lie."""
MEANS = np.array([[2 * np.cos(t), 2 * np.sin(t)] for t in np.radians([90, 210, 330])])


@dataclass(frozen=True)
class Setting:
    """The example's numbers.

    Attributes:
        per_class: ID points of a class, for training and again for testing.
        pool: Outliers of the pool.
        chosen: Outliers that an epoch is trained on.
        id_like: Share of the pool that is drawn from the classes.
        eps: L∞ distance that OOD points are pushed towards the data.
        epochs: Epochs.
        batch_size: ID points a step; as many outliers.
        learning_rate: Of Adam.
        grid: Points a side of the grid on which areas are measured.
    """

    per_class: int = 1000
    pool: int = 12_000
    chosen: int = 3_000
    id_like: float = 0.02
    eps: float = 0.5
    epochs: int = 20
    batch_size: int = 100
    learning_rate: float = 3e-3
    grid: int = 321


@dataclass(frozen=True)
class Choice:
    """How the outliers of an epoch are chosen: at random, or mined from a quantile on."""

    quantile: float | None

    @property
    def title(self) -> str:
        """Name for people."""
        if self.quantile is None:
            return "random outliers"
        return "the hardest outliers, q = 0" if self.quantile == 0 else f"mined, q = {self.quantile:g}"


CHOICES = (Choice(None), Choice(0.5), Choice(0.125), Choice(0.0))


@dataclass(frozen=True)
class Trained:
    """A network of the example, and what it does.

    Attributes:
        choice: How its outliers were chosen.
        seed: Seed of data, start and order.
        area: Area of the plane accepted at 95 % TPR, of 256; that within the contours of the
            classes is `CLASSES` · π · `CONTOUR`² = 5.43.
        fpr: Share of OOD points accepted there.
        fpr_pushed: The same after they were pushed towards the data.
        accuracy: Share of ID points for which the right class is the largest of the K logits.
        accuracy_rejecting: The same of all K+1 logits, where rejecting is an error too.
        regions: Class of each grid point [G, G], rows upwards; K where it is rejected.
        points: Training points of the classes [N, 2].
        outliers: Outliers of the last epoch [M, 2].
    """

    choice: Choice
    seed: int
    area: float
    fpr: float
    fpr_pushed: float
    accuracy: float
    accuracy_rejecting: float
    regions: NDArray[np.int64]
    points: Points
    outliers: Points


MEASURES = {
    "area": "area accepted at 95 % TPR",
    "fpr_pushed": "FPR at 95 % TPR of OOD points\npushed towards the data",
    "accuracy_rejecting": "ID accuracy, rejecting counted as an error",
}


def class_points(seed: int, purpose: str, per_class: int) -> tuple[Points, NDArray[np.int64]]:
    """Draw points of the classes [3n, 2], and their labels."""
    rng = generator(seed, f"mining-example/{purpose}")
    labels = np.repeat(np.arange(CLASSES), per_class)
    points = MEANS[labels] + rng.normal(0, SIGMA, (len(labels), 2))
    return points.astype(np.float32), labels


def from_the_data(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the distance of points [N, 2] from the nearest class mean."""
    distances: NDArray[np.floating] = np.linalg.norm(points[:, None] - MEANS, axis=2).min(1)
    return distances


def pushed(points: NDArray[np.floating], eps: float) -> NDArray[np.floating]:
    """Move points [N, 2] by up to ``eps`` in each coordinate towards the nearest class mean."""
    nearest = MEANS[np.linalg.norm(points[:, None] - MEANS, axis=2).argmin(1)]
    return points + np.clip(nearest - points, -eps, eps)


def outside(seed: int, purpose: str, count: int, eps: float = 0.0) -> Points:
    """Draw points of the plane outside the contours of the classes, also once they are pushed."""
    rng = generator(seed, f"mining-example/{purpose}")
    drawn = rng.uniform(-SIDE, SIDE, (2 * count, 2))
    far = (from_the_data(drawn) > CONTOUR) & (from_the_data(pushed(drawn, eps)) > CONTOUR)
    return drawn[far][:count].astype(np.float32)


def outlier_pool(seed: int, setting: Setting) -> Points:
    """Draw the pool: points outside the contours, and a few of the classes themselves."""
    inside = round(setting.id_like * setting.pool)
    points, _ = class_points(seed, "pool/id-like", -(-inside // CLASSES))
    order = generator(seed, "mining-example/pool/order").permutation(len(points))[:inside]
    return np.concatenate([outside(seed, "pool", setting.pool - inside), points[order]])


def train(choice: Choice, seed: int, setting: Setting | None = None) -> Trained:
    """Train a network on some choice of outliers, and measure it.

    Networks of one seed have the same data, start and order of the ID points.
    """
    its = setting or Setting()
    points, labels = class_points(seed, "train", its.per_class)
    pool = torch.from_numpy(outlier_pool(seed, its))
    x, y = torch.from_numpy(points), torch.from_numpy(labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            *(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
            nn.Linear(64, CLASSES + 1),
        )
    optimiser = torch.optim.Adam(network.parameters(), its.learning_rate)
    chosen = pool[: its.chosen]
    for epoch in range(its.epochs):
        chosen = pool[_chosen(choice, network, pool, its.chosen, seed, epoch)]
        order = torch.randperm(len(x), generator=torch_generator(seed, "mining-example/id", epoch))
        for rows, others in zip(
            order.split(its.batch_size), chosen.split(its.batch_size), strict=False
        ):
            # The K+1-class loss of ATOM, λ = 1: a mean over each kind of points.
            logits = network(torch.cat([x[rows], others]))
            reject = torch.full((len(others),), CLASSES)
            loss = F.cross_entropy(logits[: len(rows)], y[rows])
            loss = loss + F.cross_entropy(logits[len(rows) :], reject)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return _measured(choice, seed, its, network, points, chosen.numpy())


def _chosen(
    choice: Choice, network: nn.Module, pool: Tensor, count: int, seed: int, epoch: int
) -> Tensor:
    shuffle = torch_generator(seed, "mining-example/outliers", epoch)
    if choice.quantile is None:
        return torch.randperm(len(pool), generator=shuffle)[:count]
    with torch.no_grad():
        scores = reject_class(network(pool), CLASSES)
    mined = mined_ranks(scores, choice.quantile, count)
    return mined[torch.randperm(count, generator=shuffle)]


def _measured(
    choice: Choice,
    seed: int,
    its: Setting,
    network: nn.Module,
    points: Points,
    outliers: Points,
) -> Trained:
    def logits(where: NDArray[np.floating]) -> Tensor:
        with torch.no_grad():
            found: Tensor = network(torch.from_numpy(where.astype(np.float32)))
        return found

    def scores(where: NDArray[np.floating]) -> NDArray[np.float32]:
        return reject_class(logits(where), CLASSES).numpy()

    test, labels = class_points(seed, "test", its.per_class)
    threshold = threshold95(scores(test))
    ood = outside(seed, "ood", its.pool, its.eps)
    along = np.linspace(-SIDE, SIDE, its.grid)
    grid = np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)
    on_grid = logits(grid)
    accepted = reject_class(on_grid, CLASSES).numpy() <= threshold
    regions = np.where(accepted, on_grid[:, :CLASSES].argmax(1).numpy(), CLASSES)
    of_test = logits(test)
    return Trained(
        choice=choice,
        seed=seed,
        area=float(accepted.mean()) * (2 * SIDE) ** 2,
        fpr=float((scores(ood) <= threshold).mean()),
        fpr_pushed=float((scores(pushed(ood, its.eps)) <= threshold).mean()),
        accuracy=float((of_test[:, :CLASSES].argmax(1).numpy() == labels).mean()),
        accuracy_rejecting=float((of_test.argmax(1).numpy() == labels).mean()),
        regions=regions.reshape(its.grid, its.grid).astype(np.int64),
        points=points,
        outliers=outliers,
    )


TRUE_AREA = CLASSES * pi * CONTOUR**2
"""Area within the contours."""


def example(seeds: tuple[int, ...] = (0, 1, 2, 3, 4), setting: Setting | None = None) -> list[Trained]:
    """Train a network for each choice of outliers and each seed."""
    return [train(choice, seed, setting) for choice in CHOICES for seed in seeds]
