"""Checks of hyper-parameters, for ``__post_init__`` of plugins; None, a suite's to say, passes."""

from typing import Any


def at_least(plugin: Any, low: float, *names: str) -> None:
    """Refuse fields below a bound, and those that are not a number.

    Raises:
        ValueError: If one is; it names the field.
    """
    for name in names:
        value = getattr(plugin, name)
        if value is not None and not value >= low:
            raise ValueError(f"{name} must be at least {low}, not {value}")


def positive(plugin: Any, *names: str) -> None:
    """Refuse fields that are not above zero.

    Raises:
        ValueError: If one is not; it names the field.
    """
    for name in names:
        value = getattr(plugin, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")


def attack_in_training(plugin: Any) -> None:
    """Refuse an ``eps``, ``steps`` or ``step`` that no attack of whole grey levels can have.

    Raises:
        ValueError: If one is out of range, or has no effect; it names the field.
    """
    # Imports torch, which a table of schedules does without.
    from oodbench.threat import LEVELS

    at_least(plugin, 1, "eps", "steps", "step")
    if plugin.eps > LEVELS:
        raise ValueError(f"eps is in grey levels, at most {LEVELS}, not {plugin.eps}")
    if getattr(plugin, "mixed", False) and plugin.step != type(plugin).step:
        # It would be another identity, and hours of training, for the same weights.
        raise ValueError("step has no effect on a mixed attack, whose steps fall; leave it out")
