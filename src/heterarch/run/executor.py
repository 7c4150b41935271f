"""The dataflow executor: an op starts the moment its own inputs are there; nothing waits for a super-step.

One asyncio task follows a chain of ops; where an op makes several others ready, all but one get tasks of their own.
Tasks of a region live in a task group, so a failure, a deadline or a cancel ends everything below it and nothing
outlives its request. Values that stream are handed over when they are whole.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from heterarch.errors import HeterarchError, InputError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.run.callables import Bindings
from heterarch.run.engines.base import Message
from heterarch.run.program import Node, Program, Region, prepare
from heterarch.run.values import Chat, render, text_of

Values = Sequence[Any]
_MAX_DEPTH = 64
_MAX_TRIPS = 1000
_OTHERWISE = ("otherwise", "default", "else")


class TaskTime(NamedTuple):
    """One task: row of its op, start (monotonic clock) and length, seconds."""

    op: int
    start_s: float
    seconds: float


class Models(Protocol):
    """Runs the phases of LLM calls and embeddings; see :class:`heterarch.run.calls.ModelCalls`."""

    async def run(self, node: Node, inputs: Values, request: Request) -> tuple[Any, ...]:
        """The results of a phase."""
        ...

    def embeds(self, pool: str | None) -> bool:
        """Whether engines of ``pool`` make embeddings."""
        ...


@dataclass
class Request:
    """One request under way: its session's memory, its record of tasks, and what must be given back at its end."""

    memory: dict[str, Any] = field(default_factory=dict)
    row: int = 0
    session: int = 0
    times: list[TaskTime] = field(default_factory=list)
    at_end: list[Callable[[], None]] = field(default_factory=list)
    group: asyncio.TaskGroup | None = None


