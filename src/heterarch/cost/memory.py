"""Device memory of an engine: weights, activations, what is left for KV, and what is missing when it does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from heterarch.cost.config import EngineConfig
from heterarch.cost.terms import ACTIVATION_BYTES
from heterarch.units import format_bytes

UTILISATION = 0.9  # default share of device memory that vLLM takes (gpu_memory_utilization)
BATCHED_TOKENS = 8192  # default most tokens of an iteration (max_num_batched_tokens)


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """Bytes per device of one engine, and the KV tokens that the whole engine holds.

    ``kv_tokens`` is 0 when the weights do not fit, and for an encoder, which keeps no KV.
    """

    name: str
    usable_bytes: int
    weight_bytes: int
    activation_bytes: int
    kv_bytes_per_token: float
    kv_tokens: int
    missing_bytes: int

    def explain(self) -> str:
        """One line: what is needed, what is there, what is missing."""
        need = format_bytes(self.weight_bytes + self.activation_bytes)
        have = f"{need} of {format_bytes(self.usable_bytes)} usable per device"
        if self.missing_bytes:
            return (
                f"{self.name}: weights and activations do not fit, {have}, {format_bytes(self.missing_bytes)} missing"
            )
        return f"{self.name}: weights and activations take {have}, KV of {self.kv_tokens:,} tokens fits"


def memory_fit(
    config: EngineConfig, *, batched_tokens: int = BATCHED_TOKENS, utilisation: float = UTILISATION
) -> MemoryFit:
    """How an engine fills the memory of its fullest device.

    KV divides over TP only as far as there are KV heads (latent attention keeps all of it on every device); layers
    divide over PP, rounded up.

    Raises:
        InputError: the model's KV or weights cannot be computed from its row.
    """
    model = config.model
    stage = ceil(model.layers / config.pp) / model.layers
    weights = ceil(model.weight_bytes(config.dtype) * stage / config.tp)
    activations = _activation_bytes(config, batched_tokens)
    shards = 1 if model.mla else min(config.tp, model.kv_heads)
    kv = model.kv_bytes_per_token(config.kv_dtype) * stage / shards
    usable = int(config.device.mem_bytes * utilisation)
    free = usable - weights - activations
    tokens = max(0, int(free / kv)) if kv else 0
    return MemoryFit(config.name, usable, weights, activations, kv, tokens, max(0, -free))


def kv_capacity_tokens(
    config: EngineConfig, *, batched_tokens: int = BATCHED_TOKENS, utilisation: float = UTILISATION
) -> int:
    """Tokens of KV that one engine holds beside its weights; 0 when the weights do not fit."""
    return memory_fit(config, batched_tokens=batched_tokens, utilisation=utilisation).kv_tokens


def _activation_bytes(config: EngineConfig, batched_tokens: int) -> int:
    """Peak activations of one iteration: residual, norm and attention output, and the widest FFN intermediate."""
    model = config.model
    ffn = max(model.ffn_dense, (model.top_k + model.shared_experts) * model.moe_ffn)
    values = 4 * model.hidden + (model.ffn_matrices * ffn + 4 * model.heads * model.head_dim) // config.tp
    return int(batched_tokens * values * ACTIVATION_BYTES)
