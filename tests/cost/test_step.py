"""The closed form of one iteration: its curve through measured points, its counts, and its knots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.cost.kernels.base import Floats
from heterarch.cost.step import KNOTS, StepCost, step_time_s, token_curve

CURVES: dict[str, Callable[[Floats], Floats]] = {
    "a line": lambda tokens: 3.0 + 2.0 * tokens,
    "a roofline": lambda tokens: np.maximum(5.0, tokens / 100),
    "saturating": lambda tokens: 1 - np.exp(-tokens / 300),
    "quadratic": lambda tokens: tokens**2,
}


def of_tokens(seconds: Callable[[Floats], Floats], tokens: Floats | float) -> Floats:
    fixed, slope, bends = token_curve(seconds)
    return np.asarray(step_time_s(StepCost(fixed, slope, bends, 0.0, 0.0, 0.0), np.asarray(tokens), 0, 0, 0))


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_is_exact_at_one_token_and_at_every_knot(name: str) -> None:
    points = np.array([1.0, *KNOTS, 2 * KNOTS[-1]])
    assert of_tokens(CURVES[name], points) == pytest.approx(CURVES[name](points))


def test_between_knots_the_curve_is_straight_and_beyond_the_last_its_slope_goes_on() -> None:
    low, high = KNOTS[-2:]
    ends = CURVES["quadratic"](np.array([low, high, 2 * high]))
    assert of_tokens(CURVES["quadratic"], (low + high) / 2) == pytest.approx((ends[0] + ends[1]) / 2)
    assert of_tokens(CURVES["quadratic"], 3 * high) == pytest.approx(ends[2] + (ends[2] - ends[1]))


def test_where_more_tokens_take_less_time_fewer_take_no_more() -> None:
    def dip(tokens: Floats) -> Floats:
        return np.where(tokens < 64, 5.0, 2.0) + tokens / 1000

    assert of_tokens(dip, [1.0, 32.0, 48.0, 64.0]) == pytest.approx([2.064] * 4)
    assert of_tokens(dip, 128.0) == pytest.approx(2.128)


@given(st.floats(0.5, 40_000), st.floats(0, 10_000))
def test_a_rising_curve_stays_rising(tokens: float, more: float) -> None:
    for seconds in CURVES.values():
        assert of_tokens(seconds, tokens + more) >= of_tokens(seconds, tokens) - 1e-9


def test_every_count_has_its_coefficient() -> None:
    bends = np.zeros(len(KNOTS))
    bends[KNOTS.index(8.0)] = 100.0
    cost = StepCost(1.0, 10.0, bends, 1e3, 1e4, 1e5)
    assert step_time_s(cost, 8, 0, 0, 0) == 81
    assert step_time_s(cost, 10, 0, 0, 0) == 1 + 100 + 200
    assert step_time_s(cost, 0, 2, 3, 4) == 1 + 2e3 + 3e5 + 4e4


def test_columns_of_configurations_meet_rows_of_batches() -> None:
    costs = [StepCost(1.0, 0.1), StepCost(2.0, 0.2, sequence_s=1.0)]
    table = StepCost(
        *(
            np.stack([np.asarray(getattr(cost, name)) for cost in costs], axis=-1)[..., None]
            for name in StepCost._fields
        )
    )
    seconds = step_time_s(table, np.array([1, 10, 100]), 0, np.array([1, 10, 100]), 0)
    assert seconds == pytest.approx(np.array([[1.1, 2.0, 11.0], [3.2, 14.0, 122.0]]))


def test_fields_that_are_not_given_take_no_time() -> None:
    cost = StepCost(1.0, 2.0, pair_s=3.0)
    assert (cost.fixed_s, cost.token_s, cost.pair_s, cost.context_s, cost.sequence_s) == (1, 2, 3, 0, 0)
    assert step_time_s(cost, 20_000, 0, 0, 0) == 40_001
    assert step_time_s(cost.scaled(1.5), 20_000, 2, 0, 0) == 1.5 * 40_007
