"""Benchmark harness for robust out-of-distribution detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodbench.api import evaluate
    from oodbench.scoring import score_images

__all__ = ["__version__", "evaluate", "score_images"]


def __getattr__(name: str) -> Any:
    # Importing the package must stay cheap: listing and help load no torch.
    if name == "evaluate":
        from oodbench.api import evaluate

        return evaluate
    if name == "score_images":
        from oodbench.scoring import score_images

        return score_images
    if name == "__version__":
        from importlib.metadata import version

        return version("oodbench")
    raise AttributeError(f"module 'oodbench' has no attribute {name!r}")
