"""The work of a model before it is split over devices: bytes and FLOP per pass, token and pair."""

from __future__ import annotations

from typing import NamedTuple

from heterarch.catalog.dtype import bytes_per_value
from heterarch.cost.config import EngineConfig

ACTIVATION_BYTES = 2  # activations between kernels are 16-bit


class Work(NamedTuple):
    """Work of one model, all layers together."""

    weight_bytes: float  # read by every pass
    expert_bytes: float  # all routed experts
    expert_share: float  # top_k / experts: the chance that one token needs a given expert
    token_flops: float  # linear layers, per token
    pair_flops: float  # prefill attention, per (query, key) pair
    context_flops: float  # decode attention, per token of context
    kv_bytes: float  # KV of one token


def model_work(config: EngineConfig) -> Work:
    """Work of the config's model in its precisions.

    Linear layers take 2 FLOP per parameter and token; attention see :mod:`heterarch.catalog.attention`.
    """
    model = config.model
    width = bytes_per_value(config.dtype)
    head = 0 if model.encoder else model.vocab * model.hidden
    experts = model.expert_parameters()
    share = model.top_k / model.experts if model.experts else 0.0
    linear = model.linear_parameters()
    return Work(
        weight_bytes=linear * width,
        expert_bytes=experts * width,
        expert_share=share,
        token_flops=2.0 * (linear - head + experts * share),
        pair_flops=float(sum(part.layers * part.prefill_flops for part in model.attention)),
        context_flops=float(sum(part.layers * part.decode_flops for part in model.attention)),
        kv_bytes=model.kv_growth_bytes(config.kv_dtype),
    )
