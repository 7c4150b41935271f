"""The step cost of engines, one at a time or many side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.cost.config import EngineConfig
from heterarch.cost.efficiency import efficiency
from heterarch.cost.memory import BATCHED_TOKENS, UTILISATION, kv_capacity_tokens, memory_fit
from heterarch.cost.step import StepCost, step_time_s
from heterarch.cost.terms import DeviceTerms, ModelTerms, combine, device_terms, model_terms
from heterarch.errors import InputError
from heterarch.units import Grade, Source, weakest

__all__ = [
    "EngineConfig",
    "EngineTable",
    "LeftOutConfig",
    "decode_s",
    "engine_configs",
    "engine_table",
    "kv_capacity_tokens",
    "prefill_s",
    "step_cost",
    "step_source",
]


def step_cost(config: EngineConfig) -> StepCost:
    """Coefficients of one iteration of an engine, floats in seconds.

    A roofline with efficiencies per kernel family; see :mod:`heterarch.cost.terms` for the formulas.

    Raises:
        InputError: the device lacks a peak or link that is needed, or the model's row is not known well enough.
    """
    cost = combine(device_terms(config), model_terms(config), config.tp, config.pp)
    return StepCost(*(float(value) for value in cost))


def step_source(config: EngineConfig) -> Source:
    """Where the prediction of :func:`step_cost` comes from: never better than the peaks and shares it rests on.

    A number that the catalogue row gives without a source counts as declared.
    """
    device, share = config.device, config.efficiency or efficiency(config.device)
    unknown = Source(Grade.DECLARED, "no source")
    fields = (config.compute_dtype, "mem_bytes_per_s")
    peaks = [device.sources.get(name, unknown) for name in fields]
    grade = weakest(Grade.DERIVED, share.source.grade, *(source.grade for source in peaks))
    return Source(grade, f"roofline; {share.source.citation}; peaks: {peaks[0].citation}")


def prefill_s(cost: StepCost, tokens: Any, done: Any = 0) -> Any:
    """Seconds to prefill ``tokens`` of one sequence of which ``done`` tokens are already cached."""
    return step_time_s(cost, tokens, tokens * (done + tokens / 2), 1, 0)


def decode_s(cost: StepCost, batch: Any, context: Any) -> Any:
    """Seconds of one decode iteration of ``batch`` sequences of ``context`` tokens each."""
    return step_time_s(cost, batch, 0, batch, batch * context)


@dataclass(frozen=True, slots=True)
class LeftOutConfig:
    """A configuration that cannot run, and why."""

    config: EngineConfig
    reason: str


@dataclass(frozen=True)
class EngineTable:
    """Configurations side by side: every array has one row per configuration of ``configs``."""

    configs: tuple[EngineConfig, ...]
    step: StepCost  # of arrays, seconds
    devices: NDArray[np.int64]
    kv_bytes_per_token: NDArray[np.int64]  # KV of one token, counted once; what a transfer moves
    kv_tokens: NDArray[np.int64]  # KV capacity of one engine
    left_out: tuple[LeftOutConfig, ...] = ()

    def __len__(self) -> int:
        return len(self.configs)

    def columns(self) -> StepCost:
        """The step cost as columns ``[configs, 1]``, to broadcast against rows of batch sizes."""
        return StepCost(*(np.asarray(field)[:, None] for field in self.step))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> EngineTable:
        """The table of some rows, in their order."""
        index = np.asarray(rows, dtype=np.int64)
        return EngineTable(
            configs=tuple(self.configs[i] for i in index),
            step=StepCost(*(np.asarray(field)[index] for field in self.step)),
            devices=self.devices[index],
            kv_bytes_per_token=self.kv_bytes_per_token[index],
            kv_tokens=self.kv_tokens[index],
            left_out=self.left_out,
        )

    def row(self, index: int) -> StepCost:
        """The step cost of one configuration, floats."""
        return StepCost(*(float(field[index]) for field in self.step))


def engine_table(
    configs: Iterable[EngineConfig], *, batched_tokens: int = BATCHED_TOKENS, utilisation: float = UTILISATION
) -> EngineTable:
    """The step cost and KV capacity of many configurations at once.

    Args:
        configs: any mixture of devices, models, splits and dtypes.
        batched_tokens: most tokens of an iteration, for the memory of activations.
        utilisation: share of device memory that the engine may use.

    Configurations that cannot run, or whose weights do not fit, are in ``left_out`` with the reason.
    """
    kept: list[_Row] = []
    left_out: list[LeftOutConfig] = []
    for config in configs:
        try:
            kept.append(_row(config, batched_tokens, utilisation))
        except InputError as error:
            left_out.append(LeftOutConfig(config, error.what))
    return _table(kept, tuple(left_out))


def engine_configs(
    devices: Sequence[Device],
    models: Sequence[Model],
    *,
    dtypes: Sequence[str] = ("bf16", "fp8"),
    kv_dtypes: Sequence[str] = ("bf16",),
    tp: Sequence[int] = (1, 2, 4, 8),
    pp: Sequence[int] = (1,),
) -> Iterator[EngineConfig]:
    """Every combination that divides the model's heads and layers, in a fixed order."""
    for device, model, dtype, kv_dtype, t, p in product(devices, models, dtypes, kv_dtypes, tp, pp):
        if model.heads % t == 0 and p <= model.layers:
            yield EngineConfig(device, model, t, p, dtype, kv_dtype)


_Row = tuple[EngineConfig, DeviceTerms, ModelTerms, int, int]


def _row(config: EngineConfig, batched_tokens: int, utilisation: float) -> _Row:
    fit = memory_fit(config, batched_tokens=batched_tokens, utilisation=utilisation)
    if fit.missing_bytes or (not config.model.encoder and fit.kv_tokens <= 0):
        raise InputError(fit.explain())
    kv = config.model.kv_bytes_per_token(config.kv_dtype)
    return config, device_terms(config), model_terms(config), kv, fit.kv_tokens


def _table(rows: list[_Row], left_out: tuple[LeftOutConfig, ...]) -> EngineTable:
    device = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, len(DeviceTerms._fields)).T
    model = np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, len(ModelTerms._fields)).T
    tp, pp = (np.array([getattr(row[0], name) for row in rows], dtype=np.float64) for name in ("tp", "pp"))
    return EngineTable(
        configs=tuple(row[0] for row in rows),
        step=combine(DeviceTerms(*device), ModelTerms(*model), tp, pp),
        devices=(tp * pp).astype(np.int64),
        kv_bytes_per_token=np.array([row[3] for row in rows], dtype=np.int64),
        kv_tokens=np.array([row[4] for row in rows], dtype=np.int64),
        left_out=left_out,
    )
