"""``oodbench plot``."""

from typing import Any

import click

from oodbench.commands.options import cell_options, reported, selected
from oodbench.plots import KINDS, Asked, plot

_WIDTH = max(map(len, KINDS))
_HELP = "Draw stored results, and why outliers are mined.\n\n\b\n" + "\n".join(
    f"{kind:{_WIDTH}} {what}" for kind, what in KINDS.items()
)


@click.command("plot", help=_HELP)
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option("--out", help="File to write, .png or .svg [default: ./oodbench-KIND.png]")
@click.option(
    "--results",
    help="Folder of results [default: ./oodbench-results, else the reference that ships]",
)
@click.option("--reference", is_flag=True, help="Read the reference results that ship.")
@cell_options
@click.option("--metric", help="Metric of the heatmap [default: fpr95]")
@click.option("--images", type=int, help="Images of the gallery [default: 8]")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    kind: str,
    out: str | None,
    results: str | None,
    reference: bool,
    metric: str | None,
    images: int | None,
    **chosen: Any,
) -> None:
    """Draw one kind of figure."""
    _refuse_what_means_nothing(ctx, kind)
    selection = selected(**chosen)
    usual = Asked()
    with reported() as progress:
        asked = Asked(
            results,
            reference,
            selection,
            usual.metric if metric is None else metric,
            usual.images if images is None else images,
            progress,
        )
        drawn = plot(kind, asked, out)
    for note in drawn.notes:
        click.echo(f"oodbench: {note}", err=True)
    click.echo(drawn.path)


def _refuse_what_means_nothing(ctx: click.Context, kind: str) -> None:
    """Refuse options that have no meaning for a kind of figure.

    Raises:
        click.UsageError: If one is given.
    """
    own = {"metric": "heatmap", "images": "gallery"}
    for option in ctx.command.params:
        if option.name in (None, "kind", "out") or not ctx.params[str(option.name)]:
            continue
        whose = own.get(str(option.name))
        if kind == "mining" or (whose and whose != kind):
            raise click.UsageError(f"{option.opts[0]} means nothing to plot {kind}; leave it out")
