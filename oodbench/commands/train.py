"""``oodbench train``."""

from typing import TYPE_CHECKING, Any

import click

from oodbench.commands.options import (
    names,
    reported,
    teaching_options,
    training_options,
    whole_numbers,
)

if TYPE_CHECKING:
    from oodbench.selecting import Selection


@click.command("train")
@teaching_options
@click.option(
    "--select-q",
    is_flag=True,
    help="Try each mining quantile and choose by FPR@95 on held-out images.",
)
@training_options
def command(
    suite: str,
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    schedule: str | None,
    network: str | None,
    settings: tuple[str, ...],
    select_q: bool,
    **places: Any,
) -> None:
    """Train the networks behind detectors and fit their statistics.

    Weights that are there already are kept; a training that was stopped goes on.
    """
    from oodbench.api import Places
    from oodbench.plan import Request, planned_subjects
    from oodbench.selecting import selections

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
        if select_q:
            for selection in selections(request, bench):
                _show(selection)
            return
        subjects = planned_subjects(request, bench)
        for taught in dict.fromkeys(subject.taught for subject in subjects):
            stored = bench.weights(taught)
            click.echo(f"{bench.title(taught)}: {stored.path}")
        for subject in subjects:
            bench.state(subject.detector, subject.taught)


def _show(selection: "Selection") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=SIMPLE_HEAD,
        title=Text(
            f"{selection.detector}, seed {selection.seed}: {selection.images} held-out images,"
            f" {selection.outliers} held-out outliers",
            "table.title",
        ),
        title_justify="left",
        pad_edge=False,
        show_edge=False,
    )
    headers = (selection.field, "FPR@95 natural ↓", "FPR@95 attacked ↓", "mean ↓", "acc.")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for one in selection.tried:
        figures = (one.fpr95, one.fpr95_attacked, one.mean, one.accuracy)
        style = "bold" if one.value == selection.chosen else None
        table.add_row(f"{one.value:g}", *(f"{100 * x:.2f}" for x in figures), style=style)
    console = Console(emoji=False)
    console.print(table)
    chosen = f"{selection.detector}.{selection.field}={selection.chosen:g}"
    console.print(f"Chosen: --set {chosen}", highlight=False, markup=False)
    console.print(
        f"Kept in {selection.path}", style="dim", highlight=False, markup=False, soft_wrap=True
    )
