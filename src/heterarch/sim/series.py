"""Samples of a run: the driver stops the core at chosen times and notes the state of every engine.

Stopping changes nothing, so a sampled run has the records of one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.cost.money.endpoint import call_usd
from heterarch.plan.document import Pool
from heterarch.report.aggregate import Records, Status
from heterarch.report.series import SAMPLE
from heterarch.sim.pools import pool_kind
from heterarch.sim.state import PoolKind, State
from heterarch.sim.tasks import Tasks
from heterarch.sim.uptime import PoolTime
from heterarch.units import HOUR_S

Floats = NDArray[np.float64]

AUTOMATIC = 400  # most samples where no interval is chosen; there are 200 at least, if as much happens
MOST = 100_000
MOST_ENGINE_SAMPLES = 4_000_000  # of all engines together
SHORTEST_S = 1e-3
MOST_ENGINE_ROWS = 64  # shown one by one


class EngineSamples(NamedTuple):
    """T samples of E engines; blocks of KV, seconds busy until then."""

    time_s: NDArray[Any]  # [T]
    queued: NDArray[Any]  # [T, E] each
    running: NDArray[Any]
    used: NDArray[Any]
    idle: NDArray[Any]  # cached prefixes that nobody uses
    busy_s: NDArray[Any]

    def thinned(self, most: int) -> EngineSamples:
        """Every k-th sample, so that at most ``most`` are left, the last one among them."""
        step = -(-len(self.time_s) // most)
        if step <= 1:
            return self
        chosen = np.arange(len(self.time_s) - 1, -1, -step)[::-1]
        return EngineSamples(*(values[chosen] for values in self))


class Sampler:
    """Takes samples every ``every_s`` seconds; when they are too many, drops every second one and takes half as many.

    Args:
        state: before its first event.
        tasks: what runs.
        every_s: seconds between samples; by default such that a run gets 200 to 400.
    """

    def __init__(self, state: State, tasks: Tasks, every_s: float | None = None) -> None:
        roots = tasks.rows[state.roots]
        times = roots["release_s"] + roots["delay_s"]
        self.begin_s = float(times.min(initial=np.inf)) if len(times) else 0.0
        span_s = float(times.max(initial=self.begin_s)) - self.begin_s
        self.chosen_s = every_s
        self.every_s = max(every_s or 2 * span_s / AUTOMATIC, SHORTEST_S)
        most = AUTOMATIC if every_s is None else min(MOST, MOST_ENGINE_SAMPLES // max(1, len(state.engines)))
        self._most = max(2, most - most % 2)
        self._times: list[float] = []
        self._rows: list[tuple[Any, ...]] = []
        self.due_s = self.begin_s + self.every_s

    def take(self, state: State) -> None:
        """Note the state at ``due_s``, when nothing more happens until then."""
        self._note(state, self.due_s)
        if len(self._times) >= self._most:
            self._times, self._rows = self._times[1::2], self._rows[1::2]
            self.every_s *= 2
        self.due_s = self._times[-1] + self.every_s

    def end(self, state: State) -> None:
        """Note the state at the end of the run, between two samples as a rule."""
        now_s = float(state.clock[0]["now_s"])
        if now_s > (self._times[-1] if self._times else self.begin_s):
            self._note(state, now_s)

    def samples(self, engines: int) -> EngineSamples:
        """All samples so far of ``engines`` engines."""
        times = np.array(self._times)
        if not self._rows:
            none = np.zeros((0, engines), np.int64)
            return EngineSamples(times, none, none, none, none, none.astype(np.float64))
        return EngineSamples(times, *(np.stack(column) for column in zip(*self._rows, strict=True)))

    def _note(self, state: State, at_s: float) -> None:
        engines = state.engines
        capacity = state.pools["capacity"][engines["pool"]]
        now = (engines["busy"] != 0) & (engines["end_s"] > at_s) & (engines["started_s"] <= at_s)
        busy_s = engines["busy_s"] + np.where(now, at_s - engines["started_s"], 0.0)
        idle = engines["idle"].astype(np.int64)
        self._times.append(at_s)
        self._rows.append(
            (engines["queued"].copy(), engines["running"].copy(), capacity - engines["free"] - idle, idle, busy_s)
        )


def drive_sampled(
    state: State,
    sampler: Sampler,
    limit_s: float,
    drive_to: Callable[[float], bool],
    drowned: Callable[[State], bool],
    tick: Callable[[State], None] | None = None,
) -> bool:
    """Run to the end or to ``limit_s`` with samples on the way; True when it ended.

    Args:
        state: changed by ``drive_to``.
        sampler: what takes the samples.
        limit_s: seconds of simulated time.
        drive_to: runs ``state`` to a time; True when it ended, False when it stopped there or before.
        drowned: whether so much waits that the run is given up; asked at every sample.
        tick: called after every sample.
    """
    try:
        while sampler.due_s < limit_s:
            due_s = sampler.due_s
            ended = drive_to(due_s)
            if ended or float(state.clock[0]["now_s"]) < due_s:
                return ended
            sampler.take(state)
            if tick is not None:
                tick(state)
            if drowned(state):
                return False
        return drive_to(limit_s)
    finally:
        sampler.end(state)


@dataclass(frozen=True)
class Sampled:
    """A run over time.

    ``rows``: :data:`heterarch.report.series.SAMPLE`; ``few``: at most :data:`AUTOMATIC` times of them, for a report.
    ``busy``: busy share of each engine (of each pool where they are many) at the times of ``few``. ``every_s``:
    seconds between samples in the end; ``doubled``: more than was asked for.
    """

    rows: Records
    few: Records
    busy: Mapping[str, Floats]
    every_s: float
    doubled: bool


def sampled(
    pools: Sequence[Pool],
    state: State,
    tasks: Tasks,
    calls: Records,
    sampler: Sampler,
    times_until: Callable[[float], Sequence[PoolTime]],
) -> Sampled:
    """What ``sampler`` saw of ``pools``.

    Args:
        pools: [P] of all plans of the run.
        state: at the end.
        tasks: what ran.
        calls: all of them, for what hosted APIs billed.
        sampler: what took the samples.
        times_until: [P] engine-seconds of the pools until a time.
    """
    every = sampler.samples(len(state.engines))
    few = every.thinned(AUTOMATIC)
    paid_s = np.array([[pool.paid_s for pool in times_until(at_s)] for at_s in every.time_s]).reshape(-1, len(pools))
    rows = pool_samples(pools, state, tasks, calls, sampler.begin_s, every, paid_s)
    chosen = np.isin(every.time_s, few.time_s)
    part = rows if few is every else pool_samples(pools, state, tasks, calls, sampler.begin_s, few, paid_s[chosen])
    doubled = sampler.chosen_s is not None and sampler.every_s > sampler.chosen_s
    return Sampled(rows, part, _busy(pools, state, part, few, sampler.begin_s), sampler.every_s, doubled)


def _busy(
    pools: Sequence[Pool], state: State, rows: Records, samples: EngineSamples, begin_s: float
) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    each = len(state.engines) <= MOST_ENGINE_ROWS
    for row, pool in enumerate(pools):
        mine = np.flatnonzero(state.engines["pool"] == row)
        if pool_kind(pool) != PoolKind.ENGINES or not each:
            found[pool.name] = rows["busy_share"][rows["pool"] == row]
            continue
        for number, engine in enumerate(mine.tolist()):
            found[f"{pool.name}/{number}"] = _rate(samples.busy_s[:, engine], samples.time_s, begin_s)
    return found


def pool_samples(
    pools: Sequence[Pool],
    state: State,
    tasks: Tasks,
    calls: Records,
    begin_s: float,
    samples: EngineSamples,
    paid_s: Floats,
) -> Records:
    """One :data:`heterarch.report.series.SAMPLE` row per sample and pool; ``paid_s`` [T, P] engine-seconds until then.

    Hosted APIs and tools are not sampled: what was in their queues and at work follows from the recorded times.
    """
    table = np.zeros((len(samples.time_s), len(pools)), SAMPLE)
    table["time_s"] = samples.time_s[:, None]
    for row, pool in enumerate(pools):
        part = table[:, row]
        part["pool"] = row
        part["usd"] = pool.usd_per_engine_h * paid_s[:, row] / HOUR_S
        if pool_kind(pool) == PoolKind.ENGINES:
            _engines(part, state, row, begin_s, samples)
        else:
            servers = max(1, pool.engines) * max(1, pool.concurrency)
            _servers(part, tasks.rows["prefill_pool"] == row, state, begin_s, servers)
        if pool.endpoint is not None:
            part["busy_share"] = 0.0
            part["usd"] += _billed_usd(pool, calls[calls["pool"] == row], samples.time_s)
    flat: Records = table.reshape(-1)
    return flat


def _engines(part: Any, state: State, row: int, begin_s: float, samples: EngineSamples) -> None:
    mine = state.engines["pool"] == row
    number, blocks = max(1, int(mine.sum())), max(1, int(state.pools[row]["capacity"]))
    part["queued"], part["running"] = (values[:, mine].sum(axis=1) for values in (samples.queued, samples.running))
    part["kv_share"] = samples.used[:, mine].sum(axis=1) / (number * blocks)
    part["cached_share"] = samples.idle[:, mine].sum(axis=1) / (number * blocks)
    part["busy_share"] = _rate(samples.busy_s[:, mine].sum(axis=1), part["time_s"], begin_s) / number


def _servers(part: Any, mine: Any, state: State, begin_s: float, servers: int) -> None:
    rows = state.sequences[mine]
    started = np.isfinite(rows["scheduled_s"])
    leaves = np.where(started, rows["scheduled_s"], rows["finish_s"])
    (came, _), (left, _) = (_until(values, part["time_s"]) for values in (rows["submitted_s"], leaves))
    begun, begun_s = _until(rows["scheduled_s"], part["time_s"])
    ended, ended_s = _until(rows["finish_s"][started], part["time_s"])
    part["queued"], part["running"] = came - left, begun - ended
    part["busy_share"] = _rate(begun_s - ended_s, part["time_s"], begin_s) / servers


def _until(moments: Floats, times: Floats) -> tuple[NDArray[np.int64], Floats]:
    """How many moments had come at each time, and the seconds since then, summed."""
    ordered = np.sort(moments[np.isfinite(moments)])
    number = np.searchsorted(ordered, times, side="right")
    return number, number * times - np.concatenate([[0.0], np.cumsum(ordered)])[number]


def _rate(total: Floats, times: Floats, begin_s: float) -> Floats:
    gaps = np.diff(times, prepend=begin_s)
    rate: Floats = np.clip(np.diff(total, prepend=0.0) / np.where(gaps > 0, gaps, 1.0), 0.0, None)
    return rate


def _billed_usd(pool: Pool, calls: Records, times: Floats) -> Floats:
    done = np.sort(calls[calls["status"] == Status.COMPLETED], order="finish_s")
    if pool.endpoint is None or not len(done):
        return np.zeros(len(times))
    usd = call_usd(pool.endpoint, done["prompt_tokens"], done["cached_tokens"], done["output_tokens"])
    spent: Floats = np.concatenate([[0.0], np.cumsum(usd)])[np.searchsorted(done["finish_s"], times, side="right")]
    return spent
