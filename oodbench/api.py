"""The harness as one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench import intervals
from oodbench.cells import Cell
from oodbench.errors import CellError, RequestError
from oodbench.execute import Outcome, execute
from oodbench.files import DEFAULT_RESULTS as DEFAULT_RESULTS
from oodbench.files import data_root as data_folder
from oodbench.files import store_root, writable_folder
from oodbench.plan import Plan, Request, make_plan
from oodbench.progress import Progress
from oodbench.records import read_arrays
from oodbench.sides import CLEAN
from oodbench.tables import GroupKey, frame, group_key
from oodbench.threat import parse_eps
from oodbench.views import views
from oodbench.workbench import Settings, Workbench, choose_device

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BATCH_SIZE = {"cpu": 256, "cuda": 1024}


@dataclass(frozen=True)
class Places:
    """Folders and machine of a run; None takes the defaults of the command line."""

    device: str | None = None
    batch_size: int | None = None
    data_root: str | Path | None = None
    results: str | Path | None = None
    store: str | Path | None = None
    retrain: bool = False
    force: bool = False

    def workbench(self, progress: Progress | None = None) -> Workbench:
        """Open a workbench.

        Raises:
            RequestError: If the device is not there or the batch size is not positive.
        """
        device = choose_device(self.device)
        size = self.batch_size
        if size is None:
            size = DEFAULT_BATCH_SIZE.get(device.partition(":")[0], 256)
        if size < 1:
            raise RequestError(f"--batch-size {size}: at least 1 image is needed")
        settings = Settings(
            device=device,
            batch_size=size,
            data_root=data_folder(self.data_root),
            store=store_root(self.store),
            retrain=self.retrain,
        )
        return Workbench(settings, progress)


def run(request: Request, places: Places, progress: Progress | None = None) -> tuple[Plan, Outcome]:
    """Plan and execute a request; the command line's ``run`` is this and a table."""
    results = Path(places.results or DEFAULT_RESULTS)
    if results.exists():
        writable_folder(results, "results")
    bench = places.workbench(progress)
    plan = make_plan(request, bench, results, force=places.force)
    # A request that is refused leaves no folder behind.
    writable_folder(results, "results")
    return plan, execute(plan)


def mean_intervals(plan: Plan) -> dict[GroupKey, dict[str, dict[str, tuple[float, float]]]]:
    """Return intervals of the means over OOD sets, for each row of the table and each view.

    The in-distribution images, shared by all sets, are resampled jointly.
    """
    groups: dict[GroupKey, list[Cell]] = {}
    for cell in plan.cells:
        if cell in plan.done:
            groups.setdefault(group_key(plan.done[cell]), []).append(cell)
    result: dict[GroupKey, dict[str, dict[str, tuple[float, float]]]] = {}
    for key, cells in groups.items():
        first = cells[0]
        known, _ = read_arrays(plan.id_path(first.subject))
        others = {
            cell.image_set: read_arrays(plan.record_path(cell).with_suffix(".npz"))[0]["scores"]
            for cell in cells
        }
        attacked = known
        if first.side != "ood":
            attacked, _ = read_arrays(plan.search_path(plan.id_search(first)))
        suite = plan.bench.suite(first.subject.taught.suite)
        result[key] = {
            view: intervals.mean_intervals(
                attacked["scores"],
                [others[name] for name in sets],
                clean_id_scores=None if first.side == "ood" else known["scores"],
            )
            for view, sets in views(suite, list(others)).items()
        }
    return result


def evaluate(
    detector: str | Sequence[str] = "all",
    attack: str | Sequence[str] = CLEAN,
    eps: str | None = None,
    suite: str = "mini",
    *,
    ood: Sequence[str] = (),
    side: str = "ood",
    preset: str = "standard",
    budget: int | None = None,
    seed: int | Sequence[int] = 0,
    schedule: str | None = None,
    network: str | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    limit: int | None = None,
    precision: str | None = None,
    params: Sequence[str] = (),
    device: str | None = None,
    batch_size: int | None = None,
    data_root: str | Path | None = None,
    results: str | Path | None = None,
    store: str | Path | None = None,
    retrain: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Evaluate detectors on clean or attacked images.

    What is stored already under the same identity is reused; the rest is computed and stored.

    Args:
        detector: Names, comma lists or paths of plugin files; ``all`` for every one.
        attack: Names of perturbations.
        eps: Radius such as ``8/255``.
        suite: Name of the suite.
        ood: OOD sets; all of the suite by default.
        side: Which images are attacked: ``ood``, to be accepted; ``id``, in-distribution ones, to
            be rejected; ``both``, which gives the cells of all three.
        preset: ``standard`` or ``paper``.
        budget: Gradient steps an image.
        seed: Training seeds.
        schedule: Name of the training schedule.
        network: Name of the network.
        model: ``module:factory`` or ``file.py:factory`` that makes a network of your own, for
            detectors of a plainly trained one.
        weights: File of its weights: safetensors, or ``torch.save`` of a ``state_dict``.
        limit: Images of each test set.
        precision: ``float32`` or ``bfloat16`` for the search of an attack.
        params: Texts such as ``odin.temperature=100``.
        device: Device such as ``cuda:0``.
        batch_size: Images at once.
        data_root: Folder of image data.
        results: Folder of results.
        store: Folder of weights.
        retrain: Train even where weights are there.
        force: Compute even where records are there.
        progress: Where to report.

    Returns:
        A row for each cell; columns are the fields of a record, metrics in [0, 1].

    Raises:
        RequestError: If what is asked for is wrong.
        CellError: If cells failed; the others are stored.
    """
    request = Request(
        suite=suite,
        detectors=names(detector),
        attacks=names(attack),
        ood=tuple(ood),
        side=side,
        seeds=(seed,) if isinstance(seed, int) else tuple(seed),
        eps=None if eps is None else parse_eps(eps),
        preset=preset,
        budget=budget,
        schedule=schedule,
        network=network,
        model=model,
        weights=None if weights is None else str(weights),
        limit=limit,
        precision=precision,
        settings=tuple(params),
    )
    places = Places(device, batch_size, data_root, results, store, retrain, force)
    _, outcome = run(request, places, progress)
    if outcome.failures:
        raise CellError("; ".join(outcome.failures)) from outcome.errors[0]
    return frame(outcome.records)


def names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Split comma lists; repeated options add up."""
    texts = [given] if isinstance(given, str) else list(given)
    return tuple(
        dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip())
    )
