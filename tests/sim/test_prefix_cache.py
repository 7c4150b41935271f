"""Prefix reuse: hits by hand, eviction order, and what must hold in any case."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heterarch.report.aggregate import Status
from heterarch.sim import run_simulation
from heterarch.sim.tasks import prefixes

from .worlds import calls_of, mixed, one_call, placed, plan_of, run


def tree_of(*nodes: tuple[int, int], block_tokens: int = 16):
    """Runs (parent, blocks)."""
    return prefixes(np.array([p for p, _ in nodes]), np.array([b for _, b in nodes]), block_tokens)


def test_second_prompt_computes_only_what_differs():
    tree = tree_of((-1, 4), (0, 2), (0, 3))  # 64 shared tokens, then 32 or 48 of their own
    state = run([mixed(max_batched_tokens=512)], calls_of([96, 112], [1, 1], [0.0, 5.0], node=[1, 2]), tree)
    assert state.sequences["cached"].tolist() == [0, 64]
    assert (int(state.clock[0]["hit_blocks"]), int(state.clock[0]["asked_blocks"])) == (4, 13)
    assert state.engines[0]["idle"] == 4 + 2 + 3
    assert state.engines[0]["free"] == 100 - 9


def test_the_last_token_of_a_cached_prompt_is_still_computed():
    tree = tree_of((-1, 4))
    state = run([mixed()], calls_of([64, 64], [1, 1], [0.0, 9.0], node=[0, 0]), tree)
    assert state.sequences["cached"].tolist() == [0, 63]
    assert state.sequences[1]["first_s"] == 10.0


def test_the_answer_is_cached_for_the_next_turn():
    tree = tree_of((-1, 4), (0, 2), (1, 1))  # prompt 64, answer 32, next turn 16
    work = calls_of([64, 112], [32, 1], [0.0, 100.0], node=[0, 2], node_out=[1, -1], session=[0, 0])
    state = run([mixed()], work, tree)
    assert state.sequences["cached"].tolist() == [0, 96]


def test_eviction_takes_the_end_of_the_least_recently_used_prompt():
    # capacity 10 blocks. A (6 blocks), B (3 blocks), then C needs 4: one is free, so three go, from the end of A
    tree = tree_of((-1, 6), (-1, 3), (-1, 4))
    work = calls_of([96, 48, 64, 96], [1, 1, 1, 1], [0, 10, 20, 30], node=[0, 1, 2, 0])
    state = run([mixed(kv_tokens=160, max_batched_tokens=512)], work, tree)
    assert state.sequences["cached"].tolist() == [0, 0, 0, 48]


def test_a_prompt_finds_what_another_has_only_begun_to_compute():
    tree = tree_of((-1, 8))
    work = calls_of([128, 128], [1, 1], [0.0, 1.5], node=[0, 0])
    state = run([mixed()], work, tree)  # 64 tokens per iteration
    assert state.sequences["cached"].tolist() == [0, 127]


def test_trace_blocks_larger_than_engine_blocks():
    tree = tree_of((-1, 2), (0, 1), block_tokens=64)
    assert tree.block_tokens == 16
    assert tree.runs["end"].tolist() == [8, 12]


def test_unbounded_cache_is_shared_by_all_engines_and_takes_no_memory():
    tree = tree_of((-1, 4), (0, 4), (0, 4))
    work = calls_of([128, 128, 128], [1, 1, 1], [0, 10, 20], node=[1, 2, 1])
    state = run([mixed(engines=2)], work, tree, unbounded=True)
    assert state.clock[0]["hit_blocks"] == 4 + 8
    assert state.engines["free"].tolist() == [100, 100]


@st.composite
def workloads(draw):
    nodes = draw(st.integers(1, 12))
    parent = [-1] + [draw(st.integers(-1, k - 1)) for k in range(1, nodes)]
    blocks = [draw(st.integers(1, 5)) for _ in range(nodes)]
    calls = draw(st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, 20), st.integers(1, 40), st.floats(0, 60)), min_size=1, max_size=25))  # fmt: skip
    return parent, blocks, calls


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workloads(), st.integers(8, 60), st.integers(1, 5), st.integers(4, 100), st.integers(1, 3), st.booleans())
def test_blocks_are_conserved_whatever_is_shared(world, capacity, seats, budget, engines, unbounded):
    parent, blocks, calls = world
    tree = prefixes(np.array(parent), np.array(blocks), 16)
    leaf = [c[0] for c in calls]
    prompts = [int(tree.runs["end"][n]) * 16 + extra for n, extra, _, _ in calls]
    work = calls_of(prompts, [c[2] for c in calls], [c[3] for c in calls], node=leaf)
    pool = mixed(engines=engines, kv_tokens=16 * capacity, concurrency=seats, max_batched_tokens=budget)
    state = run([pool], work, tree, router="prefix-affinity", unbounded=unbounded)
    assert set(state.sequences["status"].tolist()) <= {Status.COMPLETED, Status.REJECTED}
    for row, engine in enumerate(state.engines):
        assert engine["free"] + engine["idle"] == capacity
        assert engine["unprefilled"] == engine["context"] == engine["running"] == 0
        if not unbounded:
            nodes = state.nodes[row]
            assert (nodes["refs"] == 0).all()
            assert nodes["resident"].sum() == engine["idle"]
            full = nodes["resident"] == tree.runs["blocks"]
            for node in np.flatnonzero(nodes["resident"] > 0):  # a run is there only after all of the run before it
                assert parent[node] < 0 or full[parent[node]]
    if unbounded:
        done = state.sequences["status"] == Status.COMPLETED
        used = {n for k in np.flatnonzero(done) for n in path(parent, leaf[k])}
        asked = sum(int(tree.runs["end"][leaf[k]]) for k in np.flatnonzero(done))
        assert state.clock[0]["hit_blocks"] == asked - sum(blocks[n] for n in used)


def path(parent, node):
    while node >= 0:
        yield node
        node = parent[node]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path_", "rate"), [("claude_code_weka", 0.9635), ("mooncake/conversation_trace.jsonl.gz", 0.366)]
)
def test_real_traces_reach_their_ideal_hit_rate_with_an_unbounded_cache(shared_data, path_, rate):
    from heterarch.workload.trace import read_trace

    trace = read_trace(shared_data / "traces" / path_)
    pool = mixed(engines=8, concurrency=256, max_batched_tokens=8192, kv_tokens=10_000_000)
    pool = pool.model_copy(update={"step": pool.step.model_copy(update={"fixed_s": 0.02})})
    report = run_simulation(plan_of([pool], placed("ask")), one_call(), trace, cache="unbounded").report
    assert report.cache.block_hit_rate == pytest.approx(rate, abs=0.005)
    assert report.calls.completed == len(trace)
    assert report.output_tokens == trace.output_tokens.sum()
