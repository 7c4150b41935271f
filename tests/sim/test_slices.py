"""Where the core is interrupted changes nothing; iterations run in one go are those run one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heterarch.plan.document import StepPart
from heterarch.sim.core import advance
from heterarch.sim.pools import pool_table
from heterarch.sim.state import State, Stop, new_state
from heterarch.sim.tasks import no_prefixes, prefixes

from .worlds import calls_of, mixed

STEP = StepPart(fixed_s=0.013, token_s=3e-5, bends_s={8: 1e-5, 32: -2e-5}, pair_s=1e-8, context_s=3e-7, sequence_s=1e-5)


def world(seed, split, unbounded, batching="chunked"):
    """Calls that share prefixes, on two mixed engines short of KV, or on two that prefill and two that decode."""
    rng = np.random.default_rng(seed)
    tree = prefixes(np.array([-1, 0, 0, 1, 1, 2], np.int32), np.array([3, 2, 4, 1, 5, 2], np.int32), 16)
    n = 60
    leaf = rng.integers(-1, 6, n)
    prompts = np.where(leaf >= 0, tree.runs["end"][leaf] * 16, 0) + rng.integers(1, 150, n)
    at = np.round(np.cumsum(rng.exponential(0.2, n)), 2)  # some at one moment
    edges = [(a, a + 1, int(rng.integers(2))) for a in range(0, n - 1, 3)]
    work = calls_of(prompts, rng.integers(1, 80, n), at, edges, node=leaf, decode_pool=np.full(n, int(split)))
    pool = {"engines": 2, "kv_tokens": 640, "concurrency": 6, "step": STEP, "transfer_bytes_per_s": 1e6}
    pool["batching"] = batching
    pools = [mixed("a", **pool), mixed("b", **pool)] if split else [mixed("a", **pool)]
    state = new_state(pool_table(pools, "prefix-affinity", 16), work, tree, unbounded)
    return state, work, tree


def contents(state: State) -> list[bytes]:
    ends = [
        getattr(state, name).tobytes()
        for name in ("sequences", "progress", "requests", "engines", "pools", "nodes", "crossing")
    ]
    return [*ends, state.clock["now_s"].tobytes(), state.clock["decisions"].tobytes()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6), split=st.booleans(), unbounded=st.booleans(),
    batching=st.sampled_from(["chunked", "whole-prompt"]),
    until=st.lists(st.floats(0, 25), max_size=8), most=st.lists(st.integers(1, 300), min_size=1, max_size=5),
)  # fmt: skip
def test_interruptions_change_no_byte(seed, split, unbounded, batching, until, most):
    whole, work, tree = world(seed, split, unbounded, batching)
    assert advance(whole, work, tree, np.inf, 10**9) == Stop.DONE
    sliced, work, tree = world(seed, split, unbounded, batching)
    for limit in sorted(until):
        advance(sliced, work, tree, limit, most[0])
    turn = 0
    while advance(sliced, work, tree, np.inf, most[turn % len(most)]) != Stop.DONE:
        turn += 1
    assert contents(sliced) == contents(whole)


def test_the_slices_meet_engines_that_evict_and_engines_that_decode_on():
    state, work, tree = world(1, False, False)
    advance(state, work, tree, np.inf, 10**9)
    assert state.engines["preemptions"].sum() > 0
    assert state.engines["iteration"].sum() > 20 * len(work.rows) / 2


@pytest.mark.parametrize("second_s", [2.5, 500.0])
def test_decodes_run_on_to_the_stop_and_not_beyond(second_s):
    # one seat: the second call waits for it and is refused in every iteration, or is not yet there
    work, tree = calls_of([10, 10], [100, 5], [0.0, second_s]), no_prefixes()
    state = new_state(pool_table([mixed(concurrency=1)], "least-queued", 16), work, tree, False)
    assert advance(state, work, tree, 40.5, 10**9) == Stop.UNTIL
    engine = state.engines[0]
    assert (engine["iteration"], engine["output_tokens"], engine["context"]) == (40, 40, 10 + 40)
    assert (engine["started_s"], engine["end_s"], engine["busy_s"]) == (40.0, 41.0, 40.0)
