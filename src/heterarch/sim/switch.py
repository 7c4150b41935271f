"""Another plan in the middle of a run: its pools beside the first one's, and the tasks that go over to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heterarch.ir.flat import FlatProgram
from heterarch.plan.document import Plan, Pool
from heterarch.plan.store import load_plan
from heterarch.sim.faults import Change, Switch
from heterarch.sim.placement import Placement, call_ops
from heterarch.sim.pools import pool_kind
from heterarch.sim.state import PoolKind
from heterarch.sim.tasks import TaskKind, Tasks


@dataclass(frozen=True)
class Stage:
    """A plan from ``at_s`` on; ``rows``: where its pools stand among those of all plans of the run."""

    at_s: float
    plan: Plan
    rows: tuple[int, ...]


def stages(plan: Plan, changes: Sequence[Change]) -> tuple[list[Pool], list[Stage]]:
    """The pools of all plans of the run, those of ``plan`` first, and the plans that follow it, in time.

    A pool that a plan has already had, but for its number of engines, is the same pool; another one of a name that is
    taken gets a number.

    Raises:
        InputError: a plan that cannot be read.
    """
    pools, found = list(plan.pools), []
    for change in sorted((c for c in changes if isinstance(c, Switch)), key=lambda c: c.at_s):
        made = load_plan(change.plan) if isinstance(change.plan, str) else change.plan
        rows = tuple(_row(pool, pools) for pool in made.pools)
        found.append(Stage(change.at_s, made, rows))
    return pools, found


def _row(pool: Pool, pools: list[Pool]) -> int:
    scalable = pool_kind(pool) == PoolKind.ENGINES
    for row, known in enumerate(pools):
        if known == (pool.model_copy(update={"engines": known.engines}) if scalable else pool):
            return row
    taken = {known.name for known in pools}
    number = next(n for n in range(1, len(pools) + 2) if (pool.name if n == 1 else f"{pool.name}-{n}") not in taken)
    pools.append(pool if number == 1 else pool.model_copy(update={"name": f"{pool.name}-{number}"}))
    return len(pools) - 1


def move_tasks(tasks: Tasks, flat: FlatProgram, stage: Stage, which: NDArray[np.bool_]) -> None:
    """Place the tasks in ``which`` [n] as the plan of ``stage`` does, by the names of their ops.

    Raises:
        InputError: the plan places an op of them nowhere, or on a pool that it does not have.
    """
    rows, placement = tasks.rows, Placement(stage.plan, flat)
    calls = {ops.decode: ops for ops in call_ops(flat).values()}
    places = np.array([*stage.rows, -1])  # row -1: on no pool
    for op in np.unique(rows["op"][which & (rows["op"] >= 0)]).tolist():
        mine = which & (rows["op"] == op)
        called = mine & (rows["kind"] == TaskKind.GENERATE)
        if called.any():
            before, after = placement.call(calls[op])
            rows["prefill_pool"][called], rows["decode_pool"][called] = places[before], places[after]
        rows["prefill_pool"][mine & ~called] = places[placement.pool(op)]
