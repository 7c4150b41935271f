"""Watts of a device from how busy it is, and what follows: joules, money and carbon per hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from heterarch.catalog.device import Device
from heterarch.catalog.server import Site
from heterarch.cost.config import EngineConfig
from heterarch.cost.efficiency import efficiency
from heterarch.cost.step import StepCost
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
_DEFAULT = PowerModel(0.15, 0.39, 0.79, 0.28, Source(Grade.GUESS, "mean of the H200 and B200 fits"))

#: devices whose kernel power was measured, and chips alike
BY_DEVICE: Mapping[str, PowerModel] = MappingProxyType(
    {"h200-sxm": _H200, "h100-sxm": _H200, "b200": _B200, "gb200-nvl72": _B200}
)


def power_model(device: Device) -> PowerModel:
    """The device's own fit, or the default."""
    return BY_DEVICE.get(device.id, _DEFAULT)


def power_w(device: Device, u_compute: Any = 0.0, u_memory: Any = 0.0, busy: Any = 1.0) -> Any:
    """Mean watts of a device that computes a share ``busy`` of the time.

    Args:
        device: the catalogue row; its measured ``idle_w`` is used where known.
        u_compute: share of the dense peak reached while busy, 0..1.
        u_memory: share of the memory bandwidth reached while busy, 0..1.
        busy: share of the time with work, 0..1.

    Raises:
        InputError: the TDP is unknown.
    """
    if not device.tdp_w:
        raise InputError(f"no known TDP of {device.id}", expected="tdp_w in the catalogue row")
    model = power_model(device)
    idle = device.idle_w if device.idle_w is not None else model.idle * device.tdp_w
    share = model.base + model.compute * np.asarray(u_compute) + model.memory * np.asarray(u_memory)
    active = device.tdp_w * np.minimum(1.0, share)
    return idle + (np.maximum(active, idle) - idle) * busy


def engine_power_w(config: EngineConfig, cost: StepCost, tokens: Any, step_s: Any, busy: Any = 1.0) -> Any:
    """Mean watts of all devices of an engine whose iterations of ``tokens`` tokens take ``step_s``.

    The utilisations are the ideal times of the linear layers (FLOP over peak, weight bytes over bandwidth) over the
    seconds of the iteration. Same errors as :func:`power_w`.
    """
    share = config.efficiency or efficiency(config.device)
    experts = cost.expert_s * (1.0 - (1.0 - cost.expert_share) ** tokens)
    compute = cost.token_s * tokens * share.compute_share(config.compute_dtype) / step_s
    memory = (cost.weight_s + experts) * share.weight_bandwidth / step_s / config.pp
    return config.devices * power_w(config.device, np.minimum(1.0, compute), np.minimum(1.0, memory), busy)


def joules_per_h(watts: float, site: Site) -> float:
    """Facility energy of an hour at ``watts`` of equipment: x PUE."""
    return watts * site.pue * HOUR_S


def gco2e_per_h(device: Device, watts: float, site: Site, lifetime_years: float = 4.0) -> float:
    """Operational carbon of an hour, plus the hour's share of what making the device emitted.

    Energy x PUE x grid intensity + embodied / lifetime; a device of unknown embodied carbon counts as 0 there.

    Raises:
        InputError: the site's grid intensity is unknown.
    """
    if site.gco2e_per_kwh is None:
        raise InputError(f"no known grid intensity of site {site.id}", expected="gco2e_per_kwh")
    embodied = (device.embodied_kgco2e or 0.0) * 1000 / (lifetime_years * YEAR_H)
    return watts / 1000 * site.pue * site.gco2e_per_kwh + embodied
