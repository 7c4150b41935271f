"""Speculative decoding: the expected tokens of a pass, and where it pays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.cost.engine import decode_s
from heterarch.cost.speculative import Speculation, speculative_speedup, speculative_tpot_s
from heterarch.cost.step import StepCost
from heterarch.errors import InputError


@pytest.mark.parametrize(
    ("tokens", "acceptance", "expected"),
    [(1, 0.7, 1.7), (4, 0.8, 3.3616), (3, 1.0, 4.0), (5, 0.0, 1.0)],
    ids=["MTP of CloudMatrix", "Leviathan", "all kept", "none kept"],
)
def test_expected_tokens_of_a_pass(tokens: int, acceptance: float, expected: float) -> None:
    assert Speculation(tokens, acceptance).tokens_per_pass == pytest.approx(expected)


@given(tokens=st.integers(1, 12), acceptance=st.floats(0, 0.99))
def test_expected_tokens_are_the_sum_of_the_chances(tokens: int, acceptance: float) -> None:
    chances = sum(acceptance**i for i in range(tokens + 1))
    assert Speculation(tokens, acceptance).tokens_per_pass == pytest.approx(chances)


def test_a_pass_bound_by_weights_gains_what_is_kept() -> None:
    bound = StepCost(fixed_s=0.01)
    assert speculative_speedup(bound, Speculation(1, 0.7), 8, 1000) == pytest.approx(1.7)


def test_a_pass_bound_by_computation_loses() -> None:
    busy = StepCost(token_s=1e-4)
    assert speculative_speedup(busy, Speculation(3, 0.5), 64, 1000) < 1


def test_the_draft_model_takes_its_time() -> None:
    target, draft = StepCost(fixed_s=0.01, context_s=1e-8), StepCost(fixed_s=0.001)
    found = speculative_tpot_s(target, Speculation(4, 0.8, draft), 8, 1000)
    assert found == pytest.approx((0.01 + 8e-5 + 4 * 0.001) / 3.3616)
    assert found < decode_s(target, 8, 1000)


@pytest.mark.parametrize(
    ("tokens", "acceptance", "text"), [(0, 0.5, "at least one token"), (2, 1.5, "acceptance is a share")]
)
def test_bad_speculation(tokens: int, acceptance: float, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Speculation(tokens, acceptance)
