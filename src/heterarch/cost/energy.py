"""Watts of a device from how busy it is, and what follows: joules of tokens and calls, and their carbon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from heterarch.catalog.device import Device
from heterarch.catalog.server import Site
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import decode_s, prefill_s
from heterarch.cost.money.tco import Calls
from heterarch.cost.step import StepCost
from heterarch.cost.work import model_work
from heterarch.errors import InputError
from heterarch.units import HOUR_S, YEAR_H, Grade, Source

_KERNELS = "linear fit of GEMM power, aiconfigurator-core 0.12.0; 28-30 % median error"


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Power as shares of the TDP: base + compute x u_compute + memory x u_memory, at most 1; ``idle`` without work."""

    idle: float
    base: float
    compute: float
    memory: float
    source: Source


_H200 = PowerModel(0.11, 249 / 700, 571 / 700, 190 / 700, Source(Grade.FITTED, f"H200 {_KERNELS}"))
_B200 = PowerModel(0.11, 0.428, 0.769, 0.287, Source(Grade.FITTED, f"B200 {_KERNELS}"))
_A100 = PowerModel(
    *(63 / 400, 0.28, 1.60, 0.71),
    Source(Grade.FITTED, "20 runs of Llama-2-70B on A100 80 GB, splitwise-sim 8f99e7d; 2 % median error on them"),
)
_DEFAULT = PowerModel(0.15, 0.39, 0.79, 0.28, Source(Grade.GUESS, "about the mean of the H200 and B200 fits"))


def _of_sibling(name: str, fit: PowerModel) -> PowerModel:
    return replace(fit, source=Source(Grade.DERIVED, f"the fit of {name}, another chip: {fit.source.citation}"))


#: devices whose power was measured, and chips of the same architecture
BY_DEVICE: Mapping[str, PowerModel] = MappingProxyType(
    {
        **{"h200-sxm": _H200, "h100-sxm": _of_sibling("H200", _H200)},
        **{"b200": _B200, "gb200-nvl72": _of_sibling("B200", _B200)},
        **{"a100-80-sxm": _A100, "a100-40-sxm": _of_sibling("A100 80 GB", _A100)},
    }
)


def power_model(device: Device) -> PowerModel:
    """The device's own fit, that of a chip of its architecture, or the default; ``source`` says which."""
    return BY_DEVICE.get(device.id, _DEFAULT)


def idle_w(device: Device) -> float:
    """Watts of a powered device without work: measured where the catalogue knows it, else a share of the TDP.

    Raises:
        InputError: the TDP is unknown too.
    """
    if device.idle_w is not None:
        return device.idle_w
    return power_model(device).idle * _tdp_w(device)


def power_w(device: Device, u_compute: Any = 0.0, u_memory: Any = 0.0, busy: Any = 1.0) -> Any:
    """Mean watts of a device that computes a share ``busy`` of the time; never above its TDP.

    Args:
        device: the catalogue row; its measured ``idle_w`` is used where known.
        u_compute: share of the dense peak reached while busy, 0..1.
        u_memory: share of the memory bandwidth reached while busy, 0..1.
        busy: share of the time with work, 0..1.

    Raises:
        InputError: the TDP is unknown.
    """
    model, tdp, idle = power_model(device), _tdp_w(device), idle_w(device)
    share = model.base + model.compute * np.asarray(u_compute) + model.memory * np.asarray(u_memory)
    active = tdp * np.minimum(1.0, share)
    return idle + (np.maximum(active, idle) - idle) * busy


def engine_power_w(
    config: EngineConfig, tokens: Any, step_s: Any, busy: Any = 1.0, *, pairs: Any = 0.0, context: Any = 0.0
) -> Any:
    """Mean watts of all devices of an engine whose iterations of ``tokens`` tokens take ``step_s``.

    The utilisations are the ideal times of linear layers and attention (FLOP over peak, bytes of weights and KV over
    bandwidth) over the seconds of the iteration. ``pairs`` and ``context`` as in
    :func:`heterarch.cost.step.step_time_s`. Same errors as :func:`power_w`.
    """
    device, work = config.device, model_work(config)
    experts = work.expert_bytes * (1.0 - (1.0 - work.expert_share) ** tokens)
    linear = work.token_flops * tokens / device.peaks[config.compute_dtype]
    attention = (work.pair_flops * pairs + work.context_flops * context) / device.peak("bf16")
    moved = (work.weight_bytes + experts + work.kv_bytes * context) / device.mem_bytes_per_s
    compute, memory = (np.minimum(1.0, s / config.devices / step_s) for s in (linear + attention, moved))
    return config.devices * power_w(device, compute, memory, busy)


