"""Sentences for people: those that differ in numbers alone told as one, code set apart."""

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"`([^`]+)`")
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])")


def pattern(text: str) -> str:
    """Return what texts have in common that differ in numbers alone."""
    return _NUMBER.sub("#", text)


def merged(texts: Sequence[str]) -> str:
    """Return texts of one `pattern` as one, with ranges for numbers."""
    numbers = zip(*map(_NUMBER.findall, texts), strict=True)
    ranges = iter([_range(values) for values in numbers])
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def prose(text: str) -> list[tuple[str, bool]]:
    """Return the pieces of a sentence, and of each whether it is code, in backticks there."""
    pieces = [(piece, number % 2 == 1) for number, piece in enumerate(_CODE.split(text))]
    return [(piece, is_code) for piece, is_code in pieces if piece]


def _range(values: Iterable[str]) -> str:
    ascending = sorted(values, key=float)
    low, high = ascending[0], ascending[-1]
    return low if low == high else f"{low}–{high}"
