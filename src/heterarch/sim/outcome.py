"""What a finished (or stopped) simulation says: records, pools, ops, money."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.cost.money.endpoint import call_usd
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.document import Plan, Pool
from heterarch.report.aggregate import CALL, REQUEST, TOOL, OpTimes, Records, Status
from heterarch.report.overload import trend
from heterarch.report.schema import Overload, PoolReport
from heterarch.sim.placement import call_ops
from heterarch.sim.pools import pool_kind
from heterarch.sim.reuse import reuse_of
from heterarch.sim.state import PoolKind, State
from heterarch.sim.tasks import TaskKind, Tasks
from heterarch.sim.uptime import PoolTime
from heterarch.units import HOUR_S

Floats = NDArray[np.float64]


def begin_s(state: State) -> float:
    """When the first request was released; 0 when none was."""
    release = state.requests["release_s"]
    return float(np.nanmin(release)) if np.isfinite(release).any() else 0.0


def span_s(state: State) -> float:
    """Seconds from the first release to the last event that ended or started something."""
    if not np.isfinite(state.requests["release_s"]).any():
        return 0.0
    ends = state.sequences["finish_s"]
    last = float(state.clock[0]["now_s"])
    if np.isfinite(ends).all() and len(ends):
        last = float(ends.max())
    return max(0.0, last - begin_s(state))


def sent_bytes(state: State) -> int:
    """Bytes of KV that engines sent to others."""
    return int((state.engines["transfer_tokens"] * state.pools["kv_bytes"][state.engines["pool"]]).sum())


def arrived_s(state: State) -> Floats:
    """[n] when the KV of each task was on its decode engine; NaN where it was not sent."""
    known: Floats = state.transfers["arrived_s"]
    return known if len(known) else np.broadcast_to(np.nan, len(state.sequences))


def call_records(state: State, tasks: Tasks) -> Records:
    """One :data:`heterarch.report.aggregate.CALL` row per LLM call submitted, in task order."""
    rows, sequences = tasks.rows, state.sequences
    due = (rows["kind"] == TaskKind.GENERATE) & np.isfinite(sequences["submitted_s"])
    records = np.zeros(int(due.sum()), CALL)
    for name in ("request", "session", "op", "prompt_tokens", "output_tokens", "decode_pool"):
        records[name] = rows[name][due]
    records["pool"] = rows["prefill_pool"][due]
    for name in ("submitted_s", "scheduled_s", "finish_s", "restarts", "status"):
        records[name] = sequences[name][due]
    records["kv_arrived_s"] = arrived_s(state)[due]
    records["first_token_s"], records["cached_tokens"] = sequences["first_s"][due], sequences["cached"][due]
    first = state.pools["first"]
    for name, column, pool in (("engine", "first_engine", "pool"), ("decode_engine", "engine", "decode_pool")):
        records[name] = sequences[column][due]
        there = records[name] >= 0
        records[name] -= np.where(there, first[records[pool]], 0).astype(np.int32)
    return records


def tool_records(state: State, tasks: Tasks) -> Records:
    """One :data:`heterarch.report.aggregate.TOOL` row per task submitted to a pool of tools, in task order."""
    rows, sequences = tasks.rows, state.sequences
    of_pool = (rows["kind"] == TaskKind.DELAY) & (rows["prefill_pool"] >= 0)
    due = np.flatnonzero(of_pool & np.isfinite(sequences["submitted_s"]))
    records = np.zeros(len(due), TOOL)
    for name in ("request", "session", "op"):
        records[name] = rows[name][due]
    records["pool"] = rows["prefill_pool"][due]
    for name in ("submitted_s", "scheduled_s", "finish_s", "status"):
        records[name] = sequences[name][due]
    return records


def request_records(state: State) -> Records:
    """One :data:`heterarch.report.aggregate.REQUEST` row per request; :func:`bill` adds what hosted APIs cost."""
    requests = state.requests
    records = np.zeros(len(requests), REQUEST)
    records["session"] = -1
    for name in ("release_s", "finish_s", "status", "reason"):
        records[name] = requests[name]
    records["finish_s"][requests["left"] > 0] = np.nan
    return records


def offered(requests: Records, calls: Records, tools: Records) -> tuple[Records, Records, Records]:
    """Without the requests that a stopped run never released; calls and tools refer to the rows that stay."""
    there = np.isfinite(requests["release_s"])
    if there.all():
        return requests, calls, tools
    place = np.cumsum(there) - 1
    calls, tools = calls.copy(), tools.copy()
    for records in (calls, tools):
        records["request"] = place[records["request"]]
    return requests[there], calls, tools


def bill(pools: Sequence[Pool], calls: Records, requests: Records) -> Floats:
    """Add to ``requests`` the USD that hosted APIs bill each, cached prompt tokens at their own price; USD by pool."""
    by_pool = np.zeros(len(pools))
    for row, pool in enumerate(pools):
        if pool.endpoint is None:
            continue
        mine = calls[(calls["pool"] == row) & (calls["status"] == Status.COMPLETED)]
        usd = call_usd(pool.endpoint, mine["prompt_tokens"], mine["cached_tokens"], mine["output_tokens"])
        by_pool[row] = usd.sum()
        np.add.at(requests["usd"], mine["request"], usd)
    return by_pool


def pool_reports(
    pools: Sequence[Pool], state: State, times: Sequence[PoolTime], duration_s: float, endpoint: Floats
) -> list[PoolReport]:
    """What each pool did; ``times`` [P] when its engines were there, ``endpoint`` [P] what hosted tokens cost."""
    return [_pool(pools, row, state, times[row], duration_s, float(endpoint[row])) for row in range(len(pools))]


def _pool(
    pools: Sequence[Pool], row: int, state: State, time: PoolTime, duration_s: float, endpoint_usd: float
) -> PoolReport:
    pool = pools[row]
    engines = state.engines[state.engines["pool"] == row]
    reuse = reuse_of(pools, state, np.flatnonzero(state.engines["pool"] == row))
    totals = {name: int(engines[name].sum()) for name in _TOTALS}
    return PoolReport(
        name=pool.name,
        role=pool.role,
        engines=pool.engines,
        devices=pool.engines * pool.devices_per_engine,
        utilisation=_utilisation(pool, state.pools[row], engines, time, duration_s),
        usd=pool.usd_per_engine_h * time.paid_s / HOUR_S + endpoint_usd,
        prompt_tokens=totals["prompt_tokens"],
        cached_tokens=totals["cached_tokens"],
        output_tokens=totals["output_tokens"],
        iterations=totals["iteration"] + totals["rests"],
        preemptions=totals["preemptions"],
        downtime_s=time.down_s,
        availability=time.availability,
        engines_lost=time.lost,
        restarts=totals["lost_calls"],
        swaps=totals["swaps"],
        tiers=reuse.tiers,
        prefill_amplification=reuse.prefill_amplification,
    )


_TOTALS = (
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "iteration",
    "rests",
    "preemptions",
    "swaps",
    "lost_calls",
)


def _utilisation(pool: Pool, record: Any, engines: Any, time: PoolTime, duration_s: float) -> float:
    if duration_s <= 0 or pool_kind(pool) == PoolKind.ENDPOINT:
        return 0.0
    if pool_kind(pool) == PoolKind.ENGINES:
        return float(engines["busy_s"].sum() / time.up_s) if time.up_s else 0.0
    servers = max(1, pool.engines) * max(1, pool.concurrency)
    return min(1.0, float(record["busy_s"] / (servers * duration_s)))


def overloads(plan: Plan, state: State, tasks: Tasks) -> list[Overload]:
    """The pools whose waiting grows until the last session starts: for an engine, a server or a rate limit to begin; in
    a decode pool, from the KV's arrival to the end of the answer."""
    rows, sequences = tasks.rows, state.sequences
    if not len(state.roots):
        return []
    last_s = float(rows["release_s"][state.roots[-1]] + rows["delay_s"][state.roots[-1]])
    decodes = (rows["kind"] == TaskKind.GENERATE) & (rows["decode_pool"] != rows["prefill_pool"])
    found = []
    for row, pool in enumerate(plan.pools):
        mine, begun, ended = decodes & (rows["decode_pool"] == row), arrived_s(state), sequences["finish_s"]
        if not mine.any():
            mine, begun, ended = rows["prefill_pool"] == row, sequences["submitted_s"], sequences["scheduled_s"]
        seen = _overload(pool.name, begun[mine], ended[mine], last_s)
        if seen is not None:
            found.append(seen)
    return found


