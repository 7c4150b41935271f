"""An engine at work on one kind of call: how fast, with how many watts, and what a call takes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from heterarch.catalog.server import Site
from heterarch.cost.config import EngineConfig
from heterarch.cost.energy import call_j, embodied_gco2e_per_h
from heterarch.cost.engine import decode_s, prefill_s, step_cost
from heterarch.cost.memory import memory_fit, most_sequences
from heterarch.cost.money.tco import Calls, EngineSeconds, OwnPrices, engine_seconds, token_prices
from heterarch.cost.step import StepCost
from heterarch.errors import InputError
from heterarch.units import HOUR_S

KWH_J = 3.6e6


@dataclass(frozen=True)
class OperatingPoint:
    """An engine of ``config`` that serves calls of one kind (``calls``: numbers), ``batch`` of them at a time."""

    config: EngineConfig
    calls: Calls
    batch: int

    @cached_property
    def cost(self) -> StepCost:
        """The step cost of the engine."""
        return step_cost(self.config)

    @cached_property
    def seconds(self) -> EngineSeconds:
        """Engine seconds of one call."""
        return engine_seconds(self.cost, self.calls, self.batch)

    @property
    def ttft_s(self) -> float:
        """Prefill of one call on an idle engine."""
        return float(prefill_s(self.cost, self.calls.fresh_tokens, self.calls.cached_tokens))

    @property
    def tpot_s(self) -> float:
        """Time per output token, with the prefills of the other calls between the iterations; 0 without output."""
        output = self.calls.output_tokens
        if not output:
            return 0.0
        iteration = decode_s(self.cost, self.batch, self.calls.prompt_tokens + output / 2)
        return float(iteration + self.batch * self.ttft_s / output)

    @property
    def tokens_per_s(self) -> float:
        """Prompt (cached ones too) and output tokens per second of the engine."""
        return float((self.calls.prompt_tokens + self.calls.output_tokens) / self.seconds.total_s)

    @cached_property
    def joules(self) -> float:
        """Of one call, all devices of the engine, equipment only."""
        return float(call_j(self.config, self.cost, self.calls, self.batch))

    @property
    def watts(self) -> float:
        """Mean power of all devices of the engine at this point."""
        return self.joules / float(self.seconds.total_s)

    def prices(self, usd_per_device_h: float) -> OwnPrices:
        """USD per million tokens by kind at that price of a device."""
        return token_prices(self.seconds, self.calls, usd_per_device_h * self.config.devices)

    def gco2e(self, site: Site, grid_gco2e_per_kwh: float, lifetime_years: float = 4.0) -> tuple[float, float]:
        """(operational, embodied) gCO2e of one call: energy x PUE x grid intensity, and its share of the devices."""
        made = embodied_gco2e_per_h(self.config.device, lifetime_years) * self.config.devices / HOUR_S
        return self.joules * site.pue / KWH_J * grid_gco2e_per_kwh, made * float(self.seconds.total_s)


def operating_point(configs: Iterable[EngineConfig], calls: Calls, batch: int) -> OperatingPoint:
    """The first of ``configs`` whose memory holds ``batch`` calls, else the one that holds most of them.

    The point runs what fits: at most ``batch``. Each call holds KV of its own; shared prefixes are counted apart.

    Raises:
        InputError: no configuration holds one call; the message is that of the last.
    """
    best: OperatingPoint | None = None
    reason = InputError("no configuration to choose from")
    for config in configs:
        room = most_sequences(config, math.ceil(calls.prompt_tokens + calls.output_tokens))
        if room and (best is None or room > best.batch):
            best = OperatingPoint(config, calls, min(room, batch))
        if room >= batch:
            break
        reason = InputError(memory_fit(config).explain(), fix="more devices per engine, or shorter calls")
    if best is None:
        raise reason
    return best


def widths(config: EngineConfig, tp: Sequence[int] = (1, 2, 4, 8), ep: int = 1) -> list[EngineConfig]:
    """The configuration at each tensor-parallel degree that divides the attention heads and that ``ep`` ways of
    spreading experts divide (with its attention groups), narrowest first.

    Raises:
        InputError: there is none, or ``ep`` does not divide the experts.
    """
    heads, groups = config.model.heads, config.attention_dp
    fitting = [size for size in sorted(tp) if heads % size == 0 and size * groups % ep == 0]
    return [replace(config, tp=size, ep=ep) for size in fitting or [max(tp)]]
