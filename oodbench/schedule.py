"""How long and how fast a network is taught, apart from what it is taught."""

from dataclasses import dataclass, field, replace
from math import isfinite

from oodbench.fields import at_least
from oodbench.identity import UNNAMED_AT_DEFAULT

POLICIES = ("step", "one_cycle", "cosine")
PRECISIONS = ("float32", "bfloat16", "auto")
PADDING_MODES = ("zeros", "reflect")
OUTLIER_FIELDS = ("pool_views", "pool_flip", "pool_padding", "pool_zoom")
"""Fields of a schedule that mean nothing to a recipe without outliers."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of stochastic gradient descent with Nesterov momentum.

    Attributes:
        epochs: Passes over the in-distribution training images.
        learning_rate: Peak learning rate.
        batch_size: In-distribution images a step; recipes add outliers in proportion.
        policy: ``step`` (÷10 at the milestones), ``one_cycle`` (Smith & Topin, 2018) or
            ``cosine`` (from the learning rate to 0).
        milestones: Shares of the epochs after which a ``step`` policy divides by 10.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on all parameters.
        flip: Whether images are mirrored with probability one half.
        crop_padding: Padding in pixels before a random crop; 0 for none.
        pool_views: Augmented views of the outlier pool an epoch.
        pool_flip: Whether outliers are mirrored; None as images are.
        pool_padding: Padding of outliers before a random crop; None as of images.
        pool_zoom: Half of the outliers of a step show a square part of the view alone, enlarged to
            its size; the side of the part is drawn from this share of the whole on; 1 for none.
        precision: ``float32``, ``bfloat16`` (autocast; weights stay float32), or ``auto``: bfloat16
            where it pays, on a GPU and on processors with instructions for it, and float32
            elsewhere.
        cutout_side: Side in pixels of a square hole at a random place of every image (DeVries &
            Taylor, 2017), cut last, after an attack; 0 for none.
        cutout_share: Share of the epochs, from the first on, in which holes are cut; of those of
            each stage, where a recipe has several, and a part of an epoch counts as a whole one.
        padding_mode: ``zeros`` as published, or ``reflect``: the picture goes on mirrored, so that
            no flat border tells images from attacked ones.

    Raises:
        ValueError: If a field is none of these or out of range; it names the field.
    """

    epochs: int = 100
    learning_rate: float = 0.1
    batch_size: int = 64
    policy: str = "step"
    milestones: tuple[float, ...] = (0.5, 0.75, 0.9)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    flip: bool = True
    crop_padding: int = 4
    pool_views: int = 1
    precision: str = "float32"
    cutout_side: int = field(default=0, metadata=UNNAMED_AT_DEFAULT)
    padding_mode: str = field(default="zeros", metadata=UNNAMED_AT_DEFAULT)
    pool_flip: bool | None = field(default=None, metadata=UNNAMED_AT_DEFAULT)
    pool_padding: int | None = field(default=None, metadata=UNNAMED_AT_DEFAULT)
    pool_zoom: float = field(default=1.0, metadata=UNNAMED_AT_DEFAULT)
    cutout_share: float = field(default=1.0, metadata=UNNAMED_AT_DEFAULT)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "pool_views", "crop_padding", "cutout_side"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        if self.pool_padding is not None:
            if not isinstance(self.pool_padding, int):
                raise ValueError(f"pool_padding must be a whole number, not {self.pool_padding!r}")
            at_least(self, 0, "pool_padding")
        at_least(self, 1, "epochs", "batch_size", "pool_views")
        at_least(
            self, 0, "crop_padding", "cutout_side", "learning_rate", "momentum", "weight_decay"
        )
        for name in ("learning_rate", "weight_decay"):
            if not isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, not {getattr(self, name)}")
        for name in ("pool_zoom", "cutout_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in (0, 1], not {getattr(self, name)}")
        if not self.momentum < 1:
            raise ValueError(f"momentum must be less than 1, not {self.momentum}")
        for name, known in (
            ("policy", POLICIES),
            ("precision", PRECISIONS),
            ("padding_mode", PADDING_MODES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if not all(0 < share <= 1 for share in self.milestones):
            raise ValueError(f"milestones must be shares in (0, 1], not {self.milestones}")

    def cutout_side_of(self, epoch: int) -> int:
        """Return the side of the holes that are cut in an epoch, counted from 0; 0 for none."""
        # 0.55 · 100 is 55.00000000000001 in floating point.
        return self.cutout_side if epoch < self.cutout_share * self.epochs - 1e-9 else 0

    @property
    def without_outliers(self) -> "Schedule":
        """What of the schedule a recipe without outliers goes by; the rest as by default."""
        default = Schedule()
        return replace(self, **{name: getattr(default, name) for name in OUTLIER_FIELDS})

    @property
    def of_pool(self) -> "Schedule":
        """The schedule with outliers augmented as images are in this one."""
        flip, padding = self.pool_flip, self.pool_padding
        return replace(
            self,
            flip=self.flip if flip is None else flip,
            crop_padding=self.crop_padding if padding is None else padding,
        )


PAPER = Schedule()
"""As published for CIFAR (Chen et al., 2021): 100 epochs, ÷10 at 50, 75 and 90."""
