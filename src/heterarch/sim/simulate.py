"""Simulate a plan on a workload or a recorded trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from heterarch.errors import InputError, PolicyError, UnknownNameError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan
from heterarch.plan.store import plan_sha256
from heterarch.policy.admission import AdmissionPolicy
from heterarch.policy.admission import admission as builtin_admission
from heterarch.policy.base import Router
from heterarch.policy.router import router as builtin_router
from heterarch.report.aggregate import Records, RunFacts, build_report
from heterarch.report.schema import Report
from heterarch.report.slo import parse_slo
from heterarch.sim import outcome
from heterarch.sim.change import Changes
from heterarch.sim.core import REASONS
from heterarch.sim.drive import drive, waiting
from heterarch.sim.faults import Faults
from heterarch.sim.placement import CallOps, Placement, call_ops, check_ops, main_call
from heterarch.sim.pools import check_placement, draw_endpoint_latency, link_table, pool_table
from heterarch.sim.replay import Replay, replay_tasks
from heterarch.sim.reuse import reuse_of
from heterarch.sim.state import State, new_state, set_admission
from heterarch.sim.stores import stores_of
from heterarch.sim.tasks import Prefixes, Tasks
from heterarch.sim.unroll import unroll
from heterarch.sim.uptime import undisturbed
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
    admission: str | AdmissionPolicy | None = None,
    max_queue: int | None = None,
    cache: Cache = "engine",
    replay: Replay | None = None,
    call: str = "",
    steady: bool = True,
    faults: Faults | None = None,
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
        admission: an admission policy, likewise: ``all``, ``queue-limit:8192``, ``queue-hold:8192`` (tokens to prefill
            per engine), ``deadline:2.5`` (seconds to the first token, by default the SLO's), or an object.
        max_queue: stop, with a partial Report, when more calls and tasks wait than that: such a load never drains.
        cache: each engine's own KV, or ``unbounded``: one that never forgets, takes no memory and serves all
            engines, which bounds the hit rate from above.
        replay: of a trace, ``open`` (at recorded times) or ``closed`` (sessions wait for their answers); by default
            closed for a trace of sessions.
        call: id of the LLM call that a trace is replayed on; by default the one that generates most.
        steady: a workload's sessions have been arriving for ever, so that its load is there from the start;
            otherwise they begin at an empty system.
        faults: what fails and what is changed during the run.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: a plan, program or source that cannot be simulated.
        PolicyError: a policy in Python went wrong; its ``partial`` is the Simulation up to there.
    """
    if cache not in ("engine", "unbounded"):
        raise InputError("unknown cache", observed=cache, expected="engine or unbounded")
    if isinstance(source, Trace):
        way: Replay = replay or ("closed" if source.kind == "sessions" else "open")
        ops = _call(flat, call)
        tasks, tree = replay_tasks(source, Placement(plan, flat).call(ops), way, ops.decode)
    else:
        tasks, tree = unroll(plan, flat, source, requests=requests, seed=seed, steady=steady)
    check_placement(tasks, plan.pools, plan.links)
    check_ops(plan, flat)
    draw_endpoint_latency(plan.pools, tasks, np.random.default_rng([seed, _STREAM]))
    chosen = router if router is not None else plan.policies.get("router", "prefix-affinity")
    name = builtin_router(chosen).name if isinstance(chosen, str) else None
    gate = admission if admission is not None else plan.policies.get("admission", "all")
    changes = None if faults is None else Changes(plan, flat, faults, tasks, seed=seed, until_s=until_s)
    pools = plan.pools if changes is None else changes.reserved
    stores = stores_of(pools, tree.block_tokens)
    records = pool_table(pools, name, tree.block_tokens)
    state = new_state(records, tasks, tree, cache == "unbounded", link_table(records, pools, plan.links), stores)
    set_admission(state, builtin_admission(gate, _ttft_s(plan)) if isinstance(gate, str) else None)
    if changes is not None:
        changes.begin(state)
    limit = math.inf if until_s is None else until_s
    most = math.inf if max_queue is None else max_queue
    python = (None if isinstance(chosen, str) else chosen, None if isinstance(gate, str) else gate)
    try:
        finished = _run(state, tasks, tree, limit, most, python, progress, changes)
    except PolicyError as error:
        error.partial = _result(plan, flat, source, seed, state, tasks, tree, False, changes, most)
        raise
    stopped = not finished and float(state.clock[0]["now_s"]) < limit and waiting(state) <= most
    return replace(_result(plan, flat, source, seed, state, tasks, tree, finished, changes, most), interrupted=stopped)


