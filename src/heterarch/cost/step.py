"""The engine iteration in closed form, cheap enough for the simulator's inner loop and vectorised for the planner."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class StepCost(NamedTuple):
    """Coefficients of one forward pass of one engine; each field is a float, or an array over configurations.

    A roofline in which the linear layers overlap compute with weight reads, and attention, collectives and host work
    add up. Pipeline stages run micro-batches side by side, so under PP the per-token terms are divided by the number
    of stages.
    """

    fixed_s: Any  # launches, scheduling, latency of collectives and of pipeline hops
    weight_s: Any  # reading the weights that every pass reads
    expert_s: Any  # reading the weights of all routed experts
    expert_share: Any  # top_k / experts: the chance that one token needs a given expert
    token_s: Any  # linear-layer compute per token
    comm_s: Any  # collective bytes per token
    pair_s: Any  # prefill attention per (query, key) pair
    context_s: Any  # decode attention per token of context read
    sequence_s: Any  # sampling and host work per sequence


def step_time_s(cost: StepCost, tokens: Any, pairs: Any, sequences: Any, context: Any) -> Any:
    """Seconds of one iteration.

    Args:
        cost: coefficients, scalars or arrays that broadcast with the counts.
        tokens: tokens in the batch, prefill chunk and decodes together.
        pairs: sum over prefill chunks of chunk x (tokens already done + chunk / 2).
        sequences: decoding sequences in the batch; the simulator counts no others.
        context: sum of the context lengths of the decoding sequences.
    """
    experts = cost.expert_s * (1.0 - (1.0 - cost.expert_share) ** tokens)
    linear = np.maximum(cost.weight_s + experts, cost.token_s * tokens)
    return (
        cost.fixed_s
        + linear
        + cost.comm_s * tokens
        + cost.pair_s * pairs
        + cost.context_s * context
        + cost.sequence_s * sequences
    )
