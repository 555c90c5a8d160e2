"""``oodbench check``."""

from pathlib import Path
from typing import Any

import click

from oodbench.commands.options import names, place_options, reported, whole_numbers
from oodbench.errors import OodbenchError

_WIDTH_OF_LOG = 160


@click.command("check")
@click.option("--results", help="Folder to check [default: ./oodbench-results]")
@click.option("--against", help="Folder of the reference [default: the reference that ships]")
@click.option("--suite", "suites", multiple=True, help="Suites: names, comma lists.")
@click.option("--network", "networks", multiple=True, help="Networks: names, comma lists.")
@click.option("--detector", "detectors", multiple=True, help="Detectors: names, comma lists.")
@click.option("--attack", "attacks", multiple=True, help="Perturbations: names, comma lists.")
@click.option("--ood", "sets", multiple=True, help="OOD sets: names, comma lists.")
@click.option("--preset", "presets", multiple=True, help="Presets: standard, paper.")
@click.option("--seed", "seeds", multiple=True, help="Training seeds, comma lists.")
@click.option(
    "--eps", multiple=True, help="L∞ radii such as 8/255; what has no radius is always in."
)
@click.option(
    "--tolerance",
    type=float,
    default=0.005,
    show_default=True,
    help="Loss of a metric that is let pass, a fraction.",
)
@click.option("--allow-missing", is_flag=True, help="Let pass cells that only the reference has.")
@click.option(
    "--rerun",
    is_flag=True,
    help="First compute the cells of the reference again from its weights, into --results.",
)
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "md", "json"]),
    help="A table; markdown for a pull request; or JSON with everything.",
)
@click.option("--junit", help="File of JUnit XML to write as well.")
@place_options
def command(
    results: str | None,
    against: str | None,
    suites: tuple[str, ...],
    networks: tuple[str, ...],
    detectors: tuple[str, ...],
    attacks: tuple[str, ...],
    sets: tuple[str, ...],
    presets: tuple[str, ...],
    seeds: tuple[str, ...],
    eps: tuple[str, ...],
    tolerance: float,
    allow_missing: bool,
    rerun: bool,
    form: str,
    junit: str | None,
    **places: Any,
) -> int:
    """Refuse results that are worse than a reference.

    Cells that answer the same question are paired by image. From the same weights every drift of
    a score is told, and a loss beyond --tolerance is worse; from other weights a loss is worse if
    it is also beyond what the choice of images explains. Exit code 0: nothing is worse; 1:
    something is; 2: cells are missing or cannot be compared, or nothing was compared.
    --device, --batch-size, --data-root and --store are for --rerun.
    """
    radii = names(eps, "--eps")
    if radii:
        from oodbench.threat import format_eps, parse_eps

        radii = tuple(dict.fromkeys(format_eps(parse_eps(text)) for text in radii))
    from oodbench import gate
    from oodbench.files import DEFAULT_RESULTS, writable_folder
    from oodbench.gate import reporting
    from oodbench.leaderboard import Selection

    wanted = gate.Wanted(
        Selection(
            suites=names(suites, "--suite"),
            networks=names(networks, "--network"),
            presets=names(presets, "--preset"),
            detectors=names(detectors, "--detector"),
            seeds=whole_numbers(seeds, "--seed"),
            eps=radii,
        ),
        attacks=names(attacks, "--attack"),
        sets=names(sets, "--ood"),
    )
    if junit:
        # Before the work, which would be lost otherwise.
        if Path(junit).is_dir():
            raise click.BadParameter(f"--junit {junit}: is a folder; name a file in it")
        writable_folder(Path(junit).parent, "--junit")
    try:
        with reported() as progress:
            if rerun:
                report = gate.check_again(
                    results or DEFAULT_RESULTS,
                    against,
                    wanted=wanted,
                    tolerance=tolerance,
                    progress=progress,
                    **places,
                )
            else:
                report = gate.check(
                    results,
                    against,
                    wanted=wanted,
                    tolerance=tolerance,
                    allow_missing=allow_missing,
                    progress=progress,
                )
    except OodbenchError as error:
        if junit:
            # Otherwise CI would show what an earlier check left there.
            reporting.write_text(Path(junit), reporting.junit_of_error(str(error)))
        raise
    if junit:
        reporting.write_text(Path(junit), reporting.junit(report))
    if form == "md":
        click.echo(reporting.markdown(report), nl=False)
    elif form == "json":
        click.echo(reporting.as_json(report))
    else:
        from rich.console import Console

        console = Console()
        # In a log every cell has a line of its own, whose name can be searched for.
        wide = console if console.is_terminal else Console(width=_WIDTH_OF_LOG)
        reporting.print_report(wide, report)
    for line in reporting.problems(report):
        click.echo(f"oodbench: {line}", err=True)
    return report.exit_code
