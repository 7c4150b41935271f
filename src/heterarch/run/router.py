"""A pool of engines live: which engine and which slot take a call, decided by the plan's router on the client's own
accounts.

The accounts are exact for what passes through this process (so ``age_s`` is 0): running and queued calls, and
pending tokens as :class:`heterarch.policy.base.RouterView` defines them. Token counts before an answer are
estimates, from the characters per token of the answers so far; cached tokens are the leading text that a slot
shares with the prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from heterarch.errors import EngineError, EngineUnavailableError
from heterarch.policy.base import Router, RouterView
from heterarch.policy.router import BuiltinRouter
from heterarch.run.engines.base import Engine

_HEALTH_S = 2.0  # an engine that failed must answer this fast to be used again


@dataclass
class _Seat:
    """A slot of an engine: the text whose KV it holds, and when it was last used."""

    text: str = ""
    used_s: float = 0.0
    free: bool = True


@dataclass
class _Account:
    """What this process has sent to one engine and not yet had answered."""

    engine: Engine
    seats: list[_Seat]
    room: asyncio.Semaphore
    healthy: bool = True
    queued: int = 0
    running: int = 0
    pending_tokens: int = 0
    decode_tokens: int = 0
    busy_s: float = 0.0


@dataclass
class Lease:
    """The right to use one slot of one engine for one call; give it back with :meth:`PoolRouter.release`."""

    row: int
    slot: int
    engine: Engine
    prompt: str
    prompt_tokens: int
    pending: int
    since_s: float
    decoding: int = 0
    released: bool = False


@dataclass
class PoolRouter:
    """``engines`` of one pool, and who takes the next call."""

    name: str
    engines: Sequence[Engine]
    router: Router | BuiltinRouter
    chars_per_token: float = 4.0
    _accounts: list[_Account] = field(init=False)

    def __post_init__(self) -> None:
        self._accounts = [_account(engine) for engine in self.engines]

    def view(self, prompt: str, last_engine: int = -1) -> RouterView:
        """What the router sees when ``prompt`` arrives."""
        accounts = self._accounts
        tokens = self.tokens(prompt)
        cached = [max((_shared(seat.text, prompt) for seat in a.seats), default=0) for a in accounts]
        return RouterView(
            now_s=perf_counter(),
            prompt_tokens=tokens,
            last_engine=last_engine,
            age_s=np.zeros(len(accounts)),
            cached_tokens=np.minimum(np.array([self._tokens(chars) for chars in cached], np.int64), tokens),
            pending_tokens=np.array([a.pending_tokens for a in accounts], np.int64),
            decode_tokens=np.array([a.decode_tokens for a in accounts], np.int64),
            queued=np.array([a.queued for a in accounts], np.int64),
            running=np.array([a.running for a in accounts], np.int64),
            healthy=np.array([a.healthy for a in accounts], np.bool_),
        )

    async def acquire(self, prompt: str, last_engine: int = -1) -> Lease:
        """Choose an engine, wait for a slot of it, and book the call.

        Raises:
            EngineUnavailableError: no engine of the pool is healthy.
        """
        view = self.view(prompt, last_engine)
        row = self.router.decide(view)
        if row < 0 and await self._revived():
            view = self.view(prompt, last_engine)
            row = self.router.decide(view)
        if row < 0:
            raise EngineUnavailableError(
                f"no engine of pool {self.name} is healthy", observed=f"{len(self.engines)} engines"
            )
        account = self._accounts[row]
        pending = view.prompt_tokens - int(view.cached_tokens[row])
        account.pending_tokens += pending
        account.queued += 1
        try:
            await account.room.acquire()
        except BaseException:
            account.pending_tokens -= pending
            raise
        finally:
            account.queued -= 1
        account.running += 1
        slot = _best_seat(account.seats, prompt)
        account.seats[slot].free = False
        return Lease(row, slot, account.engine, prompt, view.prompt_tokens, pending, perf_counter())

    async def _revived(self) -> bool:
        """Ask the engines that failed whether they answer again; whether one does."""
        for account in self._accounts:
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(_HEALTH_S):
                    await account.engine.health()
                account.healthy = True
        return any(account.healthy for account in self._accounts)

    def first_token(self, lease: Lease) -> None:
        """The prompt is prefilled: from now on its whole context is in decode."""
        if not lease.released and not lease.decoding:
            account = self._accounts[lease.row]
            account.pending_tokens -= lease.pending
            account.decode_tokens += lease.prompt_tokens
            lease.pending, lease.decoding = 0, lease.prompt_tokens

    def release(self, lease: Lease, text: str = "", tokens: int = 0) -> None:
        """Give the slot back; it now holds the KV of ``text``, which was ``tokens`` long (0: nothing was learnt)."""
        if lease.released:
            return
        lease.released = True
        account = self._accounts[lease.row]
        account.pending_tokens -= lease.pending
        account.decode_tokens -= lease.decoding
        account.running -= 1
        account.busy_s += perf_counter() - lease.since_s
        seat = account.seats[lease.slot]
        seat.text, seat.used_s, seat.free = text, perf_counter(), True
        if tokens:
            self.chars_per_token += 0.2 * (len(text) / tokens - self.chars_per_token)
        account.room.release()

    def fail(self, row: int) -> None:
        """No more calls for this engine, until no other is left and it answers again."""
        self._accounts[row].healthy = False

    def is_healthy(self, row: int) -> bool:
        """Whether an engine still takes calls."""
        return self._accounts[row].healthy

    def healthy(self) -> int:
        """Engines that still take calls."""
        return sum(account.healthy for account in self._accounts)

    def busy_s(self) -> float:
        """Seconds that slots were in use, summed over engines and divided by the slots of an engine."""
        return sum(a.busy_s / len(a.seats) for a in self._accounts)

    def tokens(self, text: str) -> int:
        """Estimated tokens of ``text``."""
        return self._tokens(len(text))

    def _tokens(self, chars: int) -> int:
        return round(chars / max(self.chars_per_token, 0.1))


def _account(engine: Engine) -> _Account:
    slots = engine.capabilities.slots
    return _Account(engine, [_Seat() for _ in range(slots)], asyncio.Semaphore(slots))


def _best_seat(seats: list[_Seat], prompt: str) -> int:
    """The free slot whose whole text begins the prompt, longest first; else the one unused for longest."""
    free = [number for number, seat in enumerate(seats) if seat.free]
    going_on = [number for number in free if seats[number].text and prompt.startswith(seats[number].text)]
    if going_on:
        return max(going_on, key=lambda number: len(seats[number].text))
    return min(free, key=lambda number: seats[number].used_s)


def _shared(held: str, prompt: str) -> int:
    """Leading characters in common, by bisection."""
    low, high = 0, min(len(held), len(prompt))
    while low < high:
        middle = (low + high + 1) // 2
        if prompt.startswith(held[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
