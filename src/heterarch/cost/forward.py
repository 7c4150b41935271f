"""One forward pass of a transformer as the kernels that an engine runs on its busiest device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from heterarch.catalog.attention import AttentionLayers
from heterarch.catalog.dtype import canonical_dtype
from heterarch.cost.config import EngineConfig
from heterarch.cost.kernels.attention import COLUMNS as ATTENTION
from heterarch.cost.kernels.attention import mla_decode, mla_prefill
from heterarch.cost.kernels.base import Floats, Shapes
from heterarch.cost.kernels.collective import expert_exchange
from heterarch.cost.library import Kernel
from heterarch.cost.transfer import group_link
from heterarch.cost.work import ACTIVATION_BYTES

EXPERT_SKEW = 1.01  # exponent of the power law of expert loads, the milder of the two that were measured
#: generations whose attention kernel in vLLM (FlashAttention-2) takes prompts and decodes in one launch, and the rows
#: of a tile that it then works through for every query head of a decode (RTX 4090: 100, RTX PRO 6000: 87, fitted)
JOINT, JOINT_ROWS = ("ampere", "ada", "blackwell-rtx"), 90.0
LINEAR_CHUNK = 64.0  # tokens of a prompt between two reads of a state (chunked gated delta rule, arXiv 2412.06464)
#: implementations of an all-reduce, and of the other collectives
ALL_REDUCES, OTHERS = ("vllm-custom-graph", "nccl"), ("nccl",)
#: vendors on whose devices engines capture graphs, or launch ahead of the device: there the host is counted apart
AHEAD = ("nvidia", "amd")


@dataclass(frozen=True)
class Call:
    """``count`` launches of one kernel per pass, on each device: its part of the layer, family, format and shapes."""

    part: str
    family: str
    dtype: str
    shapes: Shapes
    count: float
    link: bool = False  # whether it moves bytes over the link of the group


def linear_format(config: EngineConfig) -> str:
    """The kernel format of dense layers; models published in MXFP4 quantise their experts only.

    8-bit weights count as scaled per tensor: short block-scaled kernels were measured behind launches from the host,
    which captured graphs avoid.
    """
    dtype = canonical_dtype(config.dtype)
    return "bf16" if config.model.quant == "mxfp4" and dtype == "fp4" else _narrow(config, dtype)


def expert_format(config: EngineConfig) -> str:
    """The kernel format of routed experts; 8-bit weights of experts are scaled by block, as models are published."""
    dtype = canonical_dtype(config.dtype)
    return "fp8-block" if dtype == "fp8" else _narrow(config, dtype)


def _narrow(config: EngineConfig, dtype: str) -> str:
    """4-bit weights are multiplied in 16 bits where the model or the device has no 4-bit activations."""
    unpacked = config.model.quant == "mxfp4" or "fp4" not in config.device.peaks
    return "mxfp4" if dtype == "fp4" and unpacked else dtype


def linear_calls(config: EngineConfig, tokens: Floats) -> Iterator[Call]:
    """Every kernel whose work follows from the number of tokens: projections, FFNs, experts, norms, collectives.

    Args:
        config: how the model is split.
        tokens: [points] of the whole engine; under attention data parallelism each group computes its share.
    """
    model, own = config.model, np.maximum(tokens / config.attention_dp, 1.0)
    dense = model.ffn_layers - model.moe_layers
    yield from _projections(config, own)
    if dense:
        yield from _ffn(config, "dense FFN", own, model.ffn_dense, dense)
    if model.moe_layers:
        yield from _experts(config, own, tokens)
    yield Call("norms", "elementwise", "bf16", {"values": 4 * model.hidden * own}, 2 * model.layers)
    yield from _exchanges(config, own, tokens, dense)


def head_calls(config: EngineConfig, sequences: Floats) -> Iterator[Call]:
    """The output head of the tokens that are sampled: one per sequence [points] of the engine."""
    if not config.model.encoder:
        own = np.maximum(sequences / config.attention_dp, 1.0)
        yield _gemm("output head", "bf16", own, config.model.vocab / config.tp, config.model.hidden, 1)


def _gemm(part: str, dtype: str, m: Floats, n: float, k: float, count: float) -> Call:
    return Call(part, "gemm", dtype, {"m": m, "n": max(n, 1.0), "k": max(k, 1.0)}, count)


def _projections(config: EngineConfig, own: Floats) -> Iterator[Call]:
    """Into and out of attention, with the rotary embedding and the write of KV."""
    for part in config.model.attention:
        if config.model.mla and part.kind in ("full", "sparse"):
            yield from _latent_projections(config, part, own)
        elif config.model.compressed:
            yield from _compressed_projections(config, part, own)
        else:
            yield from _grouped_projections(config, part, own)


def _grouped_projections(config: EngineConfig, part: AttentionLayers, own: Floats) -> Iterator[Call]:
    """Two products: what attention reads, and its output, a hidden state of ``out`` inner values; the rest goes in."""
    model, dtype = config.model, linear_format(config)
    values = part.heads * model.linear_value_dim if part.kind == "linear" else part.decode_flops // 4
    out = values / config.tp
    into = max(part.parameters / model.hidden - values, values) / config.tp
    yield _gemm("qkv projection", dtype, own, into, model.hidden, part.layers)
    yield _gemm("attention output", dtype, own, model.hidden, out, part.layers)
    yield Call("rope and KV write", "elementwise", "bf16", {"values": 2 * into * own}, part.layers)


def _latent_projections(config: EngineConfig, part: AttentionLayers, own: Floats) -> Iterator[Call]:
    """Down to the latents, up to the heads, and the per-head products with the up projection of KV (absorbed)."""
    model, dtype, heads = config.model, linear_format(config), config.model.heads / config.tp
    latent, head = model.kv_lora_rank + model.qk_rope_dim, model.qk_nope_dim + model.qk_rope_dim
    index = part.index_heads * part.index_dim
    yield _gemm("latent down projection", dtype, own, latent + model.q_lora_rank, model.hidden, part.layers)
    yield _gemm("query up projection", dtype, own, heads * head + index, model.q_lora_rank or model.hidden, part.layers)
    absorbed = heads * (model.qk_nope_dim + model.v_head_dim)
    yield _gemm("latent up projection", "bf16", own, absorbed, model.kv_lora_rank, part.layers)
    yield _gemm("attention output", dtype, own, model.hidden, heads * model.v_head_dim, part.layers)
    values = 2 * (heads * head + latent) * own
    yield Call("rope and KV write", "elementwise", "bf16", {"values": values}, part.layers)


def _compressed_projections(config: EngineConfig, part: AttentionLayers, own: Floats) -> Iterator[Call]:
    """Down to the latents of queries, entries and index, up to the query heads, and out in two steps of low rank."""
    model, dtype, queries = config.model, linear_format(config), part.heads * config.model.head_dim
    back = model.o_groups * model.o_lora_rank
    down = (part.parameters - queries * (model.q_lora_rank + model.o_lora_rank)) / model.hidden - back
    yield _gemm("latent down projection", dtype, own, down, model.hidden, part.layers)
    yield _gemm("query up projection", dtype, own, queries / config.tp, model.q_lora_rank, part.layers)
    yield _gemm("attention output down", dtype, own, model.o_lora_rank, queries / config.tp, part.layers)
    yield _gemm("attention output", dtype, own, model.hidden, back / config.tp, part.layers)
    values = 2 * (queries / config.tp + down) * own
    yield Call("rope and KV write", "elementwise", "bf16", {"values": values}, part.layers)


def _ffn(config: EngineConfig, part: str, own: Floats, width: float, count: float) -> Iterator[Call]:
    model, dtype, inner = config.model, linear_format(config), width / config.tp
    yield _gemm(f"{part} up", dtype, own, (model.ffn_matrices - 1) * inner, model.hidden, count)
    yield _gemm(f"{part} down", dtype, own, model.hidden, inner, count)
    yield Call("activation", "elementwise", "bf16", {"values": model.ffn_matrices * inner * own}, count)


def _experts(config: EngineConfig, own: Floats, tokens: Floats) -> Iterator[Call]:
    model = config.model
    yield _gemm("router", "bf16", own, model.experts, model.hidden, model.moe_layers)
    shapes = {
        "num_tokens": tokens,
        "hidden_size": model.hidden,
        "inter_size": model.moe_ffn,
        "topk": model.top_k,
        "num_experts": model.experts,
        "moe_tp_size": config.group / config.ep,
        "moe_ep_size": config.ep,
        "skew": EXPERT_SKEW,
        "matrices": model.ffn_matrices,
    }
    yield Call("experts", "moe", expert_format(config), shapes, model.moe_layers)
    if model.shared_experts:
        yield from _ffn(config, "shared experts", own, model.shared_experts * model.moe_ffn, model.moe_layers)


def prefill_calls(config: EngineConfig, tokens: Floats, done: Floats) -> Iterator[Call]:
    """Attention of one sequence's chunk of ``tokens`` [points] after ``done`` [points] cached ones."""
    yield from _attention(config, "attention_prefill", np.ones_like(tokens), tokens, done + tokens)


