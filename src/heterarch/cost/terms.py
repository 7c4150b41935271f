"""The numbers behind a step cost: what a device reaches, what a model asks for, and how the two combine."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from heterarch.catalog.dtype import bytes_per_value, canonical_dtype
from heterarch.catalog.model import Model
from heterarch.cost.config import EngineConfig
from heterarch.cost.efficiency import Efficiency, efficiency
from heterarch.cost.step import StepCost
from heterarch.cost.transfer import group_link

ACTIVATION_BYTES = 2  # activations between kernels are 16-bit


class DeviceTerms(NamedTuple):
    """Rates that kernels reach on a device, and fixed times; floats, or arrays over configurations."""

    flops_per_s: Any  # linear layers
    weight_bytes_per_s: Any
    attention_flops_per_s: Any
    kv_bytes_per_s: Any
    elementwise_bytes_per_s: Any
    kernel_s: Any
    launch_s: Any  # host time per kernel without graphs, 0 with
    step_s: Any
    sequence_s: Any
    all_reduce_s: Any  # latency of one all-reduce in the group, 0 without a group
    bus_bytes_per_s: Any  # all-reduce bus bandwidth, inf without a group
    hop_s: Any  # latency to the next pipeline stage, 0 without stages
    hop_bytes_per_s: Any  # inf without stages


class ModelTerms(NamedTuple):
    """Work of one model before it is split over devices; floats, or arrays over configurations."""

    layers: Any
    kernels: Any  # per layer
    weight_bytes: Any  # read by every pass
    expert_bytes: Any  # all routed experts
    expert_share: Any  # top_k / experts
    token_flops: Any  # linear layers, per token
    head_flops: Any  # output head, per sequence
    payload_bytes: Any  # one token's hidden state
    replicated_bytes: Any  # element-wise traffic per token that every device of a TP group repeats
    sharded_bytes: Any  # element-wise traffic per token that TP divides
    pair_flops: Any  # prefill attention per (query, key) pair, all layers
    kv_bytes: Any  # KV of one token, all layers
    kv_heads: Any  # ways in which KV divides over a TP group
    context_flops: Any  # decode attention per token of context, all layers


def device_terms(config: EngineConfig) -> DeviceTerms:
    """Rates and fixed times of the config's device in its TP group.

    Raises:
        InputError: the device has no peak that computes ``dtype``, or no link that spans the group.
    """
    device, share = config.device, config.efficiency or efficiency(config.device)
    bandwidth = device.mem_bytes_per_s
    group = group_link(device, config.tp) if config.tp > 1 else None
    hop = group_link(device, config.devices) if config.pp > 1 else None
    return DeviceTerms(
        flops_per_s=device.peaks[config.compute_dtype] * share.compute_share(config.compute_dtype),
        weight_bytes_per_s=bandwidth * share.weight_bandwidth,
        attention_flops_per_s=device.peak("bf16") * share.attention_compute,
        kv_bytes_per_s=bandwidth * share.kv_share(canonical_dtype(config.kv_dtype)),
        elementwise_bytes_per_s=bandwidth * share.elementwise_bandwidth,
        kernel_s=share.kernel_s,
        launch_s=share.launch_s,
        step_s=share.step_s,
        sequence_s=share.sequence_s,
        all_reduce_s=_all_reduce_s(share, config.tp),
        bus_bytes_per_s=group.bytes_per_s * share.link if group else np.inf,
        hop_s=share.hop_s if hop else 0.0,
        hop_bytes_per_s=hop.bytes_per_s * share.link if hop else np.inf,
    )


def model_terms(config: EngineConfig) -> ModelTerms:
    """Work of the config's model in its precisions.

    Formulas: linear layers 2 FLOP per parameter and token; attention 2 FLOP per multiply-add of QK^T and of PV, so
    4 x heads x head_dim per pair and layer (FlashAttention-2, arXiv 2307.08691, section 4.1); latent attention
    (DeepSeek-V2, arXiv 2405.04434, section 2.1) as the engines run it: uncompressed in prefill, absorbed in decode.

    Raises:
        InputError: the KV or the parameters of the model cannot be computed from its row.
    """
    model = config.model
    width = bytes_per_value(config.dtype)
    head = 0 if model.encoder else model.vocab * model.hidden
    experts = model.expert_parameters()
    share = model.top_k / model.experts if model.experts else 0.0
    linear = model.linear_parameters()
    prefill, decode = _attention_flops(model)
    return ModelTerms(
        layers=float(model.layers),
        kernels=_kernels(model),
        weight_bytes=linear * width,
        expert_bytes=experts * width,
        expert_share=share,
        token_flops=2.0 * (linear - head + experts * share),
        head_flops=2.0 * head,
        payload_bytes=float(model.hidden * ACTIVATION_BYTES),
        replicated_bytes=float(8 * model.hidden * ACTIVATION_BYTES * model.layers),
        sharded_bytes=float(_sharded_values(model) * ACTIVATION_BYTES),
        pair_flops=prefill,
        kv_bytes=float(model.kv_bytes_per_token(config.kv_dtype)),
        kv_heads=1.0 if model.mla else float(model.kv_heads),
        context_flops=decode,
    )


def combine(device: DeviceTerms, model: ModelTerms, tp: Any, pp: Any) -> StepCost:
    """The step cost of a model split over tp x pp devices; every argument a float or an array over configurations.

    TP divides weights, linear work and heads (KV only as far as there are KV heads), and adds two all-reduces per
    layer. PP leaves the time of one pass and divides what each token adds, because stages work side by side on
    micro-batches; each micro-batch meets fewer experts. Launching kernels one by one costs what the weight reads
    do not hide.
    """
    hops = pp - 1
    bus_share = 2 * (tp - 1) / tp
    elementwise = (model.replicated_bytes + model.sharded_bytes / tp) / device.elementwise_bytes_per_s
    comm = 2 * model.layers * bus_share * model.payload_bytes / device.bus_bytes_per_s
    context = np.maximum(
        model.kv_bytes / np.minimum(tp, model.kv_heads) / device.kv_bytes_per_s,
        model.context_flops / (tp * device.attention_flops_per_s),
    )
    weight_s = model.weight_bytes / (tp * device.weight_bytes_per_s)
    kernels = model.layers * model.kernels
    device_s = kernels * device.kernel_s + 2 * model.layers * device.all_reduce_s
    return StepCost(
        fixed_s=device.step_s + np.maximum(device_s, kernels * device.launch_s - weight_s) + hops * device.hop_s,
        weight_s=weight_s,
        expert_s=model.expert_bytes / (tp * device.weight_bytes_per_s),
        expert_share=1 - (1 - model.expert_share) ** (1 / pp),
        token_s=(model.token_flops / (tp * device.flops_per_s) + elementwise) / pp,
        comm_s=(comm + hops * model.payload_bytes / device.hop_bytes_per_s) / pp,
        pair_s=model.pair_flops / (tp * device.attention_flops_per_s) / pp,
        context_s=context / pp,
        sequence_s=device.sequence_s + model.head_flops / (tp * device.flops_per_s),
    )


def _all_reduce_s(share: Efficiency, tp: int) -> float:
    return share.all_reduce_s + (tp - 2) * share.all_reduce_device_s if tp > 1 else 0.0


def _kernels(model: Model) -> float:
    """Kernels per layer: 4 GEMM, attention, KV write, rope, 2 norms, activation; latent 3 more, routed experts 5."""
    return 10 + (3 if model.mla else 0) + 5 * model.moe_layers / model.layers


def _sharded_values(model: Model) -> int:
    """Values per token that TP divides, all layers: q, k, v before and after rope; gate, up and product of FFNs."""
    ffn = (model.layers - model.moe_layers) * model.ffn_dense
    ffn += model.moe_layers * (model.top_k + model.shared_experts) * model.moe_ffn
    return 4 * model.layers * model.heads * model.head_dim + model.ffn_matrices * ffn


def _attention_flops(model: Model) -> tuple[float, float]:
    """FLOP per (query, key) pair in prefill and per token of context in decode, all layers."""
    prefill = decode = 4 * model.attention_dim()
    if model.mla:
        decode = 2 * model.heads * (2 * model.kv_lora_rank + model.qk_rope_dim)
    return float(prefill * model.layers), float(decode * model.layers)
