"""What scripts share that look at trained detectors on images of training and held out of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from oodbench.api import Places
from oodbench.descent import Ball, falling_sizes, pgd
from oodbench.images import Subset
from oodbench.model import input_gradient
from oodbench.plugins import PluginSpec, resolved, with_settings

STEPS, EPS = 40, 8
"""Gradient steps of a look, and the radius of the ball in levels of 0 to 255."""
DETECTORS = "rowl@zoom,atom.mixed=true@zoom"
"""Rows of a look that are not named: of networks that ship."""
_BATCH = 250


def arguments(description: str, rows: str = DETECTORS) -> argparse.Namespace:
    """Read the command line: rows, suite, seed, places, and whether to write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rows",
        default=rows,
        metavar="DETECTOR[.FIELD=VALUE[+FIELD=VALUE...]][@SCHEDULE[@NETWORK]],...",
        help="trained detectors; schedule and network are the suite's own by default",
    )
    parser.add_argument("--suite", default="cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root")
    parser.add_argument("--store")
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


class Look:
    """A trained detector, and images that its training has not seen, or has."""

    def __init__(self, row: str, asked: argparse.Namespace) -> None:
        places = Places("cpu", data_root=asked.data_root, store=asked.store)
        self.bench = places.workbench()
        self._asked = asked
        self.suite = suite = self.bench.suite(asked.suite)
        text, _, taught = row.partition("@")
        schedule, _, network = taught.partition("@")
        name, _, fields = text.partition(".")
        settings = [f"{name}.{field}" for field in fields.split("+") if field]
        (spec,) = with_settings([PluginSpec("detectors", name)], settings)
        self.taught = self.bench.taught(
            resolved(spec, suite.published),
            asked.suite,
            schedule or suite.schedule,
            network or suite.network,
            asked.seed,
        )
        self.subject = self.bench.subject(spec, self.taught, "float32")

    def images(self, name: str, count: int, part: str = "val") -> tuple[Tensor, Sequence[str]]:
        """Return images spread evenly over a set, uint8 [N, 3, H, W], and their ids.

        Sets are ordered by class, so the first images would be of few. Held out of training, or
        with "train" of it.
        """
        images = Subset(self.bench.images(self._asked.suite, name, part), count)
        return torch.from_numpy(images.batch(range(len(images)))), images.ids

    def score(self, images: Tensor) -> Tensor:
        """Return the scores [N] of images [N, 3, H, W] in [0, 1]."""
        with torch.no_grad():
            parts = torch.split(images, _BATCH)
            return torch.cat(
                [self.subject.detector.score(self.subject.model, part) for part in parts]
            )

    def attacked(self, images: Tensor) -> Tensor:
        """Return the scores [N] of images, uint8 [N, 3, H, W], after `STEPS` falling sign steps."""
        return attacked(self.score, self.gradient, images)

    def gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores [N] of images [N, 3, H, W] in [0, 1], and their gradients."""
        inputs = images.detach().requires_grad_()
        values = self.subject.detector.score(self.subject.model, inputs)
        return values.detach(), input_gradient(values, inputs)


def attacked(
    score: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    images: Tensor,
) -> Tensor:
    """Return the scores [N] of images, uint8 [N, 3, H, W], after `STEPS` falling sign steps."""
    return pgd(score, gradient, Ball.around(images, EPS), None, falling_sizes(EPS, STEPS))[1]


def show_rows(
    script: str,
    title: str,
    about: str,
    row: Callable[[str, argparse.Namespace], Sequence[str]],
    headers: Sequence[str],
    rows: str = DETECTORS,
) -> None:
    """Make and `show` the rows that the command line asks for, each by a call of ``row``."""
    asked = arguments(title, rows)
    found = [row(each, asked) for each in asked.rows.split(",")]
    show(script, title, about, found, headers, write=asked.write)


def show(
    script: str,
    title: str,
    about: str,
    rows: Sequence[Sequence[str]],
    headers: Sequence[str],
    *,
    write: bool,
) -> None:
    """Print a table under a title; where asked to, keep it beside its script."""
    table = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    text = f"# {title}\n\n{about}\n\n{table}\n"
    print(text)
    if write:
        Path(script).with_suffix(".md").write_text(text, encoding="utf-8")
