"""What ops take under a placement: the timing that the sampled walk asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from heterarch.catalog.fleet import FleetEndpoint
from heterarch.cost.transfer import TransferRate
from heterarch.plan.candidates import Candidate
from heterarch.plan.operating import MIXED_BUDGET, PREFILL_BUDGET, Point, prefill_seconds
from heterarch.plan.phases import sent_s
from heterarch.plan.queueing import erlang_c, pool_waiting_s
from heterarch.plan.walk import CallSample, CallTimes
from heterarch.policy.base import Floats
from heterarch.workload.distribution import lognormal

FULLEST = 0.999  # load of a pool above which waiting has no useful value


@dataclass(frozen=True)
class PlacedCall:
    """Where a call runs: candidates, the operating points at the rate they really get, and the link between them."""

    before: Candidate
    after: Candidate
    sender: Point | None
    receiver: Point | None
    rate: TransferRate | None


@dataclass(frozen=True)
class PlacedTask:
    """The pool that a CPU op waits in: its slots, and rate, mean and mean square of the seconds of all its tasks."""

    slots: int
    tasks_per_s: float
    mean_s: float
    square_s2: float


class PlacedTiming:
    """Seconds of every op under a placement, with waiting; see :class:`heterarch.plan.walk.Timing`.

    Waiting is drawn from the stationary wait: none with the chance of an idle server, else exponential. The batch
    that a sequence meets is normal around its mean.
    """

    def __init__(self, calls: Mapping[int, PlacedCall], tasks: Mapping[int, PlacedTask], seed: int) -> None:
        self.calls = calls
        self.tasks = tasks
        self.rng = np.random.default_rng(seed + 1)

    def call(self, sample: CallSample) -> CallTimes:
        """Seconds of the phases of LLM calls."""
        placed = self.calls[sample.op]
        n = len(sample.output)
        after_first = sample.output - 1.0
        hosted = placed.before.hosted
        if hosted is not None:
            endpoint = hosted.endpoint
            p50, p95 = endpoint.ttft_p50_s, endpoint.ttft_p95_s
            ttft = lognormal(p50=p50, p95=p95).sample(self.rng, n) if p95 > p50 else np.full(n, p50)
            return CallTimes(ttft, np.zeros(n), after_first * self._hosted_tpot(endpoint, n))
        assert placed.sender is not None
        assert placed.receiver is not None
        computing = self._prefill(placed, sample)
        prefill = self._wait(placed.sender, n) + computing
        noise = np.maximum(self.rng.standard_normal(n), -1.0)
        tpot = placed.receiver.tpot_s + noise * placed.receiver.spread_s
        return CallTimes(prefill, self._transfer(placed, sample, computing), after_first * tpot)

    def _hosted_tpot(self, endpoint: FleetEndpoint, n: int) -> Floats:
        p50, p95 = endpoint.tpot_p50_s, endpoint.tpot_p95_s or endpoint.tpot_p50_s
        return lognormal(p50=p50, p95=p95).sample(self.rng, n) if p95 > p50 else np.full(n, p50)

    def task(self, op: int, seconds: Floats) -> Floats:
        """Service and waiting of a CPU op; other ops (a person) as declared."""
        placed = self.tasks.get(op)
        if placed is None or placed.mean_s <= 0:
            return seconds
        rate = min(placed.tasks_per_s, FULLEST * placed.slots / placed.mean_s)
        chance = erlang_c(placed.slots, rate * placed.mean_s)
        mean = pool_waiting_s(placed.slots, rate, placed.mean_s, placed.square_s2) / chance if chance else 0.0
        waits = self.rng.random(len(seconds)) < chance
        return seconds + np.where(waits, self.rng.exponential(mean, len(seconds)), 0.0)

    def _wait(self, point: Point, n: int) -> Floats:
        if not point.busy or not point.wait_s:
            return np.zeros(n)
        chance = min(1.0, max(point.busy, 1e-9))
        waits = self.rng.random(n) < chance
        return np.where(waits, self.rng.exponential(point.wait_s / chance, n), 0.0)

    def _prefill(self, placed: PlacedCall, sample: CallSample) -> Floats:
        point = placed.sender
        assert point is not None
        mixed = point.role == "mixed"
        tokens = uncached(sample, point, keeps_output=mixed)
        done = sample.context + sample.appended - tokens
        budget, batch = (MIXED_BUDGET, point.batch) if mixed else (PREFILL_BUDGET, 0.0)
        context = placed.before.mix.running_context
        return prefill_seconds(point.engine.cost, tokens, done, budget, batch, context)

    def _transfer(self, placed: PlacedCall, sample: CallSample, prefill_s: Floats) -> Floats:
        if placed.rate is None or placed.receiver is None or placed.before.key == placed.after.key:
            return np.zeros(len(sample.output))
        tokens = uncached(sample, placed.receiver, keeps_output=True)
        return sent_s(tokens, placed.receiver, placed.rate, prefill_s)


def uncached(sample: CallSample, point: Point, *, keeps_output: bool) -> Floats:
    """Prompt tokens that an engine does not hold: new ones when the chat stayed in its cache, else all but the
    system prompt. An engine that does not decode never held the last answer (``keeps_output`` false).
    """
    found = sample.appended + (0.0 if keeps_output else sample.previous)
    missed = sample.appended + sample.context - sample.shared
    age = math.inf if math.isinf(point.age_s) else point.age_s
    return np.where((sample.gap_s <= age) & np.isfinite(sample.gap_s), found, missed)
