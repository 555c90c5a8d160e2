"""Computes the cells of a reference again, from the weights that it was made with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oodbench.api import Places
from oodbench.errors import RequestError
from oodbench.execute import execute
from oodbench.files import writable_folder
from oodbench.gate.matching import Record, Results, Stored
from oodbench.identity import canonical_json, digest, parameters, question
from oodbench.plan import Plan, Request, make_plan
from oodbench.plugins import PluginSpec, resolved
from oodbench.progress import Progress
from oodbench.records import read_record
from oodbench.threat import parse_eps
from oodbench.workbench import Workbench

_THREAT = ("preset", "eps", "budget")
"""Parameters of a perturbation that a request has fields for."""

_NO_MORE = "it cannot be asked for any more: a parameter, or what it was by default, has changed"


@dataclass
class Rerun:
    """Cells that were computed again.

    Attributes:
        stored: Their records.
        failed: Why some have none, by ``cell_key``.
    """

    stored: list[Stored] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def rerun(
    wanted: Sequence[Stored],
    results: Path,
    against: Results,
    places: Places,
    progress: Progress | None = None,
) -> Rerun:
    """Compute cells again, whatever ``results`` holds of them, and store them there.

    Weights are those stored where ``places`` says, else those that ship; where it says nothing
    and the reference ships, only those that ship. Nothing is trained, and statistics that
    detectors fit are fitted anew and not kept: they are what is checked, too.

    Args:
        wanted: Cells of the reference.
        results: Folder of results.
        against: The reference.
        places: Machine and folders.
        progress: Where to report.

    Raises:
        RequestError: If weights are not there, a plugin or a parameter is no more, or results
            would be written into the reference.
    """
    if results.resolve() == against.root.resolve():
        raise RequestError(f"--rerun into {results} would replace the reference; choose another")
    progress = progress or Progress()
    if places.store is None and against.ships:
        places = replace(places, store=against.root)
    bench = places.workbench(progress)
    bench.settings = replace(bench.settings, refit=True)
    plans = [
        _plan(request, bench, results, {each.record["cell_key"] for each in found})
        for request, found in _requests(wanted, bench).items()
    ]
    _check_weights(plans, bench)
    writable_folder(results, "results")
    done = Rerun(failed={each.record["cell_key"]: _NO_MORE for each in wanted})
    for plan in plans:
        outcome = execute(plan)
        keys = {cell: digest(question(plan.identities.cell(cell))) for cell in plan.cells}
        for cell, key in keys.items():
            if cell in plan.done:
                del done.failed[key]
                path = plan.record_path(cell)
                done.stored.append(Stored(path, read_record(path)))
            else:
                told = [line for line in outcome.failures if cell.subject.title in line]
                done.failed[key] = f"failed: {(told or outcome.failures or ['no reason told'])[0]}"
    return done


def _plan(request: Request, bench: Workbench, results: Path, keys: set[str]) -> Plan:
    """Plan a request, and of its cells those that are wanted."""
    plan = make_plan(request, bench, results, force=True)
    plan.cells = [
        cell for cell in plan.cells if digest(question(plan.identities.cell(cell))) in keys
    ]
    return plan


def _check_weights(plans: Iterable[Plan], bench: Workbench) -> None:
    """Refuse to train.

    Raises:
        RequestError: If weights are not there.
    """
    trainings = dict.fromkeys(cell.subject.taught for plan in plans for cell in plan.cells)
    lacking = [taught for taught in trainings if bench.stored_weights(taught) is None]
    if lacking:
        more = f" and of {len(lacking) - 1} more" if lacking[1:] else ""
        raise RequestError(
            f"--rerun trains nothing, and there are no weights of {bench.title(lacking[0])}{more};"
            " choose other cells, or say with --store where the weights are"
        )


def _requests(wanted: Sequence[Stored], bench: Workbench) -> dict[Request, list[Stored]]:
    """Return what to ask for so that all cells are among what is planned.

    Cells that can be asked for together are, so that what they share is computed once.
    """
    grouped: dict[str, list[Stored]] = {}
    for each in wanted:
        grouped.setdefault(canonical_json(_common(each.record, bench)), []).append(each)
    return dict(_request(found, bench) for found in grouped.values())


def _common(record: Record, bench: Workbench) -> dict[str, Any]:
    """Return what the cells of one request have in common."""
    attack = record["attack"] or {}
    threat = attack.get("params", {})
    return {
        "suite": record["suite"],
        "schedule": record["schedule"]["name"],
        "network": record["network"],
        "preset": record["preset"],
        "side": record["side"],
        "eps": record["eps"],
        "budget": threat.get("budget", attack.get("budget") or None),
        "precision": record["precision"] if attack.get("budget") else None,
        "limit": _limit(record, bench),
        "settings": _settings(record, bench),
    }


def _limit(record: Record, bench: Workbench) -> int | None:
    """Return of how many images of each set a cell is; None for all."""
    suite = bench.suite(record["suite"])
    counts = {suite.id_set: record["n_id"], record["set"]: record["n_ood"]}
    whole = all(
        count == len(bench.images(record["suite"], name, "test")) for name, count in counts.items()
    )
    return None if whole else max(counts.values())


def _settings(record: Record, bench: Workbench) -> list[str]:
    """Return the parameters that are not the usual ones, as texts of ``--set``."""
    published = bench.suite(record["suite"]).published
    detector = resolved(PluginSpec("detectors", record["detector"]), published)
    attack = PluginSpec("attacks", record["perturbation"])
    searched = (record["attack"] or {}).get("params", {})
    return [
        f"{spec.name}.{name}={value!r}"
        for spec, params in ((detector, record["params"]), (attack, searched))
        for name, value in params.items()
        if (spec is detector or name not in _THREAT)
        and canonical_json(parameters(spec.instance).get(name)) != canonical_json(value)
    ]


def _request(found: Sequence[Stored], bench: Workbench) -> tuple[Request, list[Stored]]:
    common = _common(found[0].record, bench)

    def every(name: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(each.record[name] for each in found))

    request = Request(
        **common
        | {
            "eps": None if common["eps"] is None else parse_eps(common["eps"]),
            "settings": tuple(common["settings"]),
        },
        detectors=every("detector"),
        attacks=every("perturbation"),
        ood=every("set"),
        seeds=every("seed"),
    )
    return request, list(found)
