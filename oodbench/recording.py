"""What is recorded of a cell: metrics, their intervals, what the attack did, where from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from oodbench import intervals, metrics
from oodbench.cells import Cell, Identities, described_cell
from oodbench.identity import parameters
from oodbench.judging import THEN
from oodbench.plugins import fallback_of
from oodbench.records import SCHEMA, Arrays, arrays_digest
from oodbench.searched import Ledger, gradient_checks, health
from oodbench.sides import AttackedId
from oodbench.work import Piece
from oodbench.workbench import Workbench, versions


@dataclass(frozen=True)
class Evidence:
    """What the figures of a cell are computed from.

    Attributes:
        clean: Arrays of the clean ID test images; they set the threshold.
        ood: Arrays of the OOD images as they are in this cell.
        attack: Facts of the search on OOD images; None if there was none.
        seconds: Time that the OOD images took.
        device: Where they were scored.
        attacked: The attacked ID images; None where ID images stay clean.
    """

    clean: Arrays
    ood: Arrays
    attack: Mapping[str, Any] | None
    seconds: float
    device: str
    attacked: AttackedId | None = None

    @property
    def id_side(self) -> Arrays:
        """Arrays of the ID images as they are in this cell."""
        return self.clean if self.attacked is None else self.attacked.arrays


def record_of(
    cell: Cell, bench: Workbench, identities: Identities, evidence: Evidence
) -> dict[str, Any]:
    """Return the record of a cell, without the digests that are added as it is written.

    Raises:
        ValueError: If scores are NaN.
    """
    clean, id_scores, ood_scores = (
        arrays["scores"] for arrays in (evidence.clean, evidence.id_side, evidence.ood)
    )
    threshold_scores = None if evidence.attacked is None else clean
    values = metrics.compute(id_scores, ood_scores, clean_id_scores=threshold_scores)
    bounds = intervals.intervals(id_scores, ood_scores, clean_id_scores=threshold_scores)
    right = int(evidence.clean["correct"].sum())
    bounds["accuracy"] = intervals.proportion_interval(right, len(clean))
    if threshold_scores is None:
        # Of clean images it is 5 % by construction, whatever the threshold.
        rejected = round(values["fnr"] * len(clean))
        bounds["fnr"] = intervals.proportion_interval(rejected, len(clean))
    told = described_cell(cell, identities)
    told["digests"] |= {
        "weights": bench.weights(cell.subject.taught).digest,
        "id_scores": arrays_digest(evidence.clean),
    }
    if evidence.attacked is not None:
        told["digests"]["id_attacked"] = arrays_digest(evidence.attacked.arrays)
    threshold = values.pop("threshold")
    return {
        "schema": SCHEMA,
        **told,
        "n_id": len(clean),
        "n_ood": len(ood_scores),
        **values,
        "accuracy": right / len(clean),
        "threshold": threshold if np.isfinite(threshold) else str(threshold),
        "intervals": {name: list(pair) for name, pair in bounds.items()},
        "attack": _attack(cell, evidence),
        "versions": versions() | {"plugins": _plugin_versions(identities.cell(cell))},
        **_effort(evidence),
        "notes": [
            *filter(None, dict.fromkeys([*_notes_on_images(cell, bench), *cell.notes])),
            *metrics.notes(id_scores, ood_scores),
        ],
        "extras": _extras(cell, evidence),
    }


def _notes_on_images(cell: Cell, bench: Workbench) -> list[str]:
    """Return what is to be said of the OOD set, the ID set and the pool that was taught with.

    What is the same of all, as of sets cut out of the same pictures, is said once.
    """
    taught = cell.subject.taught
    id_set = bench.suite(taught.suite).id_set
    first, known = (
        bench.image_set(taught.suite, name).note(bench.settings.data_root)
        for name in (cell.image_set, id_set)
    )
    # The card speaks of the pool that was there when the weights were taught.
    pool = bench.weights(taught).card.get("facts", {}).get("pool", {})
    others = {f"in-distribution set {id_set}": known}
    if pool:
        others[f"outlier pool {pool['name']}"] = pool["note"]
    said = [f"{what}: {note}" for what, note in others.items() if note and note != first]
    return [first, *said] if first else said


def _attack(cell: Cell, evidence: Evidence) -> dict[str, Any] | None:
    """Return the facts of the search; of two, those on OOD images, with the other's in ``id``."""
    if evidence.attacked is None:
        return None if evidence.attack is None else dict(evidence.attack)
    if cell.side == "id":
        return evidence.attacked.attack
    return {**(evidence.attack or {}), "id": evidence.attacked.attack}


