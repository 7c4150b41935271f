"""How much of a chat's context is still in the cache when its next call comes.

An engine's KV memory is a cache in LRU order. Che's approximation (Che, Tung and Wang 2002, IEEE JSAC 20(7), eq. 4-6;
exact in the limit of many items, Fagin 1977): all items are evicted at the same age, the characteristic time T, which
solves "bytes that arrive in T and are not refreshed fill the cache". Here an item is the context that a call leaves
behind; it stays ``min(gap, T)`` until the chat's next call or its eviction:

    calls per second x E[tokens x min(gap, T)] = capacity - tokens of running sequences
    hit = P(gap <= T), the gap being the idle time until the chat's next call (tools, think time)
"""

from __future__ import annotations

import math

import numpy as np

from heterarch.policy.base import Floats


class ReuseCurve:
    """Gaps and sizes of what calls leave in the cache: the sample that :func:`characteristic_s` solves over."""

    def __init__(self, gap_s: Floats, tokens: Floats) -> None:
        """``gap_s[i]`` until the chat is used again (infinite: never), ``tokens[i]`` left by call i."""
        order = np.argsort(gap_s, kind="stable")
        self.gap_s = np.asarray(gap_s, dtype=np.float64)[order]
        sized = np.asarray(tokens, dtype=np.float64)[order]
        finite = np.where(np.isfinite(self.gap_s), self.gap_s, 0.0)
        self._area = np.concatenate(([0.0], np.cumsum(sized * finite)))
        self._tokens = np.concatenate(([0.0], np.cumsum(sized)))
        self._final = int((~np.isfinite(self.gap_s)).sum())  # calls whose chat is never used again
        ages = np.concatenate(([0.0], np.unique(self.gap_s[np.isfinite(self.gap_s)])))
        self._knots = ages, np.array([self.resident(float(age)) for age in ages])  # resident is linear in between

    def resident(self, age_s: float) -> float:
        """E[tokens x min(gap, age)]: token-seconds that one call occupies when eviction comes at ``age_s``."""
        if not len(self.gap_s):
            return 0.0
        row = int(np.searchsorted(self.gap_s, age_s, side="right"))
        later = self._tokens[-1] - self._tokens[row]
        return float(self._area[row] + (later * age_s if later else 0.0)) / len(self.gap_s)

    def characteristic_s(self, calls_per_s: float, capacity_tokens: float) -> float:
        """The age T at which an engine with ``capacity_tokens`` to spare evicts; infinite when all stays for ever."""
        if capacity_tokens <= 0:
            return 0.0
        wanted = capacity_tokens / calls_per_s if calls_per_s > 0 else math.inf
        ages, resident = self._knots
        if resident[-1] > wanted:
            return float(np.interp(wanted, resident, ages))
        never = self._tokens[-1] - self._tokens[len(self._tokens) - 1 - self._final]
        beyond = (wanted - resident[-1]) * len(self.gap_s)
        return float(ages[-1] + beyond / never) if never > 0 else math.inf

    def hit(self, age_s: float) -> float:
        """The share of reused contexts that are still there: P(gap <= age | the chat is used again)."""
        again = int(np.isfinite(self.gap_s).sum())
        return float(np.searchsorted(self.gap_s, age_s, side="right")) / again if again else 0.0
