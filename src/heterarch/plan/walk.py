"""A sampled walk through the program: what a request does, how often, on how much context, and how long it takes.

The walk runs many sessions side by side (one array element each), without contention: every op takes what its
statistics or the caller's timing say. It gives the planner visits, context lengths, gaps between a chat's calls, and
the distribution of end-to-end latency over the critical path, including loops, branches, maps and streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.ir.regions import captured
from heterarch.plan.statistic import count_of, fit_window, seconds_of, shares_of
from heterarch.policy.base import Floats, Ints
from heterarch.workload.distribution import Distribution
from heterarch.workload.profile import Workload

REQUESTS = 1500  # sampled
MOST_REQUESTS_PER_SESSION = 200
MOST_TRIPS = 400
NEVER = np.inf
_T = TypeVar("_T", bound=np.generic)


class CallSample(NamedTuple):
    """One LLM call of many sessions; tokens and seconds, arrays of one length.

    ``shared``: leading tokens that all chats share (system prompt); ``context``: tokens before this call, with
    ``shared`` and ``previous``, the last answer of the chat; ``appended``; ``output``. ``gap_s``: idle since the chat's
    last call, infinite for its first.
    """

    op: int  # the decode op
    shared: Floats
    context: Floats
    previous: Floats
    appended: Floats
    output: Floats
    gap_s: Floats


class CallTimes(NamedTuple):
    """Seconds of the phases of the calls of one sample."""

    prefill_s: Floats
    transfer_s: Floats
    decode_s: Floats


class Timing(Protocol):
    """How long things take under a placement."""

    def call(self, sample: CallSample) -> CallTimes:
        """Seconds of the phases of LLM calls."""
        ...

    def task(self, op: int, seconds: Floats) -> Floats:
        """Seconds of another op whose own service takes ``seconds``."""
        ...


class NoCallTime:
    """Service times as declared, LLM calls in no time: for statistics that do not depend on the placement."""

    def call(self, sample: CallSample) -> CallTimes:
        """Zeros."""
        zero = np.zeros_like(sample.output)
        return CallTimes(zero, zero, zero)

    def task(self, op: int, seconds: Floats) -> Floats:
        """As declared."""
        return seconds


@dataclass(frozen=True)
class Walked:
    """What the walk saw; ``calls`` has one row per LLM call (see :data:`CALL`), ``e2e_s`` one per request."""

    requests: int
    calls: NDArray[np.void]
    e2e_s: Floats
    runs: Mapping[int, float]  # op -> runs per request
    seconds: Mapping[int, float]  # op -> mean seconds of one run
    squares: Mapping[int, float]  # op -> mean square of them
    region_runs: Mapping[int, float]  # region -> runs per request
    clipped: int  # calls whose chat had outgrown the model's window and was compacted


CALL = np.dtype(
    [
        ("op", np.int32),
        ("shared", np.float64),
        ("context", np.float64),
        ("previous", np.float64),
        ("appended", np.float64),
        ("output", np.float64),
        ("gap_s", np.float64),
        ("last", np.int64),  # row of the chat's last call, -1 for its first
        ("next_gap_s", np.float64),  # until the chat's next call; infinite when there is none
        ("prefill_s", np.float64),
        ("transfer_s", np.float64),
        ("decode_s", np.float64),
    ]
)


def walk(
    flat: FlatProgram,
    workload: Workload,
    *,
    seed: int = 0,
    timing: Timing | None = None,
    windows: Mapping[str, int] | None = None,
    requests: int = REQUESTS,
) -> Walked:
    """Walk about ``requests`` requests of the workload through the program.

    Args:
        flat: the decomposed program.
        workload: statistics for what the program does not declare.
        seed: the structure drawn does not depend on ``timing``, so two placements see the same requests.
        timing: seconds of each op; LLM calls in no time by default.
        windows: model -> most tokens of context; longer chats are compacted.
        requests: how many to draw, at least one session.

    Raises:
        InputError: a statistic is missing, or the program calls itself.
    """
    return _Walk(flat, workload, seed, timing or NoCallTime(), windows or {}).run(requests)


class _Chat(NamedTuple):
    shared: Floats
    tokens: Floats
    output: Floats
    ended_s: Floats  # NaN before the first call
    last: Ints  # row of the last call, -1

    def take(self, rows: Ints) -> _Chat:
        shared, tokens, output, ended, last = self
        return _Chat(shared[rows], tokens[rows], output[rows], ended[rows], last[rows])

    def put(self, rows: Ints, part: _Chat) -> _Chat:
        return _Chat(
            _put(self.shared, rows, part.shared),
            _put(self.tokens, rows, part.tokens),
            _put(self.output, rows, part.output),
            _put(self.ended_s, rows, part.ended_s),
            _put(self.last, rows, part.last),
        )


class _Value(NamedTuple):
    ready_s: Floats
    first_s: Floats  # first chunk, for readers that stream
    chat: _Chat | None = None

    def take(self, rows: Ints) -> _Value:
        chat = self.chat.take(rows) if self.chat else None
        return _Value(self.ready_s[rows], self.first_s[rows], chat)

    def put(self, rows: Ints, part: _Value) -> _Value:
        """A copy in which ``rows`` are those of ``part``."""
        chat = self.chat
        if part.chat is not None:
            old = chat if chat is not None else _new_chat(len(self.ready_s))
            chat = old.put(rows, part.chat)
        return _Value(_put(self.ready_s, rows, part.ready_s), _put(self.first_s, rows, part.first_s), chat)


def _put(whole: NDArray[_T], rows: Ints, part: NDArray[_T]) -> NDArray[_T]:
    copy = whole.copy()
    copy[rows] = part
    return copy


def _new_chat(n: int) -> _Chat:
    zero = np.zeros(n)
    return _Chat(zero, zero, zero, np.full(n, np.nan), np.full(n, -1, dtype=np.int64))


class _Scope:
    """Values of one run of a region; values of enclosing regions are seen through the rows that run."""

    def __init__(self, outer: _Scope | None, rows: Ints) -> None:
        self.outer = outer
        self.rows = rows  # rows of ``outer`` that run here
        self.values: dict[int, _Value] = {}

    def get(self, value: int) -> _Value:
        if value in self.values:
            return self.values[value]
        if self.outer is None:
            raise InputError("a value is read before anything writes it", observed=f"value {value}")
        return self.outer.get(value).take(self.rows)


@dataclass
class _Tally:
    runs: dict[int, float] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    squares: dict[int, float] = field(default_factory=dict)
    regions: dict[int, float] = field(default_factory=dict)

    def add(self, op: int, seconds: Floats) -> None:
        self.runs[op] = self.runs.get(op, 0.0) + len(seconds)
        self.seconds[op] = self.seconds.get(op, 0.0) + float(seconds.sum())
        self.squares[op] = self.squares.get(op, 0.0) + float((seconds**2).sum())


class _Walk:
    def __init__(
        self, flat: FlatProgram, workload: Workload, seed: int, timing: Timing, windows: Mapping[str, int]
    ) -> None:
        self.flat = flat
        self.workload = workload
        self.rng = np.random.default_rng(seed)
        self.timing = timing
        self.windows = windows
        self.tally = _Tally()
        self.memory: dict[str, tuple[NDArray[np.bool_], _Value]] = {}
        self.calls: list[NDArray[np.void]] = []
        self.call_count = 0
        self.clipped = 0
        self.pending: dict[str, tuple[CallSample, CallTimes, _Chat]] = {}
        self.depth = 0
        self.decodes = {
            str(flat.attrs[op].get("call")): op for op in np.flatnonzero(flat.kind == OpKind.DECODE).tolist()
        }
        self.members = {region: flat.ops_in(region).tolist() for region in range(len(flat.region_owner))}
        self.captured = captured(flat)
        self.late_s = np.zeros(0)  # session -> when the async calls of its request end

    def run(self, requests: int) -> Walked:
        per_session = self.workload.requests_per_session
        sessions = max(1, round(requests / max(1.0, per_session.mean)))
        counts = np.clip(np.rint(per_session.sample(self.rng, sessions)), 1, MOST_REQUESTS_PER_SESSION)
        now = np.zeros(sessions)
        e2e = []
        for index in range(int(counts.max())):
            rows = np.flatnonzero(counts > index)
            start = now[rows]
            end = self.request(rows, start, sessions)
            e2e.append(end - start)
            now[rows] = end + self.workload.think_s.sample(self.rng, len(rows))
        return self.result(np.concatenate(e2e))

    def request(self, rows: Ints, start: Floats, sessions: int) -> Floats:
        entry = self.flat.entry
        arguments = [_Value(start, start) for _ in self.flat.arguments(entry)]
        scope = _Scope(None, rows)
        self.late_s = np.zeros(sessions)
        end = self.region(entry, scope, arguments, start, rows, sessions)[1]
        return np.maximum(end, self.late_s[rows])

    def result(self, e2e: Floats) -> Walked:
        n = len(e2e)
        calls = np.concatenate(self.calls) if self.calls else np.zeros(0, CALL)
        calls["next_gap_s"] = NEVER
        again = calls["last"] >= 0
        np.minimum.at(calls["next_gap_s"], calls["last"][again], calls["gap_s"][again])
        runs = self.tally.runs
        return Walked(
            requests=n,
            calls=calls,
            e2e_s=e2e,
            runs={op: count / n for op, count in runs.items()},
            seconds={op: total / runs[op] for op, total in self.tally.seconds.items() if runs[op]},
            squares={op: total / runs[op] for op, total in self.tally.squares.items() if runs[op]},
            region_runs={region: count / n for region, count in self.tally.regions.items()},
            clipped=self.clipped,
        )

    def region(
        self, region: int, scope: _Scope, arguments: Sequence[_Value], start: Floats, who: Ints, sessions: int
    ) -> tuple[list[_Value], Floats]:
        """Run one region; gives its yields and when all of it has ended. ``who``: the session of each row."""
        self.tally.regions[region] = self.tally.regions.get(region, 0.0) + len(start)
        scope.values.update(zip(self.flat.arguments(region).tolist(), arguments, strict=False))
        end = start
        self.depth += 1
        if self.depth > 50:
            raise InputError("the program calls itself", fix="bound the recursion with a loop")
        for op in self.members[region]:
            values, ended = self.op(op, scope, start, who, sessions)
            scope.values.update(zip(self.flat.outputs(op).tolist(), values, strict=False))
            end = np.maximum(end, ended)
        self.depth -= 1
        return [scope.get(value) for value in self.flat.yielded(region).tolist()], end

    def op(self, op: int, scope: _Scope, start: Floats, who: Ints, sessions: int) -> tuple[list[_Value], Floats]:
        inputs = [scope.get(value) for value in self.flat.inputs(op).tolist()]
        around = [scope.get(value).ready_s for value in self.captured[op]]
        first, whole = self.begins(op, inputs, np.maximum.reduce([start, *around]))
        run = _Run(self, op, scope, inputs, first, whole, who, sessions)
        return _RUN.get(OpKind(self.flat.kind[op]), _Run.task)(run)

    def begins(self, op: int, inputs: Sequence[_Value], start: Floats) -> tuple[Floats, Floats]:
        """When the op can start (on the first chunk of values that stream), and when all its inputs are whole."""
        offset = int(self.flat.operand_offsets[op])
        first = whole = start
        for index, value in enumerate(inputs):
            streams = bool(self.flat.streams[offset + index])
            first = np.maximum(first, value.first_s if streams else value.ready_s)
            whole = np.maximum(whole, value.ready_s)
        return first, whole

    def sample(self, distribution: Distribution, n: int) -> Floats:
        return distribution.sample(self.rng, n)


class _Run(NamedTuple):
    """One op of many sessions at once."""

    walk: _Walk
    op: int
    scope: _Scope
    inputs: list[_Value]
    start: Floats
    whole: Floats
    who: Ints
    sessions: int

    @property
    def outputs(self) -> int:
        return len(self.walk.flat.outputs(self.op))

    @property
    def attrs(self) -> Mapping[str, object]:
        return self.walk.flat.attrs[self.op]

    def done(self, seconds: Floats, chats: Sequence[_Chat | None] = ()) -> tuple[list[_Value], Floats]:
        """The op took ``seconds``; a reader of a stream ends no earlier than what it reads."""
        self.walk.tally.add(self.op, seconds)
        end = np.maximum(self.start + seconds, self.whole)
        kept = [*chats, *[None] * (self.outputs - len(chats))]
        return [_Value(end, end, chat) for chat in kept[: self.outputs]], end

    def task(self) -> tuple[list[_Value], Floats]:
        """A tool, audio, retrieval or other op that takes its declared seconds."""
        own = seconds_of(self.walk.flat, self.op, self.walk.workload)
        seconds = self.walk.timing.task(self.op, self.walk.sample(own, len(self.start)))
        return self.done(seconds)

    def nothing(self) -> tuple[list[_Value], Floats]:
        """An op that takes no time and passes a chat on, if it has one."""
        chat = next((value.chat for value in self.inputs if value.chat), None)
        return self.done(np.zeros(len(self.start)), [chat])

    def chat(self) -> tuple[list[_Value], Floats]:
        """A new conversation; its system prompt is the same for all requests."""
        n = len(self.start)
        own = self.walk.flat.statistic(self.op, Slot.TOKENS_IN)
        system = np.full(n, own.mean if own else 0.0)
        fresh = _new_chat(n)
        return self.done(np.zeros(n), [fresh._replace(shared=system, tokens=system)])

    def load(self) -> tuple[list[_Value], Floats]:
        """The session's value of the key, or the operand."""
        value, start = self.inputs[0], self.start
        known = self.walk.memory.get(str(self.attrs.get("key")))
        if known is not None:
            rows = np.flatnonzero(known[0][self.who])
            kept = known[1].take(self.who[rows])
            value = value.put(rows, kept)
            start = _put(start, rows, np.maximum(start[rows], kept.ready_s))
        return self.done(start - self.start, [value.chat])

    def store(self) -> tuple[list[_Value], Floats]:
        """Keep the value for the session's next request."""
        key = str(self.attrs.get("key"))
        never = np.zeros(self.sessions)
        present, kept = self.walk.memory.get(key, (np.zeros(self.sessions, np.bool_), _Value(never, never)))
        kept = kept.put(self.who, self.inputs[0])
        self.walk.memory[key] = (_put(present, self.who, np.ones(len(self.who), np.bool_)), kept)
        return self.done(np.zeros(len(self.start)))

    def branch(self) -> tuple[list[_Value], Floats]:
        """Each row runs the region of one case."""
        shares = np.array(shares_of(self.walk.flat, self.op))
        case = np.searchsorted(np.cumsum(shares[:-1]), self.walk.rng.random(len(self.start)), side="right")
        results = [_Value(self.start, self.start) for _ in range(self.outputs)]
        end = self.start
        for index, region in enumerate(self.walk.flat.regions_of(self.op).tolist()):
            rows = np.flatnonzero(case == index)
            if len(rows):
                arguments = [value.take(rows) for value in self.inputs[1:]]
                values, ended = self.body(region, rows, arguments, self.start[rows])
                results = [r.put(rows, v) for r, v in zip(results, values, strict=False)]
                end = _put(end, rows, ended)
        self.walk.tally.add(self.op, end - self.start)
        return results, end

    def loop(self) -> tuple[list[_Value], Floats]:
        """The region runs as often as the trips say, at least once, each trip after the one before."""
        trips = np.maximum(1, np.rint(self.walk.sample(count_of(self.walk.flat, self.op), len(self.start))))
        bound = self.attrs.get("max_trips")
        trips = np.minimum(trips, bound if isinstance(bound, int) and bound > 0 else MOST_TRIPS)
        region = int(self.walk.flat.regions_of(self.op)[0])
        carried, end = list(self.inputs), self.start
        for trip in range(int(trips.max(initial=0))):
            rows = np.flatnonzero(trips > trip)
            arguments = [value.take(rows) for value in carried]
            values, ended = self.body(region, rows, arguments, end[rows])
            carried = [c.put(rows, v) for c, v in zip(carried, values, strict=False)]
            end = _put(end, rows, ended)
        self.walk.tally.add(self.op, end - self.start)
        return carried[: self.outputs], end

    def map(self) -> tuple[list[_Value], Floats]:
        """The region runs once per item, side by side; the slowest copy ends it."""
        width = np.rint(self.walk.sample(count_of(self.walk.flat, self.op), len(self.start))).astype(np.int64)
        rows = np.repeat(np.arange(len(width)), width)
        end = self.start.copy()
        if len(rows):
            region = int(self.walk.flat.regions_of(self.op)[0])
            arguments = [value.take(rows) for value in self.inputs]
            _, ended = self.body(region, rows, arguments, self.start[rows])
            np.maximum.at(end, rows, ended)
        self.walk.tally.add(self.op, end - self.start)
        return [_Value(end, end) for _ in range(self.outputs)], end

    def call(self) -> tuple[list[_Value], Floats]:
        """A sub-agent; nobody waits for an async one but who awaits it, and the request."""
        region = int(self.walk.flat.regions_of(self.op)[0])
        everyone = np.arange(len(self.start))
        values, end = self.body(region, everyone, self.inputs, self.start)
        self.walk.tally.add(self.op, end - self.start)
        if self.attrs.get("mode") == "async":
            np.maximum.at(self.walk.late_s, self.who, end)
            end = self.start
        return values[: self.outputs], end

    def body(self, region: int, rows: Ints, arguments: Sequence[_Value], start: Floats) -> tuple[list[_Value], Floats]:
        """Run a region; what it gives is there when all of it has ended, as in the executor."""
        scope = _Scope(self.scope, rows)
        values, end = self.walk.region(region, scope, arguments, start, self.who[rows], self.sessions)
        ready = [np.maximum(value.ready_s, end) for value in values]  # an async call may end later
        return [v._replace(ready_s=at, first_s=at) for v, at in zip(values, ready, strict=True)], end

    def lookup(self) -> tuple[list[_Value], Floats]:
        """The prompt of an LLM call is known: draw its lengths and what its phases take."""
        n = len(self.start)
        call = str(self.attrs.get("call"))
        chat = next((value.chat for value in self.inputs if value.chat), None) or _new_chat(n)
        decode = self.walk.decodes[call]
        appended, output = self.appended(chat), self.output(decode)
        gap = np.where(np.isnan(chat.ended_s), NEVER, np.maximum(self.start - chat.ended_s, 0.0))
        window = self.walk.windows.get(str(self.attrs.get("model")), np.inf)
        full = np.flatnonzero(chat.tokens + appended + output > window)
        if len(full):
            chat, appended, output = self.within(window, full, chat, appended, output)
            gap = _put(gap, full, np.where(chat.last[full] < 0, NEVER, gap[full]))
        context = chat.tokens
        shared = np.minimum(chat.shared, context)
        previous = np.minimum(chat.output, context - shared)
        sample = CallSample(decode, shared, context, previous, appended, output, gap)
        self.walk.pending[call] = (sample, self.walk.timing.call(sample), chat)
        return self.done(np.zeros(n), [chat])

    def within(
        self, window: float, full: Ints, chat: _Chat, appended: Floats, output: Floats
    ) -> tuple[_Chat, Floats, Floats]:
        """Rows ``full`` fitted into the window; a compacted chat goes on from a summary, whose KV no engine holds."""
        self.walk.clipped += len(full)
        before = zip(chat.tokens[full], chat.shared[full], appended[full], output[full], strict=True)
        kept, more, answer = np.array([fit_window(*row, window) for row in before]).T
        new = kept < chat.tokens[full]
        chat = chat._replace(
            tokens=_put(chat.tokens, full, kept),
            output=_put(chat.output, full, np.where(new, 0.0, chat.output[full])),
            last=_put(chat.last, full, np.where(new, -1, chat.last[full])),
        )
        return chat, _put(appended, full, more), _put(output, full, answer)

    def appended(self, chat: _Chat) -> Floats:
        """Tokens appended: the call's own statistic, else the workload's, which differ for a chat's first call."""
        walk, n = self.walk, len(self.start)
        own = walk.flat.statistic(self.op, Slot.TOKENS_IN)
        if own is not None:
            return np.maximum(1.0, np.rint(walk.sample(own, n)))
        later = walk.sample(walk.workload.call.tokens_in, n)
        first = walk.sample(walk.workload.call.context_tokens, n) - chat.tokens
        return np.maximum(1.0, np.rint(np.where(np.isnan(chat.ended_s), first, later)))

    def output(self, decode: int) -> Floats:
        """Tokens generated, at least one."""
        own = self.walk.flat.statistic(decode, Slot.TOKENS_OUT) or self.walk.workload.call.tokens_out
        return np.maximum(1.0, np.rint(self.walk.sample(own, len(self.start))))

    def prefill(self) -> tuple[list[_Value], Floats]:
        """Seconds of the prefill phase."""
        return self.done(self.walk.pending[str(self.attrs.get("call"))][1].prefill_s)

    def transfer(self) -> tuple[list[_Value], Floats]:
        """Seconds of the KV transfer."""
        return self.done(self.walk.pending[str(self.attrs.get("call"))][1].transfer_s)

    def decode(self) -> tuple[list[_Value], Floats]:
        """The answer streams from the end of the transfer on; the chat grows by what was appended and answered."""
        sample, times, chat = self.walk.pending.pop(str(self.attrs.get("call")))
        values, end = self.done(times.decode_s)
        rows = self.walk.call_count + np.arange(len(end))
        after = _Chat(chat.shared, sample.context + sample.appended + sample.output, sample.output, end, rows)
        self.record(sample, times, chat)
        kept = [_Value(end, end, after), *(value._replace(first_s=self.start) for value in values[1:])]
        return kept[: self.outputs], end

    def record(self, sample: CallSample, times: CallTimes, chat: _Chat) -> None:
        """One row per call."""
        walk = self.walk
        table = np.zeros(len(sample.output), CALL)
        table["op"] = sample.op
        for name, column in zip(sample._fields[1:], sample[1:], strict=True):
            table[name] = column
        for name, column in zip(times._fields, times, strict=True):
            table[name] = column
        table["last"] = chat.last
        walk.calls.append(table)
        walk.call_count += len(table)


_RUN: Mapping[OpKind, Callable[[_Run], tuple[list[_Value], Floats]]] = {
    OpKind.GRAPH_CALL: _Run.call,
    OpKind.AWAIT: _Run.nothing,
    OpKind.BRANCH: _Run.branch,
    OpKind.LOOP: _Run.loop,
    OpKind.MAP: _Run.map,
    OpKind.CHAT: _Run.chat,
    OpKind.MEMORY_LOAD: _Run.load,
    OpKind.MEMORY_STORE: _Run.store,
    OpKind.CONST: _Run.nothing,
    OpKind.KV_LOOKUP: _Run.lookup,
    OpKind.PREFILL: _Run.prefill,
    OpKind.KV_TRANSFER: _Run.transfer,
    OpKind.DECODE: _Run.decode,
    OpKind.TRANSFER: _Run.nothing,
}
