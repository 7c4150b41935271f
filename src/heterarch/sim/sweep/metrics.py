"""What a sweep compares: single numbers of a Report, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from heterarch.errors import UnknownNameError
from heterarch.report.schema import Report

Unit = Literal["s", "1/s", "USD", "share"]
_TIMES = ("e2e", "ttft", "tpot")
_PLACES = ("mean", "p50", "p90", "p95", "p99")
_OTHERS: dict[str, Unit] = {
    "goodput": "1/s",
    "throughput": "1/s",
    "cost": "USD",
    "hits": "share",
    "completed": "share",
}

#: metric -> unit; times as in an SLO, cost per completed request, hits of prompt blocks, completed of all requests
UNITS: dict[str, Unit] = {**dict.fromkeys((f"{time}.{place}" for time in _TIMES for place in _PLACES), "s"), **_OTHERS}
#: those that a table shows unless others are named
SHOWN = ("ttft.p95", "tpot.p95", "e2e.p95", "goodput", "cost", "hits")


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The names, or :data:`SHOWN` when there are none.

    Raises:
        UnknownNameError: a name that :data:`UNITS` does not have.
    """
    for name in names:
        if name not in UNITS:
            raise UnknownNameError("metric", name, UNITS)
    return tuple(dict.fromkeys(names)) or SHOWN


def metrics_of(report: Report) -> dict[str, float | None]:
    """Every metric of :data:`UNITS`; None where nothing completed that it could be measured on."""
    done = report.requests.completed
    found: dict[str, float | None] = {
        "goodput": report.goodput_rps,
        "throughput": report.throughput_rps,
        "cost": report.usd_per_request if done else None,
        "hits": report.cache.block_hit_rate if report.cache.blocks else None,
        "completed": done / report.requests.offered if report.requests.offered else None,
    }
    for time in _TIMES:
        summary = getattr(report, f"{time}_s")
        found |= {f"{time}.{place}": getattr(summary, place) if summary.n else None for place in _PLACES}
    return {name: found[name] for name in UNITS}
