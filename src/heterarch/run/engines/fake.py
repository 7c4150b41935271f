"""A scripted engine for tests of agents: answers, latencies and faults are yours, KV reuse and transfer are kept
honestly.

A token of the fake is a word. A slot holds the words of its last prompt and answer; the leading words that a new
prompt shares with its slot count as cached.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

from heterarch.errors import BadResponseError, EngineUnavailableError, StreamBrokenError
from heterarch.run.engines.base import Call, Capabilities, Completion, OnText, Prefilled

#: what may go wrong with a call: no answer, death after the first token, garbage, silence for ever
Fault = Literal["unavailable", "broken", "garbage", "hang"]
#: the text of an answer, from the call
Answer = Callable[[Call], str]


@dataclass
class FakeEngine:
    """An engine that answers by script.

    ``answers``: texts in turn (the last repeats), or a function of the call. ``faults``: by number of the call,
    from 0. ``prefill_s_per_token``, ``ttft_s`` and ``tpot_s`` are slept, seconds. ``calls`` records what was asked.
    """

    answers: Sequence[str] | Answer = ("ok",)
    name: str = "fake"
    slots: int = 8
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    prefill_s_per_token: float = 0.0
    faults: Mapping[int, Fault] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(slots=self.slots, kv_transfer=True, embed=True)
        self._kv: list[list[str]] = [[] for _ in range(self.slots)]

    async def generate(self, call: Call, on_text: OnText | None = None) -> Completion:
        """Answer by script."""
        started = perf_counter()
        fault = self._begin(call)
        cached, prompt = await self._fill(call)
        return await self._speak(call, self._words(call), prompt, cached, started, on_text, fault)

    async def prefill(self, call: Call) -> Prefilled:
        """Keep the prompt's words in the slot, and say the first word."""
        started = perf_counter()
        self._begin(call)
        cached, prompt = await self._fill(call)
        words = self._words(call)
        return Prefilled(words[0] if words else "", (), prompt, cached, perf_counter() - started, len(words) <= 1)

    async def export_kv(self, slot: int, path: Path) -> int:
        """Write the slot's words as JSON."""
        return path.write_text(json.dumps(self._kv[slot]))

    async def import_kv(self, slot: int, path: Path) -> int:
        """Read a slot's words."""
        text = path.read_text()
        self._kv[slot] = json.loads(text)
        return len(text)

    async def decode(self, call: Call, prefilled: Prefilled, on_text: OnText | None = None) -> Completion:
        """Say the rest of the answer; the cached words are those that were imported."""
        started = perf_counter()
        fault = self._begin(call)
        cached, prompt = await self._fill(call)
        return await self._speak(call, self._words(call), prompt, cached, started, on_text, fault, said=1)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The length and the number of words of every text."""
        return [[float(len(text)), float(len(text.split()))] for text in texts]

    async def health(self) -> None:
        """Return unless closed."""
        if self.closed:
            raise EngineUnavailableError("the engine does not answer", where=f"engine {self.name}")

    async def close(self) -> None:
        """Answer no more."""
        self.closed = True

    def _begin(self, call: Call) -> Fault | None:
        fault = self.faults.get(len(self.calls))
        self.calls.append(call)
        if self.closed or fault == "unavailable":
            raise EngineUnavailableError("the engine does not answer", where=f"engine {self.name}")
        if fault == "garbage":
            raise BadResponseError("the engine's answer is not JSON", observed="<html>", where=f"engine {self.name}")
        return fault

    async def _fill(self, call: Call) -> tuple[int, int]:
        words = [word for message in call.messages for word in message.text.split()]
        held = self._kv[call.slot]
        cached = next(
            (i for i, (a, b) in enumerate(zip(words, held, strict=False)) if a != b), min(len(words), len(held))
        )
        seconds = self.ttft_s + self.prefill_s_per_token * (len(words) - cached)
        if seconds:
            await asyncio.sleep(seconds)
        self._kv[call.slot] = words
        return cached, len(words)

    def _words(self, call: Call) -> list[str]:
        turn = sum(message.role == "assistant" for message in call.messages)
        text = self.answers(call) if callable(self.answers) else self.answers[min(turn, len(self.answers) - 1)]
        return text.split()[: call.max_tokens]

    async def _speak(
        self,
        call: Call,
        words: list[str],
        prompt: int,
        cached: int,
        started: float,
        on_text: OnText | None,
        fault: Fault | None,
        said: int = 0,
    ) -> Completion:
        first_s = perf_counter() - started if not said else 0.0
        for number, word in list(enumerate(words))[said:]:
            if number and self.tpot_s:
                await asyncio.sleep(self.tpot_s)
            if on_text:
                on_text(word if number == 0 else f" {word}")
            if fault == "broken":
                raise StreamBrokenError("the answer broke off", observed="after 1 token", where=f"engine {self.name}")
            if fault == "hang":
                await asyncio.Event().wait()
        self._kv[call.slot] += words
        return Completion(" ".join(words), prompt, cached, len(words), first_s, perf_counter() - started)
