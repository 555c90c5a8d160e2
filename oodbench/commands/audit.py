"""``oodbench audit``."""

import json
import sys
from typing import Any

import click

from oodbench.commands.options import (
    model_options,
    names,
    place_options,
    reported,
    teaching_options,
    whole_numbers,
)


@click.command("audit")
@teaching_options
@model_options
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    help="Perturbations: names, comma lists, a file, or all [default: linf]",
)
@click.option("--eps", help="L∞ radius such as 8/255.")
@click.option("--ood", "ood", multiple=True, help="OOD sets; all of the suite by default.")
@click.option(
    "--preset",
    default="standard",
    show_default=True,
    help="Only standard is audited; the published attack is kept as it is.",
)
@click.option("--budget", type=int, help="Gradient steps an image of the search audited.")
@click.option("--limit", type=int, help="Images of each test set that was asked for.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Arithmetic of the search audited.",
)
@click.option("--results", help="Folder of results [default: ./oodbench-results]")
@click.option(
    "--sample", default=20, show_default=True, help="Images of each set that are tried again."
)
@click.option(
    "--queries", default=500, show_default=True, help="Scores an image of the black-box search."
)
@place_options
@click.option("--force", is_flag=True, help="Audit even where audits are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the audits as one JSON list.")
@click.pass_obj
def command(
    obj: dict[str, bool],
    /,
    suite: str,
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    schedule: str | None,
    network: str | None,
    model: str | None,
    weights: str | None,
    settings: tuple[str, ...],
    attacks: tuple[str, ...],
    eps: str | None,
    ood: tuple[str, ...],
    preset: str,
    budget: int | None,
    limit: int | None,
    precision: str | None,
    results: str | None,
    sample: int,
    queries: int,
    force: bool,
    as_json: bool,
    **places: Any,
) -> int:
    """Check how far stored attacked figures can be trusted.

    A robustness figure is what is left after one attack; a better one may leave less. On a sample
    of the images of each record the attack is held against noise, against a search without
    gradients, against images made for other detectors, at other radii and with twice the budget.
    What is found lies beside the record, and tables mark a figure whose attack fails a check.
    A failed check is a finding, not an error: the exit code is 0 all the same.
    """
    from oodbench.threat import parse_eps

    radius = None if eps is None else parse_eps(eps)
    from oodbench.api import Places
    from oodbench.audit.measuring import Settings
    from oodbench.audit.running import audit
    from oodbench.plan import Request

    request = Request(
        suite=suite,
        detectors=names(detectors, "--detector") or ("all",),
        attacks=names(attacks, "--attack") or ("linf",),
        ood=names(ood, "--ood"),
        seeds=whole_numbers(seeds, "--seed") or (0,),
        eps=radius,
        preset=preset,
        budget=budget,
        schedule=schedule,
        network=network,
        model=model,
        weights=weights,
        limit=limit,
        precision=precision,
        settings=settings,
    )
    with reported() as progress:
        where = Places(results=results, **places)
        outcome = audit(request, where, Settings(sample, queries), progress, force=force)
    if as_json:
        click.echo(json.dumps(outcome.audits, indent=1, ensure_ascii=False))
    elif outcome.audits:
        from rich.console import Console

        from oodbench.audit.showing import print_audits

        print_audits(Console(emoji=False), outcome.audits)
    if not outcome.failures:
        return 0
    if obj.get("debug"):
        raise outcome.errors[0]
    for failure in outcome.failures:
        click.echo(f"oodbench: {' '.join(failure.split())}", err=True)
    made = len(outcome.audits)
    click.echo(f"oodbench: {len(outcome.failures)} failed, {made} audits are stored", err=True)
    sys.exit(3)
