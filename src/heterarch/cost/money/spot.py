"""Spot capacity: what preemption adds to the price of an hour that does useful work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from heterarch.errors import InputError
from heterarch.units import HOUR_S, Grade, Source

#: the terms of :class:`Preemption` that nothing was measured for weigh more than the one that was
SOURCE = Source(
    Grade.GUESS,
    "0.23 preemptions per hour, median of 9 AWS zones (0.10-1.39), V100 spot 2023, skypilot spot-traces 221da1a; "
    "5 minutes to restart and 30 s of lost work are guesses",
)


@dataclass(frozen=True, slots=True)
class Preemption:
    """How spot capacity is taken away.

    ``per_h``: preemptions per paid device-hour. ``restart_s``: paid time from a new instance to the first useful
    iteration (boot, load weights). ``lost_s``: engine seconds of work in flight that a preemption destroys.

    Raises:
        InputError: one of them is negative.
    """

    per_h: float = 0.23
    restart_s: float = 300.0
    lost_s: float = 30.0
    source: Source = SOURCE

    def __post_init__(self) -> None:
        if min(self.per_h, self.restart_s, self.lost_s) < 0:
            raise InputError("preemption terms are not negative", observed=self)

    @property
    def useful_share(self) -> float:
        """Share of the paid time that does useful work: exp(-rate x (restart + lost)).

        Renewal reward with exponential up-times T: E[max(0, T - w)] / E[T], where w is what each up-run loses at its
        start and its end. To first order 1 - rate x w.
        """
        return math.exp(-self.per_h * (self.restart_s + self.lost_s) / HOUR_S)


def preemptions_per_h(available: ArrayLike, tick_s: float) -> float:
    """Preemptions per available device-hour in a trace of available devices [ticks], one count every ``tick_s``.

    Raises:
        InputError: nothing was ever available.
    """
    counts = np.asarray(available, dtype=np.float64)
    hours = counts[:-1].sum() * tick_s / HOUR_S
    if hours <= 0:
        raise InputError("the trace has no available device, so no rate of preemption", observed=f"{len(counts)} ticks")
    return float(np.maximum(counts[:-1] - counts[1:], 0).sum() / hours)
