"""The step cost of a pool, as the core asks for it."""

from __future__ import annotations

from typing import Any

from heterarch.cost.step import StepCost, step_time_s
from heterarch.sim.compiled import compiled

step_seconds = compiled(step_time_s)


@compiled
def cost_of(pool: Any) -> StepCost:
    """The step cost of a pool."""
    return StepCost(pool.fixed_s, pool.token_s, pool.bends_s, pool.pair_s, pool.context_s, pool.sequence_s)
