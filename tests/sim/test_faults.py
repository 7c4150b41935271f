"""Engines that die, slow down, lose their links, come and go; plans that change: nothing is lost silently."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

from heterarch.errors import InputError, UnknownNameError
from heterarch.plan.document import TierPart
from heterarch.report.aggregate import Status
from heterarch.sim import run_simulation
from heterarch.sim.change import Changes
from heterarch.sim.drive import drive
from heterarch.sim.faults import (
    EngineCrash,
    Faults,
    LinkLoss,
    Rates,
    Scale,
    ServerCrash,
    SlowEngine,
    Spot,
    Switch,
    load_faults,
    random_faults,
)
from heterarch.sim.pools import pool_table
from heterarch.sim.spot import engine_levels
from heterarch.sim.state import Load, new_state
from heterarch.sim.stores import stores_of
from heterarch.sim.tasks import no_prefixes, prefixes
from heterarch.workload.distribution import constant

from .test_simulate import trace
from .test_unroll import agent_loop, workload
from .worlds import calls_of, mixed, one_call, placed, plan_of, run, tools

LINK = {"transfer_bytes_per_s": 50_000.0, "transfer_latency_s": 0.25, "max_batched_tokens": 512}


def apart(prefill=1, decode=1, **changes):
    both = {**LINK, **changes}
    return [
        mixed("p", role="prefill", engines=prefill, **both),
        mixed("d", role="decode", engines=decode, **both),
    ]


def split(prompts, outputs, at=None, **columns):
    return calls_of(prompts, outputs, at, decode_pool=np.ones(len(prompts)), **columns)


def disturbed(pools, work, *changes, tree=None, router="least-pending-tokens", until_s=np.inf, **settings):
    """The state after a run with changes, and the changes."""
    tree = tree or no_prefixes()
    agenda = Changes(plan_of(pools), one_call(), Faults(changes=list(changes), **settings), work)
    name = router if isinstance(router, str) else None
    stores = stores_of(agenda.reserved, tree.block_tokens)
    state = new_state(pool_table(agenda.reserved, name, tree.block_tokens), work, tree, False, stores=stores)
    agenda.begin(state)
    drive(state, work, tree, until_s, None if name else router, changes=agenda)
    return state, agenda


def assert_blocks_add_up(state):
    """Free, cached and held blocks are the engine's capacity; nobody holds any when all has ended."""
    engines, pools = state.engines, state.pools
    for row, engine in enumerate(engines):
        if pools["kind"][engine["pool"]] != 0:
            continue
        mine = state.sequences["engine"] == row
        held = int(state.progress["held"][mine].sum()) + grown(state, row)
        kept = state.nodes[engine["cache"]] if engine["cache"] >= 0 else None
        used = 0 if kept is None else int(kept["resident"][kept["refs"] > 0].sum())
        idle = 0 if kept is None else int(kept["resident"][kept["refs"] == 0].sum())
        assert engine["idle"] == idle
        assert engine["free"] + idle + used + held == pools["capacity"][engine["pool"]]
        if (state.sequences["status"] != 0).all():
            assert held == used == 0
            assert engine["unprefilled"] == engine["decodes"] == engine["context"] == 0
            assert engine["queued"] == engine["running"] == engine["finishes"] == 0
            assert not state.crossing[row].any()


