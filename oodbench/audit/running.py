"""Audits the stored cells of a plan, one after the other, and goes on where it was stopped."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodbench.api import DEFAULT_RESULTS, Places
from oodbench.audit.measuring import (
    Found,
    Sample,
    Settings,
    Tick,
    Trials,
    cost,
    differing,
    search_cost,
    searched_again,
    tried_plugins,
    why_not,
)
from oodbench.audit.storing import (
    SCHEMA,
    VERSION,
    Audit,
    audit_beside,
    audit_path,
    write_audit,
)
from oodbench.cells import Cell
from oodbench.errors import DamagedFileError, OodbenchError, RequestError
from oodbench.plan import Plan, Request, make_plan
from oodbench.progress import Progress
from oodbench.recording import device_name
from oodbench.records import read_scores
from oodbench.threat import format_eps
from oodbench.work import with_memory
from oodbench.workbench import versions

Record = dict[str, Any]


@dataclass
class Outcome:
    """What an audit did.

    Attributes:
        audits: Audits of all cells that have one now, in the order of the plan.
        computed: How many of them were made now.
        failures: A line for each cell that could not be audited.
        errors: The exceptions behind them.
    """

    audits: list[Audit] = field(default_factory=list)
    computed: int = 0
    failures: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


def audit(
    request: Request,
    places: Places,
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> Outcome:
    """Audit the stored cells of a request.

    Args:
        request: What ``run`` would be asked for.
        places: Where; what they say of forcing and training again is not used.
        settings: How thorough.
        progress: Where to report.
        force: Whether to audit again what has an audit.

    Returns:
        All audits, those that were there already too.

    Raises:
        RequestError: If there is no record of any of it, or nothing in it to audit.
        DamagedFileError: If a record or an audit is damaged.
    """
    settings = settings or Settings()
    if request.preset != "standard":
        raise RequestError(
            f"--preset {request.preset}: its attack is kept as published, faults included; only"
            " that of standard is audited"
        )
    for option, number in (("--sample", settings.sample), ("--queries", settings.queries)):
        if number < 1:
            raise RequestError(f"{option} {number}: at least 1 is needed")
    progress = progress or Progress()
    results = Path(places.results or DEFAULT_RESULTS)
    bench = replace(places, retrain=False, force=False).workbench(progress)
    plan = make_plan(request, bench, results)
    cells = _auditable(plan, progress)
    stored = [cell for cell in cells if cell in plan.done]
    _say_what_lacks(request, places, len(stored), len(cells), progress)
    run = _Run(plan, _sources(request, plan), settings, force)
    run.all_cells(stored)
    return run.outcome


def _auditable(plan: Plan, progress: Progress) -> list[Cell]:
    """Return the cells with a search to audit, and say once for each attack why others have none.

    Raises:
        RequestError: If there is none.
    """
    reasons = {cell: why_not(cell) for cell in plan.cells}
    told = dict.fromkeys(
        f"{cell.perturbation.name} is not audited: {why}" for cell, why in reasons.items() if why
    )
    cells = [cell for cell, why in reasons.items() if not why]
    if not cells:
        raise RequestError("; ".join(told) or "nothing was asked for")
    for line in told:
        progress.note(line)
    return cells


def _say_what_lacks(
    request: Request, places: Places, stored: int, asked: int, progress: Progress
) -> None:
    if stored == asked:
        return
    command = _run_command(request, places)
    if not stored:
        raise RequestError(f"no record of what was asked for is there; `{command}` makes it")
    progress.note(f"{asked - stored} of {asked} cells have no record; `{command}` makes them")


def _run_command(request: Request, places: Places) -> str:
    """Return the command that makes the records of a request."""
    usual = Request()
    options: dict[str, Any] = {
        "--suite": request.suite if request.suite != usual.suite else None,
        "--detector": ",".join(request.detectors),
        "--attack": ",".join(request.attacks),
        "--ood": ",".join(request.ood),
        "--seed": ",".join(map(str, request.seeds)) if request.seeds != usual.seeds else None,
        "--eps": None if request.eps is None else format_eps(request.eps),
        "--budget": request.budget,
        "--schedule": request.schedule,
        "--network": request.network,
        "--model": request.model,
        "--weights": request.weights,
        "--limit": request.limit,
        "--precision": request.precision,
        "--results": places.results,
        "--store": places.store,
        "--data-root": places.data_root,
        "--device": places.device,
    }
    given = [(option, value) for option, value in options.items() if value not in (None, "")]
    given += [("--set", text) for text in request.settings]
    return shlex.join(["oodbench", "run", *(str(part) for pair in given for part in pair)])


def _sources(request: Request, plan: Plan) -> dict[Cell, Record]:
    """Return the records of the same attacks on other detectors too, whatever detectors there are.

    Those that cannot be read, or do not go with what was asked for, are no use here.
    """
    found = dict(plan.done)
    try:
        others = make_plan(
            replace(request, detectors=(*request.detectors, "all")), plan.bench, plan.results
        )
    except (RequestError, DamagedFileError) as error:
        plan.bench.progress.note(f"no images of other detectors than these are tried: {error}")
        return found
    return found | others.done


Group = tuple[Any, ...]


def _group(cell: Cell) -> Group:
    """Return what cells have in common whose attacked images have the same centres."""
    return cell.subject.taught.seed, cell.perturbation, cell.image_set


class _Run:
    def __init__(
        self, plan: Plan, records: Mapping[Cell, Record], settings: Settings, force: bool
    ) -> None:
        self.outcome = Outcome()
        self._plan = plan
        self._bench = plan.bench
        self._records = records
        self._settings = settings
        self._force = force
        # By detector and batch size of the group at hand: each is attacked once for all.
        self._images: dict[Cell, Tensor | Exception] = {}

    def all_cells(self, cells: list[Cell]) -> None:
        audits = {cell: self._known(cell) for cell in cells}
        groups: dict[Group, list[Cell]] = {}
        for cell, known in audits.items():
            if known is None:
                groups.setdefault(_group(cell), []).append(cell)
        total = sum(self._cost(group) for group in groups.values())
        with self._bench.progress.task("auditing", total) as task:
            for group in groups.values():
                self._images = {}
                for cell in group:
                    audits[cell] = self._audited(cell, partial(task.advance, note=cell.title))
        self.outcome.audits = [found for found in audits.values() if found is not None]

    def _known(self, cell: Cell) -> Audit | None:
        """Return the audit that is there, if it is of this record and of what is asked for."""
        if self._force:
            return None
        record = self._plan.done[cell]
        known = audit_beside(self._plan.record_path(cell), record)
        if known is None or known["version"] != VERSION:
            return None
        wanted = self._source_digests(cell).items()
        same = (
            known["settings"] == self._plain_settings()
            and known["plugins"] == tried_plugins(cell)
            and wanted <= known["sources"].items()
        )
        return known if same else None

    def _plain_settings(self) -> dict[str, int]:
        return {"sample": self._settings.sample, "queries": self._settings.queries}

    def _others(self, cell: Cell) -> dict[str, Cell]:
        """Return the same attack on the same images against other detectors, by name."""
        if len(cell.stages) > 1:
            return {}
        return {
            other.subject.detector.name: other
            for other in self._records
            if _group(other) == _group(cell) and other.subject != cell.subject
        }

    def _source_digests(self, cell: Cell) -> dict[str, str]:
        return {
            name: self._records[other]["digests"]["record"]
            for name, other in self._others(cell).items()
        }

    def _cost(self, group: list[Cell]) -> float:
        attacked: dict[Cell, None] = dict.fromkeys(group)
        for cell in group:
            attacked |= dict.fromkeys(self._others(cell).values())
        count = min(self._settings.sample, self._records[group[0]]["n_ood"])
        searches = sum(search_cost(cell, count, self._records[cell]) for cell in attacked)
        trials = sum(cost(cell, count, self._settings, self._records[cell]) for cell in group)
        return searches + trials

    def _audited(self, cell: Cell, tick: Tick) -> Audit | None:
        try:
            made = with_memory(self._bench, partial(self._audit, cell, tick))
        except (RequestError, DamagedFileError):
            raise
        except Exception as error:
            reason = (
                str(error)
                if isinstance(error, OodbenchError)
                else f"{type(error).__name__}: {error}"
            )
            self.outcome.failures.append(f"{cell.title}: {reason}")
            self.outcome.errors.append(error)
            return None
        self.outcome.computed += 1
        return write_audit(audit_path(self._plan.record_path(cell)), made)

    def _audit(self, cell: Cell, tick: Tick, batch_size: int) -> Audit:
        started = time.monotonic()
        record = self._plan.done[cell]
        sample, own = self._searched(cell, tick, batch_size)
        known = self._plan.id_scores(cell.subject, record["digests"]["weights"])
        assert known is not None, "a record is used only with its in-distribution scores"
        notes = differing(sample, own, read_scores(self._plan.record_path(cell), record))
        others: dict[str, Tensor] = {}
        for name, other in self._others(cell).items():
            images = self._images_against(other, tick, batch_size)
            if isinstance(images, Exception):
                notes.append(f"{name} could not be attacked again: {images}")
            else:
                others[name] = images
        trials = Trials(sample, own, known["scores"], self._settings)
        found = trials.checks(record["attack"] or {}, others if len(cell.stages) == 1 else None)
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "record": record["digests"]["record"],
            **{
                name: record[name]
                for name in (
                    *("identity", "suite", "detector", "seed", "perturbation", "eps", "set"),
                )
            },
            "scores": record["digests"]["scores"],
            "settings": self._plain_settings(),
            "plugins": tried_plugins(cell),
            "sources": self._source_digests(cell),
            "n": len(sample.ids),
            "checks": [check.plain() for check in found],
            "notes": notes,
            "versions": versions(),
            "device": device_name(self._bench.device),
            "seconds": round(time.monotonic() - started, 3),
        }

    def _searched(self, cell: Cell, tick: Tick, batch_size: int) -> tuple[Sample, Found]:
        sample, own = searched_again(cell, self._bench, self._settings.sample, tick, batch_size)
        self._images[cell] = own.images
        return sample, own

    def _images_against(self, cell: Cell, tick: Tick, batch_size: int) -> Tensor | Exception:
        """Return the sample as it is made against a detector; once for all others."""
        if cell not in self._images:
            try:
                self._searched(cell, tick, batch_size)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._images[cell] = error
        return self._images[cell]
