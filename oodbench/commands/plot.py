"""``oodbench plot``."""

import click

from oodbench.commands.options import names, reported, whole_numbers
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
@click.option("--suite", "suites", multiple=True, help="Suites: names, comma lists.")
@click.option("--network", "networks", multiple=True, help="Networks: names, comma lists.")
@click.option("--preset", "presets", multiple=True, help="Presets: standard, paper.")
@click.option("--detector", "detectors", multiple=True, help="Detectors: names, comma lists.")
@click.option("--seed", "seeds", multiple=True, help="Training seeds, comma lists.")
@click.option(
    "--eps", multiple=True, help="L∞ radii such as 8/255; what has no radius is always in."
)
@click.option("--ood", multiple=True, help="OOD sets: names, comma lists.")
@click.option("--attack", "attacks", multiple=True, help="Perturbations: names, comma lists.")
@click.option("--metric", help="Metric of the heatmap [default: fpr95]")
@click.option("--images", type=int, help="Images of the gallery [default: 8]")
@click.pass_context
def command(
    ctx: click.Context,
    kind: str,
    out: str | None,
    results: str | None,
    reference: bool,
    suites: tuple[str, ...],
    networks: tuple[str, ...],
    presets: tuple[str, ...],
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    eps: tuple[str, ...],
    ood: tuple[str, ...],
    attacks: tuple[str, ...],
    metric: str | None,
    images: int | None,
) -> None:
    """Draw one kind of figure."""
    _refuse_what_means_nothing(ctx, kind)
    radii = names(eps, "--eps")
    if radii:
        from oodbench.threat import format_eps, parse_eps

        radii = tuple(dict.fromkeys(format_eps(parse_eps(text)) for text in radii))
    from oodbench.leaderboard.selection import Selection

    selection = Selection(
        suites=names(suites, "--suite"),
        networks=names(networks, "--network"),
        presets=names(presets, "--preset"),
        detectors=names(detectors, "--detector"),
        seeds=whole_numbers(seeds, "--seed"),
        eps=radii,
        sets=names(ood, "--ood"),
        attacks=names(attacks, "--attack"),
    )
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
