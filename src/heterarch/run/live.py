"""Run a plan for real: start its engines, run requests through the executor, measure, stop the engines, report."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from heterarch.errors import HeterarchError, InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.document import LocalPart, Plan
from heterarch.policy.base import Router
from heterarch.policy.router import router as builtin_router
from heterarch.report.schema import Report
from heterarch.run.callables import bind
from heterarch.run.calls import ModelCalls, OnToken
from heterarch.run.engines.base import Engine
from heterarch.run.executor import Executor, Request
from heterarch.run.measure import RequestRecord, live_report
from heterarch.run.pools import close_all, stands_in, start_pools
from heterarch.run.program import Node
from heterarch.run.router import PoolRouter

#: ops whose pools are engines; lookups and transfers go with them, the others run in this process
_ENGINE_KINDS = frozenset({OpKind.PREFILL, OpKind.DECODE})
Inputs = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class LiveRun:
    """What a live run gave: the report, and per request its outputs, or the error that ended it."""

    report: Report
    outputs: tuple[list[Any] | None, ...]
    errors: tuple[HeterarchError | None, ...]


@dataclass(frozen=True)
class RunOptions:
    """How to run.

    ``concurrency``: most requests at once. ``release_s``: when each request is released, seconds from the start;
    without it the next one starts when one ends. ``sessions``: a key per request; requests of one session share
    memory and run in order. ``deadline_s``: most seconds of one request. ``max_tokens``: cap on every answer;
    ``max_trips``: on every loop.
    ``timeout_s``: most seconds an engine may be silent. ``functions``: callables by symbol, in place of the plan's
    references. ``engines``: engines by pool, in place of those the plan says how to start. ``stand_in``: runs every
    LLM pool that cannot run here, ``stand_in_engines`` each. ``input_names``: names of the inputs in order, to
    check mappings against. ``strict``: refuse callables whose source changed. ``on_token`` receives (name of the
    decode op, number of the call, text) as answers arrive.
    """

    concurrency: int = 1
    release_s: Sequence[float] | None = None
    sessions: Sequence[Hashable] | None = None
    deadline_s: float | None = None
    max_tokens: int | None = None
    max_trips: int | None = None
    timeout_s: float = 120.0
    functions: Mapping[str, Callable[..., Any]] | None = None
    engines: Mapping[str, Sequence[Engine]] | None = None
    stand_in: LocalPart | None = None
    stand_in_engines: int = 1
    input_names: Sequence[str] = ()
    router: Router | None = None
    strict: bool = False
    on_token: OnToken | None = None


def run(plan: Plan, flat: FlatProgram, inputs: Sequence[Inputs], options: RunOptions | None = None) -> LiveRun:
    """Like :func:`run_plan`, outside an event loop; Ctrl-C ends the run and keeps the partial report."""
    return asyncio.run(_until_interrupted(plan, flat, inputs, options or RunOptions()))


async def run_plan(
    plan: Plan,
    flat: FlatProgram,
    inputs: Sequence[Inputs],
    options: RunOptions | None = None,
    *,
    stop: asyncio.Event | None = None,
) -> LiveRun:
    """Run every request of ``inputs`` through ``flat`` (the plan's placed module) on the plan's pools.

    A request that fails does not stop the others: its error is in the result and counted in the report. Setting
    ``stop`` ends the run, and the report says that it is partial; cancelling ends it without one. Either way no
    engine process is left.

    Args:
        plan: pools, policies, predictions; engines come from each pool's ``local`` or ``endpoint``.
        flat: the executable form of the plan's module; ``pool`` of its ops names pools of the plan.
        inputs: one mapping or sequence per request; values in the order of the entry graph's inputs.
        options: see :class:`RunOptions`.
        stop: ends the run early.

    Raises:
        InputError: inputs, callables or pools that do not fit the program; StalePlanError with ``strict``.
        EngineError: an engine cannot be started.
    """
    live = _Live(plan, flat, inputs, options or RunOptions())
    with tempfile.TemporaryDirectory(prefix="heterarch-", ignore_cleanup_errors=True) as folder:
        work = asyncio.create_task(live.work(Path(folder)))
        waiting = asyncio.create_task((stop or asyncio.Event()).wait())
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            interrupted = not work.done()
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            await live.close()
    return live.result(partial=interrupted)


async def _until_interrupted(plan: Plan, flat: FlatProgram, inputs: Sequence[Inputs], options: RunOptions) -> LiveRun:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def interrupt() -> None:
        for each in handled:
            loop.remove_signal_handler(each)  # a second signal has its usual effect
        stop.set()

    for each in handled:
        loop.add_signal_handler(each, interrupt)
    try:
        return await run_plan(plan, flat, inputs, options, stop=stop)
    finally:
        for each in handled:
            loop.remove_signal_handler(each)


@dataclass
class _Live:
    plan: Plan
    flat: FlatProgram
    inputs: Sequence[Inputs]
    options: RunOptions
    engines: dict[str, Sequence[Engine]] = field(default_factory=dict)
    started: dict[str, list[Engine]] = field(default_factory=dict)
    routers: dict[str, PoolRouter] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.options
        for values in (options.sessions, options.release_s):
            if values is not None and len(values) != len(self.inputs):
                raise InputError(
                    "one session and one release per request", observed=len(values), expected=len(self.inputs)
                )
        self.values = [_values(each, options.input_names) for each in self.inputs]
        self.bindings = bind(self.flat, self.plan.agent.callables, options.functions, strict=options.strict)
        self.notes += self.bindings.notes
        rooms = {pool.name: pool.engines * pool.concurrency for pool in self.plan.pools if pool.role == "tool"}
        self.executor = Executor(self.flat, self.bindings, concurrency=rooms, max_trips=self.options.max_trips)
        keys = options.sessions if options.sessions is not None else range(len(self.inputs))
        rows: dict[Hashable, int] = {}
        self.records = [RequestRecord(rows.setdefault(key, len(rows))) for key in keys]
        self.outputs: list[list[Any] | None] = [None] * len(self.inputs)
        self.errors: list[HeterarchError | None] = [None] * len(self.inputs)
        self.requests: list[Request] = []
        self.models: ModelCalls | None = None
        self.start_s = self.end_s = perf_counter()

    # ------------------------------------------------------------ life

    async def work(self, folder: Path) -> None:
        """Start the engines, then run every session."""
        await self.start(folder)
        self.start_s = perf_counter()
        room = asyncio.Semaphore(max(1, self.options.concurrency))
        sessions: dict[int, list[int]] = {}
        for row, record in enumerate(self.records):
            sessions.setdefault(record.session, []).append(row)
        try:
            async with asyncio.TaskGroup() as group:
                for rows in sessions.values():
                    group.create_task(self.session(rows, room))
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None
        finally:
            self.end_s = perf_counter()

    async def start(self, folder: Path) -> None:
        """Start the engines that LLM ops and embeddings are placed on, and the routers in front of them."""
        nodes = [node for region in self.executor.program.regions for node in region.nodes]
        names = self.engine_pools(nodes)
        given = {name: list(engines) for name, engines in (self.options.engines or {}).items()}
        missing = [name for name in names if name not in given]
        options = self.options
        self.started = await start_pools(
            self.plan, missing, folder, stand_in=options.stand_in, stand_in_engines=options.stand_in_engines
        )
        self.engines = {**given, **self.started}
        policy = options.router or builtin_router(self.plan.policies.get("router", "prefix-affinity"))
        self.routers = {name: PoolRouter(name, self.engines[name], policy) for name in names}
        self.models = ModelCalls(
            self.flat, nodes, self.routers, folder, options.on_token, options.max_tokens, options.timeout_s
        )
        self.executor.models = self.models
        if replaced := [name for name in missing if stands_in(self.plan.pool(name))]:
            self.notes.append(
                f"stand-in engines ran pools {', '.join(replaced)}: their times are not those of the plan's devices"
            )

    async def close(self) -> None:
        """Stop the engines that this run started."""
        self.bindings.threads.close()
        await close_all(self.started)

    def engine_pools(self, nodes: Sequence[Node]) -> list[str]:
        """Pools whose work is done by engines."""
        roles = {pool.name: pool.role for pool in self.plan.pools}
        names = {node.pool for node in nodes if node.pool and node.kind in _ENGINE_KINDS}
        names |= {
            node.pool
            for node in nodes
            if node.pool
            and node.kind is OpKind.EMBED
            and not node.attrs.get("callee")
            and roles.get(node.pool) == "embed"
        }
        for name in names:
            if name not in roles:
                raise UnknownNameError("pool", str(name), roles)
        return sorted(str(name) for name in names)

    # ------------------------------------------------------------ requests

    async def session(self, rows: Sequence[int], room: asyncio.Semaphore) -> None:
        """Run the requests of one session in order; they share its memory."""
        memory: dict[str, Any] = {}
        for row in rows:
            record = self.records[row]
            if self.options.release_s is not None:
                await asyncio.sleep(self.start_s + self.options.release_s[row] - perf_counter())
                record.release_s = perf_counter()
            async with room:
                if self.options.release_s is None:
                    record.release_s = perf_counter()
                await self.request(row, memory)

    async def request(self, row: int, memory: dict[str, Any]) -> None:
        """Run one request; a failure is recorded, not raised."""
        record = self.records[row]
        request = Request(memory=memory, row=row, session=record.session)
        self.requests.append(request)
        deadline_s = self.options.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                self.outputs[row] = await self.executor.run(self.values[row], request)
            record.done = True
        except TimeoutError:
            self.errors[row] = HeterarchError("the deadline passed", expected=f"{deadline_s} s per request")
        except HeterarchError as error:
            self.errors[row] = error
        record.finish_s = perf_counter()
        if (failed := self.errors[row]) is not None:
            record.reason = f"{type(failed).__name__}: {failed.what}"

    def result(self, *, partial: bool) -> LiveRun:
        """The report of what happened, and the outputs."""
        calls = self.models.records if self.models else []
        notes = [*self.notes, *(self.models.notes if self.models else [])]
        notes += [f"{text} ({count} times)" for text, count in self.executor.notes.items()]
        report = live_report(
            self.plan,
            self.flat,
            self.records,
            calls,
            [time for request in self.requests for time in request.times],
            self.routers,
            span_s=(self.start_s, self.end_s),
            partial=partial,
            notes=notes,
        )
        return LiveRun(report, tuple(self.outputs), tuple(self.errors))


def _values(given: Inputs, names: Sequence[str]) -> list[Any]:
    """The values of one request in the order of the graph's inputs."""
    if not isinstance(given, Mapping):
        return list(given)
    if not names:
        return list(given.values())
    for name in given:
        if name not in names:
            raise UnknownNameError("input", str(name), names)
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError("an input is missing", observed=", ".join(given) or "none", expected=", ".join(names))
    return [given[name] for name in names]
