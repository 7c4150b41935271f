"""Closed-form laws that papers state for cost, throughput and energy, corrected where their own data says so.

They are alternatives to the calibrated model of :mod:`heterarch.cost.engine`: bounds and rules of thumb that need no
calibration, or laws fitted on one device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heterarch.catalog.model import Model
from heterarch.errors import InputError
from heterarch.units import HOUR_S, YEAR_H

# ---- Kinetics, arXiv 2506.05333: the cost of reasoning at test time


@dataclass(frozen=True, slots=True)
class ReasoningCost:
    """FLOP of the linear layers and of attention, and KV reads as the FLOP that the device could do meanwhile."""

    linear_flops: float
    attention_flops: float
    memory_flops: float

    @property
    def compute_flops(self) -> float:
        """Linear layers and attention."""
        return self.linear_flops + self.attention_flops

    @property
    def eflops(self) -> float:
        """Equivalent FLOP: compute plus memory."""
        return self.compute_flops + self.memory_flops


def reasoning_cost(
    model: Model,
    prompt_tokens: float,
    output_tokens: float,
    *,
    trials: int = 1,
    flops_per_byte: float = 562.5,
    kv_dtype: str = "bf16",
    parameters: float | None = None,
) -> ReasoningCost:
    """Equivalent FLOP of ``trials`` answers to one prompt (Kinetics, arXiv 2506.05333, section 3 and its code).

    The prompt's KV is read once per step for all trials; weight reads are left out, as amortised over a large batch.

    Args:
        model: gives heads, layers and KV bytes.
        prompt_tokens: of the one prompt.
        output_tokens: of each answer.
        trials: answers sampled.
        flops_per_byte: dense FLOP/s over bytes/s of the device; 562.5 is B200 in FP8 (4.5 PFLOP/s, 8 TB/s).
        kv_dtype: of the KV cache; the paper counts 2 bytes per element.
        parameters: active parameters, where not those of ``model``.
    """
    active = model.active_parameters() if parameters is None else parameters
    own = output_tokens**2 / 2
    pairs = trials * (prompt_tokens * output_tokens + own)
    read = model.kv_bytes_per_token(kv_dtype) * (prompt_tokens * output_tokens + trials * own)
    return ReasoningCost(
        linear_flops=2.0 * trials * active * output_tokens,
        attention_flops=4.0 * model.layers * model.attention_dim() * pairs,
        memory_flops=flops_per_byte * read,
    )


def sparse_kv_reads(budget: int, prompt_tokens: int, output_tokens: int) -> int:
    """Tokens of KV that one answer reads when each step attends to at most ``budget`` of them.

    The sum over steps t = 0 .. output - 1 of min(budget, prompt + t), exactly. The code of arXiv 2506.05333 adds the
    triangle of the first steps where it must subtract it.
    """
    growing = min(output_tokens, max(0, budget - prompt_tokens))
    below = growing * (budget - prompt_tokens) - growing * (growing - 1) // 2
    return budget * output_tokens - below


# ---- MoE-Lens, arXiv 2504.09345: weights in host memory


def parallelism_per_kv_token(prompt_tokens: int, output_tokens: int, *, closed_form: bool = False) -> float:
    """Tokens of work that one token of KV capacity keeps in flight: (p + g) / sum of (p + j), j = 0 .. g.

    MoE-Lens, arXiv 2504.09345, section 5.2 ("PME"). ``closed_form``: the paper's 2 (p + g) / ((2 p + g) g), which
    leaves out one term of its own sum.
    """
    p, g = prompt_tokens, output_tokens
    if closed_form:
        return 2 * (p + g) / ((2 * p + g) * g)
    return (p + g) / ((g + 1) * p + g * (g + 1) / 2)


def offload_tokens_per_s(
    prompt_tokens: int,
    output_tokens: int,
    *,
    kv_tokens: float,
    weight_bytes: float,
    io_bytes_per_s: float,
    compute_tokens_per_s: float = math.inf,
    closed_form: bool = False,
) -> float:
    """Most tokens per second, prompt and output, of a model whose weights stream from the host in every iteration.

    min(PME x M / delta, compute), delta = weights / link bandwidth (MoE-Lens, arXiv 2504.09345, section 5.2).
    ``kv_tokens``: KV capacity M.
    """
    stream_s = weight_bytes / io_bytes_per_s
    in_flight = parallelism_per_kv_token(prompt_tokens, output_tokens, closed_form=closed_form) * kv_tokens
    return min(in_flight / stream_s, compute_tokens_per_s)


def overlap_capacity_factor(prompt_tokens: float, output_tokens: float) -> float:
    """By how much overlapping prefill with decode raises the effective KV capacity: (p + g) / (p + g / 2).

    MoE-Lens, arXiv 2504.09345.
    """
    return (prompt_tokens + output_tokens) / (prompt_tokens + output_tokens / 2)


# ---- Little's law of decoding


def decode_tokens_per_s(batch: Any, tpot_s: Any) -> Any:
    """Output tokens per second of ``batch`` sequences with ``tpot_s`` between their tokens (Little's law).

    Holds on all published rows of CloudMatrix384, arXiv 2506.12708, per NPU.
    """
    return batch / tpot_s


# ---- EdgeReasoning, arXiv 2511.01866: laws of one device, fitted on its traces

PAD_TOKENS = 128


@dataclass(frozen=True, slots=True)
class PrefillLaw:
    """Seconds of a prefill: a x^2 + b x + c of the prompt padded to a multiple of 128 (arXiv 2511.01866)."""

    a: float
    b: float
    c: float

    def seconds(self, prompt_tokens: ArrayLike) -> NDArray[np.float64]:
        """Time to first token of prompts of that many tokens."""
        x = _padded(prompt_tokens)
        return (self.a * x + self.b) * x + self.c


@dataclass(frozen=True, slots=True)
class DecodeLaw:
    """Seconds per output token: m x context + n (arXiv 2511.01866)."""

    m: float
    n: float

    def seconds(self, prompt_tokens: Any, output_tokens: Any) -> Any:
        """Whole decode of ``output_tokens``: O (m I + n + m (O - 1) / 2)."""
        return output_tokens * (self.m * prompt_tokens + self.n + self.m * (output_tokens - 1) / 2)


@dataclass(frozen=True, slots=True)
class PowerRamp:
    """Power of a decode after t seconds: steady - deficit x exp(-t / tau), watts (arXiv 2511.01866)."""

    steady_w: float
    deficit_w: float
    tau_s: float

    def watts(self, t_s: Any) -> Any:
        """Power at ``t_s`` after the start."""
        return self.steady_w - self.deficit_w * np.exp(-np.asarray(t_s) / self.tau_s)

    def joules(self, seconds: Any) -> Any:
        """Energy of the first ``seconds``: the integral of :meth:`watts`; the paper uses it beyond 64 tokens."""
        ramp = self.deficit_w * self.tau_s * -np.expm1(-np.asarray(seconds) / self.tau_s)
        return self.steady_w * seconds - ramp


def fit_prefill_law(prompt_tokens: ArrayLike, seconds: ArrayLike) -> PrefillLaw:
    """The prefill law with the least relative error (Huber's, bend at 10 %) on measured times.

    The coefficients printed in the repository of arXiv 2511.01866 miss its own traces by 90-143 %; fit them anew.

    Raises:
        InputError: fewer than three different padded lengths, or a time that is not above 0.
    """
    x = _padded(prompt_tokens)
    _enough(np.unique(x), 3)
    return PrefillLaw(*_fit_relative(np.stack([x**2, x, np.ones_like(x)], axis=1), seconds).tolist())


def fit_decode_law(prompt_tokens: ArrayLike, output_tokens: ArrayLike, seconds: ArrayLike) -> DecodeLaw:
    """The decode law with the least relative error (Huber's, bend at 10 %) on measured times of whole decodes.

    Raises:
        InputError: fewer than two points, or a time that is not above 0.
    """
    prompt, output = (np.asarray(values, dtype=np.float64) for values in (prompt_tokens, output_tokens))
    _enough(output, 2)
    return DecodeLaw(*_fit_relative(np.stack([output * (prompt + (output - 1) / 2), output], axis=1), seconds).tolist())


def _padded(tokens: ArrayLike) -> NDArray[np.float64]:
    return np.ceil(np.asarray(tokens, dtype=np.float64) / PAD_TOKENS) * PAD_TOKENS


def _enough(points: NDArray[np.float64], need: int) -> None:
    if len(points) < need:
        raise InputError(
            "too few measurements to fit the law", observed=f"{len(points)}", expected=f"at least {need} different ones"
        )


def _fit_relative(columns: NDArray[np.float64], seconds: ArrayLike) -> NDArray[np.float64]:
    """Least squares of relative errors below a tenth, absolute values beyond: one wild measurement does not move it."""
    measured = np.asarray(seconds, dtype=np.float64)
    if np.any(measured <= 0):
        raise InputError("a measured time is not above 0", observed=f"{measured.min():g} s", fix="leave it out")
    scaled, weight = columns / measured[:, None], np.ones(len(measured))
    found = np.zeros(columns.shape[1])
    for _ in range(50):
        root = np.sqrt(weight)
        found = np.asarray(np.linalg.lstsq(scaled * root[:, None], root, rcond=None)[0], dtype=np.float64)
        weight = 1 / np.maximum(np.abs(scaled @ found - 1), 0.1)
    return found


# ---- EcoLogits 0.11: energy of a call when only the model's size is known


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """GPUs of 80 GB that hold the model, and of one call: seconds, Wh of equipment (no PUE), embodied gCO2e."""

    gpus: int
    latency_s: float
    wh: float
    embodied_gco2e: float


def ecologits(
    active_billions: float, total_billions: float, output_tokens: float, *, bits: int = 16, batch: int = 64
) -> CallEstimate:
    """What a call takes by the regression of EcoLogits 0.11.3 (GenAI Impact) on H100 measurements of ML.ENERGY.

    GPU Wh per token 1.16653e-6 x exp(-0.0112059 B) x P + 4.05293e-5, latency per token 6.785e-4 P + 3.119e-4 B +
    0.01947 s with P active billions of parameters and a batch of B; the smallest power of two of 80 GB GPUs that holds
    1.2 x the weights; a server of 8 GPUs draws 1.2 kW beside them. Embodied: 273 kg per GPU and 5,700 kg per server
    over 3 years, shared by the batch. Prompt tokens do not count.

    A calibrated device with :func:`heterarch.cost.energy.call_j` is the better choice where the engine is known.
    """
    per_gpu = 1.16653e-6 * math.exp(-0.0112059 * batch) * active_billions + 4.05293e-5
    latency = output_tokens * (6.785e-4 * active_billions + 3.119e-4 * batch + 0.01947)
    gpus = 2 ** ceil(math.log2(ceil(1.2 * total_billions * bits / 8 / 80)))
    servers = gpus / 8 / batch
    wh = gpus * per_gpu * output_tokens + latency / HOUR_S * 1200 * servers
    made = (gpus * 273_000 / batch + 5_700_000 * servers) / (3 * YEAR_H * HOUR_S)
    return CallEstimate(gpus, latency, wh, latency * made)
