"""``oodbench leaderboard``."""

import click

from oodbench.commands.options import names, whole_numbers


@click.command("leaderboard")
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
@click.option(
    "--sort",
    default="worst",
    show_default=True,
    type=click.Choice(["worst", "name"]),
    help="Rows by their lowest AUROC, the best first and incomplete ones last; or by name.",
)
def command(
    results: str | None,
    reference: bool,
    suites: tuple[str, ...],
    networks: tuple[str, ...],
    presets: tuple[str, ...],
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    eps: tuple[str, ...],
    sort: str,
) -> None:
    """Compare stored results: detectors against perturbations, mean over the OOD sets.

    Prints markdown, a table for each suite, network, schedule, preset, protocol and choice of
    test images. Nothing is computed; `oodbench run` makes results.
    """
    radii = names(eps, "--eps")
    if radii:
        from oodbench.threat import format_eps, parse_eps

        radii = tuple(dict.fromkeys(format_eps(parse_eps(text)) for text in radii))
    from oodbench.leaderboard import Selection, load, markdown, ordered, results_folder, summary
    from oodbench.marks import audits_below

    selection = Selection(
        suites=names(suites, "--suite"),
        networks=names(networks, "--network"),
        presets=names(presets, "--preset"),
        detectors=names(detectors, "--detector"),
        seeds=whole_numbers(seeds, "--seed"),
        eps=radii,
    )
    root, told = results_folder(results, reference=reference)
    records = load(root, selection)
    if told:
        click.echo(f"oodbench: {told}", err=True)
    audits = audits_below(root, lambda line: click.echo(f"oodbench: {line}", err=True))
    click.echo(markdown(ordered(summary(records, audits), sort)), nl=False)
