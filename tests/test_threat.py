"""The 8-bit ball against integer arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oodbench.errors import RequestError
from oodbench.threat import farthest, format_eps, parse_eps, to_float, to_grid

greys = st.lists(st.integers(0, 255), min_size=12, max_size=12)
anywhere = st.lists(
    st.one_of(
        st.floats(-300, 600, width=32),
        st.floats(width=32),
        st.sampled_from([0.5, 1.5, 254.5, 255.5, 4e4, -4e4, 1e30, -1e30]),
    ),
    min_size=12,
    max_size=12,
)


def image(values: list[int] | list[float], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).reshape(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("8/255", 8),
        ("16/510", 8),
        ("0.03", 7),
        ("1", 255),
        ("1e-2", 2),
        (" 4 / 255 ", 4),
        (".5", 127),
        ("1/255", 1),
        ("255/255", 255),
        ("0.5/127.5", 1),
    ],
)
def test_a_radius_is_read_as_whole_grey_levels(text: str, levels: int) -> None:
    assert parse_eps(text) == levels


@pytest.mark.parametrize(
    "text",
    ["8/0", "-1", "-1/255", "8", "256", "1/1000", "0", "abc", "", "nan", "inf", "8/-255", "1/2/3"],
)
def test_what_is_no_radius_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--eps"):
        parse_eps(text)


def test_a_whole_number_above_one_is_answered_with_the_fraction_that_was_meant() -> None:
    with pytest.raises(RequestError, match="8/255"):
        parse_eps("8")


def test_an_absurd_exponent_is_refused_at_once() -> None:
    with pytest.raises(RequestError):
        parse_eps("1e-999999999")


@given(st.integers(1, 255))
def test_a_written_radius_reads_back(levels: int) -> None:
    assert parse_eps(format_eps(levels)) == levels
    # The shortest decimal that a user would paste from Python must not lose the level.
    assert parse_eps(repr(levels / 255)) == levels


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_any_fraction_is_floored_as_documented(numerator: int, denominator: int) -> None:
    expected = (255 * Fraction(numerator, denominator) + Fraction(1, 10**6)).__floor__()
    if numerator > denominator or expected < 1:
        with pytest.raises(RequestError):
            parse_eps(f"{numerator}/{denominator}")
    else:
        assert parse_eps(f"{numerator}/{denominator}") == expected


def test_no_grey_level_is_lost_to_float32_at_any_radius() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    centres = grey.repeat(3)[None, :, None].reshape(1, 3, 256, 1)
    for k in range(1, 256):
        for sign in (-1, 1):
            # As an attack that works in [0, 1] would leave it.
            moved = (to_float(centres) + sign * k / 255) * 255
            expected = np.clip(centres.numpy().astype(int) + sign * k, 0, 255)
            assert (to_grid(moved, centres, k).numpy() == expected).all()


@given(anywhere, greys, st.integers(1, 255))
def test_rounding_equals_integer_arithmetic_wherever_the_image_is(
    levels: list[float], centres: list[int], k: int
) -> None:
    ours = to_grid(image(levels, torch.float32), image(centres, torch.uint8), k).flatten()
    for got, level, centre in zip(ours.tolist(), levels, centres, strict=True):
        difference = np.float32(level) - np.float32(centre)
        if np.isnan(difference):
            expected = centre
        elif np.isinf(difference):
            expected = centre + (k if difference > 0 else -k)
        else:
            expected = centre + min(max(round(float(difference)), -k), k)
        assert got == min(max(expected, 0), 255)


@given(anywhere, greys, st.integers(1, 255))
def test_the_result_lies_in_ball_and_box_and_stays_where_it_is(
    levels: list[float], centres: list[int], k: int
) -> None:
    middle = image(centres, torch.uint8)
    ours = to_grid(image(levels, torch.float32), middle, k)
    assert ours.dtype == torch.uint8
    assert farthest(ours, middle) <= k
    assert torch.equal(to_grid(ours.float(), middle, k), ours)


def test_every_grey_value_survives_the_way_to_float_and_back() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    assert ((to_float(grey) * 255).to(torch.uint8) == grey).all()
    assert (to_float(grey).numpy() == (np.arange(256) / 255).astype(np.float32)).all()


def test_the_distance_is_counted_without_wrapping_round() -> None:
    black, white = torch.zeros(1, 3, 2, 2).byte(), torch.full((1, 3, 2, 2), 255).byte()
    assert farthest(black, white) == farthest(white, black) == 255
    assert farthest(black[:0], white[:0]) == 0
