"""Arrival processes: when sessions start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError
from heterarch.workload.profile import Arrivals
from heterarch.workload.trace import read_trace

Floats = NDArray[np.float64]


def arrival_times(arrivals: Arrivals, rng: np.random.Generator, n: int, before_s: float = 0.0) -> Floats:
    """Ascending start times of ``n`` sessions, seconds from 0; mean rate ``arrivals.rate_per_s``.

    ``poisson`` and ``gamma`` draw independent gaps (gamma with shape 1/cv^2), the first arrival being one gap after 0;
    ``deterministic`` spaces evenly from 0; ``trace`` repeats the recorded pattern, stretched to the rate. ``modulated``
    and ``diurnal`` are Poisson processes whose rate changes: arrivals of rate 1 at the times where the integral of the
    rate reaches them (inversion: Cinlar 1975, Introduction to Stochastic Processes, ch. 4).

    Args:
        arrivals: the process.
        rng: of all draws.
        n: how many.
        before_s: how long before the run, which begins ``arrivals.start_s`` into its day, time 0 is.

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
    if arrivals.process in ("modulated", "diurnal"):
        expected = np.cumsum(rng.exponential(1.0, n))
        until = float(expected[-1]) if n else 0.0
        path = _states(arrivals, rng, until) if arrivals.states else _day(arrivals, until, before_s)
        return _inverted(expected, *path)
    shape = 1.0 if arrivals.process == "poisson" else arrivals.cv**-2
    times: Floats = np.cumsum(rng.gamma(shape, gap_s / shape, n), dtype=np.float64)
    return times


def _states(arrivals: Arrivals, rng: np.random.Generator, until: float) -> tuple[Floats, Floats]:
    """Seconds and rates of the states in turn, from a random moment on, until ``until`` arrivals are expected.

    The next state is any of the others, each as likely; so a state's share of time is as its mean duration.
    """
    mean_s = np.array([state.mean_s for state in arrivals.states])
    relative = np.array([state.rate for state in arrivals.states])
    rates = relative * arrivals.rate_per_s / np.average(relative, weights=mean_s)
    state = int(rng.choice(len(mean_s), p=mean_s / mean_s.sum()))
    seconds, chosen, expected = [], [], 0.0
    while expected <= until:
        seconds.append(rng.exponential(mean_s[state]))
        chosen.append(state)
        expected += seconds[-1] * rates[state]
        state = (state + int(rng.integers(1, len(mean_s)))) % len(mean_s)
    return np.array(seconds), rates[chosen]


def _day(arrivals: Arrivals, until: float, before_s: float) -> tuple[Floats, Floats]:
    """Seconds and rates of the parts of the day, the first of which is cut where time 0 falls into it."""
    relative = np.array(arrivals.profile)
    part_s = arrivals.period_s / len(relative)
    rates = relative * arrivals.rate_per_s / relative.mean()
    parts, into_s = divmod((arrivals.start_s - before_s) % arrivals.period_s, part_s)
    count = 2 + len(relative) * (2 + int(until / (arrivals.rate_per_s * arrivals.period_s)))
    seconds = np.full(count, part_s)
    seconds[0] -= into_s
    return seconds, rates[(int(parts) + np.arange(count)) % len(relative)]


def _inverted(expected: Floats, seconds: Floats, rates: Floats) -> Floats:
    """When the integral of a piecewise constant rate reaches each of ``expected``."""
    reached = np.concatenate([[0.0], np.cumsum(seconds * rates)])
    begins = np.concatenate([[0.0], np.cumsum(seconds)])
    part = np.searchsorted(reached, expected, side="left") - 1
    times: Floats = begins[part] + (expected - reached[part]) / rates[part]
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
