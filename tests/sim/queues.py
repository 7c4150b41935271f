"""Exact queues, one arrival after the other: what the engine model must reduce to."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
fast: Any = numba.njit(cache=True)


@fast
def fifo_waits(gaps: Any, services: Any, servers: int) -> Any:
    """Waits at ``servers`` servers with one queue in order of arrival (Kiefer and Wolfowitz 1955; c = 1: Lindley)."""
    free = [0.0] * servers
    now, waits = 0.0, np.empty(len(gaps))
    for row in range(len(gaps)):
        now += gaps[row]
        waits[row] = max(free[0] - now, 0.0)
        heapq.heapreplace(free, max(free[0], now) + services[row])
    return waits


@fast
def shared_sojourns(gaps: Any, services: Any) -> Any:
    """Times in a processor that all present share equally: each ends when the work per head since it came is its own."""
    now, level, sojourns = 0.0, 0.0, np.empty(len(gaps))
    arrived = np.cumsum(gaps)
    present = [(math.inf, -1)]
    row = 0
    while row < len(gaps) or len(present) > 1:
        ends = now + (present[0][0] - level) * (len(present) - 1) if len(present) > 1 else math.inf
        comes = arrived[row] if row < len(gaps) else math.inf
        if comes <= ends:
            if len(present) > 1:
                level += (comes - now) / (len(present) - 1)
            now = comes
            heapq.heappush(present, (level + services[row], row))
            row += 1
        else:
            now = ends
            level, done = heapq.heappop(present)
            sojourns[done] = now - arrived[done]
    return sojourns


def md1_wait(load: float, share: float) -> float:
    """The percentile ``share`` of the wait in M/D/1, in services: Erlang's series (1909), by bisection."""
    low, high = 0.0, 40.0  # the terms of the series alternate and grow with the wait
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if _md1_cdf(load, middle) < share else (low, middle)
    return high


def _md1_cdf(load: float, wait: float) -> float:
    terms = (math.exp(load * (wait - k)) * (load * (k - wait)) ** k / math.factorial(k) for k in range(int(wait) + 1))
    return (1 - load) * math.fsum(terms)
