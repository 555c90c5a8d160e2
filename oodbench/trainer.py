"""Runs a recipe under a schedule, epoch by epoch, from a checkpoint where there is one."""

import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from oodbench.files import write_atomically
from oodbench.images import Images
from oodbench.network import Network, initialised
from oodbench.progress import Progress, Task
from oodbench.randomness import torch_generator
from oodbench.recipe import Batch, Recipe, Stage
from oodbench.schedule import Schedule
from oodbench.threat import to_float
from oodbench.training import Augmented, DeviceImages, Training, arithmetic

_JUDGED_AT_ONCE = 500


@dataclass
class Trained:
    """What a training leaves.

    Attributes:
        network: The network, on the device of the training.
        modules: Further trained modules, by name.
        facts: What the card of the weights says of the training.
    """

    network: Network
    modules: dict[str, nn.Module] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights and buffers by a name each, on the CPU."""
        named = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        for name, module in self.modules.items():
            named |= {f"modules.{name}.{key}": v for key, v in module.state_dict().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def kept(self) -> dict[str, Tensor]:
        """Return what is stored of `tensors`: kernels and matrices of the network rounded.

        Biases, batch norm and further modules keep their precision; they are small, and a
        variance may leave the range of half precision.
        """
        return {
            name: tensor.to(self.network.kept_as)
            if name.startswith("network.") and tensor.is_floating_point() and tensor.ndim > 1
            else tensor
            for name, tensor in self.tensors().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` or `kept` returned."""
        self.network.load_state_dict(_below("network.", tensors))
        for name, module in self.modules.items():
            module.load_state_dict(_below(f"modules.{name}.", tensors))

    @torch.no_grad()
    def accuracy(self, images: Images, classes: int) -> float | None:
        """Return the share of images that the network classifies right.

        Args:
            images: Images of the in-distribution set.
            classes: Number of in-distribution classes; further outputs do not take part.

        Returns:
            In [0, 1]; None where there are no images or no labels.
        """
        if images.labels is None or not len(images):
            return None
        network = self.network.eval()
        device = next(network.parameters()).device
        right = 0
        for start in range(0, len(images), _JUDGED_AT_ONCE):
            rows = np.arange(start, min(start + _JUDGED_AT_ONCE, len(images)))
            inputs = to_float(torch.from_numpy(images.batch(rows)).to(device))
            logits = network(inputs.contiguous(memory_format=network.memory_format))
            predicted = logits[:, :classes].argmax(1).cpu().numpy()
            right += int((predicted == images.labels[rows]).sum())
        return right / len(images)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class TrainingRequest:
    """All that determines a training.

    Attributes:
        recipe: What is learnt.
        schedule: How long and how fast.
        network: The network's class.
        classes: Number of in-distribution classes.
        seed: Training seed.
        images: In-distribution training images with labels.
        pool: Outlier pool, or None where no stage needs one.
        start: Tensors to start from, for a recipe with ``start_from``.
    """

    recipe: Recipe
    schedule: Schedule
    network: type[Network]
    classes: int
    seed: int
    images: Images
    pool: Images | None = None
    start: dict[str, Tensor] | None = None


def build(request: TrainingRequest, device: torch.device) -> tuple[Trained, Training]:
    """Build the untrained network and modules of a request, on a device."""
    outputs = request.recipe.outputs(request.classes)
    network = initialised(request.network, outputs, request.seed)
    network = network.to(device).to(memory_format=network.memory_format)
    training = Training(
        network=network,
        classes=request.classes,
        images_in_distribution=len(request.images),
        device=device,
        seed=request.seed,
        schedule=request.schedule,
        image_shape=request.images.batch([0]).shape[1:],
    )
    training.modules = {
        name: module.to(device) for name, module in request.recipe.modules(training).items()
    }
    training.facts["precision"] = arithmetic(request.schedule.precision, device)
    return Trained(network, training.modules, training.facts), training


