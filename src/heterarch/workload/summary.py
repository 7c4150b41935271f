"""What a trace holds, in a dozen numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from heterarch.workload.trace import Trace

#: percentiles of a :class:`Spread`
PERCENTILES = (5, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Spread:
    """A column of n values: its mean and its percentiles (:data:`PERCENTILES`); zeros where there is no value."""

    n: int
    mean: float
    percentiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What a trace holds.

    ``calls_per_s``: mean over the duration, None for sessions that have no common clock. ``interarrival_cv``:
    standard deviation over mean of the time between submissions, likewise. ``ideal_hit_rate``: share of prompt blocks
    that a cache without limits would hold. ``fresh_tokens``: prompt tokens per call behind the shared prefix.
    """

    name: str
    kind: str
    calls: int
    sessions: int
    duration_s: float
    calls_per_s: float | None
    interarrival_cv: float | None
    block_tokens: int
    ideal_hit_rate: float
    calls_per_session: Spread
    gap_s: Spread
    prompt_tokens: Spread
    fresh_tokens: Spread
    output_tokens: Spread
    notes: tuple[str, ...]


def summarise(trace: Trace) -> TraceSummary:
    """The summary of a trace of at least one call."""
    gaps = np.diff(trace.time_s) if trace.kind == "open" else np.zeros(0)
    moving = bool(gaps.sum() > 0)
    fresh = np.maximum(0, trace.prompt_tokens - trace.shared_blocks.astype(np.int64) * trace.block_tokens)
    return TraceSummary(
        name=trace.name,
        kind=trace.kind,
        calls=len(trace),
        sessions=trace.sessions,
        duration_s=trace.duration_s,
        calls_per_s=len(gaps) / trace.duration_s if moving else None,
        interarrival_cv=float(gaps.std() / gaps.mean()) if moving else None,
        block_tokens=trace.block_tokens,
        ideal_hit_rate=trace.ideal_hit_rate(),
        calls_per_session=spread(np.bincount(trace.session)),
        gap_s=spread(trace.gap_s[np.isfinite(trace.gap_s)]),
        prompt_tokens=spread(trace.prompt_tokens),
        fresh_tokens=spread(fresh),
        output_tokens=spread(trace.output_tokens),
        notes=trace.notes,
    )


def spread(values: ArrayLike) -> Spread:
    """Mean and percentiles of values."""
    array = np.asarray(values, np.float64)
    if not array.size:
        return Spread(0, 0.0, (0.0,) * len(PERCENTILES))
    return Spread(array.size, float(array.mean()), tuple(np.percentile(array, PERCENTILES).tolist()))
