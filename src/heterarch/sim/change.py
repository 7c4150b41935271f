"""Applies faults and changes of a schedule to the world, between two calls of the core."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import numpy as np

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan, Pool
from heterarch.sim.faults import (
    Change,
    EngineCrash,
    Faults,
    LinkLoss,
    Scale,
    ServerCrash,
    SlowEngine,
    Spot,
    Switch,
    random_faults,
)
from heterarch.sim.loss import cut_link, expire_held, lose_engine, release_held
from heterarch.sim.pools import check_placement, draw_endpoint_latency, pool_kind
from heterarch.sim.spot import engine_levels
from heterarch.sim.state import Health, PoolKind, State
from heterarch.sim.switch import Stage, move_tasks, stages
from heterarch.sim.tasks import Tasks
from heterarch.sim.uptime import SERVING, Phase, PoolTime, Uptime

Act = Callable[[float], None]  # at a time
_STREAM = 3  # of the seed, for the latency of hosted APIs of later plans
_WANTED = (Phase.UP, Phase.STARTING, Phase.DOWN)


class Changes:
    """The agenda of one run. Made before the world, whose pools it knows; then :meth:`begin`.

    Args:
        plan: at the start.
        flat: the program.
        faults: what changes.
        tasks: what runs.
        seed: of the latencies of hosted APIs of later plans.
        until_s: end of the run where one is stated.

    Raises:
        InputError: a pool, an engine or a plan that does not exist or cannot take part.
    """

    def __init__(
        self,
        plan: Plan,
        flat: FlatProgram,
        faults: Faults,
        tasks: Tasks,
        *,
        seed: int = 0,
        until_s: float | None = None,
    ) -> None:
        self.faults, self.flat, self.tasks, self.seed = faults, flat, tasks, seed
        self.pools, self._stages = stages(plan, faults.changes)
        self._rows = {pool.name: row for row, pool in enumerate(self.pools)}
        self._changes: list[Change] = list(faults.changes)
        if faults.random is not None:
            duration = faults.random.duration_s or until_s or _sent_s(tasks)
            self._changes += random_faults(faults.random.seed, plan, max(duration, 1e-9), faults.random)
        self._reserved = self._reserve(len(plan.pools))
        for change in self._changes:
            self._check(change)
        there = [pool.engines if row < len(plan.pools) else 0 for row, pool in enumerate(self.pools)]
        self._uptime = Uptime(there, self._reserved)
        self._there = there
        self._agenda: list[tuple[float, int, int, Act]] = []
        self._number = count()
        self._coming = np.zeros(len(self.pools), np.int64)
        self._ready_s: dict[tuple[int, int], float] = {}
        self._slow_until_s: dict[int, float] = {}
        self._closing: set[int] = set()
        self._noticed: list[list[int]] = [[] for _ in self.pools]  # rows that spot takes, that it has taken
        self._taken: list[list[int]] = [[] for _ in self.pools]

    @property
    def reserved(self) -> list[Pool]:
        """The pools with room for every engine that they ever have."""
        pairs = zip(self.pools, self._reserved, strict=True)
        return [pool.model_copy(update={"engines": most}) for pool, most in pairs]

    @property
    def next_s(self) -> float:
        """When something is due next."""
        return self._agenda[0][0] if self._agenda else math.inf

    def begin(self, state: State) -> None:
        """Take over ``state``, made of :attr:`reserved` pools.

        Raises:
            InputError: a later plan that cannot run the tasks.
        """
        self._state = state
        state.clock[0]["most_losses"] = self.faults.max_attempts
        state.pools["patience_s"] = self.faults.patience_s or 0.0
        for pool, there in enumerate(self._there):
            if self._is_engines(pool):
                first, most = self._first(pool), self._reserved[pool]
                state.engines["healthy"][first + there : first + most] = Health.DOWN
        for stage in self._stages:
            self._check_stage(stage)
            self._at(stage.at_s, partial(self._switch, stage))
        for change in self._changes:
            self._schedule(change)
        self._settle()
        while self.next_s <= 0.0:
            self.apply()

    def apply(self) -> None:
        """Do what is due next."""
        at_s, _, pool, act = heapq.heappop(self._agenda)
        self._state.clock[0]["now_s"] = at_s
        if pool >= 0:
            self._coming[pool] -= 1
        act(at_s)
        self._settle()

    def times(self, begin_s: float, end_s: float) -> list[PoolTime]:
        """Engine-seconds of every pool between two moments; what drained is there until its last work."""
        for pool in range(len(self.pools)):
            for row in self._uptime.rows(pool, (Phase.DRAINING,)):
                last = self._last_work_s(pool, row)
                if last <= end_s:
                    self._uptime.mark(pool, row, Phase.ABSENT, max(last, self._uptime.since_s(pool, row)))
        return self._uptime.times(begin_s, end_s)

    # What is due when

    def _at(self, at_s: float, act: Act, brings: int = -1) -> None:
        """Do ``act`` at ``at_s``; it brings engines to pool ``brings``."""
        heapq.heappush(self._agenda, (at_s, next(self._number), brings, act))
        if brings >= 0:
            self._coming[brings] += 1

    def _schedule(self, change: Change) -> None:
        match change:
            case Switch():
                pass  # a stage
            case Spot():
                self._schedule_spot(change)
            case Scale():
                brings = self._rows[change.pool] if change.engines > 0 else -1
                self._at(change.at_s, partial(self._scale, self._rows[change.pool], change.engines), brings)
            case LinkLoss():
                self._at(change.at_s, partial(self._cut, change))
            case SlowEngine():
                self._at(change.at_s, partial(self._slow, change))
            case EngineCrash() | ServerCrash():
                self._at(change.at_s, partial(self._crash, change))

    def _schedule_spot(self, spot: Spot) -> None:
        pool = self._rows[spot.pool]
        before = self.pools[pool].engines
        for at_s, level in engine_levels(spot, before):
            if level > before:
                self._at(at_s, partial(self._bring_back, pool, level - before), pool)
            elif level < before:
                notice = max(0.0, at_s - spot.notice_s)
                self._at(notice, partial(self._notice, pool, before - level, at_s))
            before = level

    # Engines

    def _crash(self, change: EngineCrash | ServerCrash, at_s: float) -> None:
        pool = self._rows[change.pool]
        rows = self._crashed_rows(change)
        serving = [row for row in rows if self._uptime.phase(pool, row) in SERVING]
        self._lose(pool, serving)
        for row in rows:
            phase = self._uptime.phase(pool, row)
            if phase in (Phase.ABSENT, Phase.GONE):
                continue
            if phase == Phase.DRAINING and pool not in self._closing:
                self._uptime.mark(pool, row, Phase.ABSENT, at_s)
            elif change.restarts:
                self._start(pool, row, Phase.DOWN, at_s, change.repair_s)
            else:
                self._uptime.mark(pool, row, Phase.GONE, at_s)

    def _crashed_rows(self, change: EngineCrash | ServerCrash) -> list[int]:
        if isinstance(change, EngineCrash):
            return [change.engine]
        pool = self._rows[change.pool]
        size = self.pools[pool].engines_per_server
        return list(range(change.server * size, min((change.server + 1) * size, self._reserved[pool])))

    def _lose(self, pool: int, rows: Sequence[int]) -> None:
        """Engines that serve die; all are down before the calls of any look for another."""
        engines = [self._first(pool) + row for row in rows]
        self._state.engines["healthy"][engines] = Health.DOWN
        for engine in engines:
            lose_engine(self._state, engine)

    def _start(self, pool: int, row: int, phase: Phase, at_s: float, repair_s: float = 0.0) -> None:
        ready_s = at_s + repair_s + self.pools[pool].start_s
        self._uptime.mark(pool, row, phase, at_s)
        self._ready_s[pool, row] = ready_s
        self._at(ready_s, partial(self._ready, pool, row), pool)

    def _ready(self, pool: int, row: int, at_s: float) -> None:
        if self._uptime.phase(pool, row) not in (Phase.STARTING, Phase.DOWN) or self._ready_s[pool, row] != at_s:
            return  # lost again, or taken, while it started
        self._uptime.mark(pool, row, Phase.DRAINING if pool in self._closing else Phase.UP, at_s)
        if self._is_engines(pool):
            self._state.engines["healthy"][self._first(pool) + row] = Health.UP
            release_held(self._state, pool)

    def _slow(self, change: SlowEngine, at_s: float) -> None:
        engine = self._first(self._rows[change.pool]) + change.engine
        self._state.engines["slowness"][engine] = change.factor
        self._slow_until_s[engine] = at_s + change.for_s
        self._at(at_s + change.for_s, partial(self._sound, engine))

    def _sound(self, engine: int, at_s: float) -> None:
        if at_s >= self._slow_until_s[engine]:
            self._state.engines["slowness"][engine] = 1.0

    def _cut(self, change: LinkLoss, at_s: float) -> None:
        pool = self._rows[change.pool]
        others = [row for row in range(len(self.pools)) if self._is_engines(row) and row != pool]
        pairs = [(pool, other) for other in others] + [(other, pool) for other in others]
        for source, target in [(pool, self._rows[change.to])] if change.to else pairs:
            cut_link(self._state, source, target, at_s + change.for_s)

    # More and fewer engines

    def _scale(self, pool: int, engines: int, at_s: float) -> None:
        if engines > 0:
            for row in self._uptime.rows(pool, (Phase.ABSENT,))[:engines]:
                self._start(pool, row, Phase.STARTING, at_s)
            return
        wanted = self._uptime.rows(pool, _WANTED)
        for row in wanted[max(0, len(wanted) + engines) :]:
            up = self._uptime.phase(pool, row) == Phase.UP
            self._uptime.mark(pool, row, Phase.DRAINING if up else Phase.ABSENT, at_s)
            if up and self._is_engines(pool):
                self._state.engines["healthy"][self._first(pool) + row] = Health.DRAINING

    def _notice(self, pool: int, engines: int, take_s: float, at_s: float) -> None:
        """The last ``engines`` engines drain until they are taken at ``take_s``."""
        rows = [row for row in self._uptime.rows(pool, _WANTED) if row not in self._noticed[pool]][-engines:]
        for row in rows:
            if self._uptime.phase(pool, row) == Phase.UP:
                self._uptime.mark(pool, row, Phase.DRAINING, at_s)
                self._state.engines["healthy"][self._first(pool) + row] = Health.DRAINING
        self._noticed[pool] += rows
        self._at(take_s, partial(self._take, pool, rows))

    def _take(self, pool: int, rows: Sequence[int], at_s: float) -> None:
        self._lose(pool, [row for row in rows if self._uptime.phase(pool, row) in SERVING])
        for row in rows:
            self._uptime.mark(pool, row, Phase.GONE, at_s)
            self._noticed[pool].remove(row)
            self._taken[pool].append(row)

    def _bring_back(self, pool: int, engines: int, at_s: float) -> None:
        back, self._taken[pool] = self._taken[pool][:engines], self._taken[pool][engines:]
        for row in back:
            self._start(pool, row, Phase.DOWN, at_s)

    # Another plan

    def _switch(self, stage: Stage, at_s: float) -> None:
        ready_s = at_s
        for pool, made in zip(stage.rows, stage.plan.pools, strict=True):
            more = made.engines - len(self._uptime.rows(pool, _WANTED))
            if more > 0:
                self._scale(pool, more, at_s)
                ready_s = max(ready_s, at_s + made.start_s)
        self._at(ready_s, partial(self._move, stage))

    def _move(self, stage: Stage, at_s: float) -> None:
        """New work goes to the pools of ``stage``; the others end what they have."""
        which = np.isnan(self._state.sequences["submitted_s"])
        move_tasks(self.tasks, self.flat, stage, which)
        rng = np.random.default_rng([self.seed, _STREAM, self._stages.index(stage)])
        draw_endpoint_latency(self.pools, self.tasks, rng, which)
        for pool, made in zip(stage.rows, stage.plan.pools, strict=True):
            fewer = made.engines - len(self._uptime.rows(pool, _WANTED))
            if fewer < 0:
                self._scale(pool, fewer, at_s)
        for pool in set(range(len(self.pools))) - set(stage.rows):
            self._closing.add(pool)
            for row in self._uptime.rows(pool, (Phase.UP,)):
                self._uptime.mark(pool, row, Phase.DRAINING, at_s)
        self._closing -= set(stage.rows)

    # The world

    def _settle(self) -> None:
        """Tell the pools which engines are coming; where none is and none is up, waiting ends."""
        state = self._state
        state.pools["coming"] = self._coming
        for pool in np.flatnonzero((state.pools["held"] >= 0) & (self._coming == 0)).tolist():
            first = self._first(pool)
            up = (state.engines["healthy"][first : first + self._reserved[pool]] == Health.UP).any()
            if not up and self.faults.patience_s is None:
                expire_held(state, pool)

    def _last_work_s(self, pool: int, row: int) -> float:
        if self._is_engines(pool):
            engine = self._state.engines[self._first(pool) + row]
            busy = engine["running"] or engine["queued"]
            return math.inf if busy else max(float(engine["end_s"]), float(engine["link_free_s"]))
        ends = self._state.sequences["finish_s"][self.tasks.rows["prefill_pool"] == pool]
        return float(np.nanmax(ends, initial=0.0))

    def _first(self, pool: int) -> int:
        return int(self._state.pools["first"][pool])

    def _is_engines(self, pool: int) -> bool:
        return pool_kind(self.pools[pool]) == PoolKind.ENGINES

    # What the document says

    def _reserve(self, first_plan: int) -> list[int]:
        """Engines that each pool has at most, were none ever given back."""
        most = [pool.engines if row < first_plan else 0 for row, pool in enumerate(self.pools)]
        for change in self._changes:
            if isinstance(change, Scale) and change.pool in self._rows:
                most[self._rows[change.pool]] += max(0, change.engines)
        for stage in self._stages:
            for row, made in zip(stage.rows, stage.plan.pools, strict=True):
                most[row] += made.engines
        return most

    def _check(self, change: Change) -> None:
        if isinstance(change, Switch):
            return
        for name in (change.pool, *([change.to] if isinstance(change, LinkLoss) and change.to else [])):
            if name not in self._rows:
                raise UnknownNameError("pool", name, self._rows)
            if not self._is_engines(self._rows[name]):
                raise InputError(
                    f"faults concern pools of engines; {name} is none", expected="a mixed, prefill or decode pool"
                )
        most = self._reserved[self._rows[change.pool]]
        size = self.pools[self._rows[change.pool]].engines_per_server
        last = change.engine if isinstance(change, EngineCrash | SlowEngine) else 0
        last = change.server * size if isinstance(change, ServerCrash) else last
        if last >= most:
            raise InputError(
                f"pool {change.pool} has no such {'server' if isinstance(change, ServerCrash) else 'engine'}",
                observed=change.model_dump(exclude_defaults=True),
                expected=f"0..{-(-most // size) - 1 if isinstance(change, ServerCrash) else most - 1}",
            )

    def _check_stage(self, stage: Stage) -> None:
        moved = Tasks(self.tasks.rows.copy(), self.tasks.edges)
        move_tasks(moved, self.flat, stage, np.ones(len(moved.rows), np.bool_))
        check_placement(moved, self.pools)


def _sent_s(tasks: Tasks) -> float:
    """When the last request would be sent if answers took no time."""
    rows = tasks.rows
    pauses = np.bincount(rows["session"], weights=rows["delay_s"])
    return float(rows["release_s"].max(initial=0.0) + pauses.max(initial=0.0))
