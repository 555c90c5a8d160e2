"""``oodbench run``."""

import json
import sys
from typing import Any

import click

from oodbench.commands.options import (
    model_options,
    names,
    reported,
    teaching_options,
    training_options,
    whole_numbers,
)


@click.command("run")
@teaching_options
@model_options
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    help="Perturbations: names, comma lists, a file, or all [default: none]",
)
@click.option(
    "--eps",
    "eps",
    multiple=True,
    help="L∞ radii such as 8/255, comma lists; each makes cells of its own.",
)
@click.option("--ood", "ood", multiple=True, help="OOD sets; all of the suite by default.")
@click.option(
    "--side",
    default="ood",
    show_default=True,
    type=click.Choice(["ood", "id", "both"]),
    help="Attack OOD images, to be accepted; ID images, to be rejected; or both (all three).",
)
@click.option(
    "--preset",
    default="standard",
    show_default=True,
    type=click.Choice(["standard", "paper"]),
    help="Strongest honest evaluation, or as published with its faults.",
)
@click.option("--budget", type=int, help="Gradient steps an image of a search.")
@click.option("--limit", type=int, help="Images of each test set, spread over it.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Arithmetic of the search; scores are always judged in float32.",
)
@click.option("--results", help="Folder of results [default: ./oodbench-results]")
@training_options
@click.option("--force", is_flag=True, help="Compute even where records are there.")
@click.option(
    "--keep-images",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Keep N OOD images of each cell beside the record, those whose score fell most.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as one JSON list.")
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
    eps: tuple[str, ...],
    ood: tuple[str, ...],
    side: str,
    preset: str,
    budget: int | None,
    limit: int | None,
    precision: str | None,
    results: str | None,
    keep_images: int | None,
    as_json: bool,
    **places: Any,
) -> int:
    """Evaluate detectors on clean or attacked images.

    What is stored already under the same identity is reused, the rest is computed and stored.
    """
    from oodbench.threat import exact_levels, format_eps, parse_eps

    radii = {text: parse_eps(text) for text in names(eps, "--eps")}
    from oodbench.api import Places, mean_intervals, run
    from oodbench.plan import Request
    from oodbench.sides import CLEAN

    request = Request(
        suite=suite,
        detectors=names(detectors, "--detector") or ("all",),
        attacks=names(attacks, "--attack") or (CLEAN,),
        ood=names(ood, "--ood"),
        side=side,
        seeds=whole_numbers(seeds, "--seed") or (0,),
        eps=tuple(radii.values()),
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
        for text, radius in radii.items():
            # 8/255 written as 0.0314 is off by less.
            if (exact := exact_levels(text)) - radius > 0.1:
                progress.note(
                    f"--eps {text} is {float(exact):.2f} grey levels; images have whole ones, so "
                    f"{format_eps(radius)} is used"
                )
        plan, outcome = run(
            request, Places(results=results, keep_images=keep_images or 0, **places), progress
        )
        if radii and all(record["eps"] is None for record in outcome.records):
            progress.note(f"--eps {','.join(radii)} means nothing to the attacks chosen")
    if as_json:
        click.echo(json.dumps(outcome.records, indent=1, ensure_ascii=False))
    elif outcome.records:
        from rich.console import Console

        from oodbench.marks import audits_of
        from oodbench.tables import print_tables

        files = [(plan.record_path(cell), record) for cell, record in plan.done.items()]
        changed = [*settings, *([] if limit is None else [f"limit {limit}"])]
        means = mean_intervals(plan)
        audits = audits_of(files, lambda line: click.echo(f"oodbench: {line}", err=True))
        shown = plan.bench.suite(suite)
        print_tables(
            Console(emoji=False), outcome.records, plan.notes, means, changed, audits, shown
        )
    if not outcome.failures:
        return 0
    if obj.get("debug"):
        raise outcome.errors[0]
    for failure in outcome.failures:
        click.echo(f"oodbench: {' '.join(failure.split())}", err=True)
    stored = len(outcome.records)
    click.echo(f"oodbench: {len(outcome.failures)} failed, {stored} cells are stored", err=True)
    sys.exit(3)
