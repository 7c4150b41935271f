"""The closed loop: limits that must hold exactly, and what depends on what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.cost.serving import Load, aggregated, disaggregated, queue_s
from heterarch.cost.step import StepCost

#: 10 ms per iteration, 20 us per token, and attention
COST = StepCost(fixed_s=10e-3, token_s=20e-6, pair_s=1e-9, context_s=1e-8, sequence_s=5e-6)


def test_one_client_sees_a_bare_iteration_and_its_own_prompt() -> None:
    latency = aggregated(COST, Load(1, 1000, 100))
    iteration = 10e-3 + 20e-6 + 1050e-8 + 5e-6
    assert latency.tpot_s == pytest.approx(iteration)
    prompt = 10e-3 + 1001 * 20e-6 + 1000**2 / 2 * 1e-9 + 1050e-8 + 5e-6
    assert latency.ttft_s == pytest.approx(prompt + iteration / 2)


def test_tokens_wait_for_the_prompts_of_the_others() -> None:
    few, many = (aggregated(COST, Load(clients, 8000, 1000)) for clients in (1, 33))
    added = 32 * (8000 * 20e-6 + 8000**2 / 2 * 1e-9) / 1000
    assert many.tpot_s - many.decode_s == pytest.approx(added, rel=1e-6)
    assert few.tpot_s == few.decode_s


def test_a_long_prompt_is_taken_in_chunks_that_each_pass_the_weights() -> None:
    whole, chunks = (aggregated(COST, Load(1, 8192, 100, chunk=size)) for size in (8192, 2048))
    assert chunks.prefill_s - whole.prefill_s == pytest.approx(3 * whole.decode_s)


def test_where_kv_is_short_the_rest_waits_for_a_slot() -> None:
    free, short = (aggregated(COST, Load(64, 1000, 100, most_running=slots)) for slots in (np.inf, 16))
    assert short.running == 16
    assert short.tpot_s < free.tpot_s
    assert short.ttft_s > 3 * 100 * short.tpot_s


def test_a_pool_of_prompts_that_is_too_small_holds_back_the_other() -> None:
    load = Load(256, 8000, 200)
    bound = disaggregated(COST, COST, load, prefill_engines=1, decode_engines=1)
    balanced = disaggregated(COST, COST, load, decode_engines=1)
    cycle = bound.ttft_s + 200 * bound.tpot_s
    assert 256 / cycle == pytest.approx(1 / bound.service_s, rel=0.05)  # the one engine is always busy
    assert bound.running < balanced.running <= 256
    assert bound.tpot_s < balanced.tpot_s
    assert bound.ttft_s > 10 * balanced.ttft_s


def test_enough_engines_for_prompts_are_a_steady_function_of_the_clients() -> None:
    clients = np.arange(200.0, 400.0)
    waits = disaggregated(COST, COST, Load(clients, 8000, 200)).ttft_s
    assert np.abs(np.diff(np.log(waits))).max() < 0.01


def test_prompts_held_back_wait_for_whole_iterations() -> None:
    at_once, held = (aggregated(COST, Load(8, 1000, 100, held=count)) for count in (0, 20))
    assert held.ttft_s - at_once.ttft_s == pytest.approx(20 * held.tpot_s)
    assert held.tpot_s == at_once.tpot_s


def test_decode_engines_share_the_clients() -> None:
    one, four = (disaggregated(COST, COST, Load(64, 1000, 1000), decode_engines=engines) for engines in (1, 4))
    assert four.running == pytest.approx(16, rel=0.1)
    assert four.tpot_s < one.tpot_s


def test_transfer_is_part_of_the_first_token() -> None:
    near, far = (disaggregated(COST, COST, Load(2, 1000, 1000), transfer_s=seconds) for seconds in (0.0, 0.5))
    assert far.ttft_s - near.ttft_s == pytest.approx(0.5, rel=0.01)


def test_short_prompts_share_an_iteration() -> None:
    latency = disaggregated(COST, COST, Load(8, 1024, 1000), prefill_engines=1)
    assert latency.service_s < latency.prefill_s


@given(st.floats(1e-3, 10), st.integers(1, 1000), st.floats(1e-3, 100))
def test_queue_lies_between_no_wait_and_all_clients_in_line(service: float, clients: int, think: float) -> None:
    seconds = queue_s(service, clients, think)
    assert max(service, clients * service - think) * (1 - 1e-9) <= seconds <= clients * service * (1 + 1e-9)


def test_broadcasts_over_loads() -> None:
    clients = np.array([1.0, 8.0, 64.0])
    together = aggregated(COST, Load(clients, 1000, 100))
    for index, count in enumerate(clients):
        alone = aggregated(COST, Load(count, 1000, 100))
        assert [field[index] for field in together[:3]] == pytest.approx(alone[:3])
