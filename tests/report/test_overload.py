"""When a queue grows for as long as the load lasts."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.report.overload import FEWEST, trend


def queue(load, n, seed):
    """Arrivals and waits of an M/M/1 queue that serves one per second."""
    rng = np.random.default_rng(seed)
    gap, service = rng.exponential(1 / load, n), rng.exponential(1.0, n)
    waits = np.zeros(n)
    for k in range(1, n):
        waits[k] = max(0.0, waits[k - 1] + service[k - 1] - gap[k])
    return np.cumsum(gap), waits


@pytest.mark.parametrize(("load", "least", "most"), [(0.5, 0, 0), (0.8, 0, 1), (1.25, 39, 40), (2.0, 40, 40)])
def test_overload_is_told_from_a_busy_queue(load, least, most):
    found = sum(trend(*queue(load, 2000, seed)).grows for seed in range(40))
    assert least <= found <= most


@pytest.mark.parametrize("load", [1.5, 2.0, 4.0])
def test_the_growth_is_what_is_not_served_over_what_is(load):
    assert trend(*queue(load, 5000, 1)).growth == pytest.approx(load - 1, rel=0.15)


def test_few_waits_are_no_verdict():
    at = np.arange(FEWEST - 1.0)
    assert not trend(at, 10 * at).grows
    assert trend(np.arange(float(FEWEST)), 10 * np.arange(float(FEWEST))).grows


def test_calls_that_all_come_at_once_have_no_trend():
    assert not trend(np.zeros(500), np.arange(500.0)).grows
