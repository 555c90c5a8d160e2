"""Draws that depend on what they are for, and on nothing else."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from oodbench.randomness import generator, torch_generator, uniform

names = st.text("abc/0123456789", min_size=1, max_size=6)


def first(seed: int, purpose: str, image_id: str, draw: int) -> int:
    return int(generator(seed, purpose, image_id, draw).integers(2**62))


@settings(max_examples=30)
@given(st.lists(names, min_size=1, max_size=6, unique=True), st.integers(0, 9), st.randoms())
def test_a_draw_depends_on_its_key_only(ids: list[str], draw: int, random: object) -> None:
    whole = uniform(3, "p", ids, (3, 2, 2), draw)
    order = list(range(len(ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = uniform(3, "p", [ids[i] for i in order], (3, 2, 2), draw)
    assert torch.equal(whole[order], shuffled)
    for row, image_id in zip(whole, ids, strict=True):
        # On its own, after whatever came before.
        assert torch.equal(uniform(3, "p", [image_id], (3, 2, 2), draw)[0], row)
        again = generator(3, "p", image_id, draw).random((3, 2, 2), dtype=np.float32)
        assert (row.numpy() == again).all()


def test_different_keys_give_different_draws() -> None:
    keys = [
        (seed, purpose, image_id, draw)
        for seed in range(4)
        for purpose in ("linf/start", "linf", "start")
        for image_id in ("", "a", "b", "a/b")
        for draw in range(4)
    ]
    assert len({first(*key) for key in keys}) == len(keys)


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert first(1, "a", "1", 0) != first(11, "a", "", 0)
    assert first(0, "ab", "c", 0) != first(0, "a", "bc", 0)
    assert first(0, "a", "1", 2) != first(0, "a", "12", 0)


def test_draws_are_uniform_within_an_image_and_across_images() -> None:
    within = uniform(0, "p", ["x"], (3, 64, 64)).flatten().numpy()
    across = uniform(0, "p", [f"i{i}" for i in range(4000)], (1,)).flatten().numpy()
    for sample in (within, across):
        assert sample.min() >= 0
        assert sample.max() < 1
        assert kstest(sample, "uniform").pvalue > 0.01
    lag = np.corrcoef(across[1:], across[:-1])[0, 1]
    assert abs(lag) < 4 / np.sqrt(len(across))


def test_no_ids_give_no_rows() -> None:
    assert uniform(0, "p", [], (3, 2, 2)).shape == (0, 3, 2, 2)


def test_generators_of_training_differ_by_step_and_repeat_themselves() -> None:
    def draw(*numbers: int) -> float:
        return torch.rand((), generator=torch_generator(0, "p", *numbers)).item()

    steps = [(stage, epoch, step) for stage in range(2) for epoch in range(5) for step in range(9)]
    assert len({draw(*step) for step in steps}) == len(steps)
    assert draw(1, 2, 3) == draw(1, 2, 3)
