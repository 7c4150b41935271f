"""Simulate a plan on a workload or a recorded trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan
from heterarch.plan.store import plan_sha256
from heterarch.policy.base import Router
from heterarch.policy.router import router as builtin_router
from heterarch.report.aggregate import Records, RunFacts, build_report
from heterarch.report.schema import Report
from heterarch.sim import outcome
from heterarch.sim.core import REASONS
from heterarch.sim.drive import drive
from heterarch.sim.placement import CallOps, Placement, call_ops, main_call
from heterarch.sim.pools import check_placement, pool_table
from heterarch.sim.replay import Replay, replay_tasks
from heterarch.sim.state import State, new_state
from heterarch.sim.tasks import Prefixes, TaskKind, Tasks
from heterarch.sim.unroll import unroll
from heterarch.workload.distribution import lognormal
from heterarch.workload.profile import Workload
from heterarch.workload.trace import Trace

Cache = Literal["engine", "unbounded"]
DEFAULT_REQUESTS = 1000
_STREAM = 2  # of the seed, for the latency of hosted APIs


@dataclass(frozen=True)
class Simulation:
    """A Report with the records that it sums up (:data:`heterarch.report.aggregate.CALL`, ``REQUEST``).

    ``interrupted``: Ctrl-C ended it; the Report is over what had happened then.
    """

    report: Report
    calls: Records
    requests: Records
    interrupted: bool = False


def simulate(plan: Plan, flat: FlatProgram, source: Workload | Trace, **options: Any) -> Report:
    """The Report of :func:`run_simulation`, which has the options."""
    return run_simulation(plan, flat, source, **options).report


def evaluator(flat: FlatProgram, **options: Any) -> Callable[[Plan, Workload, int], Report]:
    """What a planner calls to check a plan: ``(plan, workload, seed) -> Report``; options of ``run_simulation``.

    Ctrl-C ends the caller too, as KeyboardInterrupt: a plan is not judged by half a simulation.
    """

    def evaluate(plan: Plan, workload: Workload, seed: int) -> Report:
        done = run_simulation(plan, flat, workload, seed=seed, **options)
        if done.interrupted:
            raise KeyboardInterrupt
        return done.report

    return evaluate


def run_simulation(
    plan: Plan,
    flat: FlatProgram,
    source: Workload | Trace,
    *,
    seed: int = 0,
    requests: int = DEFAULT_REQUESTS,
    until_s: float | None = None,
    router: str | Router | None = None,
    cache: Cache = "engine",
    replay: Replay | None = None,
    call: str = "",
    steady: bool = True,
    request_s: float | None = None,
    progress: bool = False,
) -> Simulation:
    """Run ``plan`` in the simulator. The same arguments give the same bytes.

    Args:
        plan: pools, placement, router.
        flat: the lowered program that the plan places.
        source: a workload (the program is unrolled) or a trace (its calls are replayed).
        seed: of every draw.
        requests: how many requests of a workload; a trace runs whole.
        until_s: stop at this simulated time; what is not done then is unfinished and the Report partial.
        router: a built-in by name, which runs compiled, or an object with ``decide``, which runs as it is; by
            default the plan's.
        cache: each engine's own KV, or ``unbounded``: one that never forgets, takes no memory and serves all
            engines, which bounds the hit rate from above.
        replay: of a trace, ``open`` (at recorded times) or ``closed`` (sessions wait for their answers); by default
            closed for a trace of sessions.
        call: id of the LLM call that a trace is replayed on; by default the one that generates most.
        steady: a workload's sessions have been arriving for ever, so that its load is there from the start;
            otherwise they begin at an empty system.
        request_s: nominal seconds of one request, which place the sessions that are under way at the start; by
            default what the plan predicts. The same number for several plans gives them the same sessions.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: a plan, program or source that cannot be simulated.
    """
    if cache not in ("engine", "unbounded"):
        raise InputError("unknown cache", observed=cache, expected="engine or unbounded")
    if isinstance(source, Trace):
        way: Replay = replay or ("closed" if source.kind == "sessions" else "open")
        ops = _call(flat, call)
        tasks, tree = replay_tasks(source, Placement(plan, flat).call(ops), way, ops.decode)
    else:
        tasks, tree = unroll(plan, flat, source, requests=requests, seed=seed, steady=steady, request_s=request_s)
    check_placement(tasks, plan.pools)
    tasks = _with_endpoint_latency(plan, tasks, seed)
    chosen = router if router is not None else plan.policies.get("router", "prefix-affinity")
    name = builtin_router(chosen).name if isinstance(chosen, str) else None
    state = new_state(pool_table(plan.pools, name, tree.block_tokens), tasks, tree, cache == "unbounded")
    finished = _run(state, tasks, tree, until_s, None if isinstance(chosen, str) else chosen, progress)
    stopped = not finished and (until_s is None or float(state.clock[0]["now_s"]) < until_s)
    return replace(_result(plan, flat, source, seed, state, tasks, tree, finished), interrupted=stopped)


def _call(flat: FlatProgram, call: str) -> CallOps:
    if not call:
        return main_call(flat)
    calls = call_ops(flat)
    if call not in calls:
        raise UnknownNameError("LLM call", call, calls)
    return calls[call]


def _with_endpoint_latency(plan: Plan, tasks: Tasks, seed: int) -> Tasks:
    """Draw TTFT of calls on hosted APIs (log-normal through p50 and p95); TPOT is the median."""
    rows = tasks.rows
    draws = np.random.default_rng([seed, _STREAM]).random(len(rows))  # one per task, whichever pools the plan has
    for row, pool in enumerate(plan.pools):
        if pool.endpoint is None:
            continue
        mine = np.flatnonzero((rows["kind"] == TaskKind.GENERATE) & (rows["prefill_pool"] == row))
        p50 = max(pool.endpoint.ttft_p50_s, 1e-9)
        law = lognormal(p50=p50, p95=max(pool.endpoint.ttft_p95_s, p50))
        rows["ttft_s"][mine] = np.interp(draws[mine], law.probabilities, law.values)
        rows["tpot_s"][mine] = pool.endpoint.tpot_p50_s
    return tasks


def _run(
    state: State, tasks: Tasks, tree: Prefixes, until_s: float | None, router: Router | None, progress: bool
) -> bool:
    limit = math.inf if until_s is None else until_s
    try:
        with _bar(len(tasks.rows)) if progress else nullcontext(None) as tick:
            return drive(state, tasks, tree, limit, router, tick)
    except KeyboardInterrupt:  # outside of the driver, which has its own
        return False


@contextmanager
def _bar(total: int) -> Iterator[Callable[[State], None]]:
    from rich.console import Console  # only when asked for
    from rich.progress import Progress

    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("simulating", total=total)
        yield lambda state: progress.update(task, completed=total - int(state.clock[0]["open_tasks"]))


def _result(
    plan: Plan,
    flat: FlatProgram,
    source: Workload | Trace,
    seed: int,
    state: State,
    tasks: Tasks,
    tree: Prefixes,
    finished: bool,
) -> Simulation:
    duration = outcome.span_s(state)
    calls = outcome.call_records(state, tasks)
    by_request, by_pool = outcome.endpoint_usd(plan, calls, len(state.requests))
    requests = outcome.request_records(state, by_request)
    requests["session"][tasks.rows["request"]] = tasks.rows["session"]
    requests, calls = outcome.offered(requests, calls)
    pools = outcome.pool_reports(plan, state, duration, by_pool)
    sent = state.engines["transfer_tokens"] * state.pools["kv_bytes"][state.engines["pool"]]
    facts = RunFacts(
        kind="simulated",
        agent=plan.agent.name,
        workload=source.name,
        plan_sha256=plan_sha256(plan),
        seed=seed,
        duration_s=duration,
        usd=sum(pool.usd for pool in pools),
        slo=plan.slo,
        partial=not finished,
        kv_transfer_bytes=int(sent.sum()),
        block_tokens=tree.block_tokens,
        blocks=int(state.clock[0]["asked_blocks"]),
        hit_blocks=int(state.clock[0]["hit_blocks"]),
        reasons=REASONS,
        notes=_notes(plan, source, finished),
    )
    report = build_report(facts, calls, requests, pools, outcome.op_times(plan, flat, state, tasks))
    return Simulation(report, calls, requests)


def _notes(plan: Plan, source: Workload | Trace, finished: bool) -> list[str]:
    notes = [] if finished else ["stopped before the end: times are over what had completed"]
    if any(pool.endpoint for pool in plan.pools):
        notes.append("a hosted API is assumed to keep every prompt prefix cached, and to answer at its median TPOT")
    if isinstance(source, Trace) and source.notes:
        notes.extend(source.notes)
    return notes
