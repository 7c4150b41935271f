"""Waiting: one server, several servers, and how many servers a bursty load needs."""

from __future__ import annotations

import math

from heterarch.errors import InputError


def waiting_s(rate_per_s: float, mean_s: float, second_moment_s2: float) -> float:
    """Mean wait before service of Poisson arrivals at one server, in order of arrival; infinite at full load.

    Pollaczek-Khinchine: lambda E[S^2] / (2 (1 - lambda E[S])) (Kleinrock 1975, vol. 1, eq. 5.62).
    """
    busy = rate_per_s * mean_s
    return math.inf if busy >= 1 else rate_per_s * second_moment_s2 / (2 * (1 - busy))


def erlang_c(servers: int, offered: float) -> float:
    """The chance that an arrival waits at ``servers`` servers with ``offered`` = rate x service time; 1 when full.

    Computed by the recursion of Erlang B, C = s B / (s - a (1 - B)) (Kleinrock 1975, vol. 1, eq. 3.40).

    Raises:
        InputError: no server, or a negative load.
    """
    if servers < 1 or offered < 0:
        raise InputError("a queue needs a server and no negative load", observed=(servers, offered))
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return servers * blocked / (servers - offered * (1 - blocked))


def pool_waiting_s(servers: int, rate_per_s: float, mean_s: float, second_moment_s2: float) -> float:
    """Mean wait at ``servers`` servers with one queue; infinite at full load.

    M/G/c by Lee and Longton (1959): the M/M/c wait times (1 + cv^2) / 2. Exact for one server.
    """
    offered = rate_per_s * mean_s
    if offered >= servers:
        return math.inf
    if offered == 0:
        return 0.0
    exponential = erlang_c(servers, offered) * mean_s / (servers - offered)
    return exponential * second_moment_s2 / mean_s**2 / 2


def staffed(offered: float, headroom: float = 1.0) -> float:
    """Servers for a load of ``offered`` busy servers: the load plus ``headroom`` of its standard deviations.

    Square-root staffing (Halfin and Whitt 1981): of a + b sqrt(a) servers, b = 1, an arrival waits with chance 0.22
    however large the load; the sum of square roots over several ops is on the safe side of the root of the sum.
    """
    return offered + headroom * math.sqrt(offered)
