"""``oodbench train``."""

from typing import Any

import click

from oodbench.commands.options import (
    names,
    reported,
    teaching_options,
    training_options,
    whole_numbers,
)


@click.command("train")
@teaching_options
@training_options
def command(
    suite: str,
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    schedule: str | None,
    network: str | None,
    settings: tuple[str, ...],
    **places: Any,
) -> None:
    """Train the networks behind detectors and fit their statistics.

    Weights that are there already are kept; a training that was stopped goes on.
    """
    from pathlib import Path

    from oodbench.api import Places
    from oodbench.plan import Request, make_plan

    request = Request(
        suite=suite,
        detectors=names(detectors, "--detector") or ("all",),
        seeds=whole_numbers(seeds, "--seed") or (0,),
        schedule=schedule,
        network=network,
        settings=settings,
    )
    with reported() as progress:
        bench = Places(**places).workbench(progress)
        # Nothing is looked up among results: only what the cells stand on is wanted.
        plan = make_plan(request, bench, Path(), force=True)
        for taught in plan.trainings:
            stored = bench.weights(taught)
            click.echo(f"{taught.title}: {stored.path}")
        for subject in dict.fromkeys(cell.subject for cell in plan.cells):
            bench.state(subject.detector, subject.taught)
