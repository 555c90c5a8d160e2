"""The training loop, one for all recipes."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.descent import Ball, Gradient, Value, falling_sizes, mixed_directions, pgd
from oodbench.images import Images
from oodbench.model import input_gradient
from oodbench.network import Network, fold_batch_norm
from oodbench.progress import Progress
from oodbench.randomness import torch_generator
from oodbench.schedule import Schedule
from oodbench.threat import LEVELS, to_float

_POOL_BATCH = 1024
_HOLE = 128
_ON_DEVICE_BYTES = 4 << 30


def arithmetic(precision: str, device: torch.device) -> str:
    """Return what a schedule's precision means on a device: ``float32`` or ``bfloat16``."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" or _cpu_multiplies_bfloat16() else "float32"


def _cpu_multiplies_bfloat16() -> bool:
    # Without such instructions bfloat16 is slower; an older torch does not tell of them.
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


class DeviceImages:
    """uint8 images, on the device at once where they are few enough, else fetched in batches."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self._images = images
        self._device = device
        self._all: Tensor | None = None
        sample = images.batch([0])
        if sample.nbytes * len(images) <= _ON_DEVICE_BYTES:
            everything = torch.from_numpy(images.batch(range(len(images))))
            self._all = everything.to(device)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices``, uint8 [n, 3, H, W], on the device."""
        if self._all is not None:
            return self._all[indices.to(self._device)]
        return torch.from_numpy(self._images.batch(indices.numpy())).to(self._device)


class Augmented:
    """Augmented views of images, each a function of its position, never stored.

    Position ``v·n + i`` is view ``v`` of image ``i``; fetching it twice gives the same pixels.
    """

    def __init__(
        self, images: DeviceImages, schedule: Schedule, views: int, rng: torch.Generator
    ) -> None:
        self._images = images
        self._padding = schedule.crop_padding
        self._mode = schedule.padding_mode
        count = views * len(images)
        self._flip = (
            torch.rand(count, generator=rng) < 0.5
            if schedule.flip
            else torch.zeros(count, dtype=torch.bool)
        )
        self._shift = torch.randint(0, 2 * self._padding + 1, (count, 2), generator=rng)

    def __len__(self) -> int:
        return len(self._flip)

    @property
    def different_images(self) -> int:
        """Number of images behind the views."""
        return len(self._images)

    def batch(self, positions: Tensor) -> Tensor:
        """Return the views at ``positions``, uint8 [n, 3, H, W], on the device."""
        images = self._images.batch(positions % len(self._images))
        if self._padding:
            shift = self._shift[positions].to(images.device)
            images = shifted(images, self._padding, shift, self._mode)
        flip = self._flip[positions].to(images.device)
        return torch.where(flip[:, None, None, None], images.flip(3), images)


def enlarged(images: Tensor, shares: Tensor, places: Tensor) -> Tensor:
    """Enlarge a square part of each image to the size of the whole, bilinearly.

    Args:
        images: uint8 [N, 3, H, W].
        shares: Side of each part as a share of the whole, float32 [N] in (0, 1]; of 1 the image
            stays bit for bit.
        places: Where each part lies, float32 [N, 2] of column and row: from 0, at the left and
            upper edge, to 1, at the right and lower one.

    Returns:
        Tensor like ``images``.
    """
    maps = torch.zeros(len(images), 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = shares
    maps[:, :, 2] = (1 - shares[:, None]) * (2 * places - 1)
    maps = maps.to(images.device)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    parts = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    whole = (shares == 1).to(images.device)[:, None, None, None]
    return torch.where(whole, images, parts.round().to(images.dtype))


def shifted(images: Tensor, padding: int, offsets: Tensor, mode: str = "zeros") -> Tensor:
    """Crop each image at its own place after padding.

    Args:
        images: [N, 3, H, W].
        padding: Pixels added on every side; of ``reflect`` at most H − 1 and W − 1.
        offsets: Top and left of each crop in the padded image, int64 [N, 2].
        mode: ``zeros``, or ``reflect``: mirrored at the outermost pixels, these not repeated.

    Returns:
        Tensor like ``images``.
    """
    count, _, height, width = images.shape
    if mode == "reflect":
        # Not on every device does torch mirror whole numbers.
        padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)
    else:
        padded = F.pad(images, (padding,) * 4)
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def punched(images: Tensor, side: int, centres: Tensor) -> Tensor:
    """Fill a square hole in each image with mid-grey, 128/255 (DeVries & Taylor, 2017).

    The grey is the same for every image set: a set's own mean would tell outliers from the rest.
    It is about what networks normalise to 0.

    Args:
        images: float32 [N, 3, H, W] in [0, 1].
        side: Side of the holes in pixels; of an even one, the larger half lies before the centre.
        centres: Row and column of each centre, int64 [N, 2]; a hole may stick out of its image.

    Returns:
        Tensor like ``images``.
    """
    height, width = images.shape[2:]
    first = centres - side // 2
    rows = torch.arange(height, device=images.device) - first[:, 0, None]
    columns = torch.arange(width, device=images.device) - first[:, 1, None]
    in_rows, in_columns = ((place >= 0) & (place < side) for place in (rows, columns))
    hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return images.masked_fill(hole, _HOLE / LEVELS)


@dataclass(frozen=True)
class FrozenObjective:
    """A function of the logits of the current network, in evaluation mode, to be lowered."""

    value: Value
    gradient: Gradient


