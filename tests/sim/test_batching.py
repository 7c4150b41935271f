"""One engine: iterations, chunked prefill, seats, preemption; by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heterarch.cost.step import step_time_s
from heterarch.plan.document import StepPart
from heterarch.report.aggregate import Status

from .worlds import FLAT_STEP, calls_of, mixed, run


def test_one_call_takes_one_iteration_per_chunk_and_per_later_token():
    state = run([mixed()], calls_of([150], [4]))  # 150 tokens = chunks of 64, 64, 22
    call = state.sequences[0]
    assert call["first_s"] == 3.0
    assert call["finish_s"] == 6.0
    assert state.engines[0]["iteration"] == 6
    assert state.engines[0]["output_tokens"] == 4


def test_decodes_come_first_and_share_the_token_budget_with_prefill():
    state = run([mixed()], calls_of([64, 100], [10, 1], [0.0, 0.5]))
    # 0-1: prompt 0; then each iteration has one decode and 63 tokens of prompt 1: 63, 37
    assert state.sequences[1]["first_s"] == 3.0
    assert state.sequences[0]["finish_s"] == 10.0


def test_iteration_time_is_the_step_cost_of_its_sums():
    step = StepPart(
        fixed_s=0.3, token_s=0.01, bends_s={2: -0.004, 48: 0.003}, pair_s=1e-4, context_s=1e-3, sequence_s=0.05
    )
    state = run([mixed(step=step)], calls_of([100], [3]))
    cost = step.cost()
    first = step_time_s(cost, 64, 64 * 32.0, 0, 0) + step_time_s(cost, 36, 36 * (64 + 18.0), 0, 0)
    later = step_time_s(cost, 1, 0, 1, 101) + step_time_s(cost, 1, 0, 1, 102)
    assert state.sequences[0]["first_s"] == pytest.approx(first)
    assert state.sequences[0]["finish_s"] == pytest.approx(first + later)


def test_decodes_beside_a_prompt_take_longer_per_token_of_context():
    step = StepPart(fixed_s=1.0, token_s=0.0, context_s=0.01, mixed_s=0.02)
    state = run([mixed(step=step)], calls_of([10, 100], [3, 1], [0.0, 0.5]))
    cost = step.cost()
    beside = step_time_s(cost, 64, 1.0, 1, 11) + step_time_s(cost, 38, 1.0, 1, 12)
    assert beside == pytest.approx(2 + 0.03 * 23)
    assert state.sequences[1]["first_s"] == pytest.approx(1 + beside)
    alone = run([mixed(step=step)], calls_of([10], [3]))
    assert alone.sequences[0]["finish_s"] == pytest.approx(3 + 0.01 * 23)


def test_seats_limit_the_running_sequences():
    state = run([mixed(concurrency=2)], calls_of([1] * 4, [5] * 4))
    assert state.engines[0]["peak_running"] == 2
    assert state.sequences["finish_s"].tolist() == [5.0, 5.0, 10.0, 10.0]


def test_calls_of_one_moment_share_the_first_iteration():
    state = run([mixed()], calls_of([10, 10, 10], [1, 1, 1]))
    assert state.engines[0]["iteration"] == 1


def test_admission_waits_for_blocks_of_the_prompt():
    # 10 blocks; each prompt takes 6, so the second waits until the first is done
    state = run([mixed(kv_tokens=160, max_batched_tokens=512)], calls_of([96, 96], [4, 1]))
    assert state.sequences[0]["finish_s"] == 4.0
    assert state.sequences[1]["first_s"] == 5.0
    assert state.engines[0]["preemptions"] == 0


@pytest.mark.parametrize(("headroom", "first_s"), [(0.0, 1.0), (0.1, 5.0)])
def test_admission_leaves_the_headroom_free(headroom: float, first_s: float):
    # 10 blocks; the prompts take 6 and 4
    pool = mixed(kv_tokens=160, max_batched_tokens=512, kv_headroom=headroom)
    state = run([pool], calls_of([95, 64], [4, 1]))
    assert state.sequences[1]["first_s"] == first_s


def test_decode_without_a_block_evicts_the_latest_which_recomputes():
    # 4 blocks: two prompts of 31 tokens take 2 each; at context 33 the first needs a third block
    state = run([mixed(kv_tokens=64, max_batched_tokens=512)], calls_of([31, 31], [10, 10]))
    assert state.engines[0]["preemptions"] == 1
    assert state.sequences["restarts"].tolist() == [0, 1]
    assert state.sequences[0]["finish_s"] == 10.0
    # two tokens were made before the eviction; recomputing makes the third, then seven decodes
    assert state.sequences[1]["first_s"] == 1.0
    assert state.sequences[1]["finish_s"] == 10.0 + 1.0 + 7.0
    assert state.engines[0]["output_tokens"] == 20


def test_a_call_that_can_never_fit_is_rejected_and_the_rest_goes_on():
    state = run([mixed(kv_tokens=160)], calls_of([100, 150, 10], [10, 20, 2]))
    assert state.sequences["status"].tolist() == [Status.COMPLETED, Status.REJECTED, Status.COMPLETED]
    assert state.requests["reason"].tolist() == [-1, 0, -1]


def test_deterministic_service_queue_matches_pollaczek_khinchine():
    # one seat, one iteration per call: M/D/1, W = rho S / (2 (1 - rho))
    rho, n = 0.7, 200_000
    at = np.cumsum(np.random.default_rng(5).exponential(1 / rho, n))
    state = run([mixed(concurrency=1)], calls_of(np.ones(n), np.ones(n), at))
    wait = np.mean(state.sequences["first_s"] - state.sequences["submitted_s"]) - 1.0
    assert wait == pytest.approx(rho / (2 * (1 - rho)), rel=0.03)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    calls=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60), st.floats(0, 40)), min_size=1, max_size=25),
    blocks=st.integers(4, 40),
    seats=st.integers(1, 6),
    budget=st.integers(1, 80),
)
def test_everything_ends_and_every_block_comes_back(calls, blocks, seats, budget):
    prompts, outputs, at = zip(*calls, strict=True)
    pool = mixed(kv_tokens=16 * blocks, concurrency=seats, max_batched_tokens=budget, step=FLAT_STEP)
    state = run([pool], calls_of(prompts, outputs, at))
    status = state.sequences["status"]
    fits = np.array([-(-(p + o) // 16) <= blocks for p, o in zip(prompts, outputs, strict=True)])
    assert (status == np.where(fits, Status.COMPLETED, Status.REJECTED)).all()
    engine = state.engines[0]
    assert engine["free"] == blocks
    assert engine["idle"] == engine["running"] == engine["queued"] == engine["context"] == engine["decodes"] == 0
    assert engine["unprefilled"] == 0
    assert engine["output_tokens"] == np.array(outputs)[fits].sum()
    assert (state.crossing == 0).all()
    done = state.sequences[fits]
    assert (done["first_s"] > done["submitted_s"]).all()
    assert (done["finish_s"] >= done["first_s"] + np.array(outputs)[fits] - 1 - 1e-9).all()
