"""``oodbench check``."""

from pathlib import Path
from typing import Any

import click

from oodbench.commands.options import cell_options, place_options, reported, selected
from oodbench.errors import OodbenchError

_WIDTH_OF_LOG = 160
_OF_RERUN = ("device", "batch_size", "data_root", "store")


@click.command("check")
@click.option("--results", help="Folder to check [default: ./oodbench-results]")
@click.option("--against", help="Folder of the reference [default: the reference that ships]")
@cell_options
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
@click.pass_context
def command(
    ctx: click.Context,
    /,
    results: str | None,
    against: str | None,
    tolerance: float,
    allow_missing: bool,
    rerun: bool,
    form: str,
    junit: str | None,
    device: str | None,
    batch_size: int | None,
    data_root: str | None,
    store: str | None,
    **chosen: Any,
) -> int:
    """Refuse results that are worse than a reference.

    Cells that answer the same question are paired by image. From the same weights every drift of
    a score is told, and a loss beyond --tolerance is worse; from other weights a loss is worse if
    it is also beyond what the choice of images explains. Exit code 0: nothing is worse; 1:
    something is; 2: cells are missing or cannot be compared, or nothing was compared.
    --device, --batch-size, --data-root and --store are for --rerun alone, which leaves no cell
    out and so has no use for --allow-missing.
    """
    _refuse_what_means_nothing(ctx, rerun)
    from oodbench import gate
    from oodbench.files import DEFAULT_RESULTS, writable_folder
    from oodbench.gate import reporting

    selection = selected(**chosen)
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
                    selection=selection,
                    tolerance=tolerance,
                    progress=progress,
                    device=device,
                    batch_size=batch_size,
                    data_root=data_root,
                    store=store,
                )
            else:
                report = gate.check(
                    results,
                    against,
                    selection=selection,
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

        console = Console(emoji=False)
        # In a log every cell has a line of its own, whose name can be searched for.
        wide = console if console.is_terminal else Console(width=_WIDTH_OF_LOG, emoji=False)
        reporting.print_report(wide, report)
    for line in reporting.problems(report):
        click.echo(f"oodbench: {line}", err=True)
    return report.exit_code


def _refuse_what_means_nothing(ctx: click.Context, rerun: bool) -> None:
    """Refuse options that the check would not heed.

    Raises:
        click.UsageError: If one is given.
    """
    if rerun and ctx.params["allow_missing"]:
        raise click.UsageError(
            "--allow-missing means nothing with --rerun, which leaves no cell out; leave it out"
        )
    for option in ctx.command.params:
        if option.name in _OF_RERUN and ctx.params[option.name] is not None and not rerun:
            raise click.UsageError(f"{option.opts[0]} means nothing without --rerun; leave it out")
