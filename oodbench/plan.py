"""What a run will do: the cells asked for, what they stand on, and what is there already."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench.cells import Cell, Identities, Subjected
from oodbench.chosen import chosen_detectors, selected, subjected
from oodbench.errors import DamagedFileError, RequestError
from oodbench.files import locked
from oodbench.identity import digest, parameters
from oodbench.imported import ImportedSet, how_to_get, import_command
from oodbench.plugins import PluginSpec, field_types, passed_on
from oodbench.records import (
    SIDES,
    Arrays,
    Place,
    arrays_digest,
    read_named,
    read_record,
    read_scores,
)
from oodbench.registry import entries, load
from oodbench.sides import CLEAN, AttackedId, id_search, ood_source, sides_of
from oodbench.workbench import Workbench


@dataclass(frozen=True)
class Request:
    """What a user asks for; names as on the command line.

    Attributes:
        suite: Name or path of the suite.
        detectors: Names or paths; ``all`` is every one that is registered.
        attacks: Names or paths; ``all`` is every one that declares itself part of it.
        ood: OOD sets; empty for all of the suite.
        side: Which images are attacked: ``ood``, ``id``, or ``both``, which plans the cells of
            all three.
        seeds: Training seeds.
        eps: Radius in grey levels of the perturbations that have one, or several of them, each
            of which makes cells of its own.
        preset: ``standard`` or ``paper``.
        budget: Gradient steps an image; None takes the suite's.
        schedule: Name of the schedule; None takes the suite's.
        network: Name or path of the network; None takes the suite's.
        model: ``module:factory`` that makes a network of the user's own; None for `network`.
        weights: File of weights for the network, which is then not trained.
        limit: Images of each test set; None for all.
        precision: Type of the search's arithmetic; None is float32 on the CPU and bfloat16 on
            a GPU.
        settings: Texts such as ``odin.temperature=100``.
    """

    suite: str = "mini"
    detectors: Sequence[str] = ("all",)
    attacks: Sequence[str] = (CLEAN,)
    ood: Sequence[str] = ()
    side: str = "ood"
    seeds: Sequence[int] = (0,)
    eps: int | Sequence[int] | None = None
    preset: str = "standard"
    budget: int | None = None
    schedule: str | None = None
    network: str | None = None
    model: str | None = None
    weights: str | None = None
    limit: int | None = None
    precision: str | None = None
    settings: Sequence[str] = ()

    @property
    def radii(self) -> tuple[int | None, ...]:
        """The radii asked for, each once and at least one; None takes each perturbation's own."""
        if self.eps is None or isinstance(self.eps, int):
            return (self.eps,)
        return tuple(dict.fromkeys(self.eps)) or (None,)


