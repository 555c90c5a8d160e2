"""Why outliers are mined, and why from a quantile on: an example in two dimensions.

Chen et al. (ATOM, ECML PKDD 2021) illustrate mining by three Gaussian classes and outliers in the
plane. Means, variances and counts of the original are not known to us; those here are ours. A
network with a reject class is trained on the classes and, each epoch, on a sixteenth of a pool of
outliers: drawn at random, or mined by the rule of `oodbench.mining.mined_ranks`. Most of the pool
is far from the classes, some is near, and a few outliers are drawn from the classes themselves,
as any large pool holds some.

ATOM keeps a quarter. In a plane a smaller share and a pool with few near outliers are needed for
random ones to be as uninformative as they are among images; docs/plots.md has measurements of both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.metrics import fpr95, threshold95
from oodbench.mining import mined_ranks
from oodbench.progress import Progress
from oodbench.randomness import generator, torch_generator
from oodbench.scores import reject_class

Points = NDArray[np.float64]

CLASSES = 3
SIDE = 8.0
"""The plane is [−8, 8]²."""
SIGMA = 0.25
"""Standard deviation of a class, in either direction."""
CONTOUR = SIGMA * (-2 * log(0.01)) ** 0.5
"""Distance from a class mean within which 99 % of its points lie."""
LEAST_AREA = CLASSES * pi * SIGMA**2 * -2 * log(0.05)
"""Area of the smallest region that holds 95 % of the classes: the best that can be accepted."""
MEANS = np.array([[2 * np.cos(t), 2 * np.sin(t)] for t in np.radians([90, 210, 330])])


@dataclass(frozen=True)
class Setting:
    """The example's numbers.

    Attributes:
        per_class: ID points of a class, for training and again for testing.
        pool: Outliers of the pool.
        chosen: Outliers that an epoch is trained on.
        near: Share of the pool that is near: outside the contours, but by at most ``reach``.
        id_like: Share of the pool that is drawn from the classes.
        reach: Distance.
        far: Distance from every class mean that all others of the pool have.
        ood: OOD test points, near ones.
        eps: L∞ distance that they are pushed towards the data.
        epochs: Epochs.
        batch_size: ID points a step, and as many outliers.
        learning_rate: Of Adam.
        grid: Points a side of the grid on which areas are measured.
    """

    per_class: int = 1000
    pool: int = 48_000
    chosen: int = 3_000
    near: float = 0.05
    id_like: float = 0.05
    reach: float = 1.0
    far: float = 3.0
    ood: int = 3_000
    eps: float = 0.5
    epochs: int = 20
    batch_size: int = 100
    learning_rate: float = 3e-3
    grid: int = 321


@dataclass(frozen=True)
class Choice:
    """How the outliers of an epoch are chosen: at random (None), or mined from a quantile on."""

    quantile: float | None

    @property
    def title(self) -> str:
        """Name for people."""
        if self.quantile is None:
            return "random outliers"
        only = " (the hardest only)" if self.quantile == 0 else ""
        return f"mined, q = {self.quantile:g}{only}"


CHOICES = tuple(map(Choice, (None, 0.0, 0.025, 0.05, 0.075, 0.125)))


@dataclass(frozen=True)
class Trained:
    """A network of the example, and what it does.

    Attributes:
        choice: How its outliers were chosen.
        seed: Seed of data, start and order.
        id_error: Share of ID test points for which the right class is not the largest of the K+1
            logits; rejecting is an error too.
        ood_error: Share of pushed OOD points for which the reject class is not the largest.
        accuracy: Share of ID test points for which the right class is the largest of the K.
        area: Area of the plane accepted at 95 % TPR, of 256 and no less than about `LEAST_AREA`.
        fpr: Share of pushed OOD points accepted there.
        regions: Largest of the K+1 logits at each grid point, int64 [G, G], rows upwards.
        points: Training points of the classes [N, 2].
        outliers: Outliers of the last epoch [M, 2].
    """

    choice: Choice
    seed: int
    id_error: float
    ood_error: float
    accuracy: float
    area: float
    fpr: float
    regions: NDArray[np.int64]
    points: Points
    outliers: Points

    @property
    def error(self) -> float:
        """Mean of the errors on ID and on OOD points."""
        return (self.id_error + self.ood_error) / 2


def class_points(seed: int, purpose: str, per_class: int) -> tuple[Points, NDArray[np.int64]]:
    """Draw points of the classes [3n, 2], and their labels."""
    rng = generator(seed, f"mining-example/{purpose}")
    labels = np.repeat(np.arange(CLASSES), per_class)
    return MEANS[labels] + rng.normal(0, SIGMA, (len(labels), 2)), labels


def from_the_data(points: Points) -> Points:
    """Return the distance of points [N, 2] from the nearest class mean [N]."""
    distances: Points = np.linalg.norm(points[:, None] - MEANS, axis=2).min(1)
    return distances


def pushed(points: Points, eps: float) -> Points:
    """Move points [N, 2] by up to ``eps`` in each coordinate towards the nearest class mean."""
    nearest = MEANS[np.linalg.norm(points[:, None] - MEANS, axis=2).argmin(1)]
    moved: Points = points + np.clip(nearest - points, -eps, eps)
    return moved


def plane_points(
    seed: int, purpose: str, count: int, where: Callable[[Points], NDArray[np.bool_]]
) -> Points:
    """Draw points of the plane [count, 2], uniform where ``where`` holds."""
    rng = generator(seed, f"mining-example/{purpose}")
    found = np.empty((0, 2))
    while len(found) < count:
        drawn = rng.uniform(-SIDE, SIDE, (8 * count, 2))
        found = np.concatenate([found, drawn[where(drawn)]])
    return found[:count]


def is_near(points: Points, setting: Setting) -> NDArray[np.bool_]:
    """Return which points are outside the contours of the classes, but near."""
    distance = from_the_data(points) - CONTOUR
    near: NDArray[np.bool_] = (distance > 0) & (distance < setting.reach)
    return near


def outlier_pool(seed: int, setting: Setting) -> Points:
    """Draw the pool [N, 2]: far outliers, then near ones, then those of the classes."""
    near, alike = round(setting.near * setting.pool), round(setting.id_like * setting.pool)
    points, _ = class_points(seed, "pool/id-like", -(-alike // CLASSES))
    order = generator(seed, "mining-example/pool/order").permutation(len(points))[:alike]
    return np.concatenate(
        [
            plane_points(
                seed,
                "pool/far",
                setting.pool - near - alike,
                lambda drawn: from_the_data(drawn) > setting.far,
            ),
            plane_points(seed, "pool/near", near, lambda drawn: is_near(drawn, setting)),
            points[order],
        ]
    )


def ood_points(seed: int, setting: Setting) -> Points:
    """Draw near OOD test points [N, 2] and push them; those are taken that stay outside."""

    def stays(drawn: Points) -> NDArray[np.bool_]:
        outside: NDArray[np.bool_] = from_the_data(pushed(drawn, setting.eps)) > CONTOUR
        return is_near(drawn, setting) & outside

    return pushed(plane_points(seed, "ood", setting.ood, stays), setting.eps)


def train(choice: Choice, seed: int, setting: Setting | None = None) -> Trained:
    """Train a network on some choice of outliers, and measure it.

    Networks of one seed have the same data, start and order of the ID points.
    """
    its = setting or Setting()
    points, labels = class_points(seed, "train", its.per_class)
    pool = _tensor(outlier_pool(seed, its))
    x, y = _tensor(points), torch.from_numpy(labels)
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
            torch.split(order, its.batch_size), torch.split(chosen, its.batch_size), strict=False
        ):
            # The K+1-class loss of ATOM, λ = 1: a mean over each kind of points.
            logits = network(torch.cat([x[rows], others]))
            reject = torch.full((len(others),), CLASSES)
            loss = F.cross_entropy(logits[: len(rows)], y[rows])
            loss = loss + F.cross_entropy(logits[len(rows) :], reject)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return _measured(choice, seed, its, network, points, chosen.double().numpy())


def _tensor(points: Points) -> Tensor:
    return torch.from_numpy(points.astype(np.float32))


def _chosen(
    choice: Choice, network: nn.Module, pool: Tensor, count: int, seed: int, epoch: int
) -> Tensor:
    """Return the positions of an epoch's outliers in the pool, shuffled."""
    shuffle = torch_generator(seed, "mining-example/outliers", epoch)
    if choice.quantile is None:
        return torch.randperm(len(pool), generator=shuffle)[:count]
    with torch.no_grad():
        scores = reject_class(network(pool), CLASSES)
    mined = mined_ranks(scores, choice.quantile, count)
    return mined[torch.randperm(count, generator=shuffle)]


