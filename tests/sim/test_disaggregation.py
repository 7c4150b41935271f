"""Prefill and decode on different engines: transfers, contention, reuse, restarts."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError
from heterarch.report.aggregate import Status
from heterarch.sim.pools import check_placement
from heterarch.sim.tasks import prefixes

from .worlds import calls_of, hosted, mixed, run, tools

LINK = {"transfer_bytes_per_s": 50_000.0, "transfer_latency_s": 0.25, "max_batched_tokens": 512}


def pools(**decode):
    return [mixed("p", role="prefill", **LINK), mixed("d", role="decode", **{**LINK, **decode})]


def apart(prompts, outputs, at=None, **columns):
    return calls_of(prompts, outputs, at, decode_pool=np.ones(len(prompts)), **columns)


def test_first_token_comes_from_the_prefill_engine_and_kv_takes_its_time():
    state = run(pools(), apart([100], [5]))
    call = state.sequences[0]
    assert call["first_s"] == 1.0
    assert state.transfers["arrived_s"][0] == 1.0 + 100 * 1000 / 50_000 + 0.25
    assert call["finish_s"] == state.transfers["arrived_s"][0] + 4
    assert state.engines["transfer_tokens"].tolist() == [100, 0]
    assert state.engines["output_tokens"].tolist() == [1, 4]
    assert state.engines["free"].tolist() == [100, 100]


def test_transfers_out_of_one_engine_follow_each_other():
    state = run(pools(), apart([100, 100], [5, 5]))
    assert state.sequences["first_s"].tolist() == [1.0, 1.0]
    assert state.transfers["arrived_s"].tolist() == [3.25, 5.25]


def test_an_answer_of_one_token_needs_no_transfer():
    state = run(pools(), apart([100], [1]))
    assert state.sequences[0]["finish_s"] == 1.0
    assert state.engines["transfer_tokens"].sum() == 0


def test_blocks_that_the_decode_engine_holds_are_not_sent():
    tree = prefixes(np.array([-1, 0]), np.array([4, 2]), 16)
    work = apart([64, 96], [2, 2], [0.0, 50.0], node=[0, 1])
    state = run(pools(), work, tree)
    assert state.engines["transfer_tokens"].tolist() == [64 + 32, 0]
    assert state.sequences["cached"].tolist() == [0, 64]


def test_prefill_memory_is_held_until_the_kv_is_away():
    # prefill engine of 7 blocks: the second prompt can start only when the first one's KV has arrived (3.25 s)
    two = [mixed("p", role="prefill", **LINK, kv_tokens=112), mixed("d", role="decode", **LINK)]
    state = run(two, apart([100, 100], [5, 5]))
    assert state.sequences["first_s"].tolist() == [1.0, 4.25]


def test_a_sequence_evicted_from_a_decode_engine_recomputes_there():
    state = run(pools(kv_tokens=64), apart([31, 31], [10, 10]))
    assert (state.sequences["status"] == Status.COMPLETED).all()
    assert state.engines["preemptions"].tolist() == [0, 1]
    assert state.engines["output_tokens"].tolist() == [2, 18]
    assert state.engines["free"].tolist() == [100, 4]


def test_pools_that_cannot_run_a_call_are_refused():
    with pytest.raises(InputError, match="no KV link from pool p to pool d"):
        check_placement(apart([1], [1]), [mixed("p"), mixed("d")])
    with pytest.raises(InputError, match="cannot run it"):
        check_placement(calls_of([1], [1]), [tools()])
    with pytest.raises(InputError, match="cannot run it"):
        check_placement(apart([1], [1]), [mixed("p"), hosted()])