def _overload(pool: str, begun_s: Floats, ended_s: Floats, last_s: float) -> Overload | None:
    begun = begun_s <= last_s
    served = begun & np.isfinite(ended_s)
    seen = trend(begun_s[served], (ended_s - begun_s)[served])
    if not seen.grows:
        return None
    last_s = float(begun_s[begun].max())
    queued = int((begun & ~(ended_s <= last_s)).sum())
    return Overload(pool=pool, growth=seen.growth, wait_s=seen.wait_s, queued=queued)


def op_times(plan: Plan, flat: FlatProgram, state: State, tasks: Tasks) -> list[OpTimes]:
    """Measured seconds of every op that ran; an LLM call counts as its phases.

    Prefill: submission to first token, with the queue. Transfer: first token to arrival of the KV. Decode: from there
    to the end, with the queue.
    """
    rows, sequences = tasks.rows, state.sequences
    done = sequences["status"] == Status.COMPLETED
    phases = {ops.decode: ops for ops in call_ops(flat).values()}
    found: dict[int, Floats] = {}
    for op in np.unique(rows["op"][done & (rows["op"] >= 0)]).tolist():
        of_op = done & (rows["op"] == op)
        mine, arrived = sequences[of_op], arrived_s(state)[of_op]
        ready = np.where(np.isfinite(arrived), arrived, mine["first_s"])
        if op not in phases:
            found[op] = mine["finish_s"] - mine["submitted_s"]
            continue
        found[op] = mine["finish_s"] - ready
        if phases[op].prefill >= 0:
            found[phases[op].prefill] = mine["first_s"] - mine["submitted_s"]
        if phases[op].transfer >= 0:
            found[phases[op].transfer] = ready - mine["first_s"]
    predicted = {row.op: row for row in plan.predictions.ops}
    return [_op(plan, flat, op, found[op], predicted) for op in sorted(found)]


def _op(plan: Plan, flat: FlatProgram, op: int, seconds: Floats, predicted: Any) -> OpTimes:
    name = flat.names[op]
    row = predicted.get(name)
    return OpTimes(
        name=name,
        kind=OpKind(flat.kind[op]).name.lower(),
        pool=plan.placement.get(name) or flat.pool_of(op) or "",
        seconds=seconds,
        predicted_s=row.mean_s if row else None,
        source=row.source if row else "",
    )