def prefill_j(config: EngineConfig, cost: StepCost, tokens: Any, done: Any = 0) -> Any:
    """Joules of all devices of an engine to prefill ``tokens`` of a sequence of which ``done`` are cached.

    Divide by ``tokens`` for joules per prompt token. Equipment only: no server, no PUE. Same errors as
    :func:`power_w`.
    """
    seconds = prefill_s(cost, tokens, done)
    return seconds * engine_power_w(config, tokens, seconds, pairs=tokens * (done + tokens / 2))


def decode_j(config: EngineConfig, cost: StepCost, batch: Any, context: Any) -> Any:
    """Joules of all devices of an engine per output token, of ``batch`` sequences of ``context`` tokens each.

    Equipment only. Same errors as :func:`power_w`.
    """
    seconds = decode_s(cost, batch, context)
    return seconds * engine_power_w(config, batch, seconds, context=batch * context) / batch


def call_j(config: EngineConfig, cost: StepCost, calls: Calls, batch: Any) -> Any:
    """Joules of all devices of an engine per call: its prefill, and its output at the middle of the answer."""
    context = calls.prompt_tokens + calls.output_tokens / 2
    output = calls.output_tokens * decode_j(config, cost, batch, context)
    return prefill_j(config, cost, calls.fresh_tokens, calls.cached_tokens) + output


def joules_per_h(watts: float, site: Site) -> float:
    """Facility energy of an hour at ``watts`` of equipment: x PUE."""
    return watts * site.pue * HOUR_S


def grid_gco2e_per_kwh(site: Site, hourly: Sequence[float] = (), start_h: float = 0.0, hours: float = 1.0) -> float:
    """Mean grid intensity of the window of ``hours`` from ``start_h``; that of the site where no profile is given.

    ``hourly``: gCO2e/kWh of consecutive hours, of a day (24), a week (168) or any other span; it repeats.

    Raises:
        InputError: neither a profile nor the site's mean is known, or the window is empty.
    """
    if not hourly:
        return _site_gco2e_per_kwh(site)
    if hours <= 0:
        raise InputError("a window of time needs a length above 0", observed=f"{hours:g} h")
    whole = np.concatenate([[0.0], np.cumsum(np.asarray(hourly, dtype=np.float64))])

    def emitted(until_h: float) -> float:
        turns, rest = divmod(until_h, len(hourly))
        return float(turns * whole[-1] + np.interp(rest, np.arange(len(whole)), whole))

    return (emitted(start_h + hours) - emitted(start_h)) / hours


def embodied_gco2e_per_h(device: Device, lifetime_years: float = 4.0) -> float:
    """The share of an hour in what making the device emitted, spread evenly over its life; 0 where it is unknown."""
    return (device.embodied_kgco2e or 0.0) * 1000 / (lifetime_years * YEAR_H)


def gco2e_per_h(
    device: Device,
    watts: float,
    site: Site,
    lifetime_years: float = 4.0,
    *,
    grid: float | None = None,
) -> float:
    """Operational carbon of an hour, plus the hour's share of what making the device emitted.

    Energy x PUE x grid intensity + embodied / lifetime. ``grid``: gCO2e/kWh of that hour in place of the site's mean.

    Raises:
        InputError: the grid intensity is neither given nor known for the site.
    """
    intensity = _site_gco2e_per_kwh(site) if grid is None else grid
    return watts / 1000 * site.pue * intensity + embodied_gco2e_per_h(device, lifetime_years)


def _site_gco2e_per_kwh(site: Site) -> float:
    if site.gco2e_per_kwh is None:
        raise InputError(f"no known grid intensity of site {site.id}", expected="gco2e_per_kwh")
    return site.gco2e_per_kwh


def _tdp_w(device: Device) -> float:
    if not device.tdp_w:
        raise InputError(f"no known TDP of {device.id}", expected="tdp_w in the catalogue row")
    return device.tdp_w