@dataclass
class Plan:
    """Cells, and which of them are there already.

    Attributes:
        cells: All cells asked for, in the order of the table.
        results: The results folder.
        bench: Where it is carried out.
        identities: Identities of the cells.
        force: Whether to compute what is stored too.
        done: Records that can be used as they are, by cell; also of cells that were not asked
            for, where one that was stands on them.
    """

    cells: list[Cell]
    results: Path
    bench: Workbench
    identities: Identities
    force: bool = False
    done: dict[Cell, dict[str, Any]] = field(default_factory=dict)

    @property
    def missing(self) -> list[Cell]:
        """Cells that have to be computed."""
        return [cell for cell in self.cells if cell not in self.done]

    @property
    def notes(self) -> list[str]:
        """What a table of the cells has to say: of the perturbations, then of the suites."""
        said: dict[str, None] = {}
        for cell in self.cells:
            said |= dict.fromkeys(cell.notes)
        for cell in self.cells:
            said[self.bench.suite(cell.subject.taught.suite).note] = None
        return [note for note in said if note]

    def place(self, subject: Subjected) -> Place:
        """Return where a detector's files lie."""
        taught = subject.taught
        return Place(self.results, Path(taught.suite).stem, subject.detector.name, taught.seed)

    def record_path(self, cell: Cell) -> Path:
        """Return the file of a cell's record."""
        identity = digest(self.identities.cell(cell))
        return self.place(cell.subject).record(cell.perturbation.name, cell.image_set, identity)

    def id_path(self, subject: Subjected) -> Path:
        """Return the file of a detector's in-distribution scores."""
        return self.place(subject).id_scores(digest(self.identities.subject(subject)))

    def search_path(self, search: Cell) -> Path:
        """Return the file of the attacked in-distribution images of a search."""
        identity = digest(self.identities.cell(search))
        return self.place(search.subject).id_attacked(search.perturbation.name, identity)

    def id_search(self, cell: Cell) -> Cell:
        """Return the search on in-distribution images that a cell stands on."""
        return id_search(cell, self.bench.suite(cell.subject.taught.suite).id_set)

    def find(self, cell: Cell) -> None:
        """Take note of what is stored of a cell, and of the one that it stands on.

        Raises:
            DamagedFileError: If a file is damaged or belongs to another cell.
        """
        for one in (cell,) if cell.side == "ood" else (ood_source(cell), cell):
            folder = self.record_path(one).parent
            if one in self.done or self.force or not folder.exists():
                continue
            with locked(folder):
                record = self.look_up(one)
            if record is not None:
                self.done[one] = record

    def look_up(self, cell: Cell) -> dict[str, Any] | None:
        """Return what is stored of a cell if it can be used as it is.

        It can if it has the same identity and was computed from the weights and in-distribution
        scores that are there now, and from the search and the cell that it stands on.

        Raises:
            DamagedFileError: If a file is damaged or belongs to another cell.
        """
        path = self.record_path(cell)
        if self.force or not path.exists():
            return None
        record = read_record(path)
        if record["identity"] != digest(self.identities.cell(cell)):
            raise DamagedFileError(
                f"{path} belongs to another cell; delete it, or replace it with --force"
            )
        read_scores(path, record)
        if self.bench.settings.retrain:
            return None
        weights = self.bench.stored_weights(cell.subject.taught)
        if weights is None or weights.digest != record["digests"]["weights"]:
            return None
        known = self.id_scores(cell.subject, weights.digest)
        if known is None or arrays_digest(known) != record["digests"]["id_scores"]:
            return None
        if cell.side == "ood":
            return record
        source = self.done.get(ood_source(cell))
        attacked = self.attacked_id(self.id_search(cell), weights.digest, arrays_digest(known))
        if source is None or attacked is None:
            return None
        digests = {
            "scores": source["digests"]["scores"],
            "id_attacked": arrays_digest(attacked.arrays),
        }
        return record if digests.items() <= record["digests"].items() else None

    def id_scores(self, subject: Subjected, weights: str) -> Arrays | None:
        """Return the stored in-distribution scores of a detector with these weights.

        Raises:
            DamagedFileError: If the file is damaged or belongs to another detector.
        """
        path = self.id_path(subject)
        if self.force or not path.exists():
            return None
        arrays, meta = read_named(path, self.place(subject).suite_folder)
        if meta.get("identity") != digest(self.identities.subject(subject)):
            raise DamagedFileError(
                f"{path} belongs to another detector; delete it, or replace it with --force"
            )
        return arrays if meta.get("weights") == weights else None

    def attacked_id(self, search: Cell, weights: str, id_scores: str) -> AttackedId | None:
        """Return the stored result of a search on in-distribution images.

        Args:
            search: The search.
            weights: Digest of the weights.
            id_scores: Digest of the scores of the clean images.

        Raises:
            DamagedFileError: If the file is damaged or belongs to another search.
        """
        path = self.search_path(search)
        if self.force or self.bench.settings.retrain or not path.exists():
            return None
        arrays, meta = read_named(path, self.place(search.subject).suite_folder)
        if meta.get("identity") != digest(self.identities.cell(search)):
            raise DamagedFileError(
                f"{path} belongs to another search; delete it, or replace it with --force"
            )
        if (meta.get("weights"), meta.get("id_scores")) != (weights, id_scores):
            return None
        return AttackedId(arrays, meta["attack"], meta["seconds"], meta["device"])