def train(
    request: TrainingRequest,
    device: torch.device,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    title: str = "training",
) -> Trained:
    """Train, going on from ``checkpoint`` where it belongs to this request's file name.

    A checkpoint is written after every epoch and holds everything that the next one depends on;
    all randomness is counted by epoch and step, so a resumed training ends with the same weights
    bit for bit (on the CPU with the same number of threads).

    Args:
        request: What to train.
        device: Where.
        checkpoint: File of the checkpoint; removed by the caller when the weights are stored.
        progress: Where to report.
        title: What the report calls it.

    Raises:
        ValueError: If the recipe needs a pool, or weights to start from, and there are none, the
            loss is not finite, or the checkpoint was written on another kind of device or in
            another precision.
    """
    if request.recipe.start_from is not None and request.start is None:
        raise ValueError("the recipe goes on from another training, whose weights are missing")
    progress = progress or Progress()
    trained, training = build(request, device)
    training.progress = progress
    if request.start is not None:
        trained.network.load_state_dict(_below("network.", request.start))
    stages = request.recipe.stages(request.schedule)
    loop = _Loop(request, training, stages, device)
    resumed = _load_checkpoint(checkpoint)
    started = time.monotonic()
    if resumed:
        _require_same_arithmetic(checkpoint, resumed, training)
    else:
        request.recipe.start(training)
    work = [loop.work_of_epoch(stage) for stage in stages]
    total = sum(stage.schedule.epochs * of for stage, of in zip(stages, work, strict=True))
    done, before, first = 0.0, 0.0, 0
    if resumed:
        first = resumed["epoch"] + 1
        done = first * work[resumed["stage"]] + sum(
            stages[i].schedule.epochs * work[i] for i in range(resumed["stage"])
        )
        before = resumed["facts"].get("seconds", 0.0)

    def seconds() -> float:
        return round(before + time.monotonic() - started, 2)

    with progress.task(title, total, done) as task:
        for number, stage in enumerate(stages):
            if resumed and resumed["stage"] > number:
                continue
            optimiser, scheduler = loop.start_stage(number)
            if resumed and resumed["stage"] == number:
                trained.load_tensors(resumed["tensors"])
                optimiser.load_state_dict(resumed["optimiser"])
                scheduler.load_state_dict(resumed["scheduler"])
                training.facts.update(resumed["facts"])
            else:
                first = 0
            for epoch in range(first, stage.schedule.epochs):
                loop.run_epoch(stage, epoch, optimiser, scheduler, task)
                if checkpoint is not None:
                    state = {
                        "stage": number,
                        "epoch": epoch,
                        "tensors": trained.tensors(),
                        "optimiser": optimiser.state_dict(),
                        "scheduler": scheduler.state_dict(),
                        "facts": training.facts | {"seconds": seconds()},
                        "device": device.type,
                    }
                    write_atomically(checkpoint, partial(torch.save, state))
    training.facts["seconds"] = seconds()
    return trained


def can_go_on(checkpoint: Path) -> bool:
    """Whether there is a checkpoint from which a training goes on; one cut short is deleted."""
    return _load_checkpoint(checkpoint) is not None


def _load_checkpoint(path: Path | None) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError):
        # It holds nothing that training again does not bring back.
        path.unlink(missing_ok=True)
        return None
    if "scheduler" not in state:
        # Of a time when there could be a second optimiser.
        several = state["optimiser"]
        (state["optimiser"],), (state["scheduler"],) = several["optimisers"], several["rates"]
    return state


def _require_same_arithmetic(
    path: Path | None, resumed: dict[str, Any], training: Training
) -> None:
    """Raise a ValueError if a checkpoint is of another kind of device or another precision.

    What ``auto`` means depends on the machine, and the identity does not tell it.
    """
    here = training.device.type, training.facts["precision"]
    # Checkpoints that do not tell their precision are of a time when it was float32 on a CPU.
    there = resumed["device"], resumed["facts"].get("precision", "float32")
    if there != here:
        raise ValueError(f"{path} was written on {' in '.join(there)}; go on there, or delete it")


