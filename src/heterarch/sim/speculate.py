"""Speculative decoding in an engine model that counts in tokens.

A pass of the model verifies ``verified`` tokens per decoding sequence and moves each on by ``tokens_per_step`` on
average. One iteration of the core stands for one token of every sequence, so it takes 1/tokens_per_step of a pass and
carries as much of the prefill. Throughput and mean TPOT are exact; lost are the bursts in which tokens come and the
scatter of what is accepted. An iteration without decodes is a plain pass.
"""

from __future__ import annotations

from typing import Any

from heterarch.sim.compiled import compiled


@compiled
def token_limit(pool: Any, decodes: int) -> int:
    """Tokens of an iteration of the core, decodes included, where a pass may have ``pool.budget``."""
    if decodes == 0 or pool.verified == 1:
        return int(pool.budget)
    spare = max(0, pool.budget - decodes * pool.verified)
    return int(decodes + spare / pool.tokens_per_step)


@compiled
def kept_tokens(pool: Any, decodes: int) -> float:
    """Iterations of the core that one pass stands for."""
    return float(pool.tokens_per_step) if decodes > 0 else 1.0


@compiled
def draft_seconds(pool: Any, decodes: int) -> float:
    """Seconds that drafting adds to a pass."""
    return float(pool.draft_s) if decodes > 0 else 0.0
