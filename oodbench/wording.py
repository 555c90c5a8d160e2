"""Sentences that differ in numbers alone, told as one."""

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])")


def pattern(text: str) -> str:
    """Return what texts have in common that differ in numbers alone."""
    return _NUMBER.sub("#", text)


def merged(texts: Sequence[str]) -> str:
    """Return texts of one `pattern` as one, with ranges for numbers."""
    numbers = zip(*map(_NUMBER.findall, texts), strict=True)
    ranges = iter([_range(values) for values in numbers])
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _range(values: Iterable[str]) -> str:
    ascending = sorted(values, key=float)
    low, high = ascending[0], ascending[-1]
    return low if low == high else f"{low}–{high}"
