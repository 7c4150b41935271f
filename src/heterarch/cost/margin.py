"""How much longer than predicted an engine is planned to take, by what its prediction rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from heterarch.cost.config import EngineConfig
from heterarch.cost.document import shipped
from heterarch.cost.engine import notable_kernels
from heterarch.cost.library import TRANSFER_SIGMA


@lru_cache(maxsize=1)
def margins() -> Mapping[str, float]:
    """Relation of a kernel's fit to the device (same, sibling, other, guess) -> factor on its seconds.

    exp(sd of the log error): one kernel in six takes longer. The sd on held-out shapes is the median over the fits of
    the shipped calibration, of law and residual for the device and its siblings, of the law alone for others; beyond
    the device itself what the transfer adds (:data:`heterarch.cost.library.TRANSFER_SIGMA`) comes on top.
    """
    fits = shipped().fits
    fitted, law = (float(np.median([getattr(fit, name) for fit in fits])) for name in ("sigma", "law_sigma"))
    own = {"same": fitted, "sibling": fitted}
    found = {name: math.exp(math.hypot(own.get(name, law), added)) for name, added in TRANSFER_SIGMA.items()}
    return MappingProxyType(found)


@lru_cache(maxsize=8192)
def step_margin(config: EngineConfig) -> float:
    """The margin of an engine's step times: that of the least known of the kernels that take a notable share of it.

    An engine whose own iterations were measured has their held-out error instead.
    """
    fit = config.kernels.engine_fit(config.name, config.model.id, config.engine)
    if fit is not None:
        return 1.0 + fit.held_out
    return max(margins()[kernel.relation] for kernel in notable_kernels(config))
