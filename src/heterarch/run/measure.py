"""From what a live run recorded to the Report, by the definitions that the simulator uses too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heterarch.cost.money.endpoint import call_usd
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.document import Plan, Pool
from heterarch.plan.store import plan_sha256
from heterarch.plan.unloaded import unloaded_s
from heterarch.report.aggregate import CALL, REQUEST, OpTimes, Records, RunFacts, Status, build_report
from heterarch.report.schema import PoolReport, Report
from heterarch.run.calls import CallRecord
from heterarch.run.executor import TaskTime
from heterarch.run.pools import stands_in
from heterarch.run.router import PoolRouter
from heterarch.units import HOUR_S

NAN = float("nan")


@dataclass
class RequestRecord:
    """How one request went; moments by the monotonic clock, NaN where they never came."""

    session: int
    release_s: float = NAN
    finish_s: float = NAN
    done: bool = False
    reason: str = ""


def live_report(
    plan: Plan,
    flat: FlatProgram,
    requests: Sequence[RequestRecord],
    calls: Sequence[CallRecord],
    times: Sequence[TaskTime],
    routers: Mapping[str, PoolRouter],
    *,
    span_s: tuple[float, float],
    partial: bool,
    notes: Sequence[str],
) -> Report:
    """The Report of a live run between two moments; engines are paid for the whole span, stand-ins cost nothing.

    Seconds of ops are cut where the simulator cuts them: prefill from submission to first token, transfer until the KV
    has arrived, decode from there to the end.
    """
    start_s, end_s = span_s
    duration_s = max(end_s - start_s, 0.0)
    reasons = sorted({request.reason for request in requests if request.reason})
    pools = [_pool(pool, calls, routers.get(pool.name), duration_s) for pool in plan.pools]
    facts = RunFacts(
        kind="live",
        agent=plan.agent.name,
        workload=plan.workload,
        plan_sha256=plan_sha256(plan),
        seed=plan.provenance.seed,
        duration_s=duration_s,
        usd=sum(pool.usd for pool in pools),
        slo=plan.slo,
        partial=partial,
        kv_transfer_bytes=sum(call.kv_bytes for call in calls),
        block_tokens=1,
        blocks=sum(call.prompt_tokens for call in calls),
        hit_blocks=sum(call.cached_tokens for call in calls),
        reasons=reasons,
        notes=notes,
    )
    return build_report(
        facts,
        _calls(plan, calls, start_s),
        _requests(plan, requests, calls, reasons, start_s),
        pools,
        _ops(plan, flat, times, calls),
    )


def _calls(plan: Plan, calls: Sequence[CallRecord], start_s: float) -> Records:
    rows = {pool.name: number for number, pool in enumerate(plan.pools)}
    table = np.zeros(len(calls), CALL)
    for row, call in zip(table, calls, strict=True):
        row["request"], row["session"], row["op"] = call.request, call.session, call.op
        row["pool"], row["engine"] = rows.get(call.pool, -1), call.engine
        row["decode_pool"], row["decode_engine"] = rows.get(call.decode_pool, -1), call.decode_engine
        row["submitted_s"], row["scheduled_s"] = call.submitted_s - start_s, call.scheduled_s - start_s
        row["first_token_s"], row["finish_s"] = call.first_token_s - start_s, call.finish_s - start_s
        row["prompt_tokens"], row["cached_tokens"] = call.prompt_tokens, call.cached_tokens
        row["output_tokens"] = call.output_tokens
        row["status"] = _status(call.done, call.failed)
    table["kv_arrived_s"] = np.nan
    return table


def _requests(
    plan: Plan, requests: Sequence[RequestRecord], calls: Sequence[CallRecord], reasons: Sequence[str], start_s: float
) -> Records:
    table = np.zeros(len(requests), REQUEST)
    for row, request in zip(table, requests, strict=True):
        row["session"] = request.session
        row["release_s"], row["finish_s"] = request.release_s - start_s, request.finish_s - start_s
        row["status"] = _status(request.done, bool(request.reason))
        row["reason"] = reasons.index(request.reason) if request.reason else -1
    hosted = {pool.name: pool for pool in plan.pools if pool.endpoint is not None and pool.local is None}
    for call in calls:
        if call.decode_pool in hosted:
            table[call.request]["usd"] += _billed_usd(hosted[call.decode_pool], call)
    return table


def _status(done: bool, failed: bool) -> Status:
    return Status.COMPLETED if done else Status.FAILED if failed else Status.UNFINISHED


def _pool(pool: Pool, calls: Sequence[CallRecord], router: PoolRouter | None, duration_s: float) -> PoolReport:
    prefilled = [call for call in calls if call.pool == pool.name]
    decoded = [call for call in calls if call.decode_pool == pool.name]
    engines = len(router.engines) if router is not None else pool.engines
    busy_s = router.busy_s() if router is not None else 0.0
    free = router is not None and stands_in(pool)
    usd = 0.0 if free else pool.engines * pool.usd_per_engine_h * duration_s / HOUR_S
    if pool.endpoint is not None and pool.local is None:
        usd += sum(_billed_usd(pool, call) for call in decoded)
    return PoolReport(
        name=pool.name,
        role=pool.role,
        engines=engines,
        devices=0 if free else pool.engines * pool.devices_per_engine,
        utilisation=min(busy_s / (engines * duration_s), 1.0) if engines and duration_s else 0.0,
        usd=usd,
        prompt_tokens=sum(call.prompt_tokens for call in prefilled),
        cached_tokens=sum(call.cached_tokens for call in prefilled),
        output_tokens=sum(call.output_tokens for call in decoded),
        iterations=0,
        preemptions=0,
    )


def _billed_usd(pool: Pool, call: CallRecord) -> float:
    """What a hosted API bills for a call; it may report more cached tokens than the prompt had."""
    if pool.endpoint is None:
        return 0.0
    cached = min(call.cached_tokens, call.prompt_tokens)
    return float(call_usd(pool.endpoint, call.prompt_tokens, cached, call.output_tokens))


def _asked_again(plan: Plan, flat: FlatProgram, calls: Sequence[CallRecord]) -> dict[str, float]:
    """Op name -> mean seconds that the plan's coefficients predict for the tokens that its calls really had."""
    pools = {pool.name: pool for pool in plan.pools}
    by_call: dict[str, list[CallRecord]] = {}
    for call in calls:
        if call.done:
            by_call.setdefault(str(flat.attrs[call.op]["call"]), []).append(call)
    found: dict[str, float] = {}
    for op in range(len(flat)):
        rows, pool = by_call.get(str(flat.attrs[op].get("call")), []), pools.get(flat.pool_of(op) or "")
        if rows and pool is not None:
            kind = OpKind(int(flat.kind[op])).name.lower()
            each = [unloaded_s(kind, pool, r.prompt_tokens, r.cached_tokens, r.output_tokens) for r in rows]
            seconds = [s for s in each if s is not None]
            if seconds:
                found[flat.names[op]] = sum(seconds) / len(seconds)
    return found


def _ops(plan: Plan, flat: FlatProgram, times: Sequence[TaskTime], calls: Sequence[CallRecord]) -> list[OpTimes]:
    """Measured seconds by op beside the prediction: of an LLM op for the tokens it had, of others the plan's."""
    predicted = {row.op: row for row in plan.predictions.ops}
    again = _asked_again(plan, flat, calls)
    seconds: dict[int, list[float]] = {}
    for time in times:
        seconds.setdefault(time.op, []).append(time.seconds)
    rows = []
    for op in sorted(seconds):
        name = flat.names[op]
        row = predicted.get(name)
        rows.append(
            OpTimes(
                name=name,
                kind=OpKind(int(flat.kind[op])).name.lower(),
                pool=flat.pool_of(op) or "",
                seconds=np.array(seconds[op]),
                predicted_s=again.get(name, row.mean_s if row else None),
                source=row.source if row else "",
            )
        )
    return rows
