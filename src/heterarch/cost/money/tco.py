"""What tokens, calls and agent runs cost on an engine of one's own, and what each resource of a device costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from heterarch.catalog.device import Device
from heterarch.cost.engine import decode_s, prefill_s
from heterarch.cost.money.endpoint import MILLION, TokenPrices, call_usd
from heterarch.cost.step import StepCost
from heterarch.errors import InputError
from heterarch.units import GB, HOUR_S, TERA


@dataclass(frozen=True)
class Calls:
    """LLM calls by their tokens: numbers, or sequences with one entry per call or kind of call; kept as arrays.

    ``cached_tokens`` of the ``prompt_tokens`` are found in the KV cache; ``count``: how often the call occurs (in a
    workload, or in a run of an agent).

    Raises:
        InputError: a call with no fresh prompt token (engines compute at least the last one), or a negative number.
    """

    prompt_tokens: Any
    cached_tokens: Any = 0.0
    output_tokens: Any = 0.0
    count: Any = 1.0

    def __post_init__(self) -> None:
        for name, value in tuple(vars(self).items()):
            object.__setattr__(self, name, np.asarray(value, dtype=np.float64))
        if np.any(self.cached_tokens >= self.prompt_tokens):
            raise InputError(
                "a call needs at least one prompt token that is not cached",
                observed=f"{self.cached_tokens} cached of {self.prompt_tokens}",
            )
        if any(np.any(value < 0) for value in (self.cached_tokens, self.output_tokens, self.count)):
            raise InputError("tokens and counts of calls are not negative", observed=self)

    @property
    def fresh_tokens(self) -> Any:
        """Prompt tokens that are computed."""
        return self.prompt_tokens - self.cached_tokens

    def total(self, values: Any) -> float:
        """Sum of ``values`` per call over all calls, each ``count`` times."""
        shape = np.broadcast_shapes(*(np.shape(value) for value in vars(self).values()))
        return float(np.sum(np.broadcast_to(values * self.count, shape)))


class EngineSeconds(NamedTuple):
    """Engine seconds of a call: of its fresh prompt tokens, of its cached ones, of its output; numbers or arrays."""

    fresh_s: Any
    cached_s: Any
    output_s: Any

    @property
    def total_s(self) -> Any:
        """All of them."""
        return self.fresh_s + self.cached_s + self.output_s


def engine_seconds(cost: StepCost, calls: Calls, batch: Any, *, kv_load_s: Any = 0.0) -> EngineSeconds:
    """How long each call occupies an engine that runs prefills alone and decodes ``batch`` sequences together.

    Fresh tokens are charged the prefill as if nothing were cached. Cached tokens are charged what they add to it: that
    the fresh ones attend to them, and ``kv_load_s`` per token where their KV is fetched from a lower tier. Output is
    charged its share of each iteration, at the context of the middle of the answer.
    """
    fresh = calls.fresh_tokens
    alone = prefill_s(cost, fresh)
    cached = np.maximum(prefill_s(cost, fresh, calls.cached_tokens) - alone, 0.0) + kv_load_s * calls.cached_tokens
    context = calls.prompt_tokens + calls.output_tokens / 2
    return EngineSeconds(alone, cached, calls.output_tokens * decode_s(cost, batch, context) / batch)


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """USD per million tokens on an engine of one's own, by kind, as a hosted API would bill them."""

    input_usd_per_mtok: float
    cached_usd_per_mtok: float
    output_usd_per_mtok: float


def token_prices(seconds: EngineSeconds, calls: Calls, usd_per_engine_h: float) -> OwnPrices:
    """The prices at which billing ``calls`` by tokens returns exactly what their engine seconds cost.

    Each kind of token bears the seconds that it takes, so the sum over the workload is USD per hour x hours. A kind of
    which there are no tokens costs 0.
    """
    per_mtok = usd_per_engine_h / HOUR_S * MILLION
    tokens = [calls.total(kind) for kind in (calls.fresh_tokens, calls.cached_tokens, calls.output_tokens)]
    spent = [calls.total(kind) for kind in seconds]
    return OwnPrices(*(per_mtok * s / n if n else 0.0 for s, n in zip(spent, tokens, strict=True)))


def run_usd(price: TokenPrices, calls: Calls, *, tool_s: float = 0.0, tool_usd_per_h: float = 0.0) -> float:
    """USD of all ``calls``: of a workload, or of one run of an agent with ``tool_s`` seconds of tools beside them.

    ``price`` is that of a hosted API or of an engine of one's own.
    """
    usd = call_usd(price, calls.prompt_tokens, calls.cached_tokens, calls.output_tokens)
    return calls.total(usd) + tool_s / HOUR_S * tool_usd_per_h


def mean_usd_per_mtok(price: TokenPrices, calls: Calls) -> float:
    """USD of a workload per million of its tokens, prompt (cached ones too) and output."""
    tokens = calls.total(calls.prompt_tokens + calls.output_tokens)
    return run_usd(price, calls) / tokens * MILLION


def usd_per_mtok(usd_per_h: float, tokens_per_s: float) -> float:
    """USD per million tokens at a measured rate: usd_per_h / (tokens_per_s x 3600 / 10^6).

    Per device or per engine, of input, output or all tokens: whichever the two arguments count (InferenceX, April
    2026). With disaggregated engines the devices of both pools count.
    """
    return usd_per_h / (tokens_per_s * HOUR_S) * MILLION


def tokens_per_s_per_mw(tokens_per_s: float, watts: float) -> float:
    """Tokens per second and megawatt of all-in power (InferenceX, April 2026)."""
    return tokens_per_s / watts * 1e6


@dataclass(frozen=True, slots=True)
class MarginalCost:
    """USD per unit of what a device offers, None where the catalogue does not know it (arXiv 2507.19635, figure 4)."""

    usd_per_gb: float | None
    usd_per_gb_per_s: float | None
    usd_per_tflops: float | None


def marginal_cost(device: Device, usd: float, dtype: str = "bf16") -> MarginalCost:
    """``usd`` per GB, per GB/s and per dense TFLOP/s of ``dtype``.

    ``usd``: the price of the device, or of one hour of it under any accounting; the result is per hour then.
    """
    peak = device.peaks.get(dtype, 0.0)
    amounts = (device.mem_bytes / GB, device.mem_bytes_per_s / GB, peak / TERA)
    return MarginalCost(*(usd / amount if amount else None for amount in amounts))
