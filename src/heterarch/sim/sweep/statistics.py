"""Confidence intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

FEW_SEEDS = 5


class Interval(BaseModel):
    """A mean over ``n`` seeds, and ``half`` the width of its confidence interval; None for fewer than two seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int
    mean: float
    half: float | None

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside."""
        return self.half is not None and abs(self.mean) > self.half


def interval(values: Sequence[float | None], confidence: float = 0.95) -> Interval | None:
    """Student's t interval of the mean of what was measured (Student, "The probable error of a mean", 1908).

    ``half = t(n - 1, (1 + confidence) / 2) * s / sqrt(n)`` with ``s`` of ``n - 1`` degrees of freedom. None where
    nothing was measured.
    """
    from scipy.special import stdtrit  # Student's quantile

    known = np.array([value for value in values if value is not None], np.float64)
    n = len(known)
    if n == 0:
        return None
    if n == 1:
        return Interval(n=1, mean=float(known[0]), half=None)
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * known.std(ddof=1) / math.sqrt(n))
    return Interval(n=n, mean=float(known.mean()), half=half)


def paired(
    values: Sequence[float | None], baseline: Sequence[float | None], confidence: float = 0.95
) -> Interval | None:
    """The interval of the mean difference of pairs; a pair of which one half is missing is left out.

    With common random numbers the halves of a pair vary together, which cancels in their difference (Law, Simulation
    Modeling and Analysis, section 11.2).
    """
    pairs = zip(values, baseline, strict=True)
    return interval([a - b for a, b in pairs if a is not None and b is not None], confidence)
