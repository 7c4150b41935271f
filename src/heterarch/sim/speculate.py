"""Speculative decoding in an engine model that counts in tokens.

A pass of the model verifies ``verified`` tokens per decoding sequence and moves each on by ``tokens_per_step`` on
average. One iteration of the core stands for one token of every sequence, so it takes 1/tokens_per_step of a pass and
carries as much of the prefill. Throughput and mean TPOT are exact; lost are the bursts in which tokens come and the
scatter of what is accepted. An iteration without decodes is a plain pass.
"""

from __future__ import annotations

from typing import Any

from heterarch.cost.step import StepCost, step_time_s
from heterarch.sim.compiled import compiled

_step_seconds = compiled(step_time_s)


@compiled
def token_limit(pool: Any, decodes: int) -> int:
    """Tokens of an iteration of the core, decodes included, where a pass may have ``pool.budget``."""
    if decodes == 0 or pool.verified == 1:
        return int(pool.budget)
    spare = max(0, pool.budget - decodes * pool.verified)
    return int(decodes + spare / pool.tokens_per_step)


@compiled
def pass_seconds(pool: Any, cost: StepCost, chunk: float, pairs: float, decodes: int, context: float) -> float:
    """Seconds of one pass with ``chunk`` prefill tokens, drafting included."""
    seconds = _step_seconds(cost, chunk + decodes * pool.verified, pairs, decodes, context)
    return float(seconds + pool.draft_s) if decodes > 0 else float(seconds)


@compiled
def iteration_seconds(pool: Any, cost: StepCost, chunk: int, pairs: float, decodes: int, context: float) -> float:
    """Seconds of an iteration of the core with ``chunk`` prefill tokens."""
    if decodes == 0 or pool.verified == 1:
        return pass_seconds(pool, cost, chunk, pairs, decodes, context)
    kept = pool.tokens_per_step
    return float(pass_seconds(pool, cost, chunk * kept, pairs * kept, decodes, context) / kept)
