"""The Engine protocol: what heterarch asks of whatever runs a model, and what comes back.

Times are seconds since the method was called, by the client's monotonic clock, so they include the way to the
engine and back. Slots are rows ``0 .. capabilities.slots - 1``, each holding the KV of one sequence; who calls an
engine chooses the slot and uses it for one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from heterarch.errors import InputError

#: receives each piece of text as it arrives
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; ``role`` is system, user, assistant or tool."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call: the whole chat so far, and how the answer ends.

    ``timeout_s``: most seconds without a single byte from the engine. Sampling is greedy (temperature 0) unless
    asked.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    slot: int = 0
    temperature: float = 0.0
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: text, token ids where the engine tells them, counts in tokens, times in seconds since the call.

    ``cached_tokens`` of ``prompt_tokens`` were not computed again. ``counted`` is False where the engine did not
    say how many tokens it used, and the counts are the number of text pieces that arrived.
    """

    text: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_s: float
    finish_s: float
    token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    counted: bool = True

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first; 0 for an answer of one token."""
        return (self.finish_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt whose KV stands in a slot, and the first token of its answer, which the decoding engine does not
    repeat.

    ``text`` and ``token_ids`` are empty where the token cannot be carried over (half a character, stop texts): the
    decoding engine then says it. ``finished``: the answer is complete with this token, there is nothing to decode.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do: calls at once (slots), moving KV out and in, embeddings."""

    slots: int = 1
    kv_transfer: bool = False
    embed: bool = False


class Engine(Protocol):
    """One model replica. Every method may raise :class:`heterarch.errors.EngineError` and its children."""

    name: str
    capabilities: Capabilities

    async def generate(self, call: Call, on_text: OnText | None = None) -> Completion:
        """The whole call on this engine."""
        ...

    async def prefill(self, call: Call) -> Prefilled:
        """Compute the KV of the prompt into ``call.slot`` and the first token of the answer."""
        ...

    async def export_kv(self, slot: int, path: Path) -> int:
        """Write the KV of a slot to ``path``; the bytes written."""
        ...

    async def import_kv(self, slot: int, path: Path) -> int:
        """Read the KV of a slot from ``path``; the bytes read."""
        ...

    async def decode(self, call: Call, prefilled: Prefilled, on_text: OnText | None = None) -> Completion:
        """Go on from an imported KV. The completion covers the whole answer; ``on_text`` receives what is new."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text."""
        ...

    async def health(self) -> None:
        """Return when the engine answers; raise EngineUnavailableError when it does not."""
        ...

    async def close(self) -> None:
        """Stop the engine and free what it holds; safe to call twice."""
        ...


@dataclass
class NoKvTransfer:
    """The KV methods of an engine whose KV stays where it is: each says so."""

    name: str = field(default="engine", init=False)

    async def prefill(self, call: Call) -> Prefilled:
        """Raise InputError: this engine does not split prefill from decode."""
        raise self._refusal()

    async def export_kv(self, slot: int, path: Path) -> int:
        """Raise InputError: this engine does not export KV."""
        raise self._refusal()

    async def import_kv(self, slot: int, path: Path) -> int:
        """Raise InputError: this engine does not import KV."""
        raise self._refusal()

    async def decode(self, call: Call, prefilled: Prefilled, on_text: OnText | None = None) -> Completion:
        """Raise InputError: this engine does not split prefill from decode."""
        raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(
            f"engine {self.name!r} cannot move KV",
            expected="prefill and decode of one call on the same pool",
            fix="place both ops on one pool, or use engines that can (llama.cpp)",
        )
