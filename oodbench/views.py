"""Which OOD sets a mean is over: all, all but stand-ins, those alike, and near ones apart."""

from collections.abc import Sequence

from oodbench.errors import RequestError
from oodbench.images import Suite
from oodbench.registry import load

ALL = "mean"
"""The view of all sets that are not near."""
GENUINE = "without stand-ins"
"""The view of those that are what they are called."""


def suite_called(name: str) -> Suite | None:
    """Return the suite of a record; None where it is not to be found by its name."""
    try:
        found = load("datasets", name)()
    except (RequestError, TypeError, ValueError):
        return None
    return found if isinstance(found, Suite) else None


def near_sets(suite: Suite | None, sets: Sequence[str]) -> tuple[str, ...]:
    """Return those of some OOD sets that stand in no mean, being near.

    Where all are near they are taken as others are, and none is returned.
    """
    near = () if suite is None else tuple(name for name in sets if name in suite.near)
    return near if len(near) < len(sets) else ()


def views(suite: Suite | None, sets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what means are shown over, by the name of the view, `ALL` first.

    `GENUINE` is there where some sets are stand-ins and some are not; the groups of a suite where
    there are sets in more than one of them, and several in the group.

    Args:
        suite: The suite; None knows of neither.
        sets: Names of OOD sets, in order.
    """
    near = near_sets(suite, sets)
    counted = tuple(name for name in sets if name not in near)
    found = {ALL: counted}
    if suite is None:
        return found
    genuine = tuple(name for name in counted if name not in suite.stand_ins.values())
    if genuine and genuine != counted:
        found[GENUINE] = genuine
    groups = {
        group: tuple(name for name in counted if name in members)
        for group, members in suite.groups.items()
    }
    if sum(bool(members) for members in groups.values()) > 1:
        found |= {group: members for group, members in groups.items() if len(members) > 1}
    return found