def decode_calls(config: EngineConfig, sequences: Floats, context: Floats) -> Iterator[Call]:
    """Attention of one new token for each of ``sequences`` [points] of ``context`` [points] tokens."""
    own = np.maximum(sequences / config.attention_dp, 1.0)
    yield from _attention(config, "attention_decode", own, np.ones_like(own), context)


def joint_decode_s(config: EngineConfig) -> float:
    """Seconds per token of context of a decode that is launched together with a prompt; 0 where launches are apart.

    FlashAttention-2 packs the query heads that share a KV head into one tile only where all sequences have one query;
    in a launch that holds a prompt each query head takes a tile of its own, and the work of the tile bounds the time
    instead of the read of KV.
    """
    if config.device.arch not in JOINT or config.engine not in ("", "vllm") or config.model.mla:
        return 0.0
    kernel = config.kernels.kernel("attention_prefill", config.device, "bf16", config.engine)
    flops = sum(part.layers * part.decode_flops for part in config.model.attention if part.kind == "full")
    return JOINT_ROWS * flops / (config.tp * config.attention_dp * kernel.peak * kernel.law.compute)


def _attention(config: EngineConfig, family: str, batch: Floats, query: Floats, context: Floats) -> Iterator[Call]:
    dtype = "fp8" if canonical_dtype(config.kv_dtype) in ("fp8", "int8", "fp4", "int4") else "bf16"
    for part in config.model.attention:
        if part.state_values:
            chunks = np.maximum(query / LINEAR_CHUNK, 1.0)
            touched = batch * chunks * 4 * part.state_values / config.tp  # 32-bit states, read and written
            yield Call("linear attention", "elementwise", "bf16", {"values": touched}, part.layers)
        else:
            latent = config.model.mla and part.kind in ("full", "sparse")
            shapes = (_latent if latent else _grouped)(config, part, family, batch, query, context)
            name = "attention" if part.kind == "full" else f"{part.kind} attention"
            yield Call(name, family, "bf16" if latent and family == "attention_prefill" else dtype, shapes, part.layers)
        if part.index_heads:
            yield Call("attention index", family, "fp8", _index(part, batch, query, context), part.layers)


