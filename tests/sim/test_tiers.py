"""KV below the device: what is written, what a read costs, when it is left, swaps, and what must hold in any case."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from heterarch.errors import InputError
from heterarch.plan.document import StepPart, TierPart
from heterarch.report.aggregate import Status
from heterarch.sim import run_simulation
from heterarch.sim.drive import drive
from heterarch.sim.pools import pool_table
from heterarch.sim.reuse import reuse_of
from heterarch.sim.state import new_state
from heterarch.sim.stores import stores_of
from heterarch.sim.tasks import prefixes
from heterarch.workload.profile import load_workload

from .test_prefix_cache import tree_of, workloads
from .worlds import calls_of, hosted, mixed, one_call, placed, plan_of, run

SLOW = StepPart(fixed_s=0.0, token_s=1.0)  # a second per token of the iteration


def tier(name="host", tokens=1600, **changes):
    values = {"read_bytes_per_s": 16_000.0, "write_bytes_per_s": 16_000.0, "latency_s": 0.25, **changes}
    return TierPart(name=name, kv_tokens=tokens, **values)  # a block of 16,000 bytes takes one second


def small(*tiers, **changes):
    """An engine of 10 blocks with a second per prompt token."""
    return mixed(kv_tokens=160, step=SLOW, max_batched_tokens=512, kv_tiers=list(tiers), **changes)


#: prompts A of 6 blocks and B of 9: B pushes 5 of A's out; then A again
TREE = tree_of((-1, 6), (-1, 9))
ABA = {"node": [0, 1, 0]}


def aba(at=(0, 200, 600)):
    return calls_of([96, 144, 97], [1, 1, 1], [float(x) for x in at], **ABA)


def test_what_the_device_forgot_comes_back_from_the_host():
    state = run([small(tier())], aba(), TREE)
    assert state.sequences["cached"].tolist() == [0, 0, 96]
    assert state.engines["tier_hits"][0, 0] == state.engines["tier_reads"][0, 0] == 80  # one block stayed on the device
    assert state.engines["tier_writes"][0, 0] == 96 + 144
    assert state.sequences[2]["first_s"] == 600 + 5 + 0.25 + 1  # five blocks at a second each, latency, the last token
    assert state.engines[0]["computed_tokens"] == 96 + 144 + 1
    assert state.engines[0]["fresh_tokens"] == 96 + 144 + 1


def test_without_a_tier_it_is_computed_again():
    state = run([small()], aba(), TREE)
    assert state.sequences["cached"].tolist() == [0, 0, 16]
    assert state.engines[0]["computed_tokens"] == 96 + 144 + 81
    assert state.engines[0]["fresh_tokens"] == 0  # not compared without tiers
    assert reuse_of([small()], state, np.arange(1)).prefill_amplification is None


def test_reading_is_left_where_computing_is_faster():
    slow = tier(read_bytes_per_s=100.0)  # 80 tokens x 1000 bytes: 800 s, against 80 s
    state = run([small(slow)], aba(), TREE)
    assert state.sequences["cached"].tolist() == [0, 0, 16]
    assert state.engines["tier_reads"][0, 0] == 0


def test_the_engine_serves_others_while_a_call_waits_for_its_kv():
    # B, of whom everything is on the device, comes with A, which waits 50 s for its KV, and does not wait for it
    work = calls_of([96, 144, 97, 17], [1, 1, 1, 1], [0, 200, 600, 600], node=[0, 1, 0, -1])
    state = run([small(tier(read_bytes_per_s=1600.0))], work, TREE)
    assert state.sequences[3]["first_s"] == 617
    assert state.sequences[2]["first_s"] == 600 + 50.25 + 1


def test_reads_of_a_store_follow_each_other():
    # two engines with one store: what both have forgotten but for a block is read one after the other
    tree = tree_of((-1, 6), (-1, 6), (-1, 9), (-1, 9))
    work = calls_of([96, 96, 144, 144, 97, 97], [1] * 6, [0, 0, 300, 300, 900, 900], node=[0, 1, 2, 3, 0, 1])
    state = run([small(tier(shared="pool"), engines=2)], work, tree)
    assert state.engines["prompt_tokens"].tolist() == [337, 337]
    assert state.sequences["first_s"][4:].tolist() == [900 + 5.25 + 1, 900 + 10.25 + 1]


def test_a_block_can_be_read_once_it_is_written():
    # A is done at 96 and takes 6 x 100 s to write; at 600 it is not there yet
    state = run([small(tier(write_bytes_per_s=160.0))], aba(), TREE)
    assert state.sequences["cached"].tolist() == [0, 0, 16]
    state = run([small(tier(write_bytes_per_s=160.0))], aba((0, 200, 700)), TREE)
    assert state.sequences["cached"].tolist() == [0, 0, 96]


def test_the_longest_prefix_over_all_tiers_counts():
    # the host holds 3 blocks, the disk the rest: A's first blocks come from one, its last from the other
    pools = [small(tier(tokens=48), tier("disk", latency_s=1.0))]
    state = run(pools, aba(), TREE)
    host, disk, _ = state.engines["tier_hits"][0]
    assert state.sequences["cached"].tolist() == [0, 0, 96]
    assert (host, disk) == (0, 80)  # B was the last to be written: the host is full of it
    reuse = reuse_of(pools, state, np.arange(1))
    assert [(row.name, row.hit_tokens, row.read_bytes) for row in reuse.tiers] == [
        ("device", 16, 0),
        ("host", 0, 0),
        ("disk", 80, 80_000),
    ]
    assert reuse.prefill_amplification == 1.0


def test_a_store_is_an_engine_s_a_server_s_or_the_pool_s():
    def stores(shared):
        pool = small(tier(shared=shared), engines=4, engines_per_server=2)
        return run([pool], calls_of([16], [1]), TREE).engines["stores"][:, 0].tolist()

    assert stores("engine") == [0, 1, 2, 3]
    assert stores("server") == [0, 0, 1, 1]
    assert stores("pool") == [0, 0, 0, 0]


def test_pools_of_one_model_share_a_tier_of_the_pool():
    link = {"transfer_bytes_per_s": 1e6, "model": "m", "max_batched_tokens": 512, "step": SLOW}
    both = [mixed(name, role=name, kv_tiers=[tier("remote", shared="pool")], **link) for name in ("prefill", "decode")]
    # the answer is written from the decode engine; the next turn reads it on the prefill engine
    tree = tree_of((-1, 4), (0, 2), (1, 1))
    work = calls_of([64, 112], [32, 1], [0.0, 1000.0], decode_pool=[1, 1], node=[0, 2], node_out=[1, -1])
    state = run(both, work, tree)
    assert state.sequences["cached"].tolist() == [0, 96]
    assert state.engines["tier_hits"][:, 0].tolist() == [32, 0]
    assert state.engines["tier_writes"][:, 0].tolist() == [64 + 16, 32]
    other = both[1].model_copy(update={"kv_tiers": [tier("remote", 99, shared="pool")]})
    with pytest.raises(InputError, match="describe it differently"):
        run([both[0], other], work, tree)


def test_a_tier_forgets_what_is_unused_for_its_ttl():
    # A is written at 102 and wanted at 600
    assert run([small(tier(ttl_s=497.0))], aba(), TREE).sequences["cached"].tolist() == [0, 0, 16]
    assert run([small(tier(ttl_s=498.0))], aba(), TREE).sequences["cached"].tolist() == [0, 0, 96]


def test_an_engine_forgets_what_is_unused_for_its_ttl():
    tree = tree_of((-1, 4))
    work = calls_of([65, 65, 65], [1, 1, 1], [0.0, 31.0, 63.5], node=[0, 0, 0])  # they end at 2, 32 (cached), 65.5
    assert run([mixed(kv_ttl_s=29.0)], work, tree).sequences["cached"].tolist() == [0, 64, 0]
    assert run([mixed(kv_ttl_s=31.5)], work, tree).sequences["cached"].tolist() == [0, 64, 64]
    state = run([mixed(kv_ttl_s=1.0)], work, tree)
    assert state.sequences["cached"].tolist() == [0, 0, 0]
    assert state.engines[0]["free"] + state.engines[0]["idle"] == 100


def test_a_hosted_api_forgets_what_is_unused_for_its_ttl():
    tree = tree_of((-1, 4), (0, 2), (1, 1))
    work = calls_of(
        [64, 64, 112, 112], [32] * 4, [0.0, 0.1, 5.0, 10.0], node=[0, 0, 2, 2], node_out=[1, 1, -1, -1],
        ttft_s=[2.0] * 4,
    )  # fmt: skip
    pool = hosted().model_copy(update={"kv_ttl_s": 3.5})
    state = run([pool], work, tree)
    assert state.sequences["cached"].tolist() == [0, 63, 96, 111]  # found while in use; the answer; 3 s after use
    state = run([pool.model_copy(update={"kv_ttl_s": 2.5})], work, tree)
    assert state.sequences["cached"].tolist() == [0, 63, 0, 0]


def two_that_collide(**changes):
    """Two decodes that need 4 + 4 blocks of 7 at the end."""
    pool = mixed(kv_tokens=112, max_batched_tokens=512, **changes)
    return pool, calls_of([32, 32], [32, 32])


def test_a_swapped_sequence_goes_on_where_it_was():
    host = tier(read_bytes_per_s=16_000.0, write_bytes_per_s=8_000.0)
    pool, work = two_that_collide(preemption="swap", kv_tiers=[host])
    state = run([pool], work)
    engine, late = state.engines[0], state.sequences[1]
    # both have 48 tokens of KV after 17 iterations and need a fourth block in the 18th: the second one is copied, 6 s
    assert (engine["swaps"], engine["preemptions"], late["restarts"]) == (1, 1, 0)
    assert engine["output_tokens"] == 64
    assert engine["computed_tokens"] == 64
    assert state.engines["tier_writes"][0, 0] == state.engines["tier_reads"][0, 0] == 48
    first_end = 32.0 + 6.0
    assert state.sequences[0]["finish_s"] == first_end
    assert late["finish_s"] == first_end + 3.0 + 0.25 + 15
    assert state.stores[0]["free"] == 100
    assert engine["free"] == 7


def test_without_room_on_the_host_it_is_computed_again():
    pool, work = two_that_collide(preemption="swap", kv_tiers=[tier(tokens=32)])
    state = run([pool], work)
    assert state.engines[0]["swaps"] == 0
    assert state.sequences["restarts"].tolist() == [0, 1]
    assert state.engines[0]["computed_tokens"] == 64 + 49
    assert reuse_of([pool], state, np.arange(1)).prefill_amplification == 113 / 64


def test_the_report_has_tiers_bytes_and_amplification():
    pool = mixed(kv_tokens=100_000, kv_tiers=[tier()])
    report = run_simulation(plan_of([pool], placed("ask")), one_call(), load_workload("chat"), requests=5).report
    (row,) = report.pools
    assert row.tiers == report.cache.tiers
    assert [part.name for part in row.tiers] == ["device", "host"]
    assert row.prefill_amplification == report.cache.prefill_amplification


def test_refusals():
    with pytest.raises(InputError, match="no host to swap to"):
        run([mixed(preemption="swap")], calls_of([1], [1]))
    with pytest.raises(InputError, match="KV tiers but no KV"):
        run([hosted().model_copy(update={"kv_tiers": [tier()]})], calls_of([1], [1]))
    with pytest.raises(ValidationError):
        tier(read_bytes_per_s=0.0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    workloads(),
    st.integers(8, 40),
    st.lists(st.tuples(st.integers(1, 60), st.floats(1e2, 1e6), st.sampled_from([None, 5.0, 40.0])), max_size=3),
    st.sampled_from(["engine", "server", "pool"]),
    st.integers(1, 4),
    st.sampled_from([None, 0.5, 10.0]),
    st.booleans(),
    st.integers(1, 3),
)
def test_every_block_is_accounted_for_whatever_is_below(world, capacity, below, shared, engines, ttl_s, swap, seats):
    parent, blocks, calls = world
    tree = prefixes(np.array(parent), np.array(blocks), 16)
    leaf = [c[0] for c in calls]
    prompts = [max(1, int(tree.runs["end"][n]) * 16 + extra) for n, extra, _, _ in calls]
    work = calls_of(prompts, [c[2] for c in calls], [c[3] for c in calls], node=leaf)
    tiers = [
        tier(name, 16 * blocks, read_bytes_per_s=rate, write_bytes_per_s=rate, ttl_s=life, shared=shared)
        for name, (blocks, rate, life) in zip(("host", "disk", "remote"), below, strict=False)
    ]
    pool = mixed(
        engines=engines, kv_tokens=16 * capacity, concurrency=seats, max_batched_tokens=40, kv_tiers=tiers,
        kv_ttl_s=ttl_s, engines_per_server=2, preemption="swap" if swap and tiers else "recompute",
        step=StepPart(fixed_s=0.1, token_s=0.05),
    )  # fmt: skip
    state = run([pool], work, tree, router="prefix-affinity")
    assert set(state.sequences["status"].tolist()) <= {Status.COMPLETED, Status.REJECTED}
    done = state.sequences["status"] == Status.COMPLETED
    assert state.engines["output_tokens"].sum() == work.rows["output_tokens"][done].sum()
    assert (state.sequences["cached"] < work.rows["prompt_tokens"]).all()
    caches = [(engine, state.nodes[engine["cache"]], capacity) for engine in state.engines]
    caches += [(store, state.nodes[store["row"]], int(store["capacity"])) for store in state.stores]
    for kept, nodes, most in caches:
        assert min(kept["free"], kept["idle"]) >= 0
        assert kept["free"] + kept["idle"] == most
        assert nodes["resident"].sum() == kept["idle"]
        assert (nodes["refs"] == 0).all()
        assert (nodes["resident"] <= tree.runs["blocks"]).all()
        full = nodes["resident"] == tree.runs["blocks"]
        for node in np.flatnonzero(nodes["resident"] > 0):
            assert parent[node] < 0 or full[parent[node]]
    assert state.engines["computed_tokens"].sum() >= state.engines["fresh_tokens"].sum()
    assert (state.engines[["running", "queued", "loaded", "context", "unprefilled"]].tolist()) == [(0,) * 5] * engines


@settings(max_examples=50, deadline=None)
@given(workloads(), st.lists(st.floats(0.1, 60.0), min_size=2, max_size=2))
def test_a_longer_ttl_never_loses_a_hit_of_a_hosted_api(world, ttls):
    parent, blocks, calls = world
    tree = prefixes(np.array(parent), np.array(blocks), 16)
    prompts = [int(tree.runs["end"][c[0]]) * 16 + 1 for c in calls]
    at = [c[3] for c in calls]
    work = calls_of(prompts, [1] * len(calls), at, node=[c[0] for c in calls], ttft_s=[c[2] / 4 for c in calls])
    hits = []
    for ttl_s in (*sorted(ttls), None):
        state = run([hosted().model_copy(update={"kv_ttl_s": ttl_s})], work, tree)
        hits.append(int(state.clock[0]["hit_blocks"]))
    assert hits == sorted(hits)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workloads(), st.booleans(), st.lists(st.floats(0.0, 80.0), max_size=6))
def test_tiers_of_prefill_and_decode_pools_do_not_depend_on_interruptions(world, swap, stops):
    parent, blocks, calls = world
    tree = prefixes(np.array(parent), np.array(blocks), 16)
    prompts = [int(tree.runs["end"][c[0]]) * 16 + c[1] + 1 for c in calls]
    leaf = [c[0] for c in calls]
    work = calls_of(prompts, [c[2] for c in calls], [c[3] for c in calls], node=leaf, decode_pool=[1] * len(calls))
    both = [
        mixed(
            name,
            role=name,
            engines=2,
            kv_tokens=320,
            kv_tiers=[tier(tokens=400), tier("remote", 800, shared="pool")],
            model="m",
            transfer_bytes_per_s=1e6,
            preemption="swap" if swap else "recompute",
            step=StepPart(fixed_s=0.1, token_s=0.05),
        )
        for name in ("prefill", "decode")
    ]

    def world_after(times):
        stores = stores_of(both, tree.block_tokens)
        state = new_state(pool_table(both, "prefix-affinity", tree.block_tokens), work, tree, False, stores=stores)
        for until_s in (*sorted(times), np.inf):
            drive(state, work, tree, until_s)
        return state

    whole, parts = world_after([]), world_after(stops)
    assert whole.sequences.tobytes() == parts.sequences.tobytes()
    assert whole.stores.tobytes() == parts.stores.tobytes()
    assert set(whole.sequences["status"].tolist()) <= {Status.COMPLETED, Status.REJECTED}
    assert (whole.engines["free"] + whole.engines["idle"] == 20).all()
    assert (whole.stores["free"] + whole.stores["idle"] == whole.stores["capacity"]).all()


def test_the_idle_ttl_curve_of_recorded_sessions(shared_data):
    spec = spec_from_file_location("kv_ttl", Path(__file__).parents[2] / "benchmarks" / "kv_ttl.py")
    sys.path.insert(0, str(Path(spec.origin).parent))
    benchmark = module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    work, tree, _ = benchmark.recorded(shared_data / "traces" / "claude_code_weka")
    for ttl_s, rate, times in ((10.0, 0.470, 14.5), (60.0, 0.814, 5.1), (300.0, 0.918, 2.25), (3600.0, 0.961, 1.08)):
        row = benchmark.reuse_with(ttl_s, work, tree)
        assert row["block_hit_rate"] == pytest.approx(rate, abs=0.01)
        assert row["prefill_amplification"] == pytest.approx(times, rel=0.03)