def _measured(
    choice: Choice, seed: int, its: Setting, network: nn.Module, points: Points, outliers: Points
) -> Trained:
    test, labels = class_points(seed, "test", its.per_class)
    along = np.linspace(-SIDE, SIDE, its.grid)
    grid = np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)
    with torch.no_grad():
        of_test, of_ood, of_grid = (
            network(_tensor(where)) for where in (test, ood_points(seed, its), grid)
        )
    scores = reject_class(of_test, CLASSES).numpy()
    accepted = reject_class(of_grid, CLASSES).numpy() <= threshold95(scores)
    return Trained(
        choice=choice,
        seed=seed,
        id_error=float((of_test.argmax(1).numpy() != labels).mean()),
        ood_error=float((of_ood.argmax(1) != CLASSES).double().mean()),
        accuracy=float((of_test[:, :CLASSES].argmax(1).numpy() == labels).mean()),
        area=float(accepted.mean()) * (2 * SIDE) ** 2,
        fpr=fpr95(scores, reject_class(of_ood, CLASSES).numpy()),
        regions=of_grid.argmax(1).numpy().reshape(its.grid, its.grid),
        points=points,
        outliers=outliers,
    )


def example(
    choices: Sequence[Choice] = CHOICES,
    seeds: Sequence[int] = range(5),
    setting: Setting | None = None,
    progress: Progress | None = None,
) -> list[Trained]:
    """Train a network for each choice of outliers and each seed, seeds of one choice together."""
    asked = [(choice, seed) for choice in choices for seed in seeds]
    found = []
    with (progress or Progress()).task("training in two dimensions", len(asked)) as task:
        for choice, seed in asked:
            found.append(train(choice, seed, setting))
            task.advance(1, f"{choice.title}, seed {seed}")
    return found
