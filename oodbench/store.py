"""Stores tensors under an identity: trained weights and fitted statistics."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from oodbench.errors import DamagedFileError
from oodbench.files import write_atomically
from oodbench.identity import SHORT, canonical_json, digest, digest_bytes


@dataclass(frozen=True)
class Stored:
    """Tensors that were found.

    Attributes:
        tensors: The tensors by name, on the CPU.
        card: What is known of them; ``identity``, ``digest``, ``facts``.
        path: Their file.
    """

    tensors: dict[str, Tensor]
    card: dict[str, Any]
    path: Path

    @property
    def digest(self) -> str:
        """sha256 of the tensors."""
        return str(self.card["digest"])


class TensorStore:
    """A folder of safetensors files, each beside a card in JSON."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stem: tuple[str, ...], identity: dict[str, Any]) -> Path:
        """Return the file for an identity: ``<root>/<stem…>--<hash>.safetensors``."""
        *folders, last = stem
        name = f"{last}--{digest(identity)[:SHORT]}.safetensors"
        return self.root.joinpath(*folders, name)

    def save(
        self,
        path: Path,
        tensors: dict[str, Tensor],
        identity: dict[str, Any],
        facts: dict[str, Any],
    ) -> Stored:
        """Write tensors and their card; the card last, so that with it all is there."""
        from safetensors.torch import save_file

        card = {"identity": identity, "digest": tensors_digest(tensors), "facts": facts}
        write_atomically(path, partial(save_file, tensors))
        text = json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(path.with_suffix(".json"), lambda file: _write_text(file, text))
        return Stored(tensors, card, path)

    def load(self, path: Path, identity: dict[str, Any]) -> Stored | None:
        """Return what `save` wrote under an identity, or None where there is nothing.

        Raises:
            DamagedFileError: If a file is truncated, edited or belongs to another identity.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        card_path = path.with_suffix(".json")
        if not (path.exists() and card_path.exists()):
            return None
        card = read_card(card_path)
        try:
            tensors = load_file(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(path, error) from error
        whole = card["digest"] == tensors_digest(tensors)
        ours = canonical_json(card["identity"]) == canonical_json(identity)
        if not whole or not ours:
            reason = "was changed after it was written" if ours else "belongs to something else"
            raise DamagedFileError(f"{path} {reason}; delete it, or use --retrain")
        return Stored(tensors, card, path)


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of stored tensors: ``identity``, ``digest``, ``facts``.

    Raises:
        DamagedFileError: If the file is none.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return {name: card[name] for name in ("identity", "digest", "facts")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(
        f"{path} cannot be read ({type(error).__name__}); delete it, or use --retrain"
    )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """Return the sha256 of tensors by name, type, shape and value."""

    def chunks() -> Any:
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
            yield tensor.detach().cpu().contiguous().numpy().tobytes()

    return digest_bytes(chunks())
