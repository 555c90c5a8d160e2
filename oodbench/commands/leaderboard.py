"""``oodbench leaderboard``."""

from pathlib import Path
from typing import Any

import click

from oodbench.commands.options import record_options, selected


@click.command("leaderboard")
@click.option(
    "--results",
    help="Folder of results [default: ./oodbench-results, else the reference that ships]",
)
@click.option("--reference", is_flag=True, help="Read the reference results that ship.")
@record_options
@click.option(
    "--by",
    default="mean",
    show_default=True,
    type=click.Choice(["mean", "ood"]),
    help="Means over OOD sets; or a table of each set besides.",
)
@click.option(
    "--sort",
    default="worst",
    show_default=True,
    type=click.Choice(["worst", "name"]),
    help="Rows by their lowest AUROC, the best first and incomplete ones last; or by name.",
)
@click.option("--paper", is_flag=True, help="Published figures beside ours.")
@click.option(
    "--format",
    "form",
    default="markdown",
    show_default=True,
    type=click.Choice(["markdown", "csv", "latex", "json", "html"]),
    help="For people, for pandas, for a paper, for programs, for a browser.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False), help="File to write [default: standard output]"
)
def command(
    results: str | None,
    reference: bool,
    by: str,
    sort: str,
    paper: bool,
    form: str,
    output: str | None,
    **chosen: Any,
) -> None:
    """Compare stored results: detectors against perturbations, mean over the OOD sets.

    A table for each suite, network, schedule (but for how outliers are shown), preset, protocol
    and choice of test images. Bold is the best of a column, and what a paired bootstrap over
    images cannot tell from it. CSV and JSON hold fractions in full precision; the page of --format
    html is one file, and leads from each figure to its records. Nothing is computed; `oodbench
    run` makes results.
    """
    selection = selected(**chosen)
    from oodbench import leaderboard as board
    from oodbench.marks import audits_below

    def tell(line: str) -> None:
        click.echo(f"oodbench: {line}", err=True)

    root, told = board.results_folder(results, reference=reference)
    files = board.load_files(root, selection)
    if told:
        tell(told)
    frame = board.of_files(
        files, audits_below(root, tell), sort=sort, by=by, paper=paper, tell=tell
    )
    if paper and not frame["published_source"].any():
        suites = tuple(dict.fromkeys(frame["suite"]))
        tell(f"--paper: no figures are published that could stand beside {', '.join(suites)}")
    text = board.render(frame, form, list(files.values()))
    if output is None:
        click.echo(text, nl=False)
        return
    _write(Path(output), text)
    tell(f"wrote {output}")


def _write(path: Path, text: str) -> None:
    from oodbench.errors import RequestError
    from oodbench.files import write_atomically

    try:
        write_atomically(path, lambda file: _fill(file, text))
    except OSError as error:
        raise RequestError(
            f"cannot write --output {path}: {error.strerror or error}; choose another file"
        ) from None


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
