"""Which outliers are mined, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from oodbench.images import ArrayImages
from oodbench.mining import mine, mined_ranks
from oodbench.network import Network
from oodbench.randomness import torch_generator
from oodbench.schedule import Schedule
from oodbench.training import Augmented, DeviceImages, Training

# Ranks from the lowest: positions 4, 1, 9, 0, 7, 3, 11, 2, 6, 8, 10, 5; 9 and 0 change places
# with nobody, 1 and 9 are tied, so are 3 and 11.
SCORES = torch.tensor([0.3, -1.0, 2.0, 1.0, -5.0, 9.0, 3.0, 0.5, 4.0, -1.0, 5.0, 1.0])
ORDER = [4, 1, 9, 0, 7, 3, 11, 2, 6, 8, 10, 5]


@pytest.mark.parametrize(
    ("quantile", "kept"),
    [(0.0, ORDER[:3]), (0.125, ORDER[1:4]), (0.5, ORDER[6:9]), (0.75, ORDER[9:12])],
)
def test_ranks_from_the_quantile_on_are_kept_the_hardest_first(
    quantile: float, kept: list[int]
) -> None:
    assert mined_ranks(SCORES, quantile, 3).tolist() == kept


def test_ties_keep_their_order() -> None:
    assert mined_ranks(torch.zeros(12), 0.5, 3).tolist() == [6, 7, 8]


@pytest.mark.parametrize("quantile", [0.84, 0.9, 1.0, -0.1])
def test_a_quantile_whose_ranks_run_past_the_end_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        mined_ranks(SCORES, quantile, 3)


@given(st.integers(1, 400), st.integers(0, 100))
@example(100, 29)  # 0.29 * 100 is 28.999... in floating point
def test_the_first_rank_is_the_floor_of_q_n_in_exact_arithmetic(n: int, percent: int) -> None:
    first = percent * n // 100
    if first < n:
        assert mined_ranks(torch.arange(n).float(), percent / 100, 1).tolist() == [first]


class FirstPixel(Network):
    """The reject logit is the mean level of the first channel, the others are constant."""

    taps = ("pixels",)

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.scale = nn.Parameter(torch.ones(()))

    def tapped(self, images: Tensor, until: str | None = None) -> tuple[dict[str, Tensor], Tensor]:
        known = torch.zeros(len(images), self.outputs - 1)
        reject = self.scale * images[:, :1].mean((2, 3)) * 255
        return {"pixels": images}, torch.cat([known, reject], 1)


def training(pool: int, known: int, views: int = 1) -> tuple[Training, np.ndarray]:
    levels = np.random.default_rng(0).permutation(256)[:pool].astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (pool, 3, 4, 4)).copy()
    images = ArrayImages(pixels, [str(i) for i in range(pool)])
    schedule = Schedule(crop_padding=0, pool_views=views)
    state = Training(FirstPixel(4), 3, known, torch.device("cpu"), 0, schedule)
    device_images = DeviceImages(images, torch.device("cpu"))
    state.pool = Augmented(device_images, schedule, views, torch_generator(0, "test"))
    return state, levels


def test_the_darkest_are_mined_from_a_pool_of_known_scores() -> None:
    state, levels = training(pool=96, known=12)
    for quantile, first in [(0.0, 0), (0.125, 12), (0.5, 48), (0.75, 72)]:
        expected = np.argsort(levels, kind="stable")[first : first + 24]
        assert mine(state, quantile).tolist() == expected.tolist()
    assert state.facts["mining"] == {"scored": 96, "mined": 24, "different_images": 96}


@pytest.mark.parametrize(
    ("pool", "known", "views", "scored"),
    [(100, 10, 1, 80), (100, 10, 2, 80), (100, 20, 2, 160), (100, 50, 2, 200), (100, 13, 1, 100)],
)
def test_eight_views_an_image_are_scored_where_there_are_so_many_and_a_quarter_kept(
    pool: int, known: int, views: int, scored: int
) -> None:
    state, levels = training(pool, known, views)
    mined = mine(state, 0.125)
    assert state.facts["mining"]["scored"] == scored
    assert len(mined) == len(set(mined.tolist())) == scored // 4
    assert mined.min() >= 0
    assert mined.max() < pool * views
    kept = levels[mined.numpy() % pool]
    assert (np.diff(kept.astype(int)) >= 0).all()


def test_the_scored_part_of_a_large_pool_is_another_each_epoch() -> None:
    state, _ = training(pool=200, known=5)
    parts: list[Any] = []
    for epoch in (0, 1, 0):
        state.epoch = epoch
        parts.append(mine(state, 0.0).tolist())
    assert parts[0] == parts[2] != parts[1]
