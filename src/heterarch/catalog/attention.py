"""What attention keeps and computes, for each kind of layer: full, windowed, selected, compressed, or a fixed state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from heterarch.catalog.dtype import bytes_per_value

if TYPE_CHECKING:
    from heterarch.catalog.model import Model

Kind = Literal["full", "window", "sparse", "compressed", "linear"]

STATE_BYTES = 4  # recurrent states are kept in 32 bits (mamba_ssm_dtype of the published configurations)
CONV_BYTES = 2
INDEX_SCALE_BYTES = 4  # index keys are kept in 8 bits with one 32-bit scale per token (DeepSeek-V3.2-Exp, vLLM)
STATE_FLOPS = 6  # per state value and token: what the key recalls, the outer product added, and the query, 2 each


@dataclass(frozen=True, slots=True)
class AttentionLayers:
    """``layers`` layers of one kind; every other figure is that of one layer, 0 means that the part does not exist.

    A layer keeps an entry of ``kv_values`` values for each of the last ``window`` tokens, and one for every ``ratio``
    tokens of all that came before. A token attends to the window and to the others, at most ``topk`` of them, which
    an index of ``index_heads`` x ``index_dim`` selects. ``state_values`` (32-bit) and ``conv_values`` (16-bit) are
    what a sequence keeps whatever its length. TP divides KV by at most ``kv_heads``, and states by ``heads``.
    ``prefill_flops``, ``decode_flops``: per pair of a query and an entry; they differ for latent attention, which is
    uncompressed in prefill and absorbed in decode (DeepSeek-V2, arXiv 2405.04434, section 2.1). ``parameters``:
    weights.
    """

    kind: Kind
    layers: int
    heads: int
    kv_heads: int
    parameters: int
    kv_values: int = 0
    prefill_flops: int = 0
    decode_flops: int = 0
    window: int = 0
    ratio: int = 0
    topk: int = 0
    index_heads: int = 0
    index_dim: int = 0
    state_values: int = 0
    conv_values: int = 0

    def attended(self, context: Any) -> Any:
        """Entries that a token attends to which is preceded by ``context`` tokens; a number, or an array of them."""
        return self._area(context, slope=True)

    def pairs(self, tokens: Any, done: Any = 0) -> Any:
        """Pairs of a query and an entry when ``tokens`` tokens follow ``done`` cached ones; numbers, or arrays."""
        return self._area(done + tokens) - self._area(done)

    def flops(self, tokens: float, done: float = 0) -> float:
        """FLOP of all these layers for ``tokens`` tokens after ``done``, projections apart; decode: ``tokens`` 1."""
        each = self.decode_flops if tokens == 1 else self.prefill_flops
        scanned = (tokens * done + tokens**2 / 2) / self.ratio if self.ratio else 0.0
        index = 2 * self.index_heads * self.index_dim * scanned
        return float(self.layers * (each * self.pairs(tokens, done) + index + STATE_FLOPS * self.state_values * tokens))

    def written_values(self) -> float:
        """Values that one token adds to the KV of all these layers, before a window drops any."""
        return self.layers * self.kv_values / (self.ratio or 1)

    def growth_bytes(self, dtype: str, tp: int = 1) -> float:
        """Bytes that a token adds to a long sequence on each of ``tp`` devices: KV outside windows, and index keys."""
        if not self.ratio:
            return 0.0
        index = self.index_dim + INDEX_SCALE_BYTES if self.index_heads else 0
        kv = self.kv_values * bytes_per_value(dtype) / min(tp, self.kv_heads)
        return self.layers * (kv + index) / self.ratio

    def fixed_bytes(self, tokens: float, dtype: str, tp: int = 1) -> float:
        """Bytes of windows and states of a sequence of ``tokens`` tokens on each of ``tp`` devices."""
        recent = min(tokens, self.window) * self.kv_values * bytes_per_value(dtype) / min(tp, self.kv_heads)
        state = (self.state_values * STATE_BYTES + self.conv_values * CONV_BYTES) / min(tp, max(self.heads, 1))
        return self.layers * (recent + state)

    def kept_bytes(self, tokens: float, dtype: str, tp: int = 1) -> float:
        """Bytes that a sequence of ``tokens`` tokens keeps on each of ``tp`` devices."""
        return self.fixed_bytes(tokens, dtype, tp) + tokens * self.growth_bytes(dtype, tp)

    def _area(self, tokens: Any, *, slope: bool = False) -> Any:
        """Attended entries summed over positions 0 to ``tokens``, or their number at ``tokens``."""
        form = _least if slope else _least_area
        found = form(tokens, self.window) if self.window else 0.0 * tokens
        if self.ratio:
            found += form(tokens, self.topk * self.ratio) / self.ratio
        return found


def attention_of(model: Model) -> tuple[AttentionLayers, ...]:
    """The attention of a model, one entry for each kind of layer that it has."""
    return tuple(part for part in _parts(model) if part.layers)


def _parts(model: Model) -> Iterator[AttentionLayers]:
    if model.compressed:
        yield from _compressed(model)
    elif model.mla:
        yield _latent(model)
    else:
        yield _grouped(model, "full", model.full_layers, model.full_kv_heads, model.full_head_dim)
        yield _grouped(model, "window", model.window_layers, model.kv_heads, model.head_dim)
    yield _linear(model)


def _grouped(model: Model, kind: Kind, layers: int, kv_heads: int, head_dim: int) -> AttentionLayers:
    """Multi-head and grouped-query attention: 4 x heads x head_dim FLOP per pair (arXiv 2307.08691, section 4.1)."""
    queries = model.heads * (2 if model.attention_gate else 1)
    flops = 4 * model.heads * head_dim
    return AttentionLayers(
        kind=kind,
        layers=layers,
        heads=model.heads,
        kv_heads=kv_heads,
        parameters=model.hidden * (queries + model.heads + 2 * kv_heads) * head_dim,
        kv_values=0 if model.encoder else 2 * kv_heads * head_dim,
        prefill_flops=flops,
        decode_flops=flops,
        window=model.sliding_window if kind == "window" else 0,
        ratio=1 if kind == "full" else 0,
    )


def _latent(model: Model) -> AttentionLayers:
    """Multi-head latent attention (arXiv 2405.04434, equations 9-17), with an index where the model has one."""
    head, rank = model.qk_nope_dim + model.qk_rope_dim, model.kv_lora_rank
    latent, queries = rank + model.qk_rope_dim, model.heads * head
    query = model.q_lora_rank * (model.hidden + queries) if model.q_lora_rank else model.hidden * queries
    up = rank * model.heads * (model.qk_nope_dim + model.v_head_dim)
    out = model.heads * model.v_head_dim * model.hidden
    return AttentionLayers(
        kind="sparse" if model.index_topk else "full",
        layers=model.full_layers,
        heads=model.heads,
        kv_heads=1,
        parameters=query + model.hidden * latent + up + out + _index_parameters(model, model.hidden),
        kv_values=latent,
        prefill_flops=2 * model.heads * (head + model.v_head_dim),
        decode_flops=2 * model.heads * (latent + rank),
        ratio=1,
        topk=model.index_topk,
        index_heads=model.index_heads,
        index_dim=model.index_head_dim,
    )


def _compressed(model: Model) -> Iterator[AttentionLayers]:
    """DeepSeek-V4: a window, and compressed entries that serve as key and value at once.

    At the lowest ratio, blocks overlap (two projections of each kind) and an index selects ``index_topk`` entries;
    at others all are attended. The output projection has rank ``o_lora_rank`` in each of ``o_groups`` groups.
    """
    lowest, dim = min(ratio for _, ratio in model.compressed), model.head_dim
    queries = model.heads * dim
    fixed = model.q_lora_rank * (model.hidden + queries) + model.hidden * dim
    fixed += model.o_lora_rank * (queries + model.o_groups * model.hidden)
    flops = 4 * model.heads * dim
    for layers, ratio in ((model.window_layers, 0), *model.compressed):
        selects = ratio == lowest and model.index_topk > 0
        compressor = 2 * model.hidden * dim * (2 if selects else 1) if ratio else 0
        index = _index_parameters(model, 4 * model.hidden) if selects else 0
        yield AttentionLayers(
            kind="compressed" if ratio else "window",
            layers=layers,
            heads=model.heads,
            kv_heads=1,
            parameters=fixed + compressor + index,
            kv_values=dim,
            prefill_flops=flops,
            decode_flops=flops,
            window=model.sliding_window,
            ratio=ratio,
            topk=model.index_topk if selects else 0,
            index_heads=model.index_heads if selects else 0,
            index_dim=model.index_head_dim if selects else 0,
        )


def _index_parameters(model: Model, key_inputs: int) -> int:
    """Queries from the low-rank query, keys from the hidden state, and a weight per head."""
    queries = model.q_lora_rank * model.index_heads * model.index_head_dim
    return queries + key_inputs * model.index_head_dim + model.hidden * model.index_heads


def _linear(model: Model) -> AttentionLayers:
    """Gated delta net (arXiv 2412.06464) or Mamba-2 (arXiv 2405.21060): projections, a short convolution, a state.

    Keys and queries (B and C of Mamba-2) have ``linear_key_heads`` heads of ``linear_key_dim``; values and their gate
    ``linear_heads`` of ``linear_value_dim``; each value head has a decay and an input gate.
    """
    keys = 2 * model.linear_key_heads * model.linear_key_dim
    values = model.linear_heads * model.linear_value_dim
    mixed = keys + values
    return AttentionLayers(
        kind="linear",
        layers=model.linear_layers,
        heads=model.linear_heads,
        kv_heads=1,
        parameters=model.hidden * (mixed + 2 * values + 2 * model.linear_heads) + mixed * model.linear_conv,
        state_values=values * model.linear_key_dim,
        conv_values=mixed * max(model.linear_conv - 1, 0),
    )


def _least(tokens: Any, limit: float) -> Any:
    import numpy as np

    return np.minimum(tokens, limit) if limit else tokens


def _least_area(tokens: Any, limit: float) -> Any:
    """The integral of :func:`_least` from 0 to ``tokens``."""
    inside = _least(tokens, limit)
    return inside**2 / 2 + (tokens - inside) * inside
