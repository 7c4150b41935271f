"""Policies: a small typed object that sees a view and answers with a decision; only the host applies it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class RouterView(NamedTuple):
    """What a router sees of one pool when one call arrives; arrays have one row per engine of the pool.

    ``age_s``: seconds since the row was observed (0 in the simulator, a heartbeat old in a live run).
    ``prompt_tokens``: length of the call's prompt. ``cached_tokens``: leading prompt tokens whose KV the engine
    holds. ``pending_tokens``: prompt tokens accepted and not yet prefilled. ``decode_tokens``: context tokens of the
    sequences in decode. ``queued`` and ``running``: sequences. ``last_engine``: where the session ran last, -1 nowhere.
    """

    now_s: float
    prompt_tokens: int
    last_engine: int
    age_s: Floats
    cached_tokens: Ints
    pending_tokens: Ints
    decode_tokens: Ints
    queued: Ints
    running: Ints
    healthy: Bools


class Router(Protocol):
    """Picks the engine of a pool that takes a call: a decision is its row, or -1 when no engine is healthy."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def decide(self, view: RouterView) -> int:
        """The row of the chosen engine."""
        ...