@dataclass
class Training:
    """The state of a training, as a recipe sees it.

    Attributes:
        network: The network.
        modules: Further modules trained beside it, by name.
        classes: Number of in-distribution classes K.
        images_in_distribution: Number of training images |D|.
        device: Where it runs.
        seed: Training seed.
        stage: Number of the current stage, from 0.
        epoch: Number of the current epoch of the stage, from 0.
        step: Number of the current step of the epoch, from 0.
        schedule: Schedule of the current stage.
        image_shape: Shape (3, H, W) of the images.
        images: In-distribution training images, not augmented; None where only the network and
            the modules are built.
        outliers: Outlier pool, not augmented; None where no stage uses one.
        facts: What the card of the weights says of the training; a recipe may add to it.
        progress: Where a recipe tells of work that takes long before the first step.
    """

    network: Network
    classes: int
    images_in_distribution: int
    device: torch.device
    seed: int
    schedule: Schedule
    modules: dict[str, nn.Module] = field(default_factory=dict)
    stage: int = 0
    epoch: int = 0
    step: int = 0
    image_shape: tuple[int, ...] = (3, 32, 32)
    images: DeviceImages | None = None
    outliers: DeviceImages | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    _pool: Augmented | None = None

    @property
    def pool(self) -> Augmented:
        """The epoch's augmented views of the outlier pool.

        Raises:
            ValueError: If the stage uses no outliers.
        """
        if self._pool is None:
            raise ValueError("this stage of the recipe uses no outliers")
        return self._pool

    @pool.setter
    def pool(self, pool: Augmented) -> None:
        self._pool = pool

    def generator(self, purpose: str) -> torch.Generator:
        """Return the CPU generator of this step for a purpose."""
        return torch_generator(self.seed, purpose, self.stage, self.epoch, self.step)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that the schedule's precision asks for."""
        precision = arithmetic(self.schedule.precision, self.device)
        if precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, precision))

    def frozen_objective(self, of_logits: Callable[[Tensor], Tensor]) -> FrozenObjective:
        """Make a function of the logits of the current network that an attack can lower."""
        network = fold_batch_norm(self.network)

        def value(images: Tensor) -> Tensor:
            with torch.no_grad(), self.autocast():
                return of_logits(network(_channels_last(images)).float())

        def gradient(images: Tensor) -> tuple[Tensor, Tensor]:
            inputs = images.detach().requires_grad_()
            with torch.enable_grad(), self.autocast():
                values = of_logits(network(_channels_last(inputs)).float())
            return values.detach(), input_gradient(values, inputs)

        return FrozenObjective(value, gradient)

    def with_parts(self, outliers: Tensor) -> Tensor:
        """Return the outliers of a step, half of them enlarged parts, as the schedule asks for.

        They are chosen as they are, and enlarged when chosen: mining would else take now only
        enlarged ones and now only whole ones, whichever the network rejects less, and unteach the
        others.

        Args:
            outliers: uint8 [M, 3, H, W].

        Returns:
            The same where the schedule asks for no parts.
        """
        least = self.schedule.pool_zoom
        if least == 1:
            return outliers
        rng, count = self.generator("outliers/parts"), len(outliers)
        shares = least + (1 - least) * torch.rand(count, generator=rng)
        whole = torch.rand(count, generator=rng) < 0.5
        places = torch.rand(count, 2, generator=rng)
        return enlarged(outliers, torch.where(whole, 1.0, shares), places)

    def with_holes(self, images: Tensor) -> Tensor:
        """Return the images of a step as the network is to see them, each with a hole of its own.

        What is cut before an attack would tell attacked images from clean ones: in these alone a
        hole stays flat, and where only outliers are attacked a flat hole means in-distribution.

        Args:
            images: float32 [N, 3, H, W] in [0, 1], attacked where the recipe attacks.

        Returns:
            The same where the schedule asks for no holes in this epoch.
        """
        side = self.schedule.cutout_side_of(self.epoch)
        if not side:
            return images
        rng = self.generator("cutout")
        places = [torch.randint(0, n, (len(images),), generator=rng) for n in images.shape[2:]]
        return punched(images, side, torch.stack(places, dim=1).to(images.device))

    def attacked(
        self,
        images: Tensor,
        of_logits: Callable[[Tensor], Tensor],
        *,
        eps: int,
        steps: int,
        step: int,
        mixed: bool = False,
    ) -> Tensor:
        """Lower a function of the logits of the current network about each image.

        The attack of Chen et al. (2021, code): from round(U(−ε, ε)), sign steps of whole levels,
        the best of the image itself, the start and every iterate. A network that learns to tell
        that noise from images is attacked by it no more. A mixed attack has no such mark: it starts
        at the image itself, its steps become smaller (`falling_sizes`), and half of the images
        take them along the signs of the gradient, half along the gradient (`mixed_directions`).

        Args:
            images: float32 [N, 3, H, W] in [0, 1], whole grey levels.
            of_logits: Logits of all N images [N, outputs] → values [N].
            eps: Radius in grey levels.
            steps: Gradient steps.
            step: Step size in grey levels; not of a mixed attack.
            mixed: Whether the attack is mixed.

        Returns:
            float32 [N, 3, H, W] in [0, 1], whole grey levels.
        """
        objective = self.frozen_objective(of_logits)
        centres = (images * LEVELS).round()
        start = None
        if not mixed:
            noise = torch.rand(images.shape, generator=self.generator("attack/start"))
            start = centres + ((2 * noise - 1) * eps).round().to(centres)
        found, _ = pgd(
            objective.value,
            objective.gradient,
            Ball.around(centres, eps),
            start,
            falling_sizes(eps, steps) if mixed else [step] * steps,
            mixed_directions if mixed else torch.sign,
        )
        return found / LEVELS

    def score_pool(self, positions: Tensor, of_logits: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``of_logits`` of the pool's views at ``positions``, float32, on the CPU."""
        value = self.frozen_objective(of_logits).value
        parts = [
            value(to_float(self.pool.batch(part))) for part in torch.split(positions, _POOL_BATCH)
        ]
        return torch.cat(parts).cpu()


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
