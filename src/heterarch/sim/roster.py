"""The engines of every pool in time: lost, started, ordered, given back, taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from heterarch.plan.document import Pool
from heterarch.sim.loss import lose_engine, lose_servers, release_stranded
from heterarch.sim.pools import pool_kind
from heterarch.sim.state import Health, PoolKind, State
from heterarch.sim.tasks import Tasks
from heterarch.sim.uptime import SERVING, Phase, PoolTime, Uptime

Act = Callable[[float], None]  # at a time
At = Callable[[float, Act, int], None]  # do it then; it brings engines to that pool (-1: to none)
WANTED = (Phase.UP, Phase.STARTING, Phase.DOWN)


class Roster:
    """Who is there. Engines are (pool, row within the pool).

    Args:
        pools: P pools.
        there: [P] engines at the start.
        reserved: [P] engines that the world has room for.
        state: the world.
        at: schedules what comes later.
    """

    def __init__(
        self, pools: Sequence[Pool], there: Sequence[int], reserved: Sequence[int], state: State, at: At
    ) -> None:
        self.uptime = Uptime(there, reserved)
        self._pools, self._state, self._at = pools, state, at
        self._ready_s: dict[tuple[int, int], float] = {}
        self._closing: set[int] = set()
        self._noticed: list[list[int]] = [[] for _ in pools]  # rows that spot takes, and that it has taken
        self._taken: list[list[int]] = [[] for _ in pools]
        for pool in filter(self.is_engines, range(len(pools))):
            first = self.engine(pool, 0)
            state.engines["healthy"][first + there[pool] : first + reserved[pool]] = Health.DOWN

    def is_engines(self, pool: int) -> bool:
        """Whether the core knows the engines of ``pool`` one by one."""
        return pool_kind(self._pools[pool]) == PoolKind.ENGINES

    def engine(self, pool: int, row: int) -> int:
        """Its row among the engines of the world."""
        return int(self._state.pools["first"][pool]) + row

    def wanted(self, pool: int) -> list[int]:
        """Rows of ``pool`` that serve or are going to."""
        return self.uptime.rows(pool, WANTED)

    def crash(self, pool: int, rows: Sequence[int], server: bool, repair_s: float, restarts: bool, at_s: float) -> None:
        """Engines die together, with their ``server`` or without; they start after ``repair_s``, or never.

        One that drained is not missed.
        """
        self._lose(pool, [row for row in rows if self.uptime.phase(pool, row) in SERVING])
        if server:
            lose_servers(self._state, [self.engine(pool, row) for row in rows])
        for row in rows:
            phase = self.uptime.phase(pool, row)
            if phase in (Phase.ABSENT, Phase.GONE):
                continue
            if phase == Phase.DRAINING and pool not in self._closing:
                self.uptime.mark(pool, row, Phase.ABSENT, at_s)
            elif restarts:
                self._start(pool, row, Phase.DOWN, at_s, repair_s)
            else:
                self.uptime.mark(pool, row, Phase.GONE, at_s)

    def add(self, pool: int, engines: int, at_s: float) -> None:
        """Order engines."""
        for row in self.uptime.rows(pool, (Phase.ABSENT,))[:engines]:
            self._start(pool, row, Phase.STARTING, at_s)

    def remove(self, pool: int, engines: int, at_s: float) -> None:
        """Give the last engines back: at once where they do not serve yet, else when they have ended what they have."""
        wanted = self.wanted(pool)
        for row in wanted[max(0, len(wanted) - engines) :]:
            if self.uptime.phase(pool, row) == Phase.UP:
                self._drain(pool, row, at_s)
            else:
                self.uptime.mark(pool, row, Phase.ABSENT, at_s)

    def notice(self, pool: int, engines: int, take_s: float, at_s: float) -> None:
        """The last engines drain until they are taken at ``take_s``."""
        rows = [row for row in self.wanted(pool) if row not in self._noticed[pool]][-engines:]
        for row in rows:
            if self.uptime.phase(pool, row) == Phase.UP:
                self._drain(pool, row, at_s)
        self._noticed[pool] += rows
        self._at(take_s, partial(self._take, pool, rows), -1)

    def bring_back(self, pool: int, engines: int, at_s: float) -> None:
        """Start engines that had been taken, the first taken first."""
        back, self._taken[pool] = self._taken[pool][:engines], self._taken[pool][engines:]
        for row in back:
            self._start(pool, row, Phase.DOWN, at_s)

    def close(self, pool: int, at_s: float) -> None:
        """No new work comes to ``pool``; its engines are there until their last work."""
        self._closing.add(pool)
        for row in self.uptime.rows(pool, (Phase.UP,)):
            self.uptime.mark(pool, row, Phase.DRAINING, at_s)

    def reopen(self, pool: int) -> None:
        """New work comes to ``pool``."""
        self._closing.discard(pool)

    def times(self, tasks: Tasks, begin_s: float, end_s: float) -> list[PoolTime]:
        """Engine-seconds of every pool between two moments; what drained is there until its last work."""
        for pool in range(len(self._pools)):
            for row in self.uptime.rows(pool, (Phase.DRAINING,)):
                last = self._last_work_s(tasks, pool, row)
                if last <= end_s:
                    self.uptime.mark(pool, row, Phase.ABSENT, max(last, self.uptime.since_s(pool, row)))
        return self.uptime.times(begin_s, end_s)

    def _lose(self, pool: int, rows: Sequence[int]) -> None:
        """Engines that serve die; all are down before the calls of any look for another."""
        engines = [self.engine(pool, row) for row in rows]
        self._state.engines["healthy"][engines] = Health.DOWN
        for engine in engines:
            lose_engine(self._state, engine)

    def _start(self, pool: int, row: int, phase: Phase, at_s: float, repair_s: float = 0.0) -> None:
        ready_s = at_s + repair_s + self._pools[pool].start_s
        self.uptime.mark(pool, row, phase, at_s)
        self._ready_s[pool, row] = ready_s
        self._at(ready_s, partial(self._ready, pool, row), pool)

    def _ready(self, pool: int, row: int, at_s: float) -> None:
        if self.uptime.phase(pool, row) not in (Phase.STARTING, Phase.DOWN) or self._ready_s[pool, row] != at_s:
            return  # lost again, or taken, while it started
        self.uptime.mark(pool, row, Phase.DRAINING if pool in self._closing else Phase.UP, at_s)
        if self.is_engines(pool):
            self._state.engines["healthy"][self.engine(pool, row)] = Health.UP
            release_stranded(self._state, pool)

    def _drain(self, pool: int, row: int, at_s: float) -> None:
        self.uptime.mark(pool, row, Phase.DRAINING, at_s)
        if self.is_engines(pool):
            self._state.engines["healthy"][self.engine(pool, row)] = Health.DRAINING

    def _take(self, pool: int, rows: Sequence[int], at_s: float) -> None:
        self._lose(pool, [row for row in rows if self.uptime.phase(pool, row) in SERVING])
        lose_servers(self._state, [self.engine(pool, row) for row in rows])
        for row in rows:
            self.uptime.mark(pool, row, Phase.GONE, at_s)
            self._noticed[pool].remove(row)
            self._taken[pool].append(row)

    def _last_work_s(self, tasks: Tasks, pool: int, row: int) -> float:
        if self.is_engines(pool):
            engine = self._state.engines[self.engine(pool, row)]
            busy = engine["running"] or engine["queued"] or engine["send_head"] >= 0
            return math.inf if busy else max(float(engine["end_s"]), float(engine["link_free_s"]))
        ends = self._state.sequences["finish_s"][tasks.rows["prefill_pool"] == pool]
        return float(np.nanmax(ends, initial=0.0))