def _grouped(
    config: EngineConfig, part: AttentionLayers, family: str, batch: Floats, query: Floats, context: Floats
) -> Shapes:
    """Heads divide over TP, KV heads as far as there are any; compressed entries are one head of key and value."""
    heads, kv_heads = part.heads / config.tp, max(1.0, part.kv_heads / config.tp)
    dim = part.decode_flops / (4 * part.heads)
    if part.kind == "compressed":
        return _columns(batch, query, _attended(part, query, context), heads, 0.5, dim, 0.0)
    return _columns(batch, query, context, heads, kv_heads, dim, float(part.window))


def _latent(
    config: EngineConfig, part: AttentionLayers, family: str, batch: Floats, query: Floats, context: Floats
) -> Shapes:
    model, heads = config.model, part.heads / config.tp
    seen = _attended(part, query, context)
    if family == "attention_prefill":
        dims = {"nope_dim": model.qk_nope_dim, "rope_dim": model.qk_rope_dim, "value_dim": model.v_head_dim}
        return mla_prefill(batch, query, seen, heads, **dims)
    return mla_decode(batch, query, seen, heads, rank=model.kv_lora_rank, rope_dim=model.qk_rope_dim)


def _index(part: AttentionLayers, batch: Floats, query: Floats, context: Floats) -> Shapes:
    """Every device scores all entries: 2 x heads x dim FLOP each, one 8-bit key read (DeepSeek-V3.2-Exp, section 2)."""
    scanned = (context - query / 2) / part.ratio
    seen = np.maximum(scanned + query / 2, query)
    return _columns(batch, query, seen, part.index_heads / 2, 0.5, float(part.index_dim), 0.0)