def make_plan(request: Request, bench: Workbench, results: Path, *, force: bool = False) -> Plan:
    """Resolve names and parameters, and look up what is stored.

    A stored record is used if it has the same identity and was computed from the weights that
    the plan would use; ``force`` uses none.

    Raises:
        RequestError: If something asked for is not there or does not fit.
        DamagedFileError: If a stored record is damaged.
    """
    suite = bench.suite(request.suite)
    if request.limit is not None and request.limit < 1:
        raise RequestError(f"--limit {request.limit}: at least 1 image is needed")
    if request.budget is not None and request.budget < 1:
        raise RequestError(f"--budget {request.budget}: at least 1 gradient step is needed")
    _check_side(request)
    attacks = [
        PluginSpec("attacks", name) for name in selected("attacks", request.attacks, _all_attacks)
    ]
    detectors, attacks = chosen_detectors(request, bench, attacks)
    device = bench.device.type
    # Nobody knows what a user's network is made for.
    exact = device == "cpu" or request.model is not None
    precision = request.precision or ("float32" if exact else "bfloat16")
    if request.preset == "paper":
        # The published losses give out in float32 where they do; anything else is another attack.
        precision = "float32"
    budget = suite.budget.get(device, 100)
    # What has no radius is one and the same whatever the radius.
    attacks = list(
        dict.fromkeys(
            _with_threat(spec, request, radius, budget)
            for spec in attacks
            for radius in request.radii
        )
    )
    detectors = _with_published(detectors, attacks, request, bench)
    sets = _chosen_sets(request, bench)
    cells = [
        Cell(
            subjected(request, bench, detector, seed),
            attack,
            _stages(attack),
            image_set,
            precision if _searches(attack) else "float32",
            side,
        )
        for detector in detectors
        for seed in request.seeds
        for attack in attacks
        for side in sides_of(request.side, _stages(attack))
        for image_set in sets
    ]
    tested = {(cell.subject.taught.suite, cell.image_set): None for cell in cells}
    _check_data([cell.subject for cell in cells], list(tested), bench)
    if request.side != "ood" and all(cell.side == "ood" for cell in cells):
        names = ", ".join(attack.name for attack in attacks)
        bench.progress.note(f"--side {request.side} means nothing to {names}: no image is attacked")
    plan = Plan(cells, results, bench, Identities(bench), force)
    for cell in cells:
        plan.find(cell)
    return plan


def planned_subjects(request: Request, bench: Workbench) -> list[Subjected]:
    """Return the detectors of a request with the trainings behind them, whatever they meet.

    Raises:
        RequestError: If something asked for is not there or does not fit.
    """
    detectors, _ = chosen_detectors(request, bench, ())
    subjects = [
        subjected(request, bench, detector, seed)
        for detector in detectors
        for seed in request.seeds
    ]
    _check_data(subjects, (), bench)
    return subjects


def _check_data(
    subjects: Iterable[Subjected], tested: Sequence[tuple[str, str]], bench: Workbench
) -> None:
    """Refuse detectors whose image sets are not all there, naming every one and how to get it.

    Args:
        subjects: The detectors.
        tested: Suites and OOD sets that they are to meet, if they are to be tested.
        bench: Where it is done.

    Raises:
        RequestError: If one is not there.
    """
    wanted: dict[tuple[str, str, str], None] = {}
    for taught in dict.fromkeys(subject.taught for subject in subjects):
        suite = bench.suite(taught.suite)
        splits = ("test", "train") if tested else ("train",)
        wanted |= {(taught.suite, suite.id_set, split): None for split in splits}
        if bench.lacks_pool(taught):
            wanted[taught.suite, suite.pool, "train"] = None
    wanted |= {(suite_name, name, "test"): None for suite_name, name in tested}
    root = bench.settings.data_root
    lacking: dict[str, ImportedSet] = {}
    for suite_name, name, split in wanted:
        found = bench.image_set(suite_name, name)
        if isinstance(found, ImportedSet) and found.lacking(split, root):
            lacking[name] = found
    if lacking:
        raise RequestError(
            f"not in {root}: {', '.join(lacking)}; get {'it' if len(lacking) == 1 else 'them'}"
            f" with: {how_to_get(list(lacking.values()), root)}"
        )


