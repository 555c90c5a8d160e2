"""What the leaderboard knows of detectors without loading them.

``python -m tests.test_defaults`` writes it down anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from oodbench import published
from oodbench.identity import parameters
from oodbench.leaderboard.beside import published_params
from oodbench.plugins import PluginSpec, resolved
from oodbench.views import suite_called

KEPT = Path(published.__file__).with_name("defaults.json")
DETECTORS = sorted(file.stem for file in (KEPT.parents[1] / "detectors").glob("[!_]*.py"))


def present() -> dict[str, Any]:
    """Return the default hyper-parameters of every detector of the package."""
    return {name: parameters(PluginSpec("detectors", name).instance) for name in DETECTORS}


def test_defaults_are_those_of_the_detectors() -> None:
    assert json.loads(KEPT.read_text(encoding="utf-8")) == present(), (
        "hyper-parameters came, went or changed: run `python -m tests.test_defaults`"
    )


@pytest.mark.parametrize("suite", ["cifar10", "cifar100", "svhn", "mini"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_published_parameters_are_those_a_detector_has_in_a_suite(
    suite: str, detector: str
) -> None:
    known = suite_called(suite)
    assert known is not None
    found = resolved(PluginSpec("detectors", detector), known.published).instance
    told = published_params(suite, detector)
    assert told is not None
    assert json.loads(told) == parameters(found)


def test_an_unknown_detector_has_none_and_an_unknown_suite_gives_none() -> None:
    assert published_params("cifar10", "mine") is None
    told = published_params("mine", "atom")
    assert told is not None
    assert json.loads(told)["quantile"] is None


if __name__ == "__main__":
    text = json.dumps(present(), indent=1, sort_keys=True)
    KEPT.write_text(f"{text}\n", encoding="utf-8")
    print(f"wrote {KEPT}")
