"""Weights that a user brings: read from a file, fitted to a network, and tried before any work."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodbench.errors import CellError, RequestError
from oodbench.foreign import Foreign, network_class, network_name
from oodbench.identity import digest_bytes
from oodbench.network import Network, initialised
from oodbench.plugins import origin
from oodbench.registry import source_digest
from oodbench.store import Stored, tensors_digest

GIVEN = "given"
"""What stands for recipe and schedule of a network that was not trained here."""

# Where checkpoints keep the weights, the usual places first.
_KEYS = ("state_dict", "model_state_dict", "model", "net", "network")
_NAMED = 3
# A count of training steps; what a network computes does not depend on it.
_COUNTER = "num_batches_tracked"
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Given:
    """A network with weights that were not trained here.

    Attributes:
        identity: Name, and version or source digest, of the network.
        stored: Its weights, by the names under which a training would store them.
    """

    identity: dict[str, Any]
    stored: Stored


def given_network(reference: str, outputs: int, weights: Path, images: Tensor) -> Given:
    """Build a network, give it the weights of a file and try it on some images.

    Args:
        reference: The network, as `network_class` takes it.
        outputs: Number of logits that it must have.
        weights: A safetensors file, or what ``torch.save`` wrote of a ``state_dict``.
        images: Some images of the suite, float32 [N, 3, H, W] in [0, 1].

    Raises:
        RequestError: If there is no such network, the file cannot be read or does not fit, or the
            network does not give logits [N, outputs] that depend on each image alone.
    """
    network = network_class(reference)
    built = initialised(network, outputs, 0).eval().requires_grad_(False)
    tensors = _fitting(read_weights(weights), built, weights)
    built.load_state_dict(tensors)
    _try(built, network.__name__, outputs, images)
    if isinstance(built, Foreign):
        built.settle(images)
    named = {f"network.{key}": value for key, value in tensors.items()}
    card = {"digest": tensors_digest(named)}
    identity = {"name": network_name(reference), **_source(network, built)}
    return Given(identity, Stored(named, card, weights))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a ``state_dict`` from a safetensors file or one of ``torch.save``.

    Nothing in the file is executed. Weights below a key such as ``state_dict`` are found.

    Raises:
        RequestError: If it holds none.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        found: Any
        if head[8:9] == b"{":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RequestError(
            f"--weights {path}: it is no file of weights, or holds more than tensors; save it by"
            " torch.save(model.state_dict(), FILE)"
        ) from None
    except OSError as error:
        raise RequestError(f"--weights {path}: {error.strerror or error}") from None
    except Exception as error:
        # Readers given rubbish raise nearly anything.
        raise RequestError(
            f"--weights {path} cannot be read as safetensors or a torch file"
            f" ({type(error).__name__}: {error})"
        ) from None
    return _weights_in(found, path)


def _weights_in(found: Any, path: Path) -> dict[str, Tensor]:
    if _is_weights(found):
        return dict(found)
    inner = {}
    if isinstance(found, Mapping):
        inner = {str(key): value for key, value in found.items() if _is_weights(value)}
    usual = [key for key in _KEYS if key in inner]
    if usual or len(inner) == 1:
        return dict(inner[usual[0] if usual else next(iter(inner))])
    holds = ", ".join(map(str, list(found)[:8])) if isinstance(found, Mapping) else type(found)
    raise RequestError(f"--weights {path}: no state_dict in it; it holds {holds or 'nothing'}")


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _fitting(found: dict[str, Tensor], network: Network, path: Path) -> dict[str, Tensor]:
    """Return the weights under the network's own names and in its own types.

    What wrappers put before every name (``module.``, ``_orig_mod.``, ``1.``) does not matter.

    Raises:
        RequestError: If names or shapes differ.
    """
    wanted: dict[str, Tensor] = network.state_dict()
    found, before = _matched(found, wanted, "module." if isinstance(network, Foreign) else "")
    bare = {key.removeprefix(before): value for key, value in wanted.items()}
    counters = {key: value for key, value in bare.items() if key.endswith(_COUNTER)}
    found = {**{key: value for key, value in counters.items() if key not in found}, **found}
    shapes = [
        f"{key} is {list(found[key].shape)} in place of {list(value.shape)}"
        for key, value in bare.items()
        if key in found and found[key].shape != value.shape
    ]
    wrong = [
        f"{len(names)} {what}: {', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
        for what, names in (
            ("missing", [key for key in bare if key not in found]),
            ("unexpected", [key for key in found if key not in bare]),
            ("of another shape", shapes),
        )
        if names
    ]
    if wrong:
        name = type(network).__name__
        raise RequestError(f"--weights {path} do not fit {name}: {'; '.join(wrong)}")
    return {
        before + key: found[key].detach().to(value.dtype).contiguous().clone()
        for key, value in bare.items()
    }


def _matched(
    found: dict[str, Tensor], wanted: Mapping[str, Any], before: str
) -> tuple[dict[str, Tensor], str]:
    """Take off what stands before all names, there or here, as little as makes some names equal.

    Returns:
        The tensors by what is left of their names, and what stands before the network's names.
    """
    own = [before + prefix for prefix in _prefixes([key.removeprefix(before) for key in wanted])]
    pairs = [(theirs, ours) for theirs in _prefixes(list(found)) for ours in own]
    for theirs, ours in sorted(pairs, key=lambda pair: sum(text.count(".") for text in pair)):
        if any(ours + key.removeprefix(theirs) in wanted for key in found):
            return {key.removeprefix(theirs): value for key, value in found.items()}, ours
    return found, before


def _prefixes(names: list[str]) -> list[str]:
    """Return what stands before all names, up to each dot, the empty text first."""
    prefixes = [""]
    for depth, parts in enumerate(zip(*(name.split(".")[:-1] for name in names), strict=False)):
        if len(set(parts)) > 1:
            break
        prefixes.append(".".join(names[0].split(".")[: depth + 1]) + ".")
    return prefixes


def _try(network: Network, name: str, outputs: int, images: Tensor) -> None:
    """Check what a network gives.

    Raises:
        RequestError: If it is not what `given_network` says.
    """
    what = f"the network {name}"
    try:
        with torch.no_grad():
            logits = network(images)
            again = network(images)
            alone = [network(image[None]) for image in images]
    except CellError as error:
        raise RequestError(f"{what}: {error}") from error
    except Exception as error:
        told = str(error).partition("\n")[0]
        raise RequestError(
            f"{what} does not take images {list(images.shape)} of this suite:"
            f" {type(error).__name__}: {told}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RequestError(
            f"{what} gives {got} for {len(images)} images; it must give a tensor of logits"
            f" [{len(images)}, {outputs}]"
        )
    if logits.shape[1] != outputs:
        raise RequestError(f"{what} has {logits.shape[1]} outputs; the suite has {outputs} classes")
    if not bool(logits.isfinite().all()):
        raise RequestError(f"{what} gives logits that are not finite")
    size = _TOLERANCE * max(1.0, float(logits.abs().amax()))
    if bool(((again - logits).abs() > size).any()):
        raise RequestError(
            f"{what} gives other logits the second time; switch what is random off in eval()"
        )
    if bool(((torch.cat(alone) - logits).abs() > size).any()):
        raise RequestError(
            f"{what} gives an image other logits in another batch; batch norm must use its"
            " running statistics in eval()"
        )


def _source(network: type[Network], built: Network) -> dict[str, Any]:
    """Return the version of a network, or the digest of all source it consists of."""
    try:
        classes = [type(module) for module in built.modules() if type(module) is not network]
        outside = {
            source_digest(one) for one in classes if one.__module__.partition(".")[0] != "torch"
        }
        told = origin(network)
    except (OSError, TypeError) as error:
        raise RequestError(
            f"--model {network.__name__}: its source cannot be read ({error}), which is part of"
            " what a result is stored under; put it into a file"
        ) from None
    others = sorted(text for text in outside if text and text != told.get("source"))
    if others:
        text = "\n".join([str(told), *others])
        told = {"source": digest_bytes([text.encode()])}
    return told