def _check_side(request: Request) -> None:
    """Refuse a side that there is not, or that nothing was published for.

    Raises:
        RequestError: If it is one.
    """
    if request.side not in SIDES:
        raise RequestError(f"--side {request.side}: there are {', '.join(SIDES)}")
    if request.preset == "paper" and request.side != "ood":
        raise RequestError(
            f"--side {request.side}: no attack on in-distribution images was published; leave it"
            " out or use --preset standard"
        )


def _all_attacks() -> list[str]:
    """Return the perturbations that ``all`` means, those with the lesser means first."""
    plugins = {name: load("attacks", name) for name in entries("attacks")}
    return sorted(
        (name for name, plugin in plugins.items() if plugin.in_all),
        key=lambda name: (
            len(plugins[name].stages),
            not plugins[name].shared,
            plugins[name]().queries,
            name,
        ),
    )


def _with_threat(spec: PluginSpec, request: Request, radius: int | None, budget: int) -> PluginSpec:
    """Set preset, radius and budget on a perturbation that has such fields."""
    fields = field_types(spec)
    values: dict[str, Any] = {"preset": request.preset}
    if "eps" in fields and radius is not None:
        values["eps"] = radius
    if "budget" in fields:
        chosen = request.budget
        if chosen is None and request.preset == "standard":
            chosen = budget
        values["budget"] = chosen
    given = dict(spec.params)
    return spec.replaced(**{name: value for name, value in values.items() if name not in given})


def _stages(spec: PluginSpec) -> tuple[PluginSpec, ...]:
    """Return the stages of a composition, with the composition's parameters where they fit."""
    names = spec.instance.stages
    if not names:
        return (spec,)
    values = parameters(spec.instance)
    return tuple(passed_on(name, values) for name in names)


def _searches(spec: PluginSpec) -> bool:
    """Whether gradients are used, in some precision."""
    return any(stage.instance.gradient_steps for stage in _stages(spec))


def _with_published(
    detectors: Sequence[PluginSpec],
    attacks: Sequence[PluginSpec],
    request: Request,
    bench: Workbench,
) -> list[PluginSpec]:
    """Leave out detectors that have no published loss, where only ``all`` asked for them.

    Raises:
        RequestError: If one was asked for by name.
    """
    searching = [
        attack.name for attack in attacks if attack.instance.preset == "paper" and _searches(attack)
    ]
    lacking = [d for d in detectors if searching and d.instance.published_objective() is None]
    named = [d.name for d in lacking if d.reference in request.detectors]
    if named:
        raise RequestError(
            f"--preset paper: {', '.join(named)} has no published loss for {searching[0]} to "
            "attack; leave it out or use --preset standard"
        )
    if lacking:
        names = ", ".join(d.name for d in lacking)
        bench.progress.note(f"--preset paper leaves out {names}: no loss was published to attack")
    return [detector for detector in detectors if detector not in lacking]


def _chosen_sets(request: Request, bench: Workbench) -> list[str]:
    """Return the OOD sets asked for: the suite's own in its order, then others as asked.

    Raises:
        RequestError: If one is none, or none is asked for and the suite has none.
    """
    suite = bench.suite(request.suite)
    own = [*suite.ood_sets, *suite.near]
    if not request.ood and not own:
        raise RequestError(f"suite {request.suite} has no OOD sets of its own; name some by --ood")
    others = [name for name in request.ood if name not in own]
    for name in others:
        try:
            bench.image_set(request.suite, name)
        except RequestError:
            raise RequestError(
                f"--ood {name}: the suite has {', '.join(own)}; any imported set can be named too"
                f" ({import_command(name, bench.settings.data_root)})"
            ) from None
        if name == suite.id_set:
            raise RequestError(f"--ood {name}: it is the suite's in-distribution set")
    return [name for name in own if not request.ood or name in request.ood] + others
