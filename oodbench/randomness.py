"""Counted randomness: every draw is a function of what it is for, never of what came before.

Scores therefore do not depend on batch size, order, resuming or the number of workers.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# Suites draw without torch, which takes seconds to load, and a table of results loads suites.
if TYPE_CHECKING:
    import torch


def _key(words: int, *parts: object) -> NDArray[np.uint64]:
    text = "\x1f".join(str(part) for part in parts)
    raw = hashlib.blake2b(text.encode(), digest_size=8 * words).digest()
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


def generator(seed: int, purpose: str, image_id: str = "", draw: int = 0) -> np.random.Generator:
    """Return the generator of one draw.

    Args:
        seed: Seed of the evaluation.
        purpose: What the draw is for, such as ``linf/start``.
        image_id: Id of the image that it concerns; empty where it concerns none.
        draw: Number of the draw, for purposes that need several for an image.

    Returns:
        A Philox generator keyed by a hash of the four arguments.
    """
    return np.random.Generator(np.random.Philox(key=_key(2, seed, purpose, image_id, draw)))


def uniform(
    seed: int, purpose: str, ids: Sequence[str], shape: tuple[int, ...], draw: int = 0
) -> "torch.Tensor":
    """Draw numbers in [0, 1) for each image by its id.

    Returns:
        float32 tensor [len(ids), *shape], on the CPU.
    """
    import torch

    rows = [
        generator(seed, purpose, image_id, draw).random(shape, dtype=np.float32) for image_id in ids
    ]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, *shape))


def torch_generator(seed: int, purpose: str, *numbers: int) -> "torch.Generator":
    """Return a CPU generator of torch for one step of training.

    Training draws for whole batches, whose composition is itself a function of the seed and
    the epoch, so counting by (purpose, epoch, step) is enough to resume bit for bit.
    """
    import torch

    key = int(_key(1, seed, purpose, *numbers)[0]) & 0x7FFF_FFFF_FFFF_FFFF
    return torch.Generator().manual_seed(key)
