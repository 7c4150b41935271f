"""Simulate a plan on a workload or a recorded trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from heterarch.errors import InputError, PolicyError, UnknownNameError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan, Pool
from heterarch.plan.store import plan_sha256
from heterarch.policy.admission import AdmissionPolicy
from heterarch.policy.admission import admission as builtin_admission
from heterarch.policy.base import Router
from heterarch.policy.router import router as builtin_router
from heterarch.report.aggregate import Records, RunFacts, build_report
from heterarch.report.records import Labels
from heterarch.report.schema import Report
from heterarch.report.series import series_of
from heterarch.report.slo import parse_slo
from heterarch.sim import outcome
from heterarch.sim.change import Changes
from heterarch.sim.core import REASONS
from heterarch.sim.drive import driver, too_many_wait, waiting
from heterarch.sim.faults import Faults
from heterarch.sim.placement import CallOps, Placement, call_ops, check_ops, main_call
from heterarch.sim.pools import check_placement, draw_endpoint_latency, link_table, pool_table
from heterarch.sim.replay import Replay, replay_tasks
from heterarch.sim.reuse import reuse_of
from heterarch.sim.series import Sampled, Sampler, drive_sampled, sampled
from heterarch.sim.state import State, new_state, set_admission, settled
from heterarch.sim.stores import stores_of
from heterarch.sim.tasks import Prefixes, Tasks
from heterarch.sim.unroll import unroll
from heterarch.sim.uptime import PoolTime, undisturbed
from heterarch.units import format_duration
from heterarch.workload.profile import Workload
from heterarch.workload.trace import Trace

Cache = Literal["engine", "unbounded"]
Tick = Callable[[State], None]
DEFAULT_REQUESTS = 1000
_STREAM = 2  # of the seed, for the latency of hosted APIs


@dataclass(frozen=True)
class Simulation:
    """A Report with the records that it sums up (:data:`heterarch.report.aggregate.CALL`, ``TOOL``, ``REQUEST``).

    ``labels``: names of the pools, ops and reasons that the records number. ``sampled``: the run over time, if it was
    sampled. ``interrupted``: Ctrl-C ended it; the Report is over what had happened then.
    """

    report: Report
    calls: Records
    requests: Records
    tools: Records
    labels: Labels
    sampled: Sampled | None = None
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
    sample: bool | float = False,
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
        sample: note queues, memory and money over time, at 200 to 400 moments, or every so many seconds.
        request_s: nominal seconds of one request, which place the sessions that are under way at the start; by
            default what the plan predicts. The same number for several plans gives them the same sessions.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: a plan, program or source that cannot be simulated.
        PolicyError: a policy in Python went wrong; its ``partial`` is the Simulation up to there.
    """
    if cache not in ("engine", "unbounded"):
        raise InputError("unknown cache", observed=cache, expected="engine or unbounded")
    if seed < 0:
        raise InputError("a seed is a whole number from 0 on", observed=seed)
    for option, value in (("until_s", until_s), ("sample", sample or None), ("request_s", request_s)):
        if value is not None and not value >= 0:
            raise InputError(f"{option} is no number of seconds", observed=value, expected="0 or more")
    if isinstance(source, Trace):
        way: Replay = replay or ("closed" if source.kind == "sessions" else "open")
        ops = _call(flat, call)
        tasks, tree = replay_tasks(source, Placement(plan, flat).call(ops), way, ops.decode)
    else:
        tasks, tree = unroll(plan, flat, source, requests=requests, seed=seed, steady=steady, request_s=request_s)
    check_placement(tasks, plan.pools, plan.links)
    check_ops(plan, flat)
    draw_endpoint_latency(plan.pools, tasks, np.random.default_rng([seed, _STREAM]))
    chosen = router if router is not None else plan.policies.get("router", "prefix-affinity")
    builtin = builtin_router(chosen).name if isinstance(chosen, str) else None
    gate = admission if admission is not None else plan.policies.get("admission", "all")
    changes = None if faults is None else Changes(plan, flat, faults, tasks, seed=seed, until_s=until_s)
    pools = plan.pools if changes is None else changes.reserved
    stores = stores_of(pools, tree.block_tokens)
    records = pool_table(pools, builtin, tree.block_tokens)
    links = link_table(records, pools, plan.links)
    state = new_state(records, tasks, tree, cache == "unbounded", links, stores, changes is None)
    set_admission(state, builtin_admission(gate, _ttft_s(plan)) if isinstance(gate, str) else None)
    if changes is not None:
        changes.begin(state)
    world = _World(
        plan=plan,
        flat=flat,
        source=source,
        seed=seed,
        state=state,
        tasks=tasks,
        tree=tree,
        until_s=math.inf if until_s is None else until_s,
        max_queue=math.inf if max_queue is None else max_queue,
        router=None if isinstance(chosen, str) else chosen,
        admission=None if isinstance(gate, str) else gate,
        changes=changes,
        sampler=Sampler(state, tasks, None if sample is True else sample) if sample else None,
    )
    del state  # the world gives parts of it back
    try:
        finished = world.run(progress)
    except PolicyError as error:
        error.partial = world.result(False)
        raise
    return world.result(finished)


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


