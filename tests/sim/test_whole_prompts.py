"""Engines that compute prompts whole and before the decodes; by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heterarch.plan.document import Pool, StepPart
from heterarch.report.aggregate import Status
from heterarch.sim.batch import MOST_RESTS

from .worlds import calls_of, mixed, run


def whole(**changes: Any) -> Pool:
    """64 tokens per iteration of one second."""
    return mixed(batching="whole-prompt", **changes)


def test_a_prompt_longer_than_the_budget_takes_one_iteration():
    state = run([whole()], calls_of([150], [4]))
    assert state.sequences[0]["first_s"] == 1.0
    assert state.sequences[0]["finish_s"] == 4.0


def test_prompts_share_an_iteration_up_to_the_budget_in_order():
    state = run([whole()], calls_of([30, 30, 30, 4], [1] * 4))
    assert state.sequences["first_s"].tolist() == [1.0, 1.0, 2.0, 2.0]


def test_decodes_join_prompts_where_the_budget_has_room():
    state = run([whole()], calls_of([10, 63], [5, 1], [0.0, 0.5]))
    assert state.sequences[1]["first_s"] == 2.0
    assert state.sequences[0]["finish_s"] == 5.0
    assert state.engines[0]["rests"] == 0


def test_decodes_rest_where_prompts_leave_no_room():
    state = run([whole()], calls_of([10, 64], [10, 1], [0.0, 0.5]))
    assert state.sequences[1]["first_s"] == 2.0
    assert state.sequences[0]["finish_s"] == 11.0
    assert state.engines[0]["rests"] == 1
    assert state.engines[0]["iteration"] == 10
    assert state.engines[0]["output_tokens"] == 11


def test_decodes_go_first_after_a_number_of_rests():
    state = run([whole()], calls_of([10, *[64] * 6], [3, *[1] * 6], [0.0, *[0.5] * 6]))
    first = 1.0 + MOST_RESTS
    assert state.sequences["first_s"].tolist() == [1.0, 2.0, 3.0, 4.0, first, first + 2.0, first + 3.0]
    assert state.sequences[0]["finish_s"] == first + 4.0


def test_each_kind_of_iteration_has_its_own_step_cost():
    only_prompts, only_decodes = StepPart(fixed_s=3.0, token_s=0.0), StepPart(fixed_s=1.0, token_s=0.0, context_s=0.1)
    costs = {"step": StepPart(fixed_s=5.0, token_s=0.0), "prefill_step": only_prompts, "decode_step": only_decodes}
    state = run([whole(**costs)], calls_of([10, 10], [3, 1], [0.0, 0.5]))
    assert state.sequences["first_s"].tolist() == [3.0, 8.0]
    assert state.sequences[0]["finish_s"] == pytest.approx(9.0 + 0.1 * 12)


def test_new_blocks_of_resting_decodes_are_taken_once():
    state = run([whole(kv_tokens=96)], calls_of([16, 64], [4, 1], [0.0, 0.5]))  # 6 blocks: 1 + 1 grown, 4 of the prompt
    assert state.engines[0]["preemptions"] == 0
    assert state.engines[0]["rests"] == 1
    assert state.engines[0]["free"] == 6


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    prompts=st.lists(st.integers(1, 120), min_size=1, max_size=20),
    outputs=st.integers(1, 40),
    gap_s=st.floats(0.0, 5.0),
    kv_tokens=st.integers(12, 60),
)
def test_every_call_completes_and_every_block_comes_back(prompts, outputs, gap_s, kv_tokens):
    lengths = [1 + (outputs * k) % 40 for k in range(len(prompts))]
    at = [gap_s * k for k in range(len(prompts))]
    state = run([whole(kv_tokens=16 * kv_tokens)], calls_of(prompts, lengths, at))
    assert (state.sequences["status"] == Status.COMPLETED).all()
    assert state.engines[0]["free"] == kv_tokens
    assert state.engines[0]["output_tokens"] >= sum(lengths)
    assert state.engines[0]["unprefilled"] == state.engines[0]["computing"] == 0
