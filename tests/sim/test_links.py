"""KV on links: fair shares, conserved bytes, layers that leave early, links that the plan states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.cost.transfer import TransferRate, kv_transfer_s
from heterarch.errors import UnknownNameError
from heterarch.plan.document import PoolLink
from heterarch.report.aggregate import Status
from heterarch.sim.core import advance
from heterarch.sim.pools import check_placement, link_table, pool_table
from heterarch.sim.state import Stop, new_state
from heterarch.sim.tasks import no_prefixes
from heterarch.units import Grade, Source

from .worlds import calls_of, mixed, run

OUT = {"transfer_bytes_per_s": 50_000.0, "max_batched_tokens": 4096, "kv_tokens": 160_000}


def apart(prompts, outputs, at=None, **columns):
    return calls_of(prompts, outputs, at, decode_pool=np.ones(len(prompts)), **columns)


def pair(prefills=1, decodes=1, sender=None, receiver=None):
    a = mixed("p", role="prefill", engines=prefills, **(OUT | (sender or {})))
    return [a, mixed("d", role="decode", engines=decodes, **(OUT | (receiver or {})))]


def test_two_senders_share_what_one_engine_receives():
    # 100 and 50 kB from two engines into one at 50 kB/s: both at 25 kB/s until 3 s, the rest alone
    state = run(pair(prefills=2), apart([100, 50], [5, 5]))
    assert state.sequences["first_s"].tolist() == [1.0, 1.0]
    assert state.transfers["arrived_s"].tolist() == pytest.approx([4.0, 3.0])


def test_a_slow_sender_leaves_the_rest_to_the_fast_one():
    # max-min: the slow pair takes its 10 kB/s, the other one the remaining 40 kB/s
    pools = [
        mixed("slow", role="prefill", **OUT),
        mixed("fast", role="prefill", **OUT),
        mixed("d", role="decode", **OUT),
    ]
    links = [PoolLink(sender="slow", receiver="d", bytes_per_s=10_000.0)]
    work = calls_of([100, 100], [5, 5], prefill_pool=[0, 1], decode_pool=[2, 2])
    state = run(pools, work, links=links)
    assert state.transfers["arrived_s"].tolist() == pytest.approx([1 + 10.0, 1 + 2.5])


def test_all_pairs_of_a_shared_link_share_it():
    links = [PoolLink(sender="p", receiver="d", bytes_per_s=40_000.0, latency_s=0.5, shared_bytes_per_s=40_000.0)]
    shared = run(pair(4, 4), apart([100] * 4, [5] * 4), links=links)
    assert shared.transfers["arrived_s"].tolist() == pytest.approx([1 + 10.0 + 0.5] * 4)
    own = run(pair(4, 4), apart([100] * 4, [5] * 4), links=[links[0].model_copy(update={"shared_bytes_per_s": 0.0})])
    assert own.transfers["arrived_s"].tolist() == pytest.approx([1 + 2.5 + 0.5] * 4)


def test_a_stated_link_needs_no_network_card():
    bare = pair(sender={"transfer_bytes_per_s": 0.0}, receiver={"transfer_bytes_per_s": 0.0})
    links = [PoolLink(sender="p", receiver="d", bytes_per_s=100_000.0)]
    work = apart([100], [5])
    check_placement(work, bare, links)
    assert run(bare, work, links=links).transfers[0]["arrived_s"] == pytest.approx(2.0)


def test_a_link_of_an_unknown_pool_is_named():
    pools = pair()
    with pytest.raises(UnknownNameError, match="unknown pool 'x'"):
        link_table(pool_table(pools, None, 16), pools, [PoolLink(sender="x", receiver="d", bytes_per_s=1.0)])


@pytest.mark.parametrize("kilobytes", [10, 100, 400])
@pytest.mark.parametrize("layers", [1, 4, 80])
def test_layers_that_leave_during_the_prefill_are_hidden_as_the_cost_model_says(kilobytes, layers):
    state = run(pair(sender={"transfer_layers": layers}), apart([kilobytes], [5]))
    call = state.sequences[0]
    rate = TransferRate(50_000.0, 0.0, Source(Grade.GUESS, "test"), layers)
    expected = kv_transfer_s(kilobytes * 1000.0, rate, prefill_s=1.0)
    assert state.transfers["arrived_s"][0] - call["first_s"] == pytest.approx(expected)
    assert state.links["sent_bytes"].sum() == kilobytes * 1000


def test_two_prompts_of_one_iteration_hide_no_more_than_the_link_carries():
    # of the 80 kB that both send, the link carries 45 kB between the end of the first of 10 layers and that of the last
    state = run(pair(sender={"transfer_layers": 10}), apart([40, 40], [5, 5]))
    assert state.transfers["arrived_s"].tolist() == pytest.approx([1 + 4_000 / 50_000, 1 + 35_000 / 50_000])


def random_world(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    pools = [
        mixed(
            "a", role="prefill", engines=int(rng.integers(1, 4)), **(OUT | {"transfer_layers": int(rng.integers(1, 9))})
        ),
        mixed("b", role="prefill", engines=int(rng.integers(1, 3)), **(OUT | {"transfer_bytes_per_s": 9_000.0})),
        mixed("d", role="decode", engines=int(rng.integers(1, 4)), **OUT),
    ]
    links = [
        PoolLink(
            sender="a",
            receiver="d",
            bytes_per_s=30_000.0,
            latency_s=0.1,
            shared_bytes_per_s=float(rng.uniform(5e3, 2e5)),
        )
    ]
    at = np.cumsum(rng.exponential(rng.uniform(0.05, 3), n))
    work = calls_of(
        rng.integers(1, 900, n),
        rng.integers(1, 20, n),
        at,
        prefill_pool=rng.integers(0, 2, n),
        decode_pool=np.full(n, 2),
    )
    return pools, work, links


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_bytes_are_conserved_and_no_limit_is_exceeded(seed):
    pools, work, links = random_world(seed)
    state = run(pools, work, links=links)
    assert (state.sequences["status"] == Status.COMPLETED).all()
    moved = np.isfinite(state.transfers["arrived_s"])
    bytes_ = work.rows["prompt_tokens"][moved] * 1000
    assert state.links["sent_bytes"].sum() == pytest.approx(bytes_.sum())
    assert state.engines["free"].tolist() == [10_000] * len(state.engines)
    assert state.clock[0]["sending"] == 0
    for pool, row, rate in ((0, links[0], min(30_000.0, links[0].shared_bytes_per_s)), (1, None, 9_000.0)):
        mine = moved & (work.rows["prefill_pool"] == pool)
        seconds = state.transfers["arrived_s"][mine] - state.sequences["first_s"][mine]
        parts = pools[pool].transfer_layers
        least = work.rows["prompt_tokens"][mine] * 1000 / parts / rate + (row.latency_s if row else 0.0)
        assert (seconds >= least * (1 - 1e-9)).all()


@given(
    seed=st.integers(0, 10_000), slices=st.lists(st.floats(0.01, 5), min_size=1, max_size=20), most=st.integers(1, 50)
)
@settings(max_examples=25, deadline=None)
def test_where_the_core_is_interrupted_changes_nothing(seed, slices, most):
    pools, work, links = random_world(seed)
    whole = run(pools, work, links=links)
    tree = no_prefixes()
    records = pool_table(pools, "least-pending-tokens", 16)
    state = new_state(records, work, tree, False, link_table(records, pools, links))
    until = 0.0
    while True:
        until += slices[int(until * 7) % len(slices)]
        stop = advance(state, work, tree, until, most)
        if stop == Stop.DONE:
            break
        assert stop == Stop.UNTIL
    np.testing.assert_array_equal(state.transfers["arrived_s"], whole.transfers["arrived_s"])
    for name in ("first_s", "finish_s"):
        np.testing.assert_array_equal(state.sequences[name], whole.sequences[name])
