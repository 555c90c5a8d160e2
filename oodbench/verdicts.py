"""What detectors say of pictures, as a table for people."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from oodbench.data.sources import printable
from oodbench.scoring import OUT, Scored, Scorer

if TYPE_CHECKING:
    from rich.console import Console

_NAMED = 3
_LEAST_WIDTH = 12


def print_verdicts(console: "Console", found: Sequence[Scored], scorer: Scorer) -> None:
    """Print a row for each picture and detector, what set the thresholds, and what was done."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    first = found[0]
    several = len(scorer.held_out) > 1
    table = Table(
        box=SIMPLE_HEAD,
        title=Text(
            f"suite {first.suite}, network {first.network}"
            + ("" if several else f", {_who(first, scorer)}"),
            "table.title",
        ),
        title_justify="left",
        pad_edge=False,
        show_edge=False,
    )
    # Beside a column of detectors a long path would have no room.
    widest = max(len(f"  {_who(one, scorer)}") for one in found)
    table.add_column("image", overflow="fold", min_width=widest if several else _LEAST_WIDTH)
    for header in ("score", "threshold", "ID ≥"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    before = ""
    for one in found:
        # A name is data; what looks like markup in it is none.
        if several and one.image != before:
            table.add_row(Text(printable(one.image)))
        before = one.image
        table.add_row(
            Text(f"  {_who(one, scorer)}" if several else printable(one.image)),
            f"{one.score:.4g}",
            f"{one.threshold:.4g}",
            f"{100 * one.id_share:.2f} %",
            Text(one.verdict, style="bold" if one.verdict == OUT else ""),
        )
    console.print(table)
    console.print()
    for line in _footnotes(found, scorer):
        console.print(line, style="dim", highlight=False, markup=False)


def _who(one: Scored, scorer: Scorer) -> str:
    seeds = {subject.taught.seed for subject in scorer.held_out}
    return f"{one.detector}, seed {one.seed}" if len(seeds) > 1 else one.detector


def _accuracy(scorer: Scorer) -> str:
    """Return how many held-out images are classified right, since a poor network knows little."""
    right = [held.accuracy for held in scorer.held_out.values() if held.accuracy is not None]
    if not right:
        return ""
    low, high = f"{100 * min(right):.1f}", f"{100 * max(right):.1f}"
    return f" ({low if low == high else f'{low} to {high}'} % of them classified right)"


def _footnotes(found: Sequence[Scored], scorer: Scorer) -> Iterator[str]:
    yield (
        f"Threshold: the lowest score that accepts 95 % of {found[0].n_id} held-out"
        f" in-distribution images{_accuracy(scorer)}. ID ≥: share of them that score at least as"
        f" high as the image; 5 % or less is {OUT}."
    )
    done: dict[str, dict[str, None]] = {}
    for one in found:
        for text in one.prepared:
            done.setdefault(text, {})[one.image] = None
    for text, names in done.items():
        some = ", ".join(printable(name) for name in list(names)[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"{text[0].upper()}{text[1:]}: {some}{more}."
    suite = scorer.bench.suite(scorer.suite)
    if suite.note:
        yield suite.note
