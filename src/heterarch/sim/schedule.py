"""When sessions and their requests start: from an empty system, or as in one that has run for ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heterarch.workload.arrivals import arrival_times
from heterarch.workload.profile import Workload

Floats = NDArray[np.float64]
_SAMPLED = 512  # sessions that tell how long sessions last
_MOST_SESSIONS = 200_000


@dataclass(frozen=True, slots=True)
class SessionStart:
    """One session: its first simulated request, how many came before it, and the think time before each later one."""

    start_s: float
    skipped: int
    think_s: tuple[float, ...]


def from_empty(workload: Workload, requests: int, rng: np.random.Generator) -> list[SessionStart]:
    """Sessions that arrive at an empty system, until there are ``requests`` requests; the last one may be cut."""
    sizes: list[int] = []
    while sum(sizes) < requests:
        size = int(_sizes(workload, 1, rng)[0])
        sizes.append(min(size, requests - sum(sizes)))
    starts = arrival_times(workload.arrivals, rng, len(sizes)).tolist()
    thinks = [tuple(workload.think_s.sample(rng, size - 1).tolist()) for size in sizes]
    return [SessionStart(start, 0, think) for start, think in zip(starts, thinks, strict=True)]


def in_steady_state(
    workload: Workload, requests: int, rng: np.random.Generator, request_s: float = 0.0
) -> list[SessionStart]:
    """The ``requests`` requests of a window of a system whose sessions have been arriving for ever.

    Sessions that are under way when the window opens join with the request that falls into it. So the load is the
    planned one from the first second, where an empty system reaches it only after a session's length (hours, with
    people's pauses).

    Args:
        workload: arrivals, requests per session, think times.
        requests: how many.
        rng: of all draws.
        request_s: nominal seconds of one request, to place a session's later requests in time.
    """
    history_s = float(_offsets(workload, _SAMPLED, rng, request_s)[1].max())
    window_s = requests / workload.requests_per_s
    count = 64 + int(workload.arrivals.rate_per_s * (history_s + 1.2 * window_s))
    while True:
        count = min(count, _MOST_SESSIONS)
        owner, offset, think = _offsets(workload, count, rng, request_s)
        time = arrival_times(workload.arrivals, rng, count, history_s)[owner] + offset
        inside = np.flatnonzero(time >= history_s)
        if len(inside) >= requests or count == _MOST_SESSIONS:
            break
        count *= 2
    chosen = np.sort(inside[np.argsort(time[inside], kind="stable")[:requests]])
    return [
        SessionStart(
            float(time[rows[0]] - history_s),
            int(rows[0] - np.searchsorted(owner, owner[rows[0]])),
            tuple(think[rows[1:]].tolist()),
        )
        for rows in np.split(chosen, np.flatnonzero(np.diff(owner[chosen])) + 1)
    ]


def _sizes(workload: Workload, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.maximum(1, np.rint(workload.requests_per_session.sample(rng, count))).astype(np.int64)


def _offsets(
    workload: Workload, count: int, rng: np.random.Generator, request_s: float
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Of every request of ``count`` sessions: its session, seconds after the session's start, think time before it."""
    sizes = _sizes(workload, count, rng)
    owner = np.repeat(np.arange(count), sizes)
    think = workload.think_s.sample(rng, len(owner))
    first = np.cumsum(sizes) - sizes
    think[first] = 0.0
    step = think + request_s
    step[first] = 0.0
    total = np.cumsum(step)
    return owner, total - np.repeat(total[first], sizes), think
