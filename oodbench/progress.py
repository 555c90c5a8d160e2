"""How long work reports how far it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, TextIO

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 15.0
# The first step of a task is often slow; an estimate from it alone would frighten.
_LEAST_SHARE = 0.02


class Foresight:
    """Work that shows itself as images are done, foreseen for those that are left."""

    def __init__(self, expect: Callable[[float], None], images: int) -> None:
        """Look ahead.

        Args:
            expect: Called with what is to be done beyond what it was called with before; less
                than 0 where less is now foreseen.
            images: How many images there are to do.
        """
        self._expect = expect
        self._left = images
        self._done = self._at_hand = 0
        self._met = self._foreseen = 0.0

    def begin(self, images: int) -> None:
        """Take note of images whose work begins, that of those before being done."""
        self._done += self._at_hand
        self._at_hand = images
        if self._done:
            self._look_ahead(self._done)
        self._left -= images

    def kept(self, images: int) -> None:
        """Take note of images that were done before."""
        self._left -= images

    def meet(self, work: float) -> None:
        """Take note of work on the images at hand."""
        self._met += work
        self._look_ahead(self._done + self._at_hand)

    def end(self) -> None:
        """Foresee nothing more."""
        self._left = 0
        self.begin(0)

    def _look_ahead(self, images: int) -> None:
        """Foresee for those left what was met on so many images."""
        foreseen = self._met * (1 + max(self._left, 0) / images)
        if foreseen != self._foreseen:
            self._expect(foreseen - self._foreseen)
            self._foreseen = foreseen


class Task(Protocol):
    """A piece of work with a known length."""

    def advance(self, amount: float, note: str = "") -> None:
        """Report that ``amount`` more is done, with a short note on how it goes."""

    def expect(self, amount: float) -> None:
        """Report that ``amount`` more is to be done than was foreseen, less where it is < 0."""


class Progress:
    """Reports nothing; the base of those that do."""

    @contextmanager
    def task(self, description: str, total: float, done: float = 0) -> Iterator[Task]:
        """Open a task of ``total`` units, ``done`` of them done before, as of what is resumed."""
        yield _Silent()

    def note(self, message: str) -> None:
        """Tell the user one line."""


class _Silent:
    def advance(self, amount: float, note: str = "") -> None:
        return

    def expect(self, amount: float) -> None:
        return


class LineProgress(Progress):
    """Writes a line now and then, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def task(self, description: str, total: float, done: float = 0) -> Iterator[Task]:
        """Open a task; tasks shorter than two seconds leave no line."""
        yield _Lines(self._stream, description, total, done)

    def note(self, message: str) -> None:
        """Write one line."""
        print(message, file=self._stream, flush=True)


class _Lines:
    def __init__(self, stream: TextIO, description: str, total: float, done: float) -> None:
        self._stream = stream
        self._description = description
        self._total = total
        self._before = self._done = done
        self._start = time.monotonic()
        self._next = self._start + _QUIET_SECONDS

    def advance(self, amount: float, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        share = min(self._done / self._total, 1.0) if self._total > 0 else 1.0
        now_done = self._done - self._before
        if now < self._next or now_done <= 0 or now_done < _LEAST_SHARE * self._total:
            return
        self._next = now + _LINE_SECONDS
        left = (now - self._start) * max(self._total - self._done, 0) / now_done
        text = f"{self._description}: {100 * share:.0f} %, {left:.0f} s left"
        print(f"{text}{'; ' + note if note else ''}", file=self._stream, flush=True)

    def expect(self, amount: float) -> None:
        self._total += amount


class BarProgress(Progress):
    """Draws a bar with the time left in a terminal."""

    def __init__(self, console: Any) -> None:
        from rich.progress import (
            BarColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )

    def __enter__(self) -> "BarProgress":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @contextmanager
    def task(self, description: str, total: float, done: float = 0) -> Iterator[Task]:
        """Open a task; its bar goes when it ends."""
        bar = self._bars.add_task(description, total=total, completed=int(done), note="")
        try:
            yield _Bar(self._bars, bar)
        finally:
            self._bars.remove_task(bar)

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(message, style="dim", highlight=False, markup=False)


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self._bars = bars
        self._task = task

    def advance(self, amount: float, note: str = "") -> None:
        self._bars.update(self._task, advance=amount, note=note)

    def expect(self, amount: float) -> None:
        # `update` would forget how fast the work went so far.
        (task,) = [task for task in self._bars.tasks if task.id == self._task]
        task.total = (task.total or 0) + amount