class Executor:
    """Runs requests through one program.

    ``concurrency``: most tasks at once per pool of plain functions; pools that are not named have no bound.
    ``max_trips``: cap on the trips of every loop.
    ``notes`` counts every time that something was decided without the program saying how.
    """

    def __init__(
        self,
        flat: FlatProgram,
        bindings: Bindings,
        models: Models | None = None,
        concurrency: Mapping[str, int] | None = None,
        max_trips: int | None = None,
    ) -> None:
        self.program: Program = prepare(flat)
        self.bindings = bindings
        self.models = models
        self.max_trips = max_trips
        self.notes: Counter[str] = Counter()
        self._rooms = {pool: asyncio.Semaphore(most) for pool, most in (concurrency or {}).items()}

    async def run(self, inputs: Values, request: Request | None = None) -> list[Any]:
        """The outputs of the entry graph for ``inputs``.

        Raises:
            HeterarchError: what the first op that failed raised; all other ops of the request are cancelled.
        """
        request = request or Request()
        try:
            async with asyncio.TaskGroup() as request.group:
                return await self._enter(request, self.program.entry, inputs, {}, 0)
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            for undo in request.at_end:
                undo()

    # ------------------------------------------------------------ dataflow

    async def _enter(
        self, request: Request, region: int, arguments: Values, outer: Mapping[int, Any], depth: int
    ) -> list[Any]:
        """Run a region in a frame of its own; the values it yields."""
        code = self.program.regions[region]
        if len(arguments) != len(code.arguments):
            raise InputError("wrong number of inputs", observed=len(arguments), expected=len(code.arguments))
        frame = dict(zip(code.arguments, arguments, strict=True))
        for value in code.captures:
            frame[value] = outer[value]
        if code.roots:
            flow = _Flow(self, request, code, frame, list(code.waits), depth)
            if code.is_chain:
                await flow.follow(code.roots[0])
            else:
                await flow.all()
        return [frame[value] for value in code.yields]

    async def work(self, flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
        """Do what an op does, within its pool's bound and its time limit; time it."""
        timeout_s = node.attrs.get("timeout_s")
        try:
            if timeout_s is None:
                return await self._bounded(flow, node, inputs)
            async with asyncio.timeout(float(str(timeout_s))):
                return await self._bounded(flow, node, inputs)
        except TimeoutError:
            raise HeterarchError(
                f"{node.name} did not end in time", expected=f"{timeout_s} s", where=node.where
            ) from None
        except HeterarchError as error:
            if error.where is None:
                error.where = node.where
            raise

    async def _bounded(self, flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
        room = self._rooms.get(node.pool) if node.pool else None
        if room is not None:
            await room.acquire()
        start_s = perf_counter()
        try:
            return await _HANDLERS[node.kind](flow, node, inputs)
        finally:
            if node.is_work and node.kind not in _PHASES:
                flow.request.times.append(TaskTime(node.op, start_s, perf_counter() - start_s))
            if room is not None:
                room.release()


@dataclass(slots=True)
class _Flow:
    """One region running: its frame of values and how many inputs each op still waits for."""

    executor: Executor
    request: Request
    region: Region
    frame: dict[int, Any]
    pending: list[int]
    depth: int
    group: asyncio.TaskGroup | None = None

    async def all(self) -> None:
        """Run every op of the region."""
        async with asyncio.TaskGroup() as self.group:
            first, *others = self.region.roots
            for root in others:
                self.group.create_task(self.follow(root))
            await self.follow(first)

    async def follow(self, row: int) -> None:
        """Run an op and, in the same task, the first of the ops that it makes ready; start tasks for the others."""
        nodes, frame, pending, work = self.region.nodes, self.frame, self.pending, self.executor.work
        while row >= 0:
            node = nodes[row]
            results = await work(self, node, [frame[value] for value in node.inputs])
            for value, result in zip(node.outputs, results, strict=True):
                frame[value] = result
            row = -1
            for successor in node.successors:
                pending[successor] -= 1
                if pending[successor] == 0:
                    if row < 0:
                        row = successor
                    elif self.group is not None:
                        self.group.create_task(self.follow(successor))

    async def enter(self, region: int, arguments: Values) -> list[Any]:
        """Run a region below this one."""
        if self.depth >= _MAX_DEPTH:
            raise InputError("sub-agents call each other without end", observed=f"{self.depth} levels deep")
        return await self.executor._enter(self.request, region, arguments, self.frame, self.depth + 1)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that began it: the first leaf that is not a cancellation."""
    leaves: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop(0)
        if isinstance(error, BaseExceptionGroup):
            stack = [*error.exceptions, *stack]
        else:
            leaves.append(error)
    return next((e for e in leaves if not isinstance(e, asyncio.CancelledError)), leaves[0])


# ---------------------------------------------------------------- what each kind of op does

_Handler = Callable[[_Flow, Node, Values], Awaitable[tuple[Any, ...]]]


async def _const(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    return (node.attrs.get("value"),)


async def _chat(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    system = render(str(node.attrs.get("system", "")), inputs)
    return (Chat((Message("system", system),) if system else ()),)


async def _load(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    memory, key = flow.request.memory, str(node.attrs["key"])
    if key in memory:
        return (memory[key],)
    if inputs:
        return (inputs[0],)
    return (Chat() if "chat" in node.output_types[0] else "",)


async def _store(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    flow.request.memory[str(node.attrs["key"])] = inputs[0]
    return tuple(inputs[: len(node.outputs)])


async def _call(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    if node.attrs.get("mode", "sync") != "async":
        return tuple(await flow.enter(node.regions[0], inputs))
    assert flow.request.group is not None
    return (flow.request.group.create_task(flow.enter(node.regions[0], inputs)),)


async def _await(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    return tuple(await inputs[0])[: len(node.outputs)]


async def _branch(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    case = _case(flow, node, text_of(inputs[0]))
    return tuple(await flow.enter(node.regions[case], inputs[1:]))


def _case(flow: _Flow, node: Node, selector: str) -> int:
    """The case that the text is; else the one it mentions; else `otherwise`; else the likeliest, with a note."""
    cases = [str(case).casefold() for case in _sequence(node.attrs["cases"])]
    text = selector.strip().strip("\"'`.!").casefold()
    if text in cases:
        return cases.index(text)
    mentioned = [row for row, case in enumerate(cases) if re.search(rf"\b{re.escape(case)}\b", text)]
    if len(mentioned) == 1:
        return mentioned[0]
    for name in _OTHERWISE:
        if name in cases:
            return cases.index(name)
    shares = [float(share) for share in _sequence(node.attrs.get("probabilities", ()))] or [1.0]
    row = shares.index(max(shares))
    flow.executor.notes[f"branch {node.name}: no case was named, the likeliest ({cases[row]}) was taken"] += 1
    return row


async def _loop(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    until = str(node.attrs.get("until") or "")
    limit = min(_trips(node, bool(until)), flow.executor.max_trips or _MAX_TRIPS)
    carried: Values = list(inputs)
    for _ in range(limit):
        carried = await flow.enter(node.regions[0], carried)
        await asyncio.sleep(0)  # a deadline must be able to stop a loop that never waits
        if until and flow.executor.bindings.call_now(until, carried):
            break
    return tuple(carried)


def _trips(node: Node, until: bool) -> int:
    """Most trips: ``max_trips``, and without a predicate no more than the planned mean."""
    bounds = [int(str(node.attrs["max_trips"]))] if node.attrs.get("max_trips") is not None else []
    if not until and node.count is not None:
        bounds.append(round(node.count))
    if not until and not bounds:
        raise InputError(f"loop {node.name} never ends", expected="until, trips or max_trips", where=node.where)
    return min(bounds, default=_MAX_TRIPS)


async def _map(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    items, shared = _items(node, inputs[0]), inputs[1:]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(flow.enter(node.regions[0], [item, *shared])) for item in items]
    rows = [task.result() for task in tasks]
    columns = [[row[column] for row in rows] for column in range(len(node.outputs))]
    join = str(node.attrs.get("join") or "list")
    return tuple(columns) if join == "list" else (await flow.executor.bindings.call(join, columns),)


def _items(node: Node, value: Any) -> list[Any]:
    if isinstance(value, str):
        return [line for line in value.splitlines() if line.strip()]
    try:
        return list(value)
    except TypeError:
        raise InputError(
            f"{node.name} maps over a value that is no list",
            observed=type(value).__name__,
            expected="a list, or text with one item per line",
            where=node.where,
        ) from None


async def _service(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    symbol = str(node.attrs.get("callee") or "")
    result = await flow.executor.bindings.call(symbol, inputs)
    if len(node.outputs) == 1:
        return (result,)
    if len(node.outputs) == 0:
        return ()
    if not isinstance(result, tuple) or len(result) != len(node.outputs):
        raise InputError(
            f"{symbol} must return a tuple of {len(node.outputs)}", observed=type(result).__name__, where=node.where
        )
    return result


async def _embed(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    """By the callable, else by the engines of the pool; without either the text itself goes on."""
    models = flow.executor.models
    if node.attrs.get("callee"):
        return await _service(flow, node, inputs)
    if models is not None and models.embeds(node.pool):
        return await models.run(node, inputs, flow.request)
    return (inputs[0],)


async def _rerank(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    """By the callable; without one the first ``keep`` documents in the order they were found."""
    if node.attrs.get("callee"):
        return await _service(flow, node, inputs)
    flow.executor.notes[f"{node.name} has no function: documents were kept in the order of the search"] += 1
    keep = node.attrs.get("keep")
    return (list(inputs[0])[: int(str(keep)) if keep is not None else None],)


async def _transfer(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    return tuple(inputs)


async def _phase(flow: _Flow, node: Node, inputs: Values) -> tuple[Any, ...]:
    models = flow.executor.models
    if models is None:
        raise InputError(f"{node.name} calls a model, and the run has no engines", where=node.where)
    return await models.run(node, inputs, flow.request)


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


_PHASES = frozenset({OpKind.KV_LOOKUP, OpKind.PREFILL, OpKind.KV_TRANSFER, OpKind.DECODE})
_HANDLERS: Mapping[OpKind, _Handler] = {
    OpKind.CONST: _const,
    OpKind.CHAT: _chat,
    OpKind.MEMORY_LOAD: _load,
    OpKind.MEMORY_STORE: _store,
    OpKind.GRAPH_CALL: _call,
    OpKind.AWAIT: _await,
    OpKind.BRANCH: _branch,
    OpKind.LOOP: _loop,
    OpKind.MAP: _map,
    OpKind.EMBED: _embed,
    OpKind.RERANK: _rerank,
    OpKind.TRANSFER: _transfer,
    **dict.fromkeys(_PHASES, _phase),
    **dict.fromkeys((OpKind.TOOL, OpKind.COMPUTE, OpKind.SEARCH, OpKind.AUDIO, OpKind.IMAGE, OpKind.HUMAN), _service),
}
