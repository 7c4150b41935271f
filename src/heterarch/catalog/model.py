"""A model's shape, and what follows from it: parameters, weight bytes and KV bytes."""

from __future__ import annotations

from dataclasses import dataclass

from heterarch.catalog.dtype import BYTES_PER_VALUE, bytes_per_value, canonical_dtype
from heterarch.errors import InputError
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
    ``published_parameters``, ``published_active``: as its makers print them, 0 if unknown. ``uniform``: all layers
    have the full attention that the shape describes; if not (hybrid, sparse), KV cannot be computed from it.
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
    uniform: bool = True
    source: Source = DECLARED
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
    def moe_layers(self) -> int:
        """How many layers are mixtures of experts."""
        return (self.layers - self.first_k_dense) // self.moe_every if self.experts else 0

    def parameters(self) -> int:
        """All parameters, without norms and biases (below 0.1 %): attention, FFN, experts, router and embeddings.

        For a model that is not uniform: the published number.

        Raises:
            InputError: not uniform, and nothing published.
        """
        if not self.uniform:
            return self._published(self.published_parameters, "parameters")
        tables = 1 if self.tied_embeddings or self.encoder else 2
        return self._layer_parameters() + self.expert_parameters() + tables * self.vocab * self.hidden

    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts it is not routed to.

        For a model that is not uniform: the published number; raises InputError if there is none.
        """
        if not self.uniform:
            return self._published(self.published_active, "active parameters")
        if not self.experts:
            return self.parameters()
        idle = self.expert_parameters() * (self.experts - self.top_k) // self.experts
        return self.parameters() - idle

    def expert_parameters(self) -> int:
        """Weights of all routed experts: a pass reads those that its tokens are routed to."""
        return self.moe_layers * self.experts * self.ffn_matrices * self.hidden * self.moe_ffn

    def linear_parameters(self) -> int:
        """Weights that every pass reads and multiplies: all but the routed experts and the input embedding.

        The output head counts, also where it is tied to the embedding; an encoder has none. For a model that is
        not uniform: the published parameters less experts and embedding; raises InputError if there are none.
        """
        head = 0 if self.encoder else self.vocab * self.hidden
        if self.uniform:
            return self._layer_parameters() + head
        tables = 1 if self.tied_embeddings else 2
        return self.parameters() - self.expert_parameters() - (tables - 1) * head

    def kv_bytes_per_token(self, dtype: str = "bf16") -> int:
        """Bytes of keys and values that one token of context occupies in all layers; 0 for an encoder.

        Grouped-query attention: 2 x layers x kv_heads x head_dim values. MLA: layers x (kv_lora_rank + qk_rope_dim)
        (DeepSeek-V2, arXiv 2405.04434, eq. 9-17). A sliding window is not subtracted.

        Raises:
            InputError: attention is hybrid or sparse, so that the shape does not give it.
        """
        if self.encoder:
            return 0
        if not self.uniform:
            raise InputError(
                f"the KV size of {self.id} cannot be computed: its layers differ (hybrid or sparse attention)",
                fix="choose a model with uniform attention",
            )
        values = 2 * self.kv_heads * self.head_dim
        if self.mla:
            values = self.kv_lora_rank + self.qk_rope_dim
        return round(self.layers * values * bytes_per_value(dtype))

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
        dense = (self.layers - self.moe_layers) * self.ffn_matrices * self.hidden * self.ffn_dense
        shared = self.shared_experts * self.ffn_matrices * self.hidden * self.moe_ffn
        router = self.experts * self.hidden
        return self.layers * self._attention_parameters() + dense + self.moe_layers * (shared + router)

    def _attention_parameters(self) -> int:
        if not self.mla:
            return 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        query_out = self.heads * (self.qk_nope_dim + self.qk_rope_dim)
        rank = self.q_lora_rank
        query = rank * (self.hidden + query_out) if rank else self.hidden * query_out
        down = self.hidden * (self.kv_lora_rank + self.qk_rope_dim)
        up = self.kv_lora_rank * self.heads * (self.qk_nope_dim + self.v_head_dim)
        return query + down + up + self.heads * self.v_head_dim * self.hidden

    def _published(self, number: float, what: str) -> int:
        if number <= 0:
            raise InputError(
                f"the {what} of {self.id} are neither published nor computable: its layers differ",
                fix="give params_total_b and params_active_b with a source in an overlay",
            )
        return round(number)
