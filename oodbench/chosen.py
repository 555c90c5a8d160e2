"""Which detectors a request asks for, and which networks stand behind them."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from oodbench.cells import Subjected
from oodbench.errors import RequestError
from oodbench.foreign import is_factory
from oodbench.plugins import PluginSpec, resolved, with_settings
from oodbench.recipe import Plain
from oodbench.registry import entries, find
from oodbench.workbench import Workbench

if TYPE_CHECKING:
    from oodbench.plan import Request


def selected(kind: str, names: Iterable[str], everything: Callable[[], Iterable[str]]) -> list[str]:
    """Return names or paths of plugins, each once, with what ``all`` stands for in its place.

    Raises:
        RequestError: If one is not there, or two would be called the same.
    """
    chosen: dict[str, None] = {}
    for name in names:
        chosen |= dict.fromkeys(everything() if name == "all" else (name,))
    taken: dict[str, str] = {}
    for reference in chosen:
        name = find(kind, reference).name
        if name in taken:
            raise RequestError(
                f"{taken[name]} and {reference} would both be called {name}; rename one"
            )
        taken[name] = reference
    return list(chosen)


def chosen_detectors(
    request: "Request", bench: Workbench, others: Sequence[PluginSpec] = ()
) -> tuple[list[PluginSpec], list[PluginSpec]]:
    """Return the detectors of a request, and other plugins, with their parameters set.

    Schedule and network are looked at too. With weights that a user brings only detectors of a
    plainly trained network are left, since nothing says that they were taught otherwise.

    Raises:
        RequestError: If something asked for is not there or does not fit.
    """
    suite = bench.suite(request.suite)
    bench.schedule(request.suite, request.schedule or suite.schedule)
    bench.network(_network(request, bench))
    detectors = [
        PluginSpec("detectors", name)
        for name in selected("detectors", request.detectors, lambda: entries("detectors"))
    ]
    changed = with_settings([*detectors, *others], request.settings)
    detectors, others = changed[: len(detectors)], changed[len(detectors) :]
    detectors = [resolved(spec, suite.published) for spec in detectors]
    if request.weights is not None:
        detectors = _of_plain_networks(detectors, request, bench)
    return detectors, list(others)


def subjected(request: "Request", bench: Workbench, detector: PluginSpec, seed: int) -> Subjected:
    """Return a detector of a request with the training, or the given weights, behind it."""
    schedule = request.schedule or bench.suite(request.suite).schedule
    network = _network(request, bench)
    taught = bench.taught(detector, request.suite, schedule, network, seed, request.weights)
    # What does not fit is told before anything else is done.
    bench.given(taught)
    return Subjected(detector, taught, request.limit)


def _network(request: "Request", bench: Workbench) -> str:
    """Return the name, path or ``module:factory`` of the network.

    Raises:
        RequestError: If what is asked for does not go together.
    """
    for option, value in (("--model", request.model), ("--weights", request.weights)):
        if value is not None and not value.strip():
            raise RequestError(f"{option} is empty; give a value, or leave it out")
    if request.model is not None and request.network is not None:
        raise RequestError("--model and --network both name the network; leave one out")
    network = request.model or request.network or bench.suite(request.suite).network
    if request.model is not None and not is_factory(request.model):
        raise RequestError(
            f"--model {request.model}: write MODULE:FACTORY or FILE.py:FACTORY, such as"
            " mynet:make for the function make of mynet.py"
        )
    if request.weights is None:
        if is_factory(network):
            raise RequestError(
                f"--model {network} needs --weights FILE, since a network of your own is never"
                " trained here; torch.save(model.state_dict(), FILE) makes one"
            )
        return network
    for option, given in (
        (f"--schedule {request.schedule}", request.schedule is not None),
        ("--retrain", bench.settings.retrain),
        (f"--seed {','.join(map(str, request.seeds))}", len(request.seeds) > 1),
    ):
        if given:
            what = "one seed is enough" if option.startswith("--seed") else "leave it out"
            raise RequestError(f"{option}: weights that are given are not trained; {what}")
    return network


def _of_plain_networks(
    detectors: Sequence[PluginSpec], request: "Request", bench: Workbench
) -> list[PluginSpec]:
    """Leave out detectors that need a network taught otherwise, where only ``all`` asked for them.

    Raises:
        RequestError: If one was asked for by name.
    """
    others = [spec for spec in detectors if not _is_plain(spec)]
    named = [spec.name for spec in others if spec.reference in request.detectors]
    if named:
        raise RequestError(
            f"--weights: {', '.join(named)} {'need' if len(named) > 1 else 'needs'} a network"
            " taught in another way than plainly; detectors of a"
            " plainly trained network take yours"
        )
    if others:
        names = ", ".join(spec.name for spec in others)
        bench.progress.note(f"left out, since a plainly trained network is not theirs: {names}")
    return [spec for spec in detectors if spec not in others]


def _is_plain(spec: PluginSpec) -> bool:
    try:
        recipe: object = spec.instance.recipe
    except ValueError:
        # A recipe that lacks a value has parameters; the plain one has none.
        return False
    return recipe == Plain()
