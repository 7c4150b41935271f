"""Program x workload x seed -> tasks: every session's requests walk the program with sampled statistics.

Trips, branches and widths are drawn while walking, so that a request is a static graph of tasks. As in the executor an
op starts when all its inputs are there and a region ends when all of it has ended; only an async call is waited for by
nobody but who awaits it. Of a stream the reader starts at the first token (audio), an LLM call when its whole input is
there. Conversations are identified exactly: a chat op's system prompt is one prefix for all requests, what a session
appends is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.ir.regions import captured
from heterarch.plan.document import Plan
from heterarch.plan.statistic import NOTHING, count_of, fit_window, seconds_of, shares_of
from heterarch.sim.placement import CallOps, Placement, call_ops
from heterarch.sim.schedule import SessionStart, from_empty, in_steady_state
from heterarch.sim.tasks import ENGINE_BLOCK_TOKENS, Prefixes, TaskKind, Tasks, TaskTable, prefixes
from heterarch.workload.distribution import Distribution
from heterarch.workload.profile import Workload

MOST_TRIPS = 10_000
MOST_DEPTH = 32
MOST_TASKS = 200_000  # of one request
_BATCH = 256
_STREAMING_READERS = (OpKind.AUDIO,)


class Chat(NamedTuple):
    """A conversation: its leaf in the prefix tree, its length, and whether a call has been made on it."""

    node: int = -1
    tokens: int = 0
    root: int = -1  # leaf and length of its system prompt
    root_tokens: int = 0
    used: bool = False


class Value(NamedTuple):
    """Tasks that must end before the value is there, and the conversation that it is, if it is one."""

    tasks: frozenset[int] = frozenset()
    chat: Chat | None = None


@dataclass
class Draws:
    """Samples of distributions, drawn in batches."""

    rng: np.random.Generator
    kept: dict[int, list[float]] = field(default_factory=dict)

    def one(self, distribution: Distribution) -> float:
        """The next draw."""
        row = self.kept.setdefault(id(distribution), [])
        if not row:
            row.extend(distribution.sample(self.rng, _BATCH).tolist())
        return row.pop()

    def tokens(self, distribution: Distribution) -> int:
        """The next draw, rounded, at least 1."""
        return max(1, round(self.one(distribution)))


@dataclass
class Request:
    """One request being unrolled: who, on whose memory, its tasks, and those of them that nothing waits for yet."""

    row: int
    session: int
    memory: dict[str, Chat]
    tasks: list[int] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)  # ends of async calls
    stored: dict[str, frozenset[int]] = field(default_factory=dict)  # key -> what the request's own value waits for
    depth: int = 0
    past: bool = False


def unroll(
    plan: Plan,
    flat: FlatProgram,
    workload: Workload,
    *,
    requests: int,
    seed: int = 0,
    steady: bool = False,
    request_s: float | None = None,
) -> tuple[Tasks, Prefixes]:
    """The tasks of ``requests`` requests of a workload.

    Args:
        plan: gives the pool of every op.
        flat: the lowered program.
        workload: arrivals of sessions, requests per session, think times, and the statistics that ops lack.
        requests: how many, at least 1.
        seed: of all draws.
        steady: sessions have been arriving for ever (:func:`heterarch.sim.schedule.in_steady_state`).
        request_s: nominal seconds of one request for that; by default what the plan predicts.

    Raises:
        InputError: an op without a statistic, a call without a pool, or fewer than one request.
    """
    if requests < 1:
        raise InputError("a simulation needs at least one request", observed=requests)
    walk = Unroller(plan, flat, workload, np.random.default_rng(seed))
    rng = np.random.default_rng([seed, 1])
    if steady:
        nominal_s = plan.predictions.e2e_s.get("mean", 0.0) if request_s is None else request_s
        sessions = in_steady_state(workload, requests, rng, nominal_s)
    else:
        sessions = from_empty(workload, requests, rng)
    for number, session in enumerate(sessions):
        walk.session(number, session)
    tree = prefixes(np.array(walk.parents, np.int32), np.array(walk.runs, np.int32), ENGINE_BLOCK_TOKENS)
    return walk.table.freeze(), tree


class Unroller:
    """Walks the program once per request."""

    def __init__(
        self,
        plan: Plan,
        flat: FlatProgram,
        workload: Workload,
        rng: np.random.Generator,
    ) -> None:
        self.flat, self.workload = flat, workload
        self.windows = {pool.model: pool.context_tokens for pool in plan.pools}
        self.draws = Draws(rng)
        self.placement = Placement(plan, flat)
        self.calls = call_ops(flat)
        self.captured = captured(flat)
        self.members = [flat.ops_in(region).tolist() for region in range(len(flat.region_owner))]
        self.inputs = [flat.inputs(op).tolist() for op in range(len(flat))]
        self.outputs = [flat.outputs(op).tolist() for op in range(len(flat))]
        self.regions = [flat.regions_of(op).tolist() for op in range(len(flat))]
        self.table = TaskTable()
        self.requests = 0
        self.parents: list[int] = []
        self.runs: list[int] = []
        self.systems: dict[int, Chat] = {}
        self.seconds: dict[int, Distribution] = {}

    def session(self, number: int, session: SessionStart) -> None:
        """The requests of one session, one after the other with think time between.

        Requests that were made before the simulation starts leave their conversations but no tasks.
        """
        memory: dict[str, Chat] = {}
        for _ in range(session.skipped):
            self.request(Request(-1, number, memory, past=True), [], 0.0, 0.0)
        before: list[int] = []
        for think in (0.0, *session.think_s):
            request = Request(self.requests, number, memory)
            self.requests += 1
            self.request(request, before, session.start_s, think)
            before = request.tasks

    def request(self, request: Request, before: list[int], start_s: float, think_s: float) -> None:
        """One request, opened by a task of its own when those in ``before`` are done."""
        base = frozenset([self.task(request, before, release_s=start_s, delay_s=think_s)])
        arguments = [Value(base) for _ in self.flat.arguments(self.flat.entry)]
        self.region(self.flat.entry, {}, arguments, base, request)

    def task(self, request: Request, after: Iterable[int], streaming: Iterable[int] = (), **values: float) -> int:
        """Add a task of ``request``; of a past one, none."""
        if request.past:
            return -1
        if len(request.tasks) >= MOST_TASKS:
            op = int(values.get("op", -1))
            raise InputError(
                f"one request has more than {MOST_TASKS:,} tasks",
                where=self.flat.where[op] if op >= 0 else None,
                fix="bound the loops and maps around it",
            )
        row = self.table.add(after, streaming, request=request.row, session=request.session, **values)
        request.tasks.append(row)
        request.ends.difference_update(after)
        request.ends.add(row)
        return row

    def region(
        self,
        region: int,
        scope: dict[int, Value],
        arguments: Sequence[Value],
        base: frozenset[int],
        request: Request,
    ) -> tuple[list[Value], frozenset[int]]:
        """Run a region whose ops may start when ``base`` has ended; what it yields, and the tasks that end it."""
        first = len(request.tasks)
        request.depth += 1
        if request.depth > MOST_DEPTH:
            raise InputError(f"graphs call each other more than {MOST_DEPTH} deep", fix="bound the recursion")
        scope.update(zip(self.flat.arguments(region).tolist(), arguments, strict=False))
        for op in self.members[region]:
            inputs = [scope.get(value, Value(base)) for value in self.inputs[op]]
            visit = Visit(self, op, OpKind(self.flat.kind[op]), inputs, scope, base, request)
            results = _VISIT.get(visit.kind, Visit.work)(visit)
            scope.update(zip(self.outputs[op], results, strict=False))
        request.depth -= 1
        ends = frozenset(task for task in request.tasks[first:] if task in request.ends) or base
        yielded = [scope.get(value, Value(base)) for value in self.flat.yielded(region).tolist()]
        late = [value.tasks & request.late for value in yielded]
        return [Value(ends.union(*late), value.chat) for value in yielded], ends

    def grow(self, node: int, start: int, end: int) -> int:
        """The leaf after tokens ``start..end`` are appended at ``node``; blocks that are not full are nobody's."""
        blocks = end // ENGINE_BLOCK_TOKENS - start // ENGINE_BLOCK_TOKENS
        if blocks == 0:
            return node
        self.parents.append(node)
        self.runs.append(blocks)
        return len(self.runs) - 1

    def system(self, op: int) -> Chat:
        """The conversation that chat op ``op`` starts; its system prompt has the mean of its statistic."""
        if op not in self.systems:
            own = self.flat.statistic(op, Slot.TOKENS_IN)
            tokens = round(own.mean) if own else 0
            node = self.grow(-1, 0, tokens)
            self.systems[op] = Chat(node, tokens, node, tokens)
        return self.systems[op]

    def service(self, op: int) -> Distribution:
        """Seconds of a tool or another op that is no LLM call."""
        if op not in self.seconds:
            self.seconds[op] = seconds_of(self.flat, op, self.workload)
        return self.seconds[op]


