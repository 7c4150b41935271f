"""Measures a live endpoint with a bounded load: prompt lengths x requests at once."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from heterarch.cost.money.endpoint import TokenPrices, call_usd
from heterarch.errors import EngineError, EngineUnavailableError, InputError, StreamBrokenError
from heterarch.run.engines.base import Call, Completion, Engine, Message
from heterarch.run.probe_result import ProbeResult, ProbeRow

#: a prompt may hold this many tokens per word of it; reserved before the server has said its own number
TOKENS_PER_WORD = 2.0
TEMPLATE_TOKENS = 64  # that a chat adds to its message
#: words of prompts, each of about one token
TEXT = (
    "the river runs under a stone bridge and old trees stand near water while birds sing in the morning light over "
    "green fields where people walk along quiet roads to small towns with red roofs tall towers open doors warm bread"
)


@dataclass(frozen=True)
class ProbeOptions:
    """What is asked, and what bounds it: whatever comes first ends the probe.

    ``prompt_tokens`` are aimed at, the server's own count is what is recorded. ``max_usd`` needs ``prices``.
    ``max_errors`` is the number of failed requests after which the probe gives up.

    Raises:
        InputError: nothing to ask, a bound that is not above 0, or money to spend without prices.
    """

    prompt_tokens: Sequence[int] = (128, 512, 2048, 8192)
    concurrency: Sequence[int] = (1, 4, 16)
    output_tokens: int = 64
    max_requests: int = 100
    max_tokens: int = 300_000
    max_seconds: float = 180.0
    max_usd: float | None = None
    prices: TokenPrices | None = None
    max_errors: int = 5
    timeout_s: float = 60.0
    seed: int = 7

    def __post_init__(self) -> None:
        if self.max_usd is not None and self.prices is None:
            raise InputError("a bound in USD needs the endpoint's prices", fix="give the USD per million tokens")
        names = ("output_tokens", "max_requests", "max_tokens")
        bounds: dict[str, float] = {name: getattr(self, name) for name in names}
        bounds |= {f"prompt of {size} tokens": size for size in self.prompt_tokens}
        bounds |= {f"concurrency {size}": size for size in self.concurrency}
        if self.max_usd is not None and self.prices is not None:
            if not 0 <= self.max_usd < math.inf:
                raise InputError("the bound in USD is no amount", observed=str(self.max_usd))
            for kind in ("input_usd_per_mtok", "cached_usd_per_mtok", "output_usd_per_mtok"):
                if not 0 <= getattr(self.prices, kind) < math.inf:
                    raise InputError(f"{kind} is no price", observed=str(getattr(self.prices, kind)))
        for name, value in {**bounds, "max_seconds": self.max_seconds, "timeout_s": self.timeout_s}.items():
            if not 0 < value < math.inf:
                raise InputError("a probe needs bounds and sizes above 0", observed=f"{name}: {value}")


async def probe(
    engine: Engine,
    options: ProbeOptions,
    result: ProbeResult,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Ask the engine in rounds, from few requests at once to many, and fill ``result`` as answers come.

    Every prompt begins with words of its own, so that no prefix cache answers for the engine. A round whose worst case
    would pass a bound is not started. When cancelled, ``result`` keeps what has been answered.

    Raises:
        EngineError: nothing was answered at all; the last failure.
        InputError: a bound is below what the first request may take.
    """
    sweep = _Sweep(engine, options, result, perf_counter())
    rounds = list(itertools.product(sorted(options.concurrency), sorted(options.prompt_tokens)))
    for number, (concurrency, prompt_tokens) in enumerate(rounds):
        if progress:
            progress(number, len(rounds))
        result.stopped = sweep.bound(concurrency, prompt_tokens)
        if result.stopped:
            break
        await sweep.round(concurrency, prompt_tokens)
        if result.errors.total() >= options.max_errors:
            result.stopped = f"{result.errors.total()} requests failed"
            break
    if result.rows:
        return
    if sweep.last_error is not None:
        raise sweep.last_error
    raise InputError("the bounds of the probe admit no request at all", observed=result.stopped, fix="raise that bound")


