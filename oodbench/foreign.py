"""Networks that a user brings: any module that gives logits, made to keep `Network`'s contract."""

import copy
import difflib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from oodbench.errors import CellError, RequestError
from oodbench.network import Network, fold_batch_norm
from oodbench.registry import find, import_reference, load

PENULTIMATE = "penultimate"
"""Tap of a network that names none: what its last linear layer is given."""

# By which logits may be off where memory is in another order.
_ORDER_TOLERANCE = 1e-3
# Share of the logits' size by which a folded copy may be off.
_FOLDED_TOLERANCE = 1e-3


def is_factory(reference: str) -> bool:
    """Whether a reference to a network is ``module:factory`` or ``file.py:factory``."""
    module, colon, name = reference.rpartition(":")
    return bool(module and colon) and all(part.isidentifier() for part in name.split("."))


def network_class(reference: str) -> type[Network]:
    """Return a network's class by name, by path of a plugin's file, or by ``module:factory``.

    The class that stands for a factory is called ``module:factory`` and belongs to the factory's
    module, so that name and source are those of what the user brings.

    Raises:
        RequestError: If there is none.
    """
    if not is_factory(reference):
        return load("networks", reference)
    place, _, name = reference.rpartition(":")
    module = import_reference("networks", place)
    try:
        factory = reduce(getattr, name.split("."), module)
    except AttributeError:
        near = difflib.get_close_matches(name, vars(module), n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RequestError(f"--model {reference}: {place} has no {name}{hint}") from None
    if not callable(factory) or isinstance(factory, nn.Module):
        raise RequestError(
            f"--model {reference}: {name} is {type(factory).__name__}; name a function or class"
            " that makes the network"
        )
    shown = place.replace("\\", "/").rpartition("/")[2].removesuffix(".py")
    return _class_of(f"{shown}:{name}", module.__name__, factory)


def network_name(reference: str) -> str:
    """Return what records call a network: a plugin by its name, whatever its class is called.

    What a factory makes is called by the factory's module and name, in lower case.

    Raises:
        RequestError: If there is none.
    """
    if is_factory(reference):
        return network_class(reference).__name__.lower()
    return find("networks", reference).name


@cache
def _class_of(name: str, module: str, factory: Callable[..., Any]) -> type[Network]:
    fields = {"__module__": module, "__doc__": factory.__doc__, "factory": staticmethod(factory)}
    return type(name, (Foreign,), fields)


class Foreign(Network):
    """What a user's factory makes, with feature maps taken where its modules run.

    Attributes:
        module: What the factory made.
        taps: Names of modules that its attribute ``taps`` gives, in the order in which they run;
            by default `PENULTIMATE` alone, what the last ``nn.Linear`` that runs is given (the
            last convolution where there is none, the logits where there is neither).
    """

    factory: ClassVar[Callable[..., Any]]

    def __init__(self, outputs: int) -> None:
        super().__init__()
        name = type(self).__name__
        try:
            made = _made(type(self).factory, outputs)
        except (Exception, SystemExit) as error:
            told = f"{type(error).__name__}: {error}"
            raise RequestError(f"--model {name} cannot make a network: {told}") from error
        if not isinstance(made, nn.Module):
            raise RequestError(
                f"--model {name} gives {type(made).__name__}; it must give a torch.nn.Module"
            )
        self.module = made
        self._image_shape: tuple[int, ...] | None = None
        given = getattr(made, "taps", (PENULTIMATE,))
        chosen = (given,) if isinstance(given, str) else tuple(given)
        unknown = [str(tap) for tap in chosen if tap not in dict(made.named_modules())]
        if unknown and not isinstance(made, Network) and chosen != (PENULTIMATE,):
            raise RequestError(
                f"--model {name}: taps must be names of its modules, as named_modules() gives"
                f" them; there is no {', '.join(unknown)}"
            )
        self._named = () if unknown else chosen
        self.taps = chosen  # type: ignore[misc]

    def settle(self, images: Tensor) -> None:
        """Find out in which order in memory all networks of this class can work.

        The one that is faster serves no forward that takes the usual one for granted, as
        ``view`` does.

        Args:
            images: Float tensor [N, 3, H, W] in [0, 1].
        """
        kind = type(self)
        usual, quick = (
            images.contiguous(memory_format=order).requires_grad_()
            for order in (torch.contiguous_format, Network.memory_format)
        )
        with torch.enable_grad():
            expected = self.module(usual)
            try:
                found = copy.deepcopy(self.module).to(memory_format=Network.memory_format)(quick)
                found.sum().backward()
                same = torch.allclose(found, expected, rtol=_ORDER_TOLERANCE, atol=_ORDER_TOLERANCE)
            except Exception:
                same = False
        kind.memory_format = Network.memory_format if same else torch.contiguous_format

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network and keep its feature maps; see `Network.tapped`.

        Vectors [N, C] become maps [N, C, 1, 1], tokens [N, T, C] maps [N, C, T, 1].

        Raises:
            CellError: If a tap did not run, or gives something else.
        """
        self._image_shape = tuple(images.shape[1:])
        if isinstance(self.module, Network):
            return self.module.tapped(images, until)
        if self.taps == (PENULTIMATE,) and not self._named:
            return self._with_penultimate(images, until)
        kept: dict[str, Tensor] = {}
        with self._keeping(kept, until):
            try:
                logits = self.module(images)
            except _ReachedError:
                logits = images.new_empty(0)
        wanted = self.taps if until is None else (until,)
        for tap in wanted:
            if tap not in kept:
                raise CellError(f"the module {tap}, a tap of the network, did not run")
        return {tap: kept[tap] for tap in self.taps if tap in kept}, logits

    @contextmanager
    def _keeping(self, kept: dict[str, Tensor], until: str | None) -> Iterator[None]:
        """Keep what the tapped modules give the first time that they run."""

        def keep(tap: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if tap not in kept:
                    # A layer that works in place may come next.
                    kept[tap] = _as_map(tap, output).clone()
                if tap == until:
                    raise _ReachedError

            return hook

        # Hooks that stayed would be copied with the network and write for the original.
        handles = [module.register_forward_hook(keep(tap)) for tap, module in self._now()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _now(self) -> list[tuple[str, nn.Module]]:
        # Looked up anew: folding puts other modules in their places.
        return [(tap, self.module.get_submodule(tap)) for tap in self._named]

    def _with_penultimate(
        self, images: Tensor, until: str | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Run the network whole, since only its end tells which linear layer was the last."""
        last: list[Tensor] = []

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            last[:] = [value for value in inputs[:1] if isinstance(value, Tensor)]

        handles = [head.register_forward_pre_hook(hook) for head in _heads(self.module)]
        try:
            logits = self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        features = _as_map(PENULTIMATE, last[0] if last else logits)
        return {PENULTIMATE: features}, logits if until is None else images.new_empty(0)

    def for_search(self) -> Network:
        """Return a frozen copy, its batch norm folded where that changes nothing.

        A user's modules may use what is folded elsewhere too, so it is tried.
        """
        plain = copy.deepcopy(self).eval().requires_grad_(False)
        convolutions = [module for _, module in self._now() if isinstance(module, nn.Conv2d)]
        if self._image_shape is None or convolutions:
            return plain
        folded = fold_batch_norm(self)
        parameter = next(plain.parameters(), torch.empty(0))
        count = torch.tensor(self._image_shape).prod()
        probe = torch.linspace(0, 1, 2 * int(count)).reshape(2, *self._image_shape)
        probe = probe.to(parameter.device, parameter.dtype)
        with torch.no_grad():
            before, after = plain(probe), folded(probe)
        off = (after - before).abs().amax()
        return folded if bool(off <= _FOLDED_TOLERANCE * before.abs().amax()) else plain


class _ReachedError(BaseException):
    """Leaves a forward pass; no ``except Exception`` of a user's forward is to catch it."""


def _made(factory: Callable[..., Any], outputs: int) -> Any:
    """Call a factory with the number of outputs, if it takes one."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return factory(outputs)
    kinds = {parameter.kind for parameter in parameters}
    named = any(parameter.name == "num_classes" for parameter in parameters)
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if named or (inspect.Parameter.VAR_KEYWORD in kinds and not required):
        return factory(num_classes=outputs)
    return factory(outputs) if required else factory()


def _heads(module: nn.Module) -> list[nn.Module]:
    """Return the layers of which the last that runs gives the logits."""
    kinds: tuple[type[nn.Module], ...]
    for kinds in ((nn.Linear,), (nn.Conv1d, nn.Conv2d)):
        found: list[nn.Module] = [one for one in module.modules() if isinstance(one, kinds)]
        if found:
            return found
    return []


def _as_map(tap: str, value: Any) -> Tensor:
    """Return features as a map [N, C, h, w].

    Raises:
        CellError: If they are none.
    """
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or not 2 <= value.ndim <= 4:
        raise CellError(
            f"the tap {tap} gives {shape}; it must give a tensor [N, C, h, w], [N, C] or [N, T, C]"
        )
    if value.ndim == 4:
        return value
    return value[:, :, None, None] if value.ndim == 2 else value.transpose(1, 2)[..., None]
