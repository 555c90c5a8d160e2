"""Energy of a network that was fine-tuned with outliers."""

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from oodbench.detector import Detector
from oodbench.fields import at_least, positive
from oodbench.model import Model
from oodbench.recipe import Batch, Plain, Recipe, Stage, doubled_batch
from oodbench.schedule import Schedule
from oodbench.scores import energy
from oodbench.training import Training


@dataclass(frozen=True)
class EnergyMargins(Recipe):
    """Fine-tuning that drives energies below one margin on images, above another on outliers.

    Attributes are those of `EnergyFinetuned`.
    """

    margin_in: float = -23.0
    margin_out: float = -5.0
    weight: float = 0.1
    epochs: int = 10
    learning_rate: float = 0.001
    weight_decay: float = 5e-4
    outliers_per_image: int = 2

    @property
    def start_from(self) -> Recipe:
        """Plain training."""
        return Plain()

    def stages(self, schedule: Schedule) -> tuple[Stage, ...]:
        """Return one short stage of doubled batches at a low, cosine learning rate."""
        tuning = replace(
            schedule,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=doubled_batch(schedule),
            policy="cosine",
            weight_decay=self.weight_decay,
        )
        return (Stage(tuning, self.outliers_per_image),)

    def loss(
        self, training: Training, batch: Batch, logits: Tensor, outlier_logits: Tensor
    ) -> Tensor:
        """Return CE(ID) + w·(mean max(0, E − m_in)² on images + mean max(0, m_out − E)²)."""
        above = F.relu(energy(logits) - self.margin_in).square().mean()
        below = F.relu(self.margin_out - energy(outlier_logits)).square().mean()
        return F.cross_entropy(logits, batch.labels) + self.weight * (above + below)


@dataclass(frozen=True)
class EnergyFinetuned(Detector):
    """Energy score of a network fine-tuned on energy margins (Liu et al., NeurIPS 2020, §3.3).

    Ten epochs from the plain network, 128 images and 256 random outliers a step, momentum 0.9,
    cosine learning rate from 0.001. It was not attacked when published, so no search of ``--preset
    paper`` can attack it.

    Attributes:
        margin_in: m_in, eq. 8; energy; published per in-distribution set: CIFAR-10 −23,
            CIFAR-100 −27.
        margin_out: m_out, eq. 8; energy; −5.
        weight: Weight of the margin terms; no unit; 0.1.
        epochs: Epochs of the fine-tuning; 10.
        learning_rate: Its first learning rate; 0.001.
        temperature: T of the score; no unit; 1.
    """

    margin_in: float | None = None
    margin_out: float = -5.0
    weight: float = 0.1
    epochs: int = 10
    learning_rate: float = 0.001
    temperature: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "temperature", "learning_rate")
        at_least(self, 0, "weight")
        at_least(self, 1, "epochs")

    @property
    def recipe(self) -> Recipe:
        """Fine-tuning of the plain network on energy margins."""
        if self.margin_in is None:
            raise ValueError(
                "margin_in has no value for this suite; set energy_finetuned.margin_in"
            )
        return EnergyMargins(
            margin_in=self.margin_in,
            margin_out=self.margin_out,
            weight=self.weight,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
        )

    def score(self, model: Model, images: Tensor) -> Tensor:
        """Return −T·lse(z/T)."""
        return energy(model.logits(images), self.temperature)
