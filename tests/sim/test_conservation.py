"""What holds in every run, whatever the plan and the work: Little's law, no idle engine with work, nothing lost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.plan.document import Pool, StepPart
from heterarch.report.aggregate import Status
from heterarch.sim.core import advance
from heterarch.sim.pools import pool_table
from heterarch.sim.state import PoolKind, State, Stop, new_state
from heterarch.sim.tasks import Prefixes, TaskKind, Tasks, no_prefixes, prefixes, tasks

from .worlds import mixed, tools

STEP = StepPart(fixed_s=0.01, token_s=2e-4, pair_s=1e-7, context_s=1e-6, sequence_s=1e-4, mixed_s=1e-6)
BLOCK = 16


class World(NamedTuple):
    pools: list[Pool]
    work: Tasks
    tree: Prefixes


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One mixed pool, or prefill and decode pools; a tool pool; shared prefixes or none; chains of tasks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size: dict[str, Any] = {
        "engines": draw(st.integers(1, 3)),
        "concurrency": draw(st.integers(1, 12)),
        "kv_tokens": BLOCK * draw(st.integers(20, 200)),
        "max_batched_tokens": draw(st.sampled_from([16, 64, 512])),
        "transfer_bytes_per_s": 1e6,
        "step": STEP,
    }
    if draw(st.booleans()):
        pools, decode = [mixed(**size)], 0
    else:
        pools, decode = [mixed("prefill", role="prefill", **size), mixed("decode", role="decode", **size)], 1
    pools.append(tools(servers=draw(st.integers(1, 3))))
    shared = draw(st.booleans())
    return World(pools, _work(rng, decode, draw(st.integers(1, 80)), shared), _tree() if shared else no_prefixes())


def _tree() -> Prefixes:
    """A system prompt with two continuations."""
    return prefixes(np.array([-1, 0, 0], np.int32), np.array([4, 3, 6], np.int32), BLOCK)


def _work(rng: np.random.Generator, decode: int, n: int, shared: bool) -> Tasks:
    """Requests of up to three tasks, one after the other; calls and tools."""
    request = np.sort(rng.integers(0, max(1, n // 2), n))
    _, request = np.unique(request, return_inverse=True)
    generate = rng.random(n) < 0.7
    follows = np.flatnonzero(request[1:] == request[:-1]) + 1
    release = np.cumsum(rng.exponential(0.2, n))
    release[follows] = 0.0
    node = np.where(generate & shared, rng.integers(0, 3, n), -1)
    ends = np.array([4, 7, 10]) * BLOCK
    prompt = np.where(node >= 0, ends[node], 0) + rng.integers(1, 400, n)
    columns = {
        "kind": np.where(generate, TaskKind.GENERATE, TaskKind.DELAY), "release_s": release, "request": request,
        "session": request, "service_s": np.where(generate, 0.0, rng.exponential(0.5, n)),
        "prompt_tokens": np.where(generate, prompt, 0), "output_tokens": np.where(generate, rng.integers(1, 60, n), 0),
        "node": node, "prefill_pool": np.where(generate, 0, decode + 1), "decode_pool": np.where(generate, decode, decode + 1),
    }  # fmt: skip
    edges = np.stack([follows - 1, follows, np.zeros_like(follows)], axis=1)
    return tasks(columns, edges)


def present(state: State, pools: list[Pool]) -> int:
    """Tasks in the system as its queues, seats and servers count them; KV on its way is at no engine."""
    servers = [row for row, pool in enumerate(state.pools) if pool["kind"] == PoolKind.SERVERS]
    count = int(state.engines["queued"].sum() + state.engines["running"].sum())
    for row in servers:
        count += (
            pools[row].concurrency
            - int(state.pools["free_servers"][row])
            + _chain(state, int(state.pools["head"][row]), row)
        )
    moving = np.isfinite(state.sequences["first_s"]) & (state.sequences["status"] == 0)
    return count + int((moving & (state.progress["target"] >= 0) & ~_at_engine(state)).sum())


def _chain(state: State, task: int, row: int) -> int:
    count = 0
    while task >= 0:
        count, task = count + 1, int(state.progress["next"][task]) if task != int(state.pools["tail"][row]) else -1
    return count


def _at_engine(state: State) -> Any:
    """Which sequences a decode engine has taken over."""
    return state.sequences["engine"] == state.progress["target"]


def step_by_step(world: World) -> tuple[State, float, list[int]]:
    """Run one event at a time: the end, the integral of the tasks present, and engines found idle with work."""
    state = new_state(
        pool_table(world.pools, "least-pending-tokens", world.tree.block_tokens), world.work, world.tree, False
    )
    area, before, inside, idle = 0.0, 0.0, 0, list[int]()
    while (stop := advance(state, world.work, world.tree, np.inf, 1)) == Stop.UNTIL:
        now = float(state.clock["now_s"][0])
        if now > before:
            area += inside * (now - before)
        before, inside = now, present(state, world.pools)
        free = state.engines["free"] + state.engines["idle"] >= state.pools["capacity"][state.engines["pool"]]
        idle += np.flatnonzero((state.engines["busy"] == 0) & (state.engines["queued"] > 0) & free).tolist()
    assert stop == Stop.DONE
    return state, area, idle


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_nothing_is_lost_and_nobody_is_idle_with_work(world: World) -> None:
    state, area, idle = step_by_step(world)
    sequences = state.sequences
    assert not idle
    assert set(np.unique(state.requests["status"])) <= {int(Status.COMPLETED), int(Status.REJECTED)}
    assert (state.requests["left"] == 0).all()
    done = sequences["status"] == Status.COMPLETED
    sojourns = (sequences["finish_s"] - sequences["submitted_s"])[done]
    np.testing.assert_allclose(area, sojourns.sum(), rtol=1e-9, atol=1e-9)  # Little 1961: L T = sum of the times inside
    engines = state.pools["kind"][state.engines["pool"]] == PoolKind.ENGINES
    capacity = state.pools["capacity"][state.engines["pool"]]
    np.testing.assert_array_equal((state.engines["free"] + state.engines["idle"])[engines], capacity[engines])
    calls = done & (world.work.rows["kind"] == TaskKind.GENERATE)
    made = int(world.work.rows["output_tokens"][calls].sum())
    assert int(state.engines["output_tokens"].sum()) >= made
    if not sequences["restarts"].any():
        assert int(state.engines["output_tokens"].sum()) == made
    for pair in (("submitted_s", "scheduled_s"), ("scheduled_s", "first_s"), ("first_s", "finish_s")):
        assert (sequences[pair[0]][calls] <= sequences[pair[1]][calls]).all()


@settings(max_examples=20, deadline=None)
@given(worlds())
def test_the_same_world_runs_alike_in_one_go(world: World) -> None:
    one, _, _ = step_by_step(world)
    other = new_state(
        pool_table(world.pools, "least-pending-tokens", world.tree.block_tokens), world.work, world.tree, False
    )
    assert advance(other, world.work, world.tree, np.inf, 1 << 40) == Stop.DONE
    assert one.sequences.tobytes() == other.sequences.tobytes()
