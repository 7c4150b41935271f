"""Device memory of an engine: weights, activations, what is left for KV, and what is missing when it does not fit."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil, inf

from heterarch.catalog.dtype import bytes_per_value, canonical_dtype
from heterarch.cost.config import EngineConfig
from heterarch.cost.forward import expert_format, linear_format
from heterarch.cost.kernels.formats import FORMATS
from heterarch.cost.work import ACTIVATION_BYTES
from heterarch.units import format_bytes

UTILISATION = 0.9  # default share of device memory that vLLM takes (gpu_memory_utilization)
BATCHED_TOKENS = 8192  # default most tokens of an iteration (max_num_batched_tokens)
LONGEST = 2**31  # tokens, where a model does not say


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """Bytes per device of one engine, and the KV tokens that the whole engine holds.

    A sequence of n tokens takes n x ``kv_bytes_per_token`` + ``sequence_bytes`` (windows and states; at most that
    where it is shorter than the windows). ``kv_tokens`` is 0 when the weights do not fit, and for an encoder, which
    keeps no KV.
    """

    name: str
    usable_bytes: int
    weight_bytes: int
    activation_bytes: int
    kv_bytes_per_token: float
    sequence_bytes: float
    kv_tokens: int
    missing_bytes: int

    @property
    def free_bytes(self) -> int:
        """What is left for KV."""
        return max(0, self.usable_bytes - self.weight_bytes - self.activation_bytes)

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
    config: EngineConfig,
    *,
    batched_tokens: int = BATCHED_TOKENS,
    utilisation: float = UTILISATION,
    context: int | None = None,
) -> MemoryFit:
    """How an engine fills the memory of its fullest device.

    Attention, dense layers and tables divide over TP and are repeated in every attention group; experts divide over
    all devices of a stage; layers divide over PP, rounded up. KV divides over TP only as far as there are KV heads
    (latent attention keeps all of it on every device), and each attention group keeps that of its own sequences.

    Args:
        config: the engine.
        batched_tokens: most tokens of an iteration of the whole engine.
        utilisation: share of device memory that the engine may use; the rest is for the driver and captured graphs.
        context: tokens of the sequences that ``kv_tokens`` counts; the model's longest unless given. It matters only
            where windows or states take memory per sequence.
    """
    model = config.model
    weights, activations = _weight_bytes(config), _activation_bytes(config, batched_tokens)
    growth = _stage(config) * sum(part.growth_bytes(config.kv_dtype, config.tp) for part in model.attention)
    usable = int(config.device.mem_bytes * utilisation)
    free = usable - weights - activations
    length = context or model.context or inf
    each = growth + _fixed_bytes(config, length) / length
    tokens = max(0, int(free / each)) * config.attention_dp if each else 0
    fixed = _fixed_bytes(config, inf)
    return MemoryFit(config.name, usable, weights, activations, growth, fixed, tokens, max(0, -free))


def kv_capacity_tokens(
    config: EngineConfig, *, batched_tokens: int = BATCHED_TOKENS, utilisation: float = UTILISATION
) -> int:
    """Tokens of KV that one engine holds beside its weights; 0 when the weights do not fit."""
    return memory_fit(config, batched_tokens=batched_tokens, utilisation=utilisation).kv_tokens


def cache_bytes(config: EngineConfig, context: float) -> float:
    """Bytes that one sequence of ``context`` tokens takes on the fullest device of its group."""
    return _stage(config) * sum(part.kept_bytes(context, config.kv_dtype, config.tp) for part in config.model.attention)


def most_sequences(
    config: EngineConfig, context: int, *, batched_tokens: int = BATCHED_TOKENS, utilisation: float = UTILISATION
) -> int:
    """Sequences of ``context`` tokens each whose KV one engine holds; 0 when the weights do not fit.

    An encoder keeps no KV: as many as it batches tokens.
    """
    fit = memory_fit(config, batched_tokens=batched_tokens, utilisation=utilisation)
    each = cache_bytes(config, context)
    if not each:
        return 0 if fit.missing_bytes else batched_tokens
    return int(fit.free_bytes / each) * config.attention_dp


def longest_context(
    config: EngineConfig, batch: int, *, batched_tokens: int = BATCHED_TOKENS, utilisation: float = UTILISATION
) -> int:
    """Most tokens of each of ``batch`` sequences at once, within the model's context; 0 when not even one fits."""
    fit = memory_fit(config, batched_tokens=batched_tokens, utilisation=utilisation)
    each = fit.free_bytes / ceil(batch / config.attention_dp)
    limit = config.model.context or LONGEST
    if fit.missing_bytes:
        return 0
    return max(0, bisect_right(range(limit + 1), each, key=lambda tokens: cache_bytes(config, tokens)) - 1)


def _stage(config: EngineConfig) -> float:
    """Share of the layers that the fullest pipeline stage holds."""
    return ceil(config.model.layers / config.pp) / config.model.layers


def _fixed_bytes(config: EngineConfig, context: float) -> float:
    parts = config.model.attention
    return _stage(config) * sum(part.fixed_bytes(context, config.kv_dtype, config.tp) for part in parts)


def _weight_bytes(config: EngineConfig) -> int:
    """Weights with their block scales; tables stay in 16 bits, one of them to a stage where there are several."""
    model = config.model
    width = bytes_per_value(config.dtype) if canonical_dtype(config.dtype) == "fp32" else ACTIVATION_BYTES
    tables = min(model.table_parameters(), model.vocab * model.hidden) if config.pp > 1 else model.table_parameters()
    experts = model.expert_parameters() * FORMATS[expert_format(config)].weight_bytes
    rest = model.parameters() - model.table_parameters() - model.expert_parameters()
    linear = rest * FORMATS[linear_format(config)].weight_bytes
    layers = experts / config.group + linear / config.tp
    return ceil(layers * _stage(config) + tables * width / config.tp)


def _activation_bytes(config: EngineConfig, batched_tokens: int) -> int:
    """Peak activations of one iteration: residual, norm and attention output, and the widest FFN intermediate."""
    model = config.model
    ffn = max(model.ffn_dense, (model.top_k + model.shared_experts) * model.moe_ffn)
    values = 4 * model.hidden + (model.ffn_matrices * ffn + 4 * model.heads * model.head_dim) // config.tp
    return int(batched_tokens * values * ACTIVATION_BYTES) // config.attention_dp