def assert_stores_add_up(state):
    """Free, cached and swapped blocks of a store are its capacity; nobody is swapped out when all has ended."""
    size = state.crossing.shape[1]
    there = np.isin(state.progress["tier"], (Load.SWAPPED, Load.RETURNING))
    need = state.progress["need"][there]
    where = state.engines["stores"][state.sequences["engine"][there], 0]
    for row, store in enumerate(state.stores):
        nodes = state.nodes[store["row"]]
        used = int((-(-need[where == row] // size)).sum())
        assert min(store["free"], store["idle"]) >= 0
        assert store["free"] + store["idle"] + used == store["capacity"]
        assert nodes["resident"].sum() == store["idle"]
        assert (nodes["refs"] == 0).all()
    if (state.sequences["status"] != 0).all():
        assert not state.progress["tier"].any()
        assert not state.engines["loaded"].any()


def grown(state, row):
    """Blocks that decodes took since they began, the iteration under way included."""
    engine, size = state.engines[row], state.crossing.shape[1]
    decoding = state.progress[state.finishes[row, : engine["finishes"]]["task"]]
    context = decoding["from_context"] + engine["iteration"] - decoding["from_iteration"] + engine["busy"] - 1
    return int((-(-context // size) + decoding["need"] // -size).sum())


# Crashes


def test_a_crash_loses_the_iteration_and_the_kv_but_not_what_was_generated():
    state, _ = disturbed([mixed(start_s=4.0)], calls_of([20], [10]), EngineCrash(at_s=3.5, pool="llm"))
    call = state.sequences[0]
    # tokens at 1, 2, 3; the iteration under way is lost; back at 7.5; the prompt and 3 tokens give the 4th token at 8.5
    assert call["first_s"] == 1.0
    assert call["finish_s"] == 8.5 + 6
    assert call["restarts"] == state.sequences["losses"][0] == 1
    assert call["status"] == Status.COMPLETED
    assert state.engines["lost_calls"].tolist() == [1]
    assert state.engines["busy_s"][0] == 3.5 + 7
    assert_blocks_add_up(state)


def test_calls_of_a_lost_engine_go_to_another():
    state, _ = disturbed(
        [mixed(engines=2)], calls_of([20, 20], [10, 10]), EngineCrash(at_s=3.5, pool="llm", engine=0, restarts=False)
    )
    assert state.sequences["finish_s"].tolist() == [4.0 + 7, 10.0]
    assert state.sequences["engine"].tolist() == [1, 1]


def test_a_call_that_lost_too_many_engines_fails_and_says_so():
    crashes = [EngineCrash(at_s=at, pool="llm") for at in (1.5, 3.5, 5.5)]
    state, _ = disturbed([mixed(start_s=0.5)], calls_of([20, 20], [10, 2], [0.0, 100.0]), *crashes)
    assert state.sequences["status"].tolist() == [Status.FAILED, Status.COMPLETED]
    report = run_simulation(
        plan_of([mixed(start_s=0.5)], placed("ask")), one_call(), trace(2), faults=Faults(changes=crashes)
    ).report
    assert report.reasons == {"engine lost 3 times": 2}
    assert report.requests.failed == 2
    assert report.goodput_rps == 0.0


def test_attempts_are_counted():
    crashes = [EngineCrash(at_s=at, pool="llm") for at in (1.5, 3.5, 5.5)]
    state, _ = disturbed([mixed(start_s=0.5)], calls_of([20], [10]), *crashes, max_attempts=4)
    assert state.sequences["status"][0] == Status.COMPLETED
    assert state.sequences["restarts"][0] == 3


def test_a_cache_does_not_survive_its_engine():
    tree = prefixes(np.array([-1], np.int32), np.array([4], np.int32), 16)
    work = calls_of([64, 64, 64], [1, 1, 1], [0.0, 10.0, 30.0], node=[0, 0, 0])
    state, _ = disturbed([mixed(start_s=1.0)], work, EngineCrash(at_s=20.0, pool="llm"), tree=tree)
    assert state.sequences["cached"].tolist() == [0, 63, 0]
    assert_blocks_add_up(state)


def test_without_an_engine_to_come_calls_fail_at_once():
    state, _ = disturbed([mixed()], calls_of([20, 20], [9, 9], [0.0, 50.0]),
                         EngineCrash(at_s=3.5, pool="llm", restarts=False))  # fmt: skip
    assert state.sequences["status"].tolist() == [Status.FAILED] * 2
    assert state.sequences["finish_s"].tolist() == [3.5, 50.0]
    assert state.requests["reason"].tolist() == [1, 1]


def test_patience_ends():
    state, _ = disturbed([mixed(start_s=100.0)], calls_of([20, 20], [9, 9], [0.0, 95.0]),
                         EngineCrash(at_s=3.5, pool="llm"), patience_s=10.0)  # fmt: skip
    assert state.sequences["status"].tolist() == [Status.FAILED, Status.COMPLETED]
    assert state.sequences["finish_s"].tolist() == [13.5, 103.5 + 9]
    assert state.clock["events"][0] == 0


def test_held_calls_keep_their_order():
    work = calls_of([20, 20, 20], [2, 2, 2], [4.0, 5.0, 6.0])
    state, _ = disturbed([mixed(concurrency=1, start_s=20.0)], work, EngineCrash(at_s=3.0, pool="llm"))
    assert state.sequences["finish_s"].tolist() == [25.0, 27.0, 29.0]


def test_a_server_takes_all_its_engines():
    state, agenda = disturbed(
        [mixed(engines=4, engines_per_server=2, start_s=4.0)], calls_of([20] * 4, [10] * 4),
        ServerCrash(at_s=2.5, pool="llm", server=1),
    )  # fmt: skip
    assert state.sequences["losses"].tolist() == [0, 0, 1, 1]
    assert sorted(state.sequences["engine"].tolist()) == [0, 0, 1, 1]
    time = agenda.times(0.0, 10.0)[0]
    assert (time.up_s, time.down_s, time.lost) == (32.0, 8.0, 2)
    assert time.availability == 0.8


def test_a_slow_engine_takes_its_time_while_it_is_slow():
    slow = SlowEngine(at_s=2.0, pool="llm", factor=3.0, for_s=6.0)
    state, _ = disturbed([mixed()], calls_of([20], [8]), slow)
    # iterations end at 1, 2 and 3 (begun at 2 before the change), then 6 and 9, then 10, 11, 12
    assert state.sequences["finish_s"].tolist() == [12.0]


# Prefill and decode apart


def test_a_dead_decode_engine_sends_its_calls_through_prefill_again():
    state, _ = disturbed(apart(decode=2), split([96], [10]), EngineCrash(at_s=5.5, pool="d", engine=0))
    call = state.sequences[0]
    # 1 s prefill, 1.92 + 0.25 s transfer: decodes from 3.17, tokens at 4.17 and 5.17; then 99 tokens of prompt
    back = 5.5 + 1 + 99 * 1000 / 50_000 + 0.25
    assert call["finish_s"] == pytest.approx(back + 6)
    assert call["first_s"] == 1.0
    assert state.engines["output_tokens"].sum() == 10
    assert_blocks_add_up(state)


def test_kv_on_its_way_to_a_dead_engine_is_sent_again():
    state, _ = disturbed(apart(decode=2), split([96], [10]), EngineCrash(at_s=2.0, pool="d", engine=0, restarts=False))
    call = state.sequences[0]
    assert call["engine"] == 2
    assert state.transfers["arrived_s"][0] == pytest.approx(2.0 + 1.92 + 0.25)  # all of it again
    assert state.sequences["losses"][0] == 0
    assert_blocks_add_up(state)


def test_kv_on_its_way_from_a_dead_engine_is_computed_where_it_was_to_go():
    state, _ = disturbed(apart(), split([96], [10]), EngineCrash(at_s=2.0, pool="p", restarts=False))
    call = state.sequences[0]
    assert call["finish_s"] == 2.0 + 9
    assert state.sequences["losses"][0] == 1
    assert state.engines["output_tokens"].tolist() == [1, 9]
    assert_blocks_add_up(state)


def test_a_server_with_both_ends_of_a_transfer():
    pool = apart(engines_per_server=2, prefill=2, decode=2, start_s=1.0)
    both = [ServerCrash(at_s=2.0, pool=name) for name in ("d", "p")]
    for changes in (both, both[::-1]):
        state, _ = disturbed(pool, split([96, 96, 96], [10, 10, 10]), *changes)
        assert (state.sequences["status"] == Status.COMPLETED).all()
        assert_blocks_add_up(state)


def test_a_call_waits_for_a_decode_engine_with_its_kv():
    crash = EngineCrash(at_s=0.5, pool="d")
    state, _ = disturbed(apart(start_s=9.0), split([96], [10]), crash)
    assert state.transfers["arrived_s"][0] == pytest.approx(9.5 + 1.92 + 0.25)
    state, _ = disturbed(apart(start_s=9.0), split([96], [10]), crash, EngineCrash(at_s=5.0, pool="p"))
    assert state.transfers["arrived_s"][0] == pytest.approx(14.0 + 1 + 97 * 0.02 + 0.25)
    assert state.engines["output_tokens"].tolist() == [2, 8]
    assert_blocks_add_up(state)


@pytest.mark.parametrize("to", ["", "d"])
def test_kv_waits_for_a_lost_link_and_goes_on(to):
    state, _ = disturbed(apart(), split([96, 96], [10, 10], [0.0, 5.0]), LinkLoss(at_s=2.0, pool="p", to=to, for_s=20))
    assert state.transfers["arrived_s"] == pytest.approx([22 + 0.92 + 0.25, 22 + 0.92 + 1.92 + 0.25])
    assert (state.sequences["losses"] == 0).all()
    assert_blocks_add_up(state)


def test_a_lost_link_of_others_changes_nothing():
    pools = [*apart(), mixed("other", role="decode", **LINK)]
    work = split([96], [10])
    state, _ = disturbed(pools, work, LinkLoss(at_s=0.0, pool="p", to="other", for_s=20))
    assert state.sequences["finish_s"][0] == run(pools, work).sequences["finish_s"][0]


# Scale


def test_more_engines_come_after_their_start():
    work = calls_of([20] * 4, [10] * 4, [0.0, 0.0, 30.0, 30.0])
    state, agenda = disturbed([mixed(start_s=20.0)], work, Scale(at_s=5.0, pool="llm", engines=1))
    assert state.sequences["engine"].tolist() == [0, 0, 0, 1]
    time = agenda.times(0.0, 40.0)[0]
    assert (time.up_s, time.down_s, time.paid_s, time.availability) == (40 + 15, 0.0, 40 + 35, 1.0)


def test_fewer_engines_end_what_they_have():
    work = calls_of([20] * 4, [10] * 4, [0.0, 0.0, 5.0, 5.0])
    state, agenda = disturbed([mixed(engines=2)], work, Scale(at_s=3.5, pool="llm", engines=-1))
    assert state.sequences["engine"].tolist() == [0, 1, 0, 0]
    assert state.sequences["finish_s"][1] == 10.0
    assert (state.sequences["losses"] == 0).all()
    assert agenda.times(0.0, 15.0)[0].paid_s == 15 + 10


# Spot


def test_spot_engines_drain_after_notice_and_come_back():
    spot = Spot(pool="llm", available=[4, 2, 4], gap_s=100.0, notice_s=30.0)
    assert engine_levels(spot, 2) == [(0.0, 2), (100.0, 1), (200.0, 2)]
    work = calls_of([20] * 5, [50] * 5, [60.0, 60.0, 75.0, 215.0, 215.0])
    state, agenda = disturbed([mixed(engines=2, start_s=10.0)], work, spot)
    # the call of 60 s on the engine that goes is lost at 100; that of 75 s stays away from it; back at 210
    assert state.sequences["losses"].sum() == 1
    assert state.sequences["engine"].tolist() == [0, 0, 0, 0, 1]
    time = agenda.times(0.0, 300.0)[0]
    assert (time.up_s, time.down_s, time.paid_s) == (600 - 110, 110, 500)


def test_spot_nodes_that_are_not_there_at_the_start():
    state, _ = disturbed([mixed(start_s=5.0)], calls_of([20], [10]), Spot(pool="llm", available=[0, 1], gap_s=60.0))
    assert state.sequences["finish_s"][0] == 65 + 10


def test_real_spot_traces(shared_data):
    file = str(shared_data / "traces" / "spot" / "availability.parquet")
    with pytest.raises(InputError, match="which trace"):
        engine_levels(Spot(pool="llm", file=file), 4)
    spot = Spot(pool="llm", file=file, collection="aws-08-27-2023", zone="us-west-2a", notice_s=120)
    with pytest.raises(InputError):
        engine_levels(spot.model_copy(update={"zone": "nowhere"}), 4)
    for zone in ("us-east-2b", "us-west-2a", "us-west-2c"):
        spot = spot.model_copy(update={"zone": zone})
        levels = engine_levels(spot, 8)
        assert all(0 <= level <= 8 for _, level in levels)
        rng = np.random.default_rng(1)
        n, end = 400, min(levels[-1][0] + 1, 200_000.0)
        work = calls_of(rng.integers(10, 60, n), rng.integers(1, 900, n), np.sort(rng.uniform(0, end, n)))
        state, agenda = disturbed([mixed(engines=8, start_s=60.0)], work, spot, max_attempts=5)
        assert (state.sequences["status"] != Status.UNFINISHED).all()
        assert agenda.times(0.0, float(state.clock["now_s"][0]))[0].up_s > 0
        assert_blocks_add_up(state)


# Another plan


def two_plans(**changes):
    flat = agent_loop(4).build()
    where = placed("step") | {"shell": "tools"}
    first = plan_of([mixed(kv_tokens=65_536, engines=2), tools(servers=3)], where)
    second = plan_of(
        [mixed("fast", kv_tokens=65_536, start_s=30.0, **changes), tools(servers=3)],
        placed("step", pool="fast") | {"shell": "tools"},
    )
    return first, second, flat


def test_traffic_goes_to_another_plan_when_its_pools_are_up():
    first, second, flat = two_plans()
    done = run_simulation(first, flat, workload(), requests=60, faults=Faults(changes=[Switch(at_s=20, plan=second)]))
    report, calls = done.report, done.calls
    assert [pool.name for pool in report.pools] == ["llm", "tools", "fast"]
    assert report.requests.completed == 60
    assert set(calls["pool"][calls["submitted_s"] < 50].tolist()) == {0}
    assert set(calls["pool"][calls["submitted_s"] > 50].tolist()) == {2}
    llm, _, fast = report.pools
    last = float(calls["finish_s"][calls["pool"] == 0].max())
    begin = float(done.requests["release_s"].min())
    assert llm.usd == pytest.approx(sum(max(50.0, last) - begin for _ in range(2)) * 3.6 / 3600, rel=0.05)
    assert fast.usd == pytest.approx((begin + report.duration_s - 20) * 3.6 / 3600)
    assert llm.availability == fast.availability == 1.0


def test_a_plan_that_only_scales_keeps_its_pools():
    first, _, flat = two_plans()
    more = first.model_copy(update={"pools": [first.pools[0].model_copy(update={"engines": 3}), first.pools[1]]})
    fewer = first.model_copy(update={"pools": [first.pools[0].model_copy(update={"engines": 1}), first.pools[1]]})
    faults = Faults(changes=[Switch(at_s=20, plan=more), Switch(at_s=60, plan=fewer)])
    done = run_simulation(first, flat, workload(), requests=80, faults=faults)
    assert len(done.report.pools) == 2
    late = done.calls[done.calls["submitted_s"] > 61]
    assert set(late["engine"].tolist()) == {0}
    assert set(done.calls["engine"].tolist()) == {0, 1, 2}


def test_a_plan_that_cannot_run_the_program_is_refused():
    first, second, flat = two_plans()
    wrong = second.model_copy(update={"placement": placed("step", pool="tools") | {"shell": "tools"}})
    with pytest.raises(InputError, match="cannot run"):
        run_simulation(first, flat, workload(), requests=5, faults=Faults(changes=[Switch(at_s=20, plan=wrong)]))


# Documents


def test_a_file_of_faults(tmp_path):
    file = tmp_path / "faults.yaml"
    file.write_text("heterarch: faults\nmax_attempts: 2\nchanges:\n"
                    "  - {kind: engine-crash, at_s: 60, pool: llm, engine: 1, repair_s: 10}\n"
                    "  - {kind: spot, pool: llm, file: spot.parquet, zone: a}\n")  # fmt: skip
    faults = load_faults(file)
    assert faults.changes[0] == EngineCrash(at_s=60, pool="llm", engine=1, repair_s=10)
    assert faults.changes[1].file == str(tmp_path / "spot.parquet")
    file.write_text("changes:\n  - {kind: engine-crash, at_s: 60, pol: llm}\n")
    with pytest.raises(UnknownNameError, match="pol"):
        load_faults(file)


@pytest.mark.parametrize(
    "change",
    [
        EngineCrash(pool="no"),
        EngineCrash(pool="tools"),
        EngineCrash(pool="llm", engine=2),
        ServerCrash(pool="llm", server=2),
        LinkLoss(pool="llm", to="no", for_s=1),
        Spot(pool="llm", available=[]),
        Spot(pool="llm", available=[3], nodes=2),
        Spot(pool="llm", file="/nowhere.parquet"),
        Switch(plan="/nowhere.yaml"),
    ],
)
def test_what_does_not_exist_is_refused(change):
    with pytest.raises(InputError):
        disturbed([mixed(engines=2), tools()], calls_of([20], [3]), change)


def test_a_router_that_chooses_a_dead_engine_is_refused():
    class Zero:
        name = "zero"

        def decide(self, view):
            return 0

    with pytest.raises(InputError, match="not healthy"):
        disturbed([mixed(engines=2)], calls_of([20], [3], [5.0]), EngineCrash(at_s=1.0, pool="llm", restarts=False),
                  router=Zero())  # fmt: skip


# Random schedules


def test_random_faults_have_the_rates_asked_for():
    plan = plan_of([mixed(engines=50, start_s=5.0), *apart()])
    rates = Rates(engine_mtbf_s=1000.0, engine_mttr_s=45.0, link_mtbf_s=500.0, link_mttr_s=20.0, server_mtbf_s=1e4)
    found = random_faults(3, plan, 100_000.0, rates)
    assert found == random_faults(3, plan, 100_000.0, rates) != random_faults(4, plan, 100_000.0, rates)
    crashes = [c for c in found if isinstance(c, EngineCrash) and c.pool == "llm"]
    assert len(crashes) == pytest.approx(50 * 100_000 / 1050, rel=0.05)
    assert np.mean([c.repair_s for c in crashes]) == pytest.approx(45, rel=0.05)
    losses = [c for c in found if isinstance(c, LinkLoss)]
    assert {(c.pool, c.to) for c in losses} == {("p", "d")}
    assert len(losses) == pytest.approx(100_000 / 520, rel=0.25)
    assert sum(isinstance(c, ServerCrash) for c in found) == pytest.approx(52 * 100_000 / 1e4, rel=0.2)


def test_failures_that_follow_each_other_without_end_are_refused():
    with pytest.raises(InputError, match="too many random faults"):
        random_faults(0, plan_of([mixed()]), 1.0, Rates(engine_mtbf_s=1e-300))


def calls(output_tokens, **changes):
    return replace(trace(40, **changes), output_tokens=np.full(40, output_tokens))


def random_world(seed):
    """A plan, a program and a source: mixed or apart, open or closed, agents with tools and sessions."""
    rng = np.random.default_rng([seed, 9])
    start = float(rng.choice([0.0, 1.0, 20.0]))
    size = {"start_s": start, "engines_per_server": int(rng.integers(1, 3)), "kv_tokens": int(rng.choice([640, 6400]))}
    long = 5
    if seed % 16 < 4:
        size |= below(rng)
        long = 40
    kind = seed % 4
    if kind == 0:
        return plan_of([mixed(engines=3, **size)], placed("ask")), one_call(), calls(long)
    if kind == 1:
        plan = plan_of(apart(2, 2, **size), placed("ask", pool="p", decode="d"))
        return plan, one_call(), calls(long, per_session=int(rng.integers(1, 4)))
    work = workload(requests_per_session=constant(2), think_s=constant(3.0))
    size["kv_tokens"] *= 2
    where = {"shell": "tools"}
    if kind == 2:
        return (
            plan_of([mixed(engines=2, **size), tools(servers=2)], placed("step") | where),
            agent_loop(3).build(),
            work,
        )
    pools = [*apart(2, 2, **size), tools(servers=2)]
    return plan_of(pools, placed("step", pool="p", decode="d") | where), agent_loop(3).build(), work


def below(rng):
    """Tiers, shared by whom chance says, a TTL perhaps, and swaps."""
    rates = {"read_bytes_per_s": 1e6, "write_bytes_per_s": 5e5, "latency_s": 0.2}
    tiers = [
        TierPart(name=name, kv_tokens=tokens, shared=str(rng.choice(["engine", "server", "pool"])), **rates)
        for name, tokens in (("host", int(rng.choice([320, 3200]))), ("remote", 16_000))
    ]
    return {"kv_tiers": tiers, "kv_ttl_s": [None, 8.0][int(rng.integers(0, 2))], "preemption": "swap", "model": "m",
            "kv_tokens": int(rng.choice([320, 640]))}  # fmt: skip


def random_schedule(seed, plan):
    rng = np.random.default_rng([seed, 10])
    mean = float(rng.choice([15.0, 60.0, 300.0]))
    rates = Rates(engine_mtbf_s=mean, engine_mttr_s=5.0, server_mtbf_s=2 * mean, server_mttr_s=10.0,
                  link_mtbf_s=mean, link_mttr_s=8.0)  # fmt: skip
    changes = random_faults(seed, plan, 300.0, rates)
    pool = plan.pools[int(rng.integers(0, 1 + (plan.pools[0].role == "prefill")))]
    at = rng.uniform(0, 60, 4).round(3).tolist()
    changes += [
        Scale(at_s=at[0], pool=pool.name, engines=int(rng.integers(-2, 3))),
        SlowEngine(at_s=at[1], pool=pool.name, factor=2.5, for_s=20.0),
        EngineCrash(at_s=at[2], pool=pool.name, restarts=bool(rng.integers(0, 2))),
    ]
    if rng.integers(0, 2):
        levels = rng.integers(0, 3, 8).tolist()
        changes.append(
            Spot(pool=pool.name, available=levels, nodes=2, gap_s=13.0, notice_s=float(rng.choice([0, 5, 30])))
        )
    if rng.integers(0, 3) == 0:
        pools = [p.model_copy(update={"concurrency": 5}) for p in plan.pools]
        changes.append(Switch(at_s=at[3], plan=plan.model_copy(update={"pools": pools})))
    patience = [None, 0.5, 30.0][int(rng.integers(0, 3))]
    return Faults(changes=changes, max_attempts=int(rng.integers(1, 6)), patience_s=patience)


def check_random(seed, monkeypatch):
    states = []
    plan, flat, source = random_world(seed)
    faults = random_schedule(seed, plan)
    until = 40.0 if seed % 7 == 0 else None
    options = {"requests": 12, "seed": seed, "faults": faults, "until_s": until, "replay": None}
    with monkeypatch.context() as patched:
        patched.setattr(
            importlib.import_module("heterarch.sim.simulate"),
            "new_state",
            lambda *args: states.append(new_state(*args)) or states[-1],
        )
        done = run_simulation(plan, flat, source, **options)
    for part in (done.report.requests, done.report.calls):
        assert part.offered == part.completed + part.rejected + part.failed + part.unfinished
    assert sum(done.report.reasons.values()) == done.report.requests.failed + done.report.requests.rejected
    if until is None:
        assert done.report.requests.unfinished == 0
        assert (states[0].pools["stranded"] < 0).all()
        assert states[0].clock["events"][0] == 0
    assert_blocks_add_up(states[0])
    assert_stores_add_up(states[0])
    ended = done.calls[done.calls["status"] == Status.COMPLETED]
    assert (ended["finish_s"] >= ended["first_token_s"]).all()
    for pool in done.report.pools:
        assert 0.0 <= pool.availability <= 1.0
        assert pool.utilisation <= 1.0 + 1e-9
    return done


def same_twice(seed, monkeypatch):
    one, two = check_random(seed, monkeypatch), check_random(seed, monkeypatch)
    assert one.report == two.report
    assert one.calls.tobytes() == two.calls.tobytes()


def test_random_worlds_swap_and_load_while_engines_die(monkeypatch):
    done = [check_random(16 * k + kind, monkeypatch).report for k in range(6) for kind in range(4)]
    pools = [pool for report in done for pool in report.pools]
    assert sum(pool.swaps for pool in pools) > 0
    assert sum(tier.read_bytes for pool in pools for tier in pool.tiers if pool.engines_lost) > 0


def test_random_schedules_lose_nothing(monkeypatch):
    for seed in range(60):
        same_twice(seed, monkeypatch)


@pytest.mark.slow
def test_a_thousand_random_schedules_lose_nothing(monkeypatch):
    for seed in range(1000):
        check_random(seed, monkeypatch)


def test_slices_of_the_run_do_not_matter(monkeypatch):
    from heterarch.sim import drive as driver

    plan, flat, source = random_world(3)
    faults = random_schedule(3, plan)
    whole = run_simulation(plan, flat, source, requests=12, faults=faults)
    monkeypatch.setattr(driver, "SLICE_EVENTS", 3)
    sliced = run_simulation(plan, flat, source, requests=12, faults=faults)
    assert whole.calls.tobytes() == sliced.calls.tobytes()
    assert whole.report == sliced.report


def test_no_faults_change_nothing():
    plan, flat, source = random_world(3)
    plain = run_simulation(plan, flat, source, requests=12)
    empty = run_simulation(plan, flat, source, requests=12, faults=Faults())
    assert plain.calls.tobytes() == empty.calls.tobytes()
    assert plain.report == empty.report