def _attended(part: AttentionLayers, query: Floats, context: Floats) -> Floats:
    """The context of a dense kernel that meets as many pairs as the queries meet where they select or compress."""
    if not part.topk and part.ratio <= 1:
        return context
    return np.asarray(np.maximum(part.pairs(query, context - query) / query + query / 2, query))


def _columns(*values: Floats | float) -> Shapes:
    return dict(zip(ATTENTION, values, strict=True))


def _exchanges(config: EngineConfig, own: Floats, tokens: Floats, dense: int) -> Iterator[Call]:
    """What the devices of a stage send each other: sums after attention and FFN, tokens to experts and back."""
    model, size = config.model, config.model.hidden * ACTIVATION_BYTES
    if config.tp > 1:
        attention = model.layers - model.ffn_only_layers
        yield _collective("all-reduce", "all_reduce", own * size, config.tp, attention + dense)
    if model.moe_layers:
        exchanges = expert_exchange(
            tokens, model.hidden, topk=model.top_k, tp=config.tp, attention_dp=config.attention_dp, ep=config.ep
        )
        for exchange in exchanges:
            name = f"expert {exchange.family.replace('_', '-')}"
            yield _collective(name, exchange.family, exchange.message_bytes, exchange.devices, model.moe_layers)


def _collective(part: str, family: str, message: Floats, devices: int, count: float) -> Call:
    return Call(part, family, "bf16", {"message_bytes": message, "devices": float(devices)}, count, link=True)


def kernels_of(config: EngineConfig, call: Call) -> list[Kernel]:
    """The kernels that may run ``call`` on the config's device; the engine takes the fastest for each size.

    Launches that measurements hold are left out where the host is counted by itself
    (:func:`heterarch.cost.closed_form.launches_s`). A message that is staged in host memory is written to it, then read
    from it: it takes the link twice (a rule, not measured), and only the general library does so.
    """
    if call.link:
        rate = group_link(config.device, int(np.max(call.shapes["devices"]))).bytes_per_s
        engines = ALL_REDUCES if call.family == "all_reduce" and not config.staged else OTHERS
        rate = rate / 2 if config.staged else rate
        found = [config.kernels.kernel(call.family, config.device, call.dtype, name, rate) for name in engines]
    else:
        engine, version = _backend(config, call), config.engine_version
        kernel = config.kernels.kernel(call.family, config.device, call.dtype, engine, version=version)
        found = [kernel.cold if call.family == "attention_decode" else kernel]
    return [kernel.captured for kernel in found] if config.device.vendor in AHEAD else found


def _backend(config: EngineConfig, call: Call) -> str:
    """The engine, with the kernels that vLLM keeps for experts which those of its other models cannot run.

    CUTLASS for the GELU gates of Gemma in 16 bits, Marlin for weights in MXFP4 of models that were published otherwise.
    """
    if call.family != "moe" or config.engine not in ("", "vllm"):
        return config.engine
    if config.model.family == "gemma" and call.dtype == "bf16":
        return "vllm-cutlass"
    return "vllm-marlin" if call.dtype == "mxfp4" and config.model.quant != "mxfp4" else config.engine


def kernel_of(config: EngineConfig, call: Call) -> Kernel:
    """The fastest of the kernels that may run ``call``, at its last point."""
    return min(kernels_of(config, call), key=lambda kernel: float(kernel.seconds(call.shapes)[-1]))


def pass_s(config: EngineConfig, calls: Iterable[Call]) -> Floats:
    """Seconds of all launches of ``calls``, [points]; the calls of one kernel are evaluated together."""
    together: dict[tuple[str, str, float], list[Call]] = {}
    for call in calls:
        devices = float(np.max(call.shapes["devices"])) if call.link else 0.0
        together.setdefault((call.family, call.dtype, devices), []).append(call)
    return np.asarray(np.sum([_together_s(config, alike) for alike in together.values()], axis=0))


def _together_s(config: EngineConfig, calls: list[Call]) -> Floats:
    names = calls[0].shapes.keys()
    points = max(np.size(value) for call in calls for value in call.shapes.values())
    shapes = {name: np.concatenate([np.broadcast_to(call.shapes[name], points) for call in calls]) for name in names}
    kernels = kernels_of(config, replace(calls[0], shapes=shapes))
    seconds = np.min([kernel.seconds(shapes) for kernel in kernels], axis=0).reshape(len(calls), points)
    return np.asarray(np.array([call.count for call in calls]) @ seconds)
