"""A model's shape, and what follows from it: parameters, weight bytes and KV bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from heterarch.catalog.attention import AttentionLayers, attention_of
from heterarch.catalog.dtype import BYTES_PER_VALUE, bytes_per_value, canonical_dtype
from heterarch.units import Grade, Source

__all__ = ["BYTES_PER_VALUE", "Model"]

DECLARED = Source(Grade.DECLARED, "the author")


@dataclass(frozen=True)
class Model:
    """A transformer by the values of its ``config.json``; 0 means that the part does not exist.

    ``ffn_dense``, ``moe_ffn``: inner width of a dense FFN and of one expert; ``ffn_matrices``: 3 gated, 2 plain.
    ``first_k_dense`` leading layers are dense, then every ``moe_every``-th layer is a mixture of ``experts`` experts
    of which a token uses ``top_k``, plus ``shared_experts`` that every token uses.
    ``q_lora_rank`` ... ``v_head_dim``: multi-head latent attention (MLA). ``context``: most tokens.
    ``published_parameters``, ``published_active``: as its makers print them, 0 if unknown.

    All layers have full attention, but ``window_layers`` attend to the last ``sliding_window`` tokens, and
    ``linear_layers`` keep a state (``linear_heads`` ... ``linear_conv``). ``ffn_only_layers`` have no attention,
    ``attention_only_layers`` no FFN. ``global_kv_heads``, ``global_head_dim``: of full attention where those of windows
    differ. ``attention_gate``: a gate as wide as the queries. ``index_topk``: tokens that an index of ``index_heads`` x
    ``index_head_dim`` selects. ``compressed``: (layers, tokens per entry) of compressed attention, whose output
    projection has ``o_groups`` groups of rank ``o_lora_rank``. ``aliases``: other names of the same shape;
    ``attention_source``: where what this paragraph describes comes from.
    """

    id: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_dense: int
    vocab: int
    experts: int = 0
    top_k: int = 0
    shared_experts: int = 0
    moe_ffn: int = 0
    first_k_dense: int = 0
    moe_every: int = 1
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_dim: int = 0
    qk_rope_dim: int = 0
    v_head_dim: int = 0
    sliding_window: int = 0
    tied_embeddings: bool = False
    native_dtype: str = "bf16"
    quant: str = ""
    context: int = 0
    ffn_matrices: int = 3
    published_parameters: float = 0.0
    published_active: float = 0.0
    window_layers: int = 0
    linear_layers: int = 0
    ffn_only_layers: int = 0
    attention_only_layers: int = 0
    global_kv_heads: int = 0
    global_head_dim: int = 0
    attention_gate: bool = False
    linear_heads: int = 0
    linear_key_heads: int = 0
    linear_key_dim: int = 0
    linear_value_dim: int = 0
    linear_conv: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0
    compressed: tuple[tuple[int, int], ...] = ()
    o_groups: int = 0
    o_lora_rank: int = 0
    source: Source = DECLARED
    attention_source: Source | None = None
    aliases: tuple[str, ...] = ()
    note: str = ""

    @property
    def mla(self) -> bool:
        """Whether attention is multi-head latent."""
        return self.kv_lora_rank > 0

    @property
    def encoder(self) -> bool:
        """Whether it embeds text and generates none: no KV outlives the pass, and there is no output head."""
        return self.family == "embedding"

    @property
    def dtype(self) -> str:
        """The format its weights are published in: that of the quantisation, else the native one."""
        return canonical_dtype(self.quant or self.native_dtype)

    @property
    def ffn_layers(self) -> int:
        """How many layers have an FFN, dense or of experts."""
        return self.layers - self.attention_only_layers

    @property
    def moe_layers(self) -> int:
        """How many layers are mixtures of experts."""
        return (self.ffn_layers - self.first_k_dense) // self.moe_every if self.experts else 0

    @property
    def full_layers(self) -> int:
        """How many layers attend to all tokens (or to those that an index selects)."""
        others = self.window_layers + self.linear_layers + sum(layers for layers, _ in self.compressed)
        return self.layers - self.ffn_only_layers - others

    @property
    def full_kv_heads(self) -> int:
        """KV heads of full attention."""
        return self.global_kv_heads or self.kv_heads

    @property
    def full_head_dim(self) -> int:
        """Width of a head of full attention."""
        return self.global_head_dim or self.head_dim

    @cached_property
    def attention(self) -> tuple[AttentionLayers, ...]:
        """Its attention, one entry for each kind of layer: KV, work and weights."""
        return attention_of(self)

    def parameters(self) -> int:
        """All parameters, without norms and biases (below 0.1 %): attention, FFN, experts, router and embeddings."""
        return self._layer_parameters() + self.expert_parameters() + self.table_parameters()

    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts it is not routed to."""
        if not self.experts:
            return self.parameters()
        idle = self.expert_parameters() * (self.experts - self.top_k) // self.experts
        return self.parameters() - idle

    def expert_parameters(self) -> int:
        """Weights of all routed experts: a pass reads those that its tokens are routed to."""
        return self.moe_layers * self.experts * self.ffn_matrices * self.hidden * self.moe_ffn

    def linear_parameters(self) -> int:
        """Weights that every pass reads and multiplies: all but the routed experts and the input embedding.

        The output head counts, also where it is tied to the embedding; an encoder has none.
        """
        return self._layer_parameters() + (0 if self.encoder else self.vocab * self.hidden)

    def table_parameters(self) -> int:
        """Weights of the input embedding and of the output head, which a quantised model keeps in 16 bits."""
        return (1 if self.tied_embeddings or self.encoder else 2) * self.vocab * self.hidden

    def kv_bytes_per_token(self, dtype: str = "bf16") -> int:
        """Bytes of keys and values that one token writes in all layers; 0 for an encoder.

        Grouped-query attention: 2 x layers x kv_heads x head_dim values. MLA: layers x (kv_lora_rank + qk_rope_dim)
        (DeepSeek-V2, arXiv 2405.04434, eq. 9-17). Layers with a window count, though they forget a token later;
        compressed entries count by their ratio. See :meth:`kv_growth_bytes` for long sequences.
        """
        return round(sum(part.written_values() for part in self.attention) * bytes_per_value(dtype))

    def kv_growth_bytes(self, dtype: str = "bf16") -> float:
        """Bytes by which the cache of a long sequence grows with each token: KV outside windows, and index keys."""
        return sum(part.growth_bytes(dtype) for part in self.attention)

    def kv_bytes(self, tokens: int, dtype: str = "bf16") -> int:
        """Bytes that the cache of one sequence of ``tokens`` tokens takes: KV, windows, index keys and states."""
        return round(sum(part.kept_bytes(tokens, dtype) for part in self.attention))

    def attention_flops(self, tokens: float, done: float = 0) -> float:
        """FLOP of attention for ``tokens`` tokens of one sequence after ``done`` cached ones, projections apart."""
        return sum(part.flops(tokens, done) for part in self.attention)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights in ``dtype``, without the scales of a quantisation."""
        return round(self.parameters() * bytes_per_value(dtype))

    def attention_dim(self) -> int:
        """Width of attention: prefill costs 4 x this FLOP per layer and (query, key) pair, for QK^T and PV.

        heads x head_dim; for MLA the mean of its query-key and value widths, times heads.
        """
        if self.mla:
            return self.heads * (self.qk_nope_dim + self.qk_rope_dim + self.v_head_dim) // 2
        return self.heads * self.head_dim

    def _layer_parameters(self) -> int:
        """Attention, dense FFNs, shared experts and routers."""
        attention = sum(part.layers * part.parameters for part in self.attention)
        dense = (self.ffn_layers - self.moe_layers) * self.ffn_matrices * self.hidden * self.ffn_dense
        shared = self.shared_experts * self.ffn_matrices * self.hidden * self.moe_ffn
        return attention + dense + self.moe_layers * (shared + self.experts * self.hidden)
