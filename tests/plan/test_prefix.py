"""Che's approximation: exact cases by hand, and against a simulated LRU cache."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heterarch.plan.prefix import ReuseCurve


def test_one_gap_by_hand() -> None:
    curve = ReuseCurve(np.array([10.0]), np.array([100.0]))
    assert curve.characteristic_s(2.0, 2000.0) == math.inf  # 2 x 100 x 10 tokens fit for ever
    assert curve.characteristic_s(2.0, 1000.0) == pytest.approx(5.0)  # 2 x 100 x T = 1000
    assert curve.hit(5.0) == 0.0
    assert curve.hit(10.0) == 1.0


def test_chats_that_end_age_out() -> None:
    curve = ReuseCurve(np.array([10.0, math.inf]), np.array([100.0, 100.0]))
    # at T > 10: rate x (100 x 10 + 100 T) / 2 = capacity
    assert curve.characteristic_s(2.0, 3000.0) == pytest.approx(20.0)
    assert curve.characteristic_s(2.0, 0.0) == 0.0
    assert curve.characteristic_s(0.0, 10.0) == math.inf


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.one_of(st.floats(0, 1e4), st.just(math.inf)), min_size=1, max_size=30),
    rate=st.floats(0.01, 100),
    capacity=st.floats(1, 1e7),
)
def test_the_characteristic_time_fills_the_cache(gaps: list[float], rate: float, capacity: float) -> None:
    curve = ReuseCurve(np.array(gaps), np.full(len(gaps), 500.0))
    age = curve.characteristic_s(rate, capacity)
    if math.isinf(age):
        finite = [gap for gap in gaps if math.isfinite(gap)]
        assert len(finite) == len(gaps)
        assert rate * 500.0 * sum(finite) / len(gaps) <= capacity * (1 + 1e-9)
    else:
        assert rate * curve.resident(age) == pytest.approx(capacity, rel=1e-6)
        assert age <= curve.characteristic_s(rate, capacity * 1.5) * (1 + 1e-9)


def test_against_a_simulated_lru_cache() -> None:
    """Sessions of 8 calls, exponential gaps, one cache of 60 chats: within 3 points of the measured hit rate."""
    rng = np.random.default_rng(1)
    sessions, calls, mean_gap, rate, size = 3000, 8, 30.0, 0.4, 60
    starts = np.cumsum(rng.exponential(1 / rate, sessions))
    gaps = rng.exponential(mean_gap, (sessions, calls - 1))
    times = starts[:, None] + np.concatenate((np.zeros((sessions, 1)), np.cumsum(gaps, axis=1)), axis=1)
    order = np.argsort(times, axis=None)
    cache: OrderedDict[int, None] = OrderedDict()
    hits = reused = 0
    seen: set[int] = set()
    for flat in order.tolist():
        chat = flat // calls
        reused += chat in seen
        hits += chat in cache
        seen.add(chat)
        cache.pop(chat, None)
        cache[chat] = None
        if len(cache) > size:
            cache.popitem(last=False)
    curve = ReuseCurve(np.concatenate((gaps.ravel(), np.full(sessions, np.inf))), np.ones(sessions * calls))
    age = curve.characteristic_s(rate * calls, size)
    assert 0.3 < hits / reused < 0.95
    assert curve.hit(age) == pytest.approx(hits / reused, abs=0.03)