@dataclass
class _Sweep:
    """The rounds of one probe."""

    engine: Engine
    options: ProbeOptions
    result: ProbeResult
    started: float
    last_error: EngineError | None = None
    tokens_per_word: float = TOKENS_PER_WORD

    def __post_init__(self) -> None:
        self.random = random.Random(self.options.seed)

    def bound(self, concurrency: int, prompt_tokens: int) -> str:
        """The bound that a round could pass, by its worst case; empty when none."""
        options, result = self.options, self.result
        prompt, output = concurrency * self._most_tokens(prompt_tokens), concurrency * options.output_tokens
        if result.requests + concurrency > options.max_requests:
            return f"the bound of {options.max_requests} requests"
        if result.tokens + prompt + output > options.max_tokens:
            return f"the bound of {options.max_tokens:,} tokens"
        if self._left_s() <= 0:
            return f"the bound of {options.max_seconds:g} s"
        if options.max_usd is not None and result.usd + self._usd(prompt, 0, output) > options.max_usd:
            return f"the bound of {options.max_usd:g} USD"
        return ""

    async def round(self, concurrency: int, prompt_tokens: int) -> None:
        """``concurrency`` requests at once."""
        self.result.requests += concurrency
        asked = (self._ask(concurrency, prompt_tokens, slot) for slot in range(concurrency))
        async with asyncio.TaskGroup() as group:
            for request in asked:
                group.create_task(request)

    async def _ask(self, concurrency: int, prompt_tokens: int, slot: int) -> None:
        result, words = self.result, prompt_tokens
        call = Call(
            (Message("user", prompt_text(words, self.random)),),
            max_tokens=self.options.output_tokens,
            slot=slot % self.engine.capabilities.slots,
            timeout_s=self.options.timeout_s,
        )
        pieces: list[str] = []
        submitted_s = perf_counter() - self.started
        try:
            async with asyncio.timeout(max(self._left_s(), 0.001)):
                answer = await self.engine.generate(call, pieces.append)
        except TimeoutError:
            result.stopped = f"the bound of {self.options.max_seconds:g} s"
            self.last_error = EngineUnavailableError("no answer before the end of the probe", observed=result.stopped)
            result.tokens += self._most_tokens(words)
        except EngineError as error:
            self._failed(error, words)
        else:
            self._answered(answer, submitted_s, concurrency, words, len(pieces))

    def _answered(self, answer: Completion, submitted_s: float, concurrency: int, words: int, pieces: int) -> None:
        result = self.result
        prompt = answer.prompt_tokens or self._most_tokens(words)  # a server that counts none is paid for all the same
        result.tokens += prompt + answer.output_tokens
        if words >= TEMPLATE_TOKENS:
            seen = 1.1 * prompt / words
            self.tokens_per_word = max(seen, self.tokens_per_word) if result.rows else seen
        result.usd += self._usd(prompt, min(answer.cached_tokens, prompt), answer.output_tokens)
        result.rows.append(
            ProbeRow(
                submitted_s=submitted_s,
                first_token_s=submitted_s + answer.ttft_s,
                finish_s=submitted_s + answer.finish_s,
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                output_tokens=answer.output_tokens,
                concurrency=concurrency,
                asked_words=words,
                asked_tokens=self.options.output_tokens,
                pieces=pieces,
                finish_reason=answer.finish_reason,
                counted=answer.counted,
            )
        )

    def _failed(self, error: EngineError, words: int) -> None:
        """Count the failure; what the engine may have computed for it counts as spent."""
        self.last_error = error
        self.result.errors[f"{error.what} ({error.observed})" if error.observed else error.what] += 1
        self.result.tokens += self._most_tokens(words)
        if isinstance(error, StreamBrokenError):
            self.result.usd += self._usd(self._most_tokens(words), 0, self.options.output_tokens)

    def _most_tokens(self, words: int) -> int:
        """Tokens that a prompt may have, by what the server has said of others."""
        return math.ceil(self.tokens_per_word * words) + TEMPLATE_TOKENS

    def _usd(self, prompt: int, cached: int, output: int) -> float:
        return float(call_usd(self.options.prices, prompt, cached, output)) if self.options.prices else 0.0

    def _now(self) -> float:
        return perf_counter() - self.started

    def _left_s(self) -> float:
        return self.options.max_seconds - self._now()


def prompt_text(words: int, random_: random.Random) -> str:
    """A prompt of ``words`` words, the first of which are its own."""
    return " ".join(random_.choices(TEXT.split(), k=words))
