"""LLM calls live: the four phases of a call become work on the engines of their pools.

Prefill and decode on one pool are one ``generate``. On two pools, the prefill engine computes the prompt and the
first token, its KV is exported, imported by the engine that the decode pool's router chose, and decoding goes on
there.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from heterarch.errors import EngineError, EngineUnavailableError, InputError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.run.engines.base import Call, Completion, Message, OnText, Prefilled
from heterarch.run.executor import Request, TaskTime
from heterarch.run.program import Node
from heterarch.run.router import Lease, PoolRouter
from heterarch.run.values import Chat, render

#: receives the name of the decode op, the number of the call in the run, and a piece of its text
OnToken = Callable[[str, int, str], None]
DEFAULT_MAX_TOKENS = 256
T = TypeVar("T")


@dataclass
class CallRecord:
    """What was measured of one call; moments by the monotonic clock, NaN where they never came.

    ``op``: row of its decode op. ``pool`` and ``engine`` are those of the prefill.
    """

    request: int
    session: int
    op: int
    pool: str
    decode_pool: str
    submitted_s: float
    engine: int = -1
    decode_engine: int = -1
    scheduled_s: float = float("nan")
    first_token_s: float = float("nan")
    kv_arrived_s: float = float("nan")
    finish_s: float = float("nan")
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    kv_bytes: int = 0
    done: bool = False
    failed: bool = False


@dataclass
class _LiveCall:
    """A call between its phases."""

    chat: Chat
    messages: tuple[Message, ...]
    prompt: str
    decode: Node
    record: CallRecord
    number: int
    prefill_lease: Lease | None = None
    decode_lease: Lease | None = None
    prefilled: Prefilled | None = None


@dataclass
class ModelCalls:
    """Runs LLM calls on ``pools``; implements :class:`heterarch.run.executor.Models`.

    ``max_tokens`` caps every answer; an op's own limit, else its mean of tokens out, else 256, applies below the cap.
    """

    flat: FlatProgram
    nodes: Sequence[Node]
    pools: Mapping[str, PoolRouter]
    kv_folder: Path
    on_token: OnToken | None = None
    max_tokens: int | None = None
    timeout_s: float = 120.0
    records: list[CallRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._decodes = {str(n.attrs.get("call", "")): n for n in self.nodes if n.kind is OpKind.DECODE}
        self._prefills = {str(n.attrs.get("call", "")): n for n in self.nodes if n.kind is OpKind.PREFILL}
        for node in self._decodes.values():
            self._pool(node)

    def embeds(self, pool: str | None) -> bool:
        """Whether engines of ``pool`` make embeddings."""
        router = self.pools.get(pool or "")
        return router is not None and all(engine.capabilities.embed for engine in router.engines)

    async def run(self, node: Node, inputs: Sequence[Any], request: Request) -> tuple[Any, ...]:
        """The results of one phase, or of an embedding."""
        if node.kind is OpKind.KV_LOOKUP:
            return (self._lookup(node, inputs, request),)
        if node.kind is OpKind.EMBED:
            return (await self._embed(node, inputs),)
        live = next(value for value in inputs if isinstance(value, _LiveCall))
        if node.kind is OpKind.DECODE:
            return await self._decode(node, live, request)
        if live.record.pool != live.record.decode_pool:
            await (self._prefill if node.kind is OpKind.PREFILL else self._move)(node, live, request)
        return (live,)

    # ------------------------------------------------------------ phases

    def _lookup(self, node: Node, inputs: Sequence[Any], request: Request) -> _LiveCall:
        chat = inputs[0] if inputs and isinstance(inputs[0], Chat) else Chat()
        rest = inputs[1:] if inputs and isinstance(inputs[0], Chat) else inputs
        name = str(node.attrs["call"])
        decode, prefill = self._decodes[name], self._prefills.get(name)
        text = render(str(node.attrs.get("template") or ""), rest)
        messages = (*chat.messages, Message("user", text)) if rest or text else chat.messages
        pool = self._pool(decode)
        first = prefill.pool if prefill is not None and prefill.pool in self.pools else pool
        record = CallRecord(request.row, request.session, decode.op, str(first), pool, perf_counter())
        self.records.append(record)
        return _LiveCall(chat, messages, _text(messages), decode, record, len(self.records))

    async def _prefill(self, node: Node, live: _LiveCall, request: Request) -> None:
        record = live.record
        pool = self.pools[record.pool]
        start_s = perf_counter()
        lease = await self._acquire(pool, live, request)
        live.prefill_lease = lease
        record.engine, record.scheduled_s = lease.row, perf_counter()
        live.prefilled = await self._guarded(live, lease, pool, lease.engine.prefill(self._call(live, lease.slot)))
        pool.first_token(lease)
        record.prompt_tokens, record.cached_tokens = live.prefilled.prompt_tokens, live.prefilled.cached_tokens
        if live.prefilled.text:
            record.first_token_s = perf_counter()
            self._say(live, live.prefilled.text)
        request.times.append(TaskTime(node.op, start_s, perf_counter() - start_s))

    async def _move(self, node: Node, live: _LiveCall, request: Request) -> None:
        """Export the KV of the prefill slot, import it into a slot of the decode pool."""
        record, source = live.record, live.prefill_lease
        assert live.prefilled is not None
        assert source is not None
        if live.prefilled.finished:
            return
        start_s = perf_counter()
        pool = self.pools[record.decode_pool]
        target = live.decode_lease = await self._acquire(pool, live, request)
        record.decode_engine = target.row
        path = self.kv_folder / f"call-{next(self._numbers)}.kv"
        try:
            await self._guarded(live, source, self.pools[record.pool], source.engine.export_kv(source.slot, path))
            self.pools[record.pool].release(source, live.prompt, live.prefilled.prompt_tokens)
            record.kv_bytes = await self._guarded(live, target, pool, target.engine.import_kv(target.slot, path))
            record.kv_arrived_s = perf_counter()
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
        pool.first_token(target)
        request.times.append(TaskTime(node.op, start_s, perf_counter() - start_s))

    async def _decode(self, node: Node, live: _LiveCall, request: Request) -> tuple[Any, ...]:
        if live.prefilled is None:
            text = await self._generate(live, request)
        elif live.prefilled.finished:
            text = self._finished(live, live.prefilled)
        else:
            text = await self._go_on(live, live.prefilled)
        record = live.record
        begin_s = record.kv_arrived_s if record.kv_bytes else record.first_token_s
        request.times.append(TaskTime(node.op, begin_s, record.finish_s - begin_s))
        chat = Chat((*live.messages, Message("assistant", text)), live.chat.homes)
        chat = chat.at(record.pool, record.engine)
        if record.decode_engine >= 0:
            chat = chat.at(record.decode_pool, record.decode_engine)
        return tuple(chat if "chat" in kind else text for kind in node.output_types)

    async def _generate(self, live: _LiveCall, request: Request) -> str:
        """Prefill and decode on one engine; another engine of the pool takes over from one that never answered."""
        record, pool = live.record, self.pools[live.record.decode_pool]
        while True:
            lease = await self._acquire(pool, live, request)
            record.engine = record.decode_engine = lease.row
            record.scheduled_s = start_s = perf_counter()
            try:
                done = await self._guarded(
                    live,
                    lease,
                    pool,
                    lease.engine.generate(self._call(live, lease.slot), self._listener(live, lease, pool)),
                )
                break
            except EngineUnavailableError as error:
                if pool.is_healthy(lease.row) or not pool.healthy():
                    raise
                record.failed = False
                self.notes.append(
                    f"engine {lease.engine.name} was lost ({error.observed}); its calls went to the others"
                )
        record.prompt_tokens, record.cached_tokens = done.prompt_tokens, done.cached_tokens
        prefill = self._prefills.get(str(live.decode.attrs.get("call", "")))
        self._end(live, lease, pool, done, start_s + done.ttft_s, start_s + done.finish_s)
        if prefill is not None:
            request.times.append(TaskTime(prefill.op, record.submitted_s, record.first_token_s - record.submitted_s))
        return done.text

    async def _go_on(self, live: _LiveCall, prefilled: Prefilled) -> str:
        lease, pool = live.decode_lease, self.pools[live.record.decode_pool]
        if lease is None:
            raise InputError(
                f"{live.decode.name}: no kv_transfer stands between prefill and decode", where=live.decode.where
            )
        start_s = perf_counter()
        call = self._call(live, lease.slot)
        done = await self._guarded(
            live, lease, pool, lease.engine.decode(call, prefilled, self._listener(live, lease, pool))
        )
        first_s = live.record.first_token_s if prefilled.text else start_s + done.ttft_s
        self._end(live, lease, pool, done, first_s, start_s + done.finish_s)
        return done.text

    def _finished(self, live: _LiveCall, prefilled: Prefilled) -> str:
        """The first token was the whole answer."""
        lease, record = live.prefill_lease, live.record
        assert lease is not None
        tokens = max(len(prefilled.token_ids), 1)
        now_s = perf_counter()
        done = Completion(prefilled.text, prefilled.prompt_tokens, prefilled.cached_tokens, tokens, 0.0, 0.0)
        first_s = record.first_token_s if prefilled.text else now_s
        self._end(live, lease, self.pools[record.pool], done, first_s, now_s)
        return prefilled.text

    async def _embed(self, node: Node, inputs: Sequence[Any]) -> Any:
        pool = self.pools[str(node.pool)]
        texts = inputs[0] if isinstance(inputs[0], list) else [str(inputs[0])]
        lease = await pool.acquire("\n".join(texts))
        try:
            vectors = await lease.engine.embed(texts)
        finally:
            pool.release(lease)
        return vectors if isinstance(inputs[0], list) else vectors[0]

    # ------------------------------------------------------------ leases, limits, listeners

    async def _acquire(self, pool: PoolRouter, live: _LiveCall, request: Request) -> Lease:
        try:
            lease = await pool.acquire(live.prompt, live.chat.home(pool.name))
        except EngineError:
            live.record.failed = True
            raise
        request.at_end.append(lambda: pool.release(lease))
        return lease

    async def _guarded(self, live: _LiveCall, lease: Lease, pool: PoolRouter, work: Awaitable[T]) -> T:
        """The result of ``work``; an engine that fails and then does not answer gets no more calls."""
        try:
            return await work
        except EngineError:
            live.record.failed = True
            pool.release(lease)
            try:
                await lease.engine.health()
            except EngineError:
                pool.fail(lease.row)
            raise

    def _end(
        self, live: _LiveCall, lease: Lease, pool: PoolRouter, done: Completion, first_s: float, finish_s: float
    ) -> None:
        record = live.record
        record.first_token_s, record.finish_s = first_s, finish_s
        record.output_tokens, record.done = done.output_tokens, True
        text = _text((*live.messages, Message("assistant", done.text)))
        pool.release(lease, text, done.prompt_tokens + done.output_tokens)

    def _call(self, live: _LiveCall, slot: int) -> Call:
        attrs = live.decode.attrs
        stop = attrs.get("stop")
        return Call(
            messages=live.messages,
            max_tokens=self._limit(live.decode),
            stop=tuple(map(str, stop)) if isinstance(stop, tuple | list) else (),
            slot=slot,
            timeout_s=self.timeout_s,
        )

    def _limit(self, node: Node) -> int:
        own = node.attrs.get("max_tokens")
        limit = int(str(own)) if own is not None else round(node.tokens_out or DEFAULT_MAX_TOKENS)
        return max(1, min(limit, self.max_tokens) if self.max_tokens else limit)

    def _listener(self, live: _LiveCall, lease: Lease, pool: PoolRouter) -> OnText:
        def listen(text: str) -> None:
            pool.first_token(lease)
            self._say(live, text)

        return listen

    def _say(self, live: _LiveCall, text: str) -> None:
        if self.on_token is not None:
            self.on_token(live.decode.name, live.number, text)

    def _pool(self, node: Node) -> str:
        if node.pool is None or node.pool not in self.pools:
            raise InputError(
                f"{node.name} is placed on no pool that has engines",
                observed=str(node.pool),
                expected="one of " + ", ".join(self.pools),
                where=node.where,
            )
        return node.pool


def _text(messages: Sequence[Message]) -> str:
    """The messages as one text that a longer chat begins with."""
    return "".join(f"{message.role}\n{message.text}\n" for message in messages)
