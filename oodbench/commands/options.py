"""Options that several commands share."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from oodbench.progress import BarProgress, LineProgress, Progress

if TYPE_CHECKING:
    from oodbench.leaderboard.selection import Selection

F = TypeVar("F", bound=Callable[..., Any])


def place_options(function: F) -> F:
    """Add the options that say where and on what machine."""
    for option in reversed(
        [
            click.option("--device", help="Device such as cpu or cuda:0; CUDA if there is one."),
            click.option("--batch-size", type=int, help="Images at once."),
            click.option("--data-root", help="Folder of image data ($OODBENCH_DATA)."),
            click.option("--store", help="Folder of weights ($OODBENCH_STORE)."),
        ]
    ):
        function = option(function)
    return function


def training_options(function: F) -> F:
    """Add the options of `place_options`, and that to train again."""
    retrain = click.option("--retrain", is_flag=True, help="Train even where weights are there.")
    return place_options(retrain(function))


def teaching_options(function: F) -> F:
    """Add the options that say which networks are taught, and how."""
    for option in reversed(
        [
            click.option("--suite", default="mini", show_default=True, help="Suite of image sets."),
            click.option(
                "--detector",
                "detectors",
                multiple=True,
                help="Detectors: names, comma lists, a file ./mine.py, or all (default).",
            ),
            click.option(
                "--seed", "seeds", multiple=True, help="Training seeds, comma lists [default: 0]"
            ),
            click.option("--schedule", help="Training schedule: fast, paper, …; the suite's own."),
            click.option("--network", help="Network; the suite's own by default."),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="[PLUGIN.]NAME=VALUE",
                help="Set a parameter of a plugin.",
            ),
        ]
    ):
        function = option(function)
    return function


def model_options(function: F) -> F:
    """Add the options that bring a network of the user's own."""
    for option in reversed(
        [
            click.option(
                "--model",
                metavar="MODULE:FACTORY",
                help="A network of your own, for detectors of a plainly trained one.",
            ),
            click.option("--weights", metavar="FILE", help="Its weights; it is never trained."),
        ]
    ):
        function = option(function)
    return function


def record_options(function: F) -> F:
    """Add the options that choose among stored records; `selected` reads them."""
    for option in reversed(
        [
            click.option("--suite", "suites", multiple=True, help="Suites: names, comma lists."),
            click.option(
                "--network", "networks", multiple=True, help="Networks: names, comma lists."
            ),
            click.option(
                "--schedule", "schedules", multiple=True, help="Schedules: names, comma lists."
            ),
            click.option("--preset", "presets", multiple=True, help="Presets: standard, paper."),
            click.option(
                "--detector", "detectors", multiple=True, help="Detectors: names, comma lists."
            ),
            click.option("--seed", "seeds", multiple=True, help="Training seeds, comma lists."),
            click.option(
                "--eps",
                multiple=True,
                help="L∞ radii such as 8/255; what has no radius is always in.",
            ),
            click.option(
                "--attack", "attacks", multiple=True, help="Perturbations: names, comma lists."
            ),
        ]
    ):
        function = option(function)
    return function


def cell_options(function: F) -> F:
    """Add the options of `record_options`, and that to choose OOD sets."""
    ood = click.option("--ood", "sets", multiple=True, help="OOD sets: names, comma lists.")
    return record_options(ood(function))


def selected(
    *,
    suites: tuple[str, ...],
    networks: tuple[str, ...],
    schedules: tuple[str, ...],
    presets: tuple[str, ...],
    detectors: tuple[str, ...],
    seeds: tuple[str, ...],
    eps: tuple[str, ...],
    attacks: tuple[str, ...],
    sets: tuple[str, ...] = (),
) -> "Selection":
    """Read what `record_options` and `cell_options` were given.

    Raises:
        click.BadParameter: If an option is empty, or a seed or radius is none.
    """
    radii = names(eps, "--eps")
    if radii:
        from oodbench.threat import format_eps, parse_eps

        radii = tuple(dict.fromkeys(format_eps(parse_eps(text)) for text in radii))
    from oodbench.leaderboard.selection import Selection

    return Selection(
        suites=names(suites, "--suite"),
        networks=names(networks, "--network"),
        schedules=names(schedules, "--schedule"),
        presets=names(presets, "--preset"),
        detectors=names(detectors, "--detector"),
        seeds=whole_numbers(seeds, "--seed"),
        eps=radii,
        attacks=names(attacks, "--attack"),
        sets=names(sets, "--ood"),
    )


def names(texts: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Read comma lists of names; repeated options add up.

    Raises:
        click.BadParameter: If the option is given without a name, which is not ``all``.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    if texts and not any(parts):
        raise click.BadParameter(f"{option} is empty; give a name, or leave it out")
    return tuple(dict.fromkeys(part for part in parts if part))


def whole_numbers(texts: tuple[str, ...], option: str) -> tuple[int, ...]:
    """Read comma lists of whole numbers; repeated options add up.

    Raises:
        click.BadParameter: If one is no whole number.
    """
    numbers: dict[int, None] = {}
    for part in ",".join(texts).split(","):
        if not part.strip():
            continue
        try:
            numbers[int(part)] = None
        except ValueError:
            raise click.BadParameter(f"{option} {part}: not a whole number") from None
        if int(part) < 0:
            raise click.BadParameter(f"{option} {part}: must not be negative")
    if texts and not numbers:
        raise click.BadParameter(f"{option} is empty; give a number, or leave it out")
    return tuple(numbers)


@contextmanager
def reported() -> Iterator[Progress]:
    """Report progress to standard error: bars in a terminal, lines now and then elsewhere."""
    if not sys.stderr.isatty():
        yield LineProgress(sys.stderr)
        return
    from rich.console import Console

    with BarProgress(Console(stderr=True, emoji=False)) as progress:
        yield progress
