"""Arrival processes: when sessions start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError
from heterarch.workload.profile import Arrivals
from heterarch.workload.trace import read_trace

Floats = NDArray[np.float64]


def arrival_times(arrivals: Arrivals, rng: np.random.Generator, n: int) -> Floats:
    """Ascending start times of ``n`` sessions, seconds from 0; mean rate ``arrivals.rate_per_s``.

    ``poisson`` and ``gamma`` draw independent gaps (gamma with shape 1/cv^2), the first arrival being one gap after 0;
    ``deterministic`` spaces evenly from 0; ``trace`` repeats the recorded pattern, stretched to the rate.

    Raises:
        InputError: ``n`` is negative, or the trace has no arrivals of its own.
    """
    if n < 0:
        raise InputError("cannot draw a negative number of arrivals", observed=n)
    gap_s = 1.0 / arrivals.rate_per_s
    if arrivals.process == "deterministic":
        return np.arange(n, dtype=np.float64) * gap_s
    if arrivals.process == "trace":
        return _recorded(arrivals.trace, n) * gap_s
    shape = 1.0 if arrivals.process == "poisson" else arrivals.cv**-2
    times: Floats = np.cumsum(rng.gamma(shape, gap_s / shape, n), dtype=np.float64)
    return times


def _recorded(path: str, n: int) -> Floats:
    """The first ``n`` arrivals of a trace, repeated end to end, in units of its mean gap."""
    trace = read_trace(path)
    times = trace.time_s - trace.time_s[:1]
    if trace.kind != "open" or times[-1] <= 0:
        raise InputError(
            "the trace gives no arrival pattern",
            observed=f"{len(trace)} calls in {times[-1]:g} s",
            expected="an open trace of at least two arrivals",
            where=path,
        )
    gap = times[-1] / (len(times) - 1)
    rounds, within = np.divmod(np.arange(n), len(times))
    pattern: Floats = times[within] / gap + rounds * len(times)
    return pattern
