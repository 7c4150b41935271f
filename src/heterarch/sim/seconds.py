"""The step cost of a pool, as the core asks for it."""

from __future__ import annotations

from typing import Any

from heterarch.cost.step import StepCost, step_time_s
from heterarch.sim.compiled import compiled

step_seconds = compiled(step_time_s)


@compiled
def cost_of(pool: Any, phase: int) -> StepCost:
    """The step cost of a pool: of iterations of 0 prompts and decodes, 1 prompts only, 2 decodes only."""
    return StepCost(
        pool.fixed_s[phase],
        pool.token_s[phase],
        pool.bends_s[phase],
        pool.pair_s[phase],
        pool.context_s[phase],
        pool.sequence_s[phase],
        pool.mixed_s[phase],
    )