def _effort(evidence: Evidence) -> dict[str, Any]:
    """Return the time that a cell alone would have taken, and on which devices."""
    seconds, devices = evidence.seconds, [evidence.device]
    if evidence.attacked is not None:
        seconds += evidence.attacked.seconds
        devices.append(evidence.attacked.device)
    return {"device": ", ".join(dict.fromkeys(devices)), "seconds": round(seconds, 3)}


def facts_of_search(
    cell: Cell, pieces: Sequence[Piece], arrays: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what a search did, for the record; None if the perturbation tries nothing.

    Args:
        cell: What was worked on.
        pieces: The results.
        arrays: Their arrays joined.
    """
    stages = [stage.instance for stage in cell.stages]
    budget = sum(stage.gradient_steps for stage in stages)
    queries = sum(stage.queries for stage in stages)
    if not budget and not queries:
        return None
    ledger = Ledger()
    for piece in pieces:
        ledger.add(piece.ledger)
    first = ledger.first
    attack = {
        "params": parameters(cell.perturbation.instance),
        "budget": budget,
        "queries": queries,
        "steps": ledger.gradient_images / len(arrays["ids"]),
        "restarts": sum(stage.restarts(sorted(first)) for stage in stages),
        "objectives": sorted(first),
        "won": _won(cell, arrays["tags"].tolist()),
        "health": health(first),
    }
    if ledger.checks["images"]:
        attack["gradient"] = gradient_checks(ledger.checks)
    fallback = fallback_of(stages[-1])
    if ledger.fallback["images"] and fallback is not None:
        attack["fallback"] = {
            "name": stages[-1].fallback,
            "images": ledger.fallback["images"],
            "queries": fallback.queries,
        }
    return attack


def _extras(cell: Cell, evidence: Evidence) -> dict[str, Any]:
    known, arrays = evidence.id_side, evidence.ood
    extras: dict[str, Any] = {}
    decision = cell.subject.detector.instance.decision
    if decision is not None:
        extras["decision"] = metrics.at_threshold(known["scores"], arrays["scores"], decision)
    if cell.perturbation.instance.preset == "paper":
        ours, theirs = (a.get("published", a["scores"]) for a in (known, arrays))
        extras |= metrics.published(ours, theirs)
        extras["auroc_published"] = metrics.auroc(ours, theirs)
        if decision is not None:
            # Fault Q3: published figures of such a detector are those of its decision.
            extras["fpr95_published"] = extras["decision"]["fpr"]
            extras["auroc_published"] = extras["decision"]["auroc"]
    return extras


def _plugin_versions(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions of a cell's plugins, or the digests of the source of others' plugins."""
    plugins = [identity[kind] for kind in ("detector", "recipe", "network", "perturbation")]
    stages = identity["stages"]
    fallbacks = [stage["fallback"] for stage in stages if "fallback" in stage]
    return {
        plugin["name"]: plugin.get("version", plugin.get("source"))
        for plugin in [*plugins, *stages, *fallbacks]
        # Of a network that was not trained here nobody knows the recipe.
        if "version" in plugin or "source" in plugin
    }


def _won(cell: Cell, tags: Sequence[str]) -> dict[str, Any]:
    """Count what made the chosen images; by stage where there are several.

    Candidates that all detectors share are counted by kind, such as the type of a corruption; the
    scores' file has every image's whole tag.
    """
    by_stage = zip(*(tag.split(THEN) for tag in tags), strict=True)
    counts = {}
    for stage, column in zip(cell.stages, by_stage, strict=True):
        kinds = [tag.partition("/")[0] if stage.instance.shared else tag for tag in column]
        counts[stage.name] = dict(sorted(Counter(kinds).items()))
    return counts if len(counts) > 1 else counts[cell.stages[0].name]


def device_name(device: torch.device) -> str:
    """Return the name of a device for a record."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {torch.get_num_threads()} threads"