def _ttft_s(plan: Plan) -> float | None:
    """The strictest TTFT that the plan's SLOs ask for."""
    targets = [slo.target for slo in map(parse_slo, plan.slo) if slo.metric == "ttft"]
    return min(targets, default=None)


def _call(flat: FlatProgram, call: str) -> CallOps:
    if not call:
        return main_call(flat)
    calls = call_ops(flat)
    if call not in calls:
        raise UnknownNameError("LLM call", call, calls)
    return calls[call]


def _run(
    state: State,
    tasks: Tasks,
    tree: Prefixes,
    until_s: float,
    max_queue: float,
    policies: tuple[Router | None, AdmissionPolicy | None],
    progress: bool,
    changes: Changes | None,
) -> bool:
    try:
        with _bar(len(tasks.rows)) if progress else nullcontext(None) as tick:
            return drive(
                state, tasks, tree, until_s, policies[0], tick,
                changes=changes, admission=policies[1], max_queue=max_queue,
            )  # fmt: skip
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
    changes: Changes | None,
    max_queue: float,
) -> Simulation:
    duration = outcome.span_s(state)
    pools_of_all = plan.pools if changes is None else changes.pools
    calls = outcome.call_records(state, tasks)
    by_request, by_pool = outcome.endpoint_usd(pools_of_all, calls, len(state.requests))
    requests = outcome.request_records(state, by_request)
    requests["session"][tasks.rows["request"]] = tasks.rows["session"]
    requests, calls = outcome.offered(requests, calls)
    begin_s = outcome.begin_s(state)
    times = undisturbed(plan.pools, duration) if changes is None else changes.times(begin_s, begin_s + duration)
    pools = outcome.pool_reports(pools_of_all, state, times, duration, by_pool)
    reuse = reuse_of(pools_of_all, state, np.arange(len(state.engines)))
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
        tiers=reuse.tiers,
        prefill_amplification=reuse.prefill_amplification,
        reasons=[text.format(attempts=int(state.clock[0]["most_losses"])) for text in REASONS],
        overloaded=outcome.overloads(plan, state, tasks),
        notes=_notes(plan, source, finished, waiting(state), max_queue),
    )
    report = build_report(facts, calls, requests, pools, outcome.op_times(plan, flat, state, tasks))
    return Simulation(report, calls, requests)


def _notes(plan: Plan, source: Workload | Trace, finished: bool, queued: int, max_queue: float) -> list[str]:
    notes = [] if finished else ["stopped before the end: times are over what had completed"]
    if not finished and queued > max_queue:
        notes.append(
            f"stopped because {queued:,} calls and tasks waited, more than {max_queue:,}: the load does not drain"
        )
    hosted = [pool.endpoint for pool in plan.pools if pool.endpoint]
    if any(pool.endpoint and not pool.kv_ttl_s for pool in plan.pools):
        notes.append("a hosted API without `kv_ttl_s` is assumed to keep every prompt prefix cached")
    if any(endpoint.tpot_p95_s is None for endpoint in hosted):
        notes.append("a hosted API without a stated p95 of its TPOT is assumed to answer at the median")
    if isinstance(source, Trace) and source.notes:
        notes.extend(source.notes)
    return notes
