"""Operating points of an engine: what happens on it at a rate of calls, for each role.

Every engine is described at the rate it really gets, so that batch size, cache hits, prefill time and waiting agree
with each other. Three roles:

* prefill: one server, a call takes S = prefill of its uncached tokens; waits by Pollaczek-Khinchine.
* decode: sequences arrive Poisson and stay output x TPOT, so their number is Poisson with mean b = rate x output x
  TPOT (M/G/infinity with state-dependent speed, mean-field); an arrival sees b others, so TPOT = step(1 + b).
* mixed: iterations with a prefill chunk are long, pure decode iterations are short; both give every running sequence
  one token (chunked prefill, arXiv 2403.02310). With S the mixed iterations of a call, c their number and
  rho = rate S: tokens per second of a sequence = rate c + (1 - rho) / step(1 + b).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from heterarch.cost.config import EngineConfig
from heterarch.cost.step import StepCost, step_time_s
from heterarch.plan.mix import Mix
from heterarch.plan.queueing import waiting_s
from heterarch.policy.base import Floats

MOST_SEQUENCES = 256  # default max_num_seqs of vLLM
PREFILL_BUDGET = 8192  # tokens of one iteration (max_num_batched_tokens) on an engine that only prefills
MIXED_BUDGET = 2048  # the same on one that also decodes: a longer chunk would stall the decodes
MOST_PREFILL = 0.9  # share of an engine's time; above it waiting has no useful bound
STEPS = 40  # of bisection
GRID = 24  # batches tried before bisection


@dataclass(frozen=True)
class Engine:
    """A configuration with its step cost, its KV capacity in tokens and what an hour of it costs.

    ``cost`` is ``margin`` times the predicted one, so that what is planned with it holds where the prediction is off.
    """

    config: EngineConfig
    cost: StepCost
    kv_tokens: int
    kv_bytes_per_token: int
    usd_per_h: float
    supply: str  # inventory key
    margin: float = 1.0

    @property
    def expected(self) -> Engine:
        """The engine as it is predicted, without the margin."""
        return replace(self, cost=self.cost.scaled(1 / self.margin), margin=1.0)

    @property
    def name(self) -> str:
        """``h100-sxm TP4 fp8``."""
        return self.config.name


@dataclass(frozen=True)
class Point:
    """An engine of one role in steady state at ``calls_per_s``.

    ``batch``: mean sequences in decode; ``busy``: share of time in prefill (and mixed) iterations; ``age_s``: how
    long an idle context stays (see ``prefix.py``); ``wait_s``: mean wait before prefill; ``tpot_s``: mean seconds per
    output token; ``spread_s``: TPOT per unit of z when the batch is z standard deviations above its mean.
    """

    engine: Engine
    role: str
    calls_per_s: float
    batch: float
    busy: float
    age_s: float
    wait_s: float
    tpot_s: float
    spread_s: float
    service: Floats  # seconds of prefill of each row of the mix, without waiting

    def tpot_at(self, z: float) -> float:
        """TPOT when the batch is ``z`` standard deviations above its mean."""
        return self.tpot_s + z * self.spread_s


def prefill_seconds(
    cost: StepCost, tokens: Floats, done: Floats, budget: int, decodes: float = 0.0, context: float = 0.0
) -> Floats:
    """Seconds to prefill ``tokens`` after ``done`` cached ones, in chunks of ``budget``, beside ``decodes`` sequences.

    Full chunks and the rest are iterations of their own; ``context`` is the context of one decoding sequence.
    """
    full = np.floor(tokens / budget)
    rest = tokens - full * budget
    attention = cost.pair_s * tokens * (done + tokens / 2)
    side = (decodes, decodes * context)
    whole = step_time_s(cost, budget + decodes, 0.0, side[0] + 1, side[1])
    last = np.where(rest > 0, step_time_s(cost, rest + decodes, 0.0, side[0] + 1, side[1]), 0.0)
    return np.asarray(full * whole + last + attention)


@dataclass(frozen=True)
class _Service:
    """Prefill seconds of each row, cached or not, as cumulative sums over the gap: E[S], E[S^2] in O(log n)."""

    mix: Mix
    hit: Floats
    miss: Floats

    @cached_property
    def _sums(self) -> tuple[Floats, Floats, Floats]:
        order = np.argsort(self.mix.gap_s, kind="stable")
        sums = []
        for power in (1, 2):
            head = np.concatenate(([0.0], np.cumsum(self.hit[order] ** power)))
            tail = np.concatenate(([0.0], np.cumsum(self.miss[order] ** power)))
            sums.append((head + tail[-1] - tail) / len(order))
        return self.mix.gap_s[order], sums[0], sums[1]

    def moments(self, age_s: float) -> tuple[float, float]:
        gaps, first, second = self._sums
        row = int(np.searchsorted(gaps, age_s, side="right"))
        return float(first[row]), float(second[row])

    def rows(self, age_s: float) -> Floats:
        return np.where(self.mix.gap_s <= age_s, self.hit, self.miss)


class Model:
    """An engine that serves a mix in one role: its steady state at a rate, and its rate at a load."""

    def __init__(self, engine: Engine, mix: Mix, role: str) -> None:
        """``role`` is prefill, decode or mixed."""
        self.engine = engine
        self.mix = mix
        self.role = role
        self.keeps_output = role != "prefill"
        self.reuse = mix.reuse(self.keeps_output)
        self.found = mix.found(self.keeps_output)
        self._services: dict[float, _Service] = {}
        self._steps: dict[float, float] = {}

    @cached_property
    def most_sequences(self) -> float:
        """Mean sequences in decode that leave room for two standard deviations more in KV and in the batch."""
        mean = float((self.mix.prompt + self.mix.output).mean())
        slots = min(float(MOST_SEQUENCES), self.engine.kv_tokens / mean) - 1
        if slots <= 0 or self.mix.longest > self.engine.kv_tokens:
            return 0.0
        return (math.sqrt(slots + 1) - 1) ** 2  # b + 2 sqrt(b) = slots

    def service(self, batch: float) -> _Service:
        """Prefill seconds of each row beside ``batch`` decoding sequences."""
        if batch not in self._services:
            budget = PREFILL_BUDGET if self.role == "prefill" else MIXED_BUDGET
            cost, context = self.engine.cost, self.mix.running_context
            done = self.mix.prompt - self.found
            hit = prefill_seconds(cost, self.found, done, budget, batch, context)
            shared = self.mix.prompt - self.mix.missed
            miss = prefill_seconds(cost, self.mix.missed, shared, budget, batch, context)
            if len(self._services) > 64:
                self._services.clear()
            self._services[batch] = _Service(self.mix, hit, miss)
        return self._services[batch]

    def age_s(self, calls_per_s: float, batch: float) -> float:
        """How long an idle context stays when ``batch`` sequences run."""
        return self.reuse.characteristic_s(calls_per_s, self.engine.kv_tokens - self.active_tokens(batch))

    def active_tokens(self, batch: float) -> float:
        """KV tokens of running sequences; on an engine that only prefills, of the one in prefill."""
        return self.mix.mean_prompt if self.role == "prefill" else self.mix.running_context * (1.0 + batch)

    def step_s(self, batch: float) -> float:
        """Seconds of a pure decode iteration of ``batch`` sequences."""
        if batch not in self._steps:
            context = batch * self.mix.running_context
            self._steps[batch] = float(step_time_s(self.engine.cost, batch, 0.0, batch, context))
        return self._steps[batch]

    @cached_property
    def _iterations(self) -> _Service:
        """Mixed iterations of each row, cached or not."""
        return _Service(self.mix, np.ceil(self.found / MIXED_BUDGET), np.ceil(self.mix.missed / MIXED_BUDGET))

    def chunks(self, age_s: float) -> float:
        """Mean number of mixed iterations of a call."""
        return self._iterations.moments(age_s)[0]

    def tpot_s(self, calls_per_s: float, batch: float) -> float:
        """Mean seconds per output token; infinite where prefill leaves no time."""
        step = self.step_s(1.0 + batch)
        if self.role == "decode":
            return step
        age = self.age_s(calls_per_s, batch)
        busy = calls_per_s * self.service(batch).moments(age)[0]
        if busy >= MOST_PREFILL:
            return math.inf
        return 1.0 / (calls_per_s * self.chunks(age) + (1.0 - busy) / step)

    def rate_at_batch(self, batch: float) -> float:
        """Calls per second at which ``batch`` sequences decode on average: b = rate x output x TPOT."""
        if self.role == "decode":
            return batch / (self.mix.mean_output * self.step_s(1.0 + batch))
        return _bisect(lambda rate: rate * self.mix.mean_output * self.tpot_s(rate, batch) <= batch,
                       MOST_PREFILL / self.service(batch).moments(math.inf)[0])  # fmt: skip

    def rate_at_busy(self, busy: float) -> float:
        """Calls per second at which prefill takes the share ``busy`` of an engine that only prefills."""
        service = self.service(0.0)
        return _bisect(lambda rate: rate * service.moments(self.age_s(rate, 0.0))[0] <= busy,
                       busy / service.moments(math.inf)[0])  # fmt: skip

    def point(self, calls_per_s: float) -> Point | None:
        """The steady state at a rate; None when the engine cannot keep up with it."""
        batch = 0.0
        if float(self.mix.prompt.max()) > self.engine.kv_tokens:
            return None
        if self.role != "prefill":
            found = self._least_batch(calls_per_s)
            if found is None:
                return None
            batch = found
        return self.state(calls_per_s, batch)

    def _least_batch(self, calls_per_s: float) -> float | None:
        """The least batch that carries a rate.

        More sequences may carry less, where they push chats out of the cache; hence a grid before the bisection.
        """
        low = 0.0
        for high in (np.geomspace(1e-3, 1.0, GRID) * self.most_sequences).tolist():
            if self.rate_at_batch(high) >= calls_per_s * (1 - 1e-9):
                return _bisect(lambda batch: self.rate_at_batch(batch) <= calls_per_s, high, low)
            low = high
        return None

    def state(self, calls_per_s: float, batch: float) -> Point | None:
        """The steady state at a rate and the batch that belongs to it; None when prefill leaves no time."""
        age = self.age_s(calls_per_s, batch)
        service = self.service(batch)
        mean, square = service.moments(age)
        tpot = self.tpot_s(calls_per_s, batch) if self.role != "prefill" else 0.0
        above = batch + math.sqrt(batch)
        spread = (self.step_s(1.0 + above) / self.step_s(1.0 + batch) - 1.0) * tpot
        if self.role == "decode":
            none = np.zeros_like(service.hit)
            return Point(self.engine, self.role, calls_per_s, batch, 0.0, age, 0.0, tpot, spread, none)
        busy = calls_per_s * mean
        wait = waiting_s(calls_per_s, mean, square)
        if busy >= MOST_PREFILL or math.isinf(tpot):
            return None
        if self.role == "mixed":  # the iteration that is running ends first
            wait += (1.0 - busy) * min(1.0, batch) * self.step_s(1.0 + batch) / 2
        rows = service.rows(age)
        return Point(self.engine, self.role, calls_per_s, batch, busy, age, wait, tpot, spread, rows)


def _bisect(holds: Callable[[float], bool], high: float, low: float = 0.0) -> float:
    """The largest value in ``low``..``high`` for which ``holds``, a condition that only fails from some value on."""
    if not math.isfinite(high) or holds(high):
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
