"""``oodbench list``."""

import json

import click

from oodbench.registry import KINDS, entries


@click.command("list")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def command(kind: str, as_json: bool) -> None:
    """List detectors, attacks, datasets or networks, and where each comes from."""
    found = entries(kind).values()
    if as_json:
        rows = [{"name": e.name, "origin": e.origin, "summary": e.summary} for e in found]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        click.echo(f"{entry.name:<{width}}  {entry.summary or entry.origin}")