@dataclass
class _World:
    """A run: what it was made of, and the state that the core changes."""

    plan: Plan
    flat: FlatProgram
    source: Workload | Trace
    seed: int
    state: State
    tasks: Tasks
    tree: Prefixes
    until_s: float
    max_queue: float
    router: Router | None
    admission: AdmissionPolicy | None
    changes: Changes | None
    sampler: Sampler | None

    def run(self, progress: bool) -> bool:
        """Run to the end; False when something stopped it before."""
        try:
            with _bar(len(self.tasks.rows)) if progress else nullcontext(None) as tick:
                to = self._driver(tick)
                if self.sampler is None:
                    return to(self.until_s)
                drowned = partial(too_many_wait, max_queue=self.max_queue)
                return drive_sampled(self.state, self.sampler, self.until_s, to, drowned, tick)
        except KeyboardInterrupt:
            return False

    def _driver(self, tick: Tick | None) -> Callable[[float], bool]:
        return driver(
            self.state,
            self.tasks,
            self.tree,
            self.router,
            tick,
            changes=self.changes,
            admission=self.admission,
            max_queue=self.max_queue,
        )

    @property
    def pools(self) -> Sequence[Pool]:
        """The pools of all plans of the run."""
        return self.plan.pools if self.changes is None else self.changes.pools

    def times(self, until_s: float) -> list[PoolTime]:
        """Engine-seconds of every pool from the first release on."""
        begin_s = outcome.begin_s(self.state)
        if self.changes is None:
            return undisturbed(self.pools, until_s - begin_s)
        return self.changes.times(begin_s, until_s)

    def result(self, finished: bool) -> Simulation:
        """What has happened."""
        queued = waiting(self.state)
        self.state = settled(self.state)
        state, tasks = self.state, self.tasks
        duration = outcome.span_s(state)
        calls = outcome.call_records(state, tasks)
        requests = outcome.request_records(state)
        by_pool = outcome.bill(self.pools, calls, requests)
        requests["session"][tasks.rows["request"]] = tasks.rows["session"]
        times = self.times(outcome.begin_s(state) + duration)
        over_time = self._over_time(calls)
        requests, calls, tools = outcome.offered(requests, calls, outcome.tool_records(state, tasks))
        reasons = [text.format(attempts=int(state.clock[0]["most_losses"])) for text in REASONS]
        labels = Labels([pool.name for pool in self.pools], self.flat.names, reasons)
        pools = outcome.pool_reports(self.pools, state, times, duration, by_pool)
        reuse = reuse_of(self.pools, state, np.arange(len(state.engines)))
        facts = RunFacts(
            kind="simulated",
            agent=self.plan.agent.name,
            workload=self.source.name,
            plan_sha256=plan_sha256(self.plan),
            seed=self.seed,
            duration_s=duration,
            usd=sum(pool.usd for pool in pools),
            slo=self.plan.slo,
            partial=not finished,
            kv_transfer_bytes=outcome.sent_bytes(state),
            block_tokens=self.tree.block_tokens,
            blocks=int(state.clock[0]["asked_blocks"]),
            hit_blocks=int(state.clock[0]["hit_blocks"]),
            tiers=reuse.tiers,
            prefill_amplification=reuse.prefill_amplification,
            reasons=reasons,
            overloaded=outcome.overloads(self.plan, state, tasks),
            notes=self._notes(finished, queued),
            series=None if over_time is None else series_of(over_time.few, labels.pools),
        )
        report = build_report(facts, calls, requests, pools, outcome.op_times(self.plan, self.flat, state, tasks))
        return Simulation(report, calls, requests, tools, labels, over_time, self._interrupted(finished, queued))

    def _over_time(self, calls: Records) -> Sampled | None:
        if self.sampler is None:
            return None
        return sampled(self.pools, self.state, self.tasks, calls, self.sampler, self.times)

    def _interrupted(self, finished: bool, queued: int) -> bool:
        early = float(self.state.clock[0]["now_s"]) < self.until_s
        return not finished and early and queued <= self.max_queue

    def _notes(self, finished: bool, queued: int) -> list[str]:
        most = self.max_queue
        notes = [] if finished else ["stopped before the end: times are over what had completed"]
        if not finished and queued > most:
            notes.append(
                f"stopped because {queued:,} calls and tasks waited, more than {most:,}: the load does not drain"
            )
        hosted = [pool.endpoint for pool in self.plan.pools if pool.endpoint]
        if any(pool.endpoint and not pool.kv_ttl_s for pool in self.plan.pools):
            notes.append("a hosted API without `kv_ttl_s` is assumed to keep every prompt prefix cached")
        if any(endpoint.tpot_p95_s is None for endpoint in hosted):
            notes.append("a hosted API without a stated p95 of its TPOT is assumed to answer at the median")
        if isinstance(self.source, Trace) and self.source.notes:
            notes.extend(self.source.notes)
        return notes


@contextmanager
def _bar(total: int) -> Iterator[Callable[[State], None]]:
    from rich.console import Console  # only when asked for
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(compact=True), TextColumn("{task.fields[at]}"))
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("simulating", total=total, at="")

        def tick(state: State) -> None:
            clock = state.clock[0]
            at = f"at {format_duration(float(clock['now_s']))} of simulated time"
            progress.update(task, completed=total - int(clock["open_tasks"]), at=at)

        yield tick