class Visit(NamedTuple):
    """One op of one request."""

    walk: Unroller
    op: int
    kind: OpKind
    inputs: list[Value]
    scope: dict[int, Value]
    base: frozenset[int]
    request: Request

    @property
    def after(self) -> frozenset[int]:
        """Everything that must have ended before the op starts."""
        return self.base.union(*(value.tasks for value in self.inputs))

    @property
    def entered(self) -> frozenset[int]:
        """Everything that must have ended before a region of the op is entered: what it reads from around it too."""
        around = (self.scope.get(value) for value in self.walk.captured[self.op])
        return self.after.union(*(value.tasks for value in around if value))

    @property
    def attrs(self) -> Mapping[str, object]:
        """The op's attributes."""
        return self.walk.flat.attrs[self.op]

    def results(self, value: Value) -> list[Value]:
        """``value`` for every result."""
        return [value] * len(self.walk.outputs[self.op])

    def work(self) -> list[Value]:
        """A task that takes its seconds on its pool; what takes none is no task."""
        seconds = self.walk.service(self.op)
        if seconds == NOTHING:
            return self.results(Value(self.after))
        streaming = self.streamed() if self.kind in _STREAMING_READERS else frozenset()
        whole = self.after - streaming
        task = self.walk.task(
            self.request,
            whole,
            streaming,
            op=self.op,
            service_s=self.walk.draws.one(seconds),
            prefill_pool=self.walk.placement.pool(self.op),
        )
        return self.results(Value(frozenset([task]) | streaming))

    def streamed(self) -> frozenset[int]:
        """Tasks of which the op needs only the first token."""
        flat = self.walk.flat
        first = int(flat.operand_offsets[self.op])
        marked = [v.tasks for k, v in enumerate(self.inputs) if flat.streams[first + k]]
        others = [v.tasks for k, v in enumerate(self.inputs) if not flat.streams[first + k]]
        return frozenset().union(*marked) - self.base.union(*others)

    def nothing(self) -> list[Value]:
        """No time passes; a conversation is passed on."""
        chat = next((value.chat for value in self.inputs if value.chat), None)
        return self.results(Value(self.after, chat))

    def chat(self) -> list[Value]:
        """A new conversation."""
        return self.results(Value(self.after, self.walk.system(self.op)))

    def load(self) -> list[Value]:
        """The session's conversation of that key, or the operand."""
        key = str(self.attrs.get("key"))
        kept = self.request.memory.get(key)
        first = self.inputs[0] if self.inputs else Value(self.base)
        return self.results(Value(self.after | self.request.stored.get(key, frozenset()), kept or first.chat))

    def store(self) -> list[Value]:
        """Keep the conversation for the session's next request."""
        key = str(self.attrs.get("key"))
        if self.inputs and self.inputs[0].chat:
            self.request.memory[key] = self.inputs[0].chat
        self.request.stored[key] = self.after
        return self.results(Value(self.after))

    def branch(self) -> list[Value]:
        """The region of one case, drawn by the probabilities, once the selector is known."""
        case = int(np.searchsorted(np.cumsum(shares_of(self.walk.flat, self.op)[:-1]), self.uniform(), "right"))
        return self.body(self.walk.regions[self.op][case], self.inputs[1:], self.entered)[0]

    def loop(self) -> list[Value]:
        """The region again and again; a trip starts when the one before has ended."""
        bound = self.attrs.get("max_trips")
        trips = self.walk.draws.tokens(count_of(self.walk.flat, self.op))
        if isinstance(bound, int) and bound > 0:
            trips = min(trips, bound)
        elif trips > MOST_TRIPS:
            raise InputError(
                f"a loop without max_trips runs more than {MOST_TRIPS:,} times",
                observed=trips,
                where=self.walk.flat.where[self.op],
                fix="give it max_trips, or fewer trips",
            )
        carried, base = list(self.inputs), self.entered
        for _ in range(trips):
            carried, base = self.body(self.walk.regions[self.op][0], carried, base)
        return carried

    def map(self) -> list[Value]:
        """The region once per item, side by side; the results are there when all are."""
        width = max(0, round(self.walk.draws.one(count_of(self.walk.flat, self.op))))
        base = self.entered
        items = self.inputs or [Value(base)]
        done = [self.body(self.walk.regions[self.op][0], items, base) for _ in range(width)]
        return self.results(Value(frozenset().union(*(ends for _, ends in done)) if done else base))

    def call(self) -> list[Value]:
        """A sub-agent, with values of its own; an async one delays only who awaits it."""
        first = len(self.request.tasks)
        values, _ = self.walk.region(self.walk.regions[self.op][0], {}, self.inputs, self.after, self.request)
        if self.attrs.get("mode") == "async":
            mine = self.request.ends.intersection(self.request.tasks[first:])
            self.request.late |= mine
            self.request.ends -= mine
        return values

    def body(self, region: int, arguments: Sequence[Value], base: frozenset[int]) -> tuple[list[Value], frozenset[int]]:
        """Run a region that sees the values around it."""
        return self.walk.region(region, self.scope, arguments, base, self.request)

    def uniform(self) -> float:
        """A draw between 0 and 1."""
        return float(self.walk.draws.rng.random())

    def generate(self) -> list[Value]:
        """An LLM call becomes one task when its decode is visited; its lookup has left the chat and the inputs."""
        ops = self.walk.calls[str(self.attrs.get("call", ""))]
        chat = next((value.chat for value in self.inputs if value.chat), None) or Chat()
        output = self.walk.draws.tokens(self.statistic(ops))
        appended = self.appended(ops, chat)
        if self.window:
            chat, appended, output = self.within(self.window, chat, appended, output)
        prompt = chat.tokens + appended
        node = self.walk.grow(chat.node, chat.tokens, prompt)
        answer = self.walk.grow(node, prompt, prompt + output)
        prefill, decode = self.walk.placement.call(ops)
        task = self.walk.task(
            self.request,
            self.after,
            kind=TaskKind.GENERATE,
            op=ops.decode,
            prompt_tokens=prompt,
            output_tokens=output,
            node=node,
            node_out=answer,
            prefill_pool=prefill,
            decode_pool=decode,
        )
        after = Chat(answer, prompt + output, chat.root, chat.root_tokens, True)
        done = frozenset([task])
        return [Value(done, after), *self.results(Value(done))[1:]]

    def statistic(self, ops: CallOps) -> Distribution:
        """Tokens generated: the op's own, else the workload's."""
        return self.walk.flat.statistic(ops.decode, Slot.TOKENS_OUT) or self.walk.workload.call.tokens_out

    def appended(self, ops: CallOps, chat: Chat) -> int:
        """Tokens appended: the op's own; else the workload's, which differ for a conversation's first call."""
        own = self.walk.flat.statistic(ops.lookup, Slot.TOKENS_IN) if ops.lookup >= 0 else None
        if own is not None:
            return self.walk.draws.tokens(own)
        statistics = self.walk.workload.call
        if chat.used:
            return self.walk.draws.tokens(statistics.tokens_in)
        return max(1, self.walk.draws.tokens(statistics.context_tokens) - chat.tokens)

    def within(self, window: int, chat: Chat, appended: int, output: int) -> tuple[Chat, int, int]:
        """The call fitted into the window; of a compacted chat all but its system prompt is new."""
        kept, more, answer = map(int, fit_window(chat.tokens, chat.root_tokens, appended, output, window))
        if kept < chat.tokens:
            start, node = (chat.root_tokens, chat.root) if kept >= chat.root_tokens else (0, -1)
            chat = chat._replace(node=self.walk.grow(node, start, kept), tokens=kept)
        return chat, more, answer

    @property
    def window(self) -> int:
        """Most tokens that the model of the call takes, 0 for no limit."""
        return self.walk.windows.get(str(self.attrs.get("model", "")), 0)


_VISIT: Mapping[OpKind, Callable[[Visit], list[Value]]] = {
    OpKind.GRAPH_CALL: Visit.call,
    OpKind.AWAIT: Visit.nothing,
    OpKind.BRANCH: Visit.branch,
    OpKind.LOOP: Visit.loop,
    OpKind.MAP: Visit.map,
    OpKind.CHAT: Visit.chat,
    OpKind.MEMORY_LOAD: Visit.load,
    OpKind.MEMORY_STORE: Visit.store,
    OpKind.CONST: Visit.nothing,
    OpKind.KV_LOOKUP: Visit.nothing,
    OpKind.PREFILL: Visit.nothing,
    OpKind.KV_TRANSFER: Visit.nothing,
    OpKind.DECODE: Visit.generate,
}
