"""Benchmark harness for robust out-of-distribution detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodbench.api import evaluate

__all__ = ["__version__", "evaluate"]


def __getattr__(name: str) -> Any:
    # Importing the package must stay cheap: listing and help load no torch.
    if name == "evaluate":
        from oodbench.api import evaluate

        return evaluate
    if name == "__version__":
        from importlib.metadata import version

        return version("oodbench")
    raise AttributeError(f"module 'oodbench' has no attribute {name!r}")
