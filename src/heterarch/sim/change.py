"""Applies faults and changes of a schedule to the world, between two calls of the core."""

from __future__ import annotations

import heapq
import math
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
from heterarch.sim.loss import expire_stranded
from heterarch.sim.pools import check_placement, draw_endpoint_latency, pool_kind, set_links
from heterarch.sim.recall import set_rate
from heterarch.sim.roster import Act, Roster
from heterarch.sim.spot import engine_levels
from heterarch.sim.state import Health, PoolKind, State
from heterarch.sim.switch import Stage, move_tasks, stages
from heterarch.sim.tasks import Tasks
from heterarch.sim.uptime import PoolTime

_STREAM = 3  # of the seed, for the latency of hosted APIs of later plans


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
            duration = faults.random.duration_s or until_s or max(_sent_s(tasks), 1e-9)
            self._changes += random_faults(faults.random.seed, plan, duration, faults.random)
        self._there = [pool.engines if row < len(plan.pools) else 0 for row, pool in enumerate(self.pools)]
        self._reserved = self._reserve()
        for change in self._changes:
            self._check(change)
        self._agenda: list[tuple[float, int, int, Act]] = []
        self._number = count()
        self._coming = np.zeros(len(self.pools), np.int64)
        self._slow_until_s: dict[int, float] = {}
        self._cut_until_s: dict[tuple[int, int], float] = {}
        self._rates: dict[tuple[int, int], float] = {}  # of links that are cut

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
        self._roster = Roster(self.pools, self._there, self._reserved, state, self._at)
        state.clock[0]["most_losses"] = self.faults.max_attempts
        state.pools["patience_s"] = self.faults.patience_s or 0.0
        for stage in self._stages:
            self._check_stage(stage)
            names = {pool.name: row for pool, row in zip(stage.plan.pools, stage.rows, strict=True)}
            set_links(state.links, names, stage.plan.links)
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
        """Engine-seconds of every pool between two moments."""
        return self._roster.times(self.tasks, begin_s, end_s)

    def _at(self, at_s: float, act: Act, brings: int = -1) -> None:
        """Do ``act`` at ``at_s``; it brings engines to pool ``brings``."""
        heapq.heappush(self._agenda, (at_s, next(self._number), brings, act))
        if brings >= 0:
            self._coming[brings] += 1

    def _settle(self) -> None:
        """Tell the pools which engines are coming; where none is and none is up, waiting ends."""
        state = self._state
        state.pools["coming"] = self._coming
        for pool in np.flatnonzero((state.pools["stranded"] >= 0) & (self._coming == 0)).tolist():
            first = self._roster.engine(pool, 0)
            up = (state.engines["healthy"][first : first + self._reserved[pool]] == Health.UP).any()
            if not up and self.faults.patience_s is None:
                expire_stranded(state, pool)

    # What is due when

    def _schedule(self, change: Change) -> None:
        roster = self._roster
        match change:
            case Switch():
                return  # `begin` schedules the stages of later plans
            case Spot():
                self._schedule_spot(change, self._rows[change.pool])
            case Scale() if change.engines > 0:
                pool = self._rows[change.pool]
                self._at(change.at_s, partial(roster.add, pool, change.engines), pool)
            case Scale():
                self._at(change.at_s, partial(roster.remove, self._rows[change.pool], -change.engines))
            case LinkLoss():
                self._at(change.at_s, partial(self._cut, change))
            case SlowEngine():
                self._at(change.at_s, partial(self._slow, change))
            case EngineCrash() | ServerCrash():
                rows, pool = self._crashed(change), self._rows[change.pool]
                whole = isinstance(change, ServerCrash)
                self._at(change.at_s, partial(roster.crash, pool, rows, whole, change.repair_s, change.restarts))

    def _schedule_spot(self, spot: Spot, pool: int) -> None:
        before = self.pools[pool].engines
        for at_s, level in engine_levels(spot, before):
            if level > before:
                self._at(at_s, partial(self._roster.bring_back, pool, level - before), pool)
            elif level < before:
                noticed = max(0.0, at_s - spot.notice_s)
                self._at(noticed, partial(self._roster.notice, pool, before - level, at_s))
            before = level

    def _crashed(self, change: EngineCrash | ServerCrash) -> list[int]:
        if isinstance(change, EngineCrash):
            return [change.engine]
        pool = self._rows[change.pool]
        size = self.pools[pool].engines_per_server
        return list(range(change.server * size, min((change.server + 1) * size, self._reserved[pool])))

    def _slow(self, change: SlowEngine, at_s: float) -> None:
        engine = self._roster.engine(self._rows[change.pool], change.engine)
        self._state.engines["slowness"][engine] = change.factor
        self._slow_until_s[engine] = at_s + change.for_s
        self._at(at_s + change.for_s, partial(self._sound, engine))

    def _sound(self, engine: int, at_s: float) -> None:
        if at_s >= self._slow_until_s[engine]:
            self._state.engines["slowness"][engine] = 1.0

    def _cut(self, change: LinkLoss, at_s: float) -> None:
        pool = self._rows[change.pool]
        others = [row for row in range(len(self.pools)) if row != pool]
        pairs = [(pool, other) for other in others] + [(other, pool) for other in others]
        for pair in [(pool, self._rows[change.to])] if change.to else pairs:
            if pair not in self._cut_until_s:
                self._rates[pair] = float(self._state.links["bytes_per_s"][pair])
                set_rate(self._state, *pair, 0.0)
            self._cut_until_s[pair] = max(at_s + change.for_s, self._cut_until_s.get(pair, 0.0))
            self._at(at_s + change.for_s, partial(self._join, pair))

    def _join(self, pair: tuple[int, int], at_s: float) -> None:
        if pair in self._cut_until_s and at_s >= self._cut_until_s[pair]:
            del self._cut_until_s[pair]
            set_rate(self._state, *pair, self._rates.pop(pair))

    def _switch(self, stage: Stage, at_s: float) -> None:
        """Order what the plan of ``stage`` lacks; it takes over when that is there."""
        ready_s = at_s
        for pool, made in zip(stage.rows, stage.plan.pools, strict=True):
            more = made.engines - len(self._roster.wanted(pool))
            if more > 0:
                self._roster.add(pool, more, at_s)
                ready_s = max(ready_s, at_s + made.start_s)
        self._at(ready_s, partial(self._take_over, stage))

    def _take_over(self, stage: Stage, at_s: float) -> None:
        """New work goes to the pools of ``stage``; the others end what they have."""
        which = np.isnan(self._state.sequences["submitted_s"])
        move_tasks(self.tasks, self.flat, stage, which)
        rng = np.random.default_rng([self.seed, _STREAM, self._stages.index(stage)])
        draw_endpoint_latency(self.pools, self.tasks, rng, which)
        for pool in set(range(len(self.pools))) - set(stage.rows):
            self._roster.close(pool, at_s)
        for pool, made in zip(stage.rows, stage.plan.pools, strict=True):
            self._roster.reopen(pool)
            self._roster.remove(pool, max(0, len(self._roster.wanted(pool)) - made.engines), at_s)

    # What the document says

    def _reserve(self) -> list[int]:
        """Engines that each pool has at most, were none ever given back."""
        most = list(self._there)
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
            if pool_kind(self.pools[self._rows[name]]) != PoolKind.ENGINES:
                raise InputError(f"{name} is no pool of LLM engines", expected="a mixed, prefill or decode pool")
        most = self._reserved[self._rows[change.pool]]
        if isinstance(change, EngineCrash | SlowEngine) and change.engine >= most:
            raise _no_such("engine", change.pool, change.engine, most)
        if isinstance(change, ServerCrash) and not self._crashed(change):
            raise _no_such("server", change.pool, change.server, -(-most // self._size(change.pool)))

    def _size(self, pool: str) -> int:
        return self.pools[self._rows[pool]].engines_per_server

    def _check_stage(self, stage: Stage) -> None:
        moved = Tasks(self.tasks.rows.copy(), self.tasks.edges)
        move_tasks(moved, self.flat, stage, np.ones(len(moved.rows), np.bool_))
        check_placement(moved, self.pools)


def _no_such(kind: str, pool: str, row: int, most: int) -> InputError:
    return InputError(f"pool {pool} has no such {kind}", observed=row, expected=f"0..{most - 1}")


def _sent_s(tasks: Tasks) -> float:
    """When the last request would be sent if answers took no time."""
    rows = tasks.rows
    pauses = np.bincount(rows["session"], weights=rows["delay_s"])
    return float(rows["release_s"].max(initial=0.0) + pauses.max(initial=0.0))
