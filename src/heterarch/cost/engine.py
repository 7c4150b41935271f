"""The step cost of engines, one at a time or many side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.catalog.device import Device
from heterarch.catalog.model import Model
from heterarch.cost.closed_form import closed_form
from heterarch.cost.config import EngineConfig
from heterarch.cost.forward import kernel_of, linear_calls
from heterarch.cost.library import Kernel, Library
from heterarch.cost.memory import BATCHED_TOKENS, UTILISATION, kv_capacity_tokens, memory_fit
from heterarch.cost.step import KNOTS, StepCost, step_time_s
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
    "notable_kernels",
    "prefill_s",
    "step_cost",
    "step_source",
]

NOTABLE = 0.1  # share of the time from which on a kernel's basis is that of the pass
TYPICAL_TOKENS = 64.0


@lru_cache(maxsize=8192)
def step_cost(config: EngineConfig) -> StepCost:
    """Coefficients of one iteration of an engine, floats in seconds (``bends_s`` an array).

    The sum of its kernels, see :mod:`heterarch.cost.forward`, in the closed form of :mod:`heterarch.cost.closed_form`;
    scaled to the engine's own iterations where a calibration holds them for the model.

    Raises:
        InputError: the device lacks a peak or link that is needed, or the model's row is not known well enough.
    """
    cost, fit = closed_form(config), config.kernels.engine_fit(config.name, config.model.id, config.engine)
    return fit.apply(cost) if fit else cost


def step_source(config: EngineConfig) -> Source:
    """Where the prediction of :func:`step_cost` comes from: the weakest of its kernels' fits, peaks and host times.

    Of kernels the notable ones count. A number without a source counts as declared.
    """
    device = config.device
    unknown = Source(Grade.DECLARED, "no source")
    peaks = [device.sources.get(name, unknown) for name in (config.compute_dtype, "mem_bytes_per_s")]
    kernels = [kernel.source for kernel in notable_kernels(config)]
    grade = weakest(Grade.DERIVED, *(source.grade for source in (*kernels, *peaks, config.host_work.source)))
    worst = next(source for source in kernels if source.grade == weakest(*(kernel.grade for kernel in kernels)))
    return Source(grade, f"kernels: {worst.citation}; peaks: {peaks[0].citation}")


def notable_kernels(config: EngineConfig) -> list[Kernel]:
    """Kernels of linear layers, experts and collectives that take at least a tenth of the time of these, one of each
    source; same errors as :func:`step_cost`."""
    seconds: dict[Source, float] = {}
    kernels: dict[Source, Kernel] = {}
    for call in linear_calls(config, np.full(1, TYPICAL_TOKENS)):
        kernel = kernel_of(config, call)
        kernels.setdefault(kernel.source, kernel)
        seconds[kernel.source] = seconds.get(kernel.source, 0.0) + float(call.count * kernel.seconds(call.shapes)[0])
    return [kernels[source] for source, spent in seconds.items() if spent >= NOTABLE * sum(seconds.values())]


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
        return StepCost(*(np.asarray(field)[..., None] for field in self.step))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> EngineTable:
        """The table of some rows, in their order."""
        index = np.asarray(rows, dtype=np.int64)
        return EngineTable(
            configs=tuple(self.configs[i] for i in index),
            step=StepCost(*(np.asarray(field)[..., index] for field in self.step)),
            devices=self.devices[index],
            kv_bytes_per_token=self.kv_bytes_per_token[index],
            kv_tokens=self.kv_tokens[index],
            left_out=self.left_out,
        )

    def row(self, index: int) -> StepCost:
        """The step cost of one configuration, floats."""
        return self.step._replace(
            bends_s=self.step.bends_s[:, index],
            **{name: float(getattr(self.step, name)[index]) for name in StepCost._fields if name != "bends_s"},
        )


def engine_table(
    configs: Iterable[EngineConfig],
    *,
    batched_tokens: int = BATCHED_TOKENS,
    utilisation: float = UTILISATION,
    context: int | None = None,
) -> EngineTable:
    """The step cost and KV capacity of many configurations at once.

    Args:
        configs: any mixture of devices, models, splits and dtypes.
        batched_tokens: most tokens of an iteration, for the memory of activations.
        utilisation: share of device memory that the engine may use.
        context: typical tokens of a sequence, over which windows and states are spread (the model's longest if None).

    Configurations that cannot run, or whose weights do not fit, are in ``left_out`` with the reason.
    """
    kept: list[_Row] = []
    left_out: list[LeftOutConfig] = []
    for config in configs:
        try:
            kept.append(_row(config, batched_tokens, utilisation, context))
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
    library: Library | None = None,
) -> Iterator[EngineConfig]:
    """Every combination that divides the model's heads and layers, in a fixed order, priced by ``library``."""
    for device, model, dtype, kv_dtype, t, p in product(devices, models, dtypes, kv_dtypes, tp, pp):
        if model.heads % t == 0 and p <= model.layers:
            yield EngineConfig(device, model, t, p, dtype, kv_dtype, library=library)


_Row = tuple[EngineConfig, StepCost, int, int]


def _row(config: EngineConfig, batched_tokens: int, utilisation: float, context: int | None) -> _Row:
    fit = memory_fit(config, batched_tokens=batched_tokens, utilisation=utilisation, context=context)
    if fit.missing_bytes or (not config.model.encoder and fit.kv_tokens <= 0):
        raise InputError(fit.explain())
    return config, step_cost(config), round(config.model.kv_growth_bytes(config.kv_dtype)), fit.kv_tokens


def _table(rows: list[_Row], left_out: tuple[LeftOutConfig, ...]) -> EngineTable:
    fields = ([getattr(row[1], name) for row in rows] for name in StepCost._fields)
    step = StepCost(*(np.array(values, dtype=np.float64) for values in fields))
    return EngineTable(
        configs=tuple(row[0] for row in rows),
        step=step._replace(bends_s=step.bends_s.reshape(len(rows), len(KNOTS)).T),
        devices=np.array([row[0].devices for row in rows], dtype=np.int64),
        kv_bytes_per_token=np.array([row[2] for row in rows], dtype=np.int64),
        kv_tokens=np.array([row[3] for row in rows], dtype=np.int64),
        left_out=left_out,
    )
