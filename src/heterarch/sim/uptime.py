"""When each engine of each pool served, was missed, and cost money."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

from heterarch.plan.document import Pool


class Phase(IntEnum):
    """What an engine does for its pool, beyond what the core knows."""

    ABSENT = 0  # neither there nor wanted
    STARTING = 1  # ordered, paid, not yet serving
    UP = 2
    DRAINING = 3  # ends what it has
    DOWN = 4  # lost, and paid while it is repaired and starts
    GONE = 5  # lost, and not paid


SERVING = (Phase.UP, Phase.DRAINING)
MISSED = (Phase.DOWN, Phase.GONE)
PAID = (Phase.STARTING, Phase.UP, Phase.DRAINING, Phase.DOWN)


class PoolTime(NamedTuple):
    """Engine-seconds of a pool that served, that faults took and that are paid, and engines lost."""

    up_s: float
    down_s: float
    paid_s: float
    lost: int = 0

    @property
    def availability(self) -> float:
        """Share of the wanted engine-seconds that served."""
        return self.up_s / (self.up_s + self.down_s) if self.down_s else 1.0


def undisturbed(pools: Sequence[Pool], duration_s: float) -> list[PoolTime]:
    """The times of pools whose engines were always up."""
    seconds = [pool.engines * duration_s for pool in pools]
    return [PoolTime(each, 0.0, each) for each in seconds]


class Uptime:
    """The phases of every engine, by pool and row."""

    def __init__(self, there: Sequence[int], reserved: Sequence[int]) -> None:
        self._log = [
            [[(0.0, Phase.UP if row < now else Phase.ABSENT)] for row in range(most)]
            for now, most in zip(there, reserved, strict=True)
        ]
        self.lost = [0] * len(self._log)

    def phase(self, pool: int, row: int) -> Phase:
        """What the engine does now."""
        return self._log[pool][row][-1][1]

    def rows(self, pool: int, phases: Collection[Phase]) -> list[int]:
        """Engines of ``pool`` that are in one of ``phases``."""
        return [row for row, log in enumerate(self._log[pool]) if log[-1][1] in phases]

    def since_s(self, pool: int, row: int) -> float:
        """Since when it is in its phase."""
        return self._log[pool][row][-1][0]

    def mark(self, pool: int, row: int, phase: Phase, at_s: float) -> None:
        """From ``at_s`` on the engine is in ``phase``."""
        before = self.phase(pool, row)
        self.lost[pool] += before in (Phase.UP, Phase.DRAINING, Phase.STARTING) and phase in MISSED
        self._log[pool][row].append((at_s, phase))

    def times(self, begin_s: float, end_s: float) -> list[PoolTime]:
        """The times of every pool between two moments."""
        return [
            PoolTime(
                up_s=self._seconds(pool, SERVING, begin_s, end_s),
                down_s=self._seconds(pool, MISSED, begin_s, end_s),
                paid_s=self._seconds(pool, PAID, begin_s, end_s),
                lost=lost,
            )
            for pool, lost in enumerate(self.lost)
        ]

    def _seconds(self, pool: int, phases: Collection[Phase], begin_s: float, end_s: float) -> float:
        total = 0.0
        for log in self._log[pool]:
            ends = [*(at for at, _ in log[1:]), end_s]
            for (at, phase), until in zip(log, ends, strict=True):
                if phase in phases:
                    total += max(0.0, min(until, end_s) - max(at, begin_s))
        return total
