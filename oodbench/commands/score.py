"""``oodbench score``."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from oodbench.commands.options import (
    model_options,
    names,
    place_options,
    reported,
    teaching_options,
    whole_numbers,
)

if TYPE_CHECKING:
    from oodbench.data.named import Unread
    from oodbench.scoring import Scored, Scorer


@click.command("score")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…")
@teaching_options
@model_options
@place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line an image and detector.")
def command(
    images: tuple[str, ...],
    suite: str,
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    schedule: str | None,
    network: str | None,
    model: str | None,
    weights: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    **places: Any,
) -> None:
    """Say of images, or of folders of them, whether they are out-of-distribution.

    An image is out-of-distribution if its score is above the threshold, the lowest that accepts
    95 % of the suite's held-out (validation) images. Images of any size are fitted to those of the
    suite, and what was done to each is told. Exit code 2 if one could not be read; the others are
    scored all the same.
    """
    from oodbench.api import Places
    from oodbench.data.sources import printable
    from oodbench.plan import Request
    from oodbench.scoring import Failed, Scored, Scorer

    request = Request(
        suite=suite,
        detectors=names(detectors, "--detector") or ("all",),
        seeds=whole_numbers(seeds, "--seed") or (0,),
        schedule=schedule,
        network=network,
        model=model,
        weights=weights,
        settings=settings,
    )
    found: list[Scored] = []
    unread, failed = [], list[Failed]()
    with reported() as progress:
        scorer = Scorer.of(request, Places(**places).workbench(progress))
        for one in scorer.scored(images):
            if isinstance(one, Failed):
                failed.append(one)
            elif not isinstance(one, Scored):
                unread.append(one)
            elif as_json:
                click.echo(json.dumps(one.told(), ensure_ascii=False, allow_nan=False))
            else:
                found.append(one)
    if found:
        _show(found, scorer)
    bad: list[Unread | Failed] = [*unread, *failed]
    for wrong in bad:
        click.echo(f"oodbench: {printable(wrong.name)}: {' '.join(wrong.reason.split())}", err=True)
    if unread or failed:
        sys.exit(3 if failed else 2)


def _show(found: "list[Scored]", scorer: "Scorer") -> None:
    from rich.console import Console

    from oodbench.verdicts import print_verdicts

    print_verdicts(Console(emoji=False), found, scorer)