class _Loop:
    """The epochs and steps of a training."""

    def __init__(
        self,
        request: TrainingRequest,
        training: Training,
        stages: tuple[Stage, ...],
        device: torch.device,
    ) -> None:
        labels = request.images.labels
        if labels is None:
            raise ValueError("the in-distribution training images have no labels")
        self._recipe = request.recipe
        self._training = training
        self._stages = stages
        self._images = training.images = DeviceImages(request.images, device)
        self._labels = torch.from_numpy(labels).to(device)
        self._pool: DeviceImages | None = None
        if any(stage.outliers_per_image for stage in stages):
            if request.pool is None:
                raise ValueError("the recipe needs an outlier pool and the suite has none")
            self._pool = training.outliers = DeviceImages(request.pool, device)

    def steps_of_epoch(self, schedule: Schedule) -> int:
        return -(-len(self._images) // schedule.batch_size)

    def work_of_epoch(self, stage: Stage) -> float:
        """Return how many images an epoch shows, outliers among them."""
        return len(self._images) * (1 + stage.outliers_per_image)

    def start_stage(self, number: int) -> tuple[SGD, LRScheduler]:
        training, schedule = self._training, self._stages[number].schedule
        training.stage, training.schedule = number, schedule
        optimiser = SGD(
            self._recipe.parameter_groups(training),
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            nesterov=schedule.momentum > 0,
        )
        steps = schedule.epochs * self.steps_of_epoch(schedule)
        if schedule.policy == "cosine":
            return optimiser, CosineAnnealingLR(optimiser, steps)
        if schedule.policy == "one_cycle":
            peaks = [group["lr"] for group in optimiser.param_groups]
            return optimiser, OneCycleLR(optimiser, peaks, total_steps=steps, cycle_momentum=False)
        marks = [round(share * steps) for share in schedule.milestones]
        return optimiser, MultiStepLR(optimiser, marks, gamma=0.1)

    def run_epoch(
        self, stage: Stage, epoch: int, optimiser: SGD, scheduler: LRScheduler, task: Task
    ) -> None:
        training, recipe = self._training, self._recipe
        training.epoch, training.step = epoch, 0
        right = seen = 0
        for drawn in self._batches(stage):
            batch = recipe.prepare(training, drawn)
            training.network.train()
            with training.autocast():
                inputs = training.with_holes(torch.cat([batch.images, batch.outliers]))
                logits = training.network(inputs.contiguous(memory_format=torch.channels_last))
            known, unknown = logits.float().split([len(batch.images), len(batch.outliers)])
            loss = recipe.loss(training, batch, known, unknown)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            scheduler.step()
            recipe.after_step(training)
            right += int((known[:, : training.classes].argmax(1) == batch.labels).sum())
            seen += len(batch.labels)
            task.advance(
                len(drawn.labels) * (1 + stage.outliers_per_image),
                f"loss {loss.item():.2f}, accuracy {100 * right / seen:.0f} %",
            )
            training.step += 1
        if not bool(torch.isfinite(loss.detach())):
            raise ValueError(
                f"the loss is not finite after epoch {epoch + 1}; lower the learning rate"
            )

    def _batches(self, stage: Stage) -> Iterator[Batch]:
        """Yield the batches of the current epoch, in an order of its own."""
        training, schedule = self._training, stage.schedule
        rng = torch_generator(training.seed, "epoch/images", training.stage, training.epoch)
        views = Augmented(self._images, schedule, 1, rng)
        order = torch.randperm(len(self._images), generator=rng)
        outliers = self._outliers_of_epoch(stage)
        seen = first = 0
        for positions in torch.split(order, schedule.batch_size):
            images = to_float(views.batch(positions))
            labels = self._labels[positions.to(self._labels.device)]
            seen += len(positions)
            last = stage.outliers_beside(seen)
            chosen = images[:0]
            if last > first:
                chosen = to_float(training.with_parts(training.pool.batch(outliers[first:last])))
            first = last
            yield Batch(images, labels, chosen)

    def _outliers_of_epoch(self, stage: Stage) -> Tensor:
        """Return indices into the epoch's pool for all steps, each round shuffled anew."""
        training = self._training
        if not stage.outliers_per_image or self._pool is None:
            return torch.empty(0, dtype=torch.int64)
        rng = torch_generator(training.seed, "epoch/outliers", training.stage, training.epoch)
        schedule = stage.schedule.of_pool
        training.pool = Augmented(self._pool, schedule, schedule.pool_views, rng)
        chosen = self._recipe.start_epoch(training)
        needed = stage.outliers_beside(len(self._images))
        rounds = -(-needed // len(chosen))
        shuffled = [chosen[torch.randperm(len(chosen), generator=rng)] for _ in range(rounds)]
        return torch.cat(shuffled)[:needed]
