"""Waiting times against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heterarch.errors import InputError
from heterarch.plan.queueing import erlang_c, pool_waiting_s, staffed, waiting_s
from heterarch.plan.timing import PlacedTask, PlacedTiming


def test_one_server() -> None:
    assert waiting_s(0.5, 1.0, 2.0) == pytest.approx(1.0)  # M/M/1: rho / (mu - lambda)
    assert waiting_s(0.5, 1.0, 1.0) == pytest.approx(0.5)  # M/D/1: half of it
    assert math.isinf(waiting_s(1.0, 1.0, 1.0))


def test_erlang_c() -> None:
    assert erlang_c(1, 0.3) == pytest.approx(0.3)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)  # tabled
    assert erlang_c(3, 3.0) == 1.0
    with pytest.raises(InputError):
        erlang_c(0, 0.5)


def test_several_servers() -> None:
    assert pool_waiting_s(1, 0.5, 1.0, 1.0) == pytest.approx(waiting_s(0.5, 1.0, 1.0))
    assert pool_waiting_s(2, 1.0, 1.0, 2.0) == pytest.approx(1 / 3)  # M/M/2: C / (2 mu - lambda)
    assert math.isinf(pool_waiting_s(2, 2.0, 1.0, 2.0))
    assert pool_waiting_s(2, 0.0, 1.0, 2.0) == 0.0


def test_staffing_is_sublinear_and_above_the_load() -> None:
    assert staffed(100.0) == pytest.approx(110.0)
    assert staffed(4.0, 2.0) == pytest.approx(8.0)


def test_a_short_task_waits_as_long_as_a_long_one_of_its_pool() -> None:
    """One queue: the wait is that of all tasks of the pool (M/G/c), not of the op alone."""
    mean, square = (0.001 + 10.0) / 2, (0.001**2 + 10.0**2) / 2
    pool = PlacedTask(slots=6, tasks_per_s=1.0, mean_s=mean, square_s2=square)
    timing = PlacedTiming({}, {1: pool, 2: pool}, seed=0)
    short = timing.task(1, np.full(40_000, 0.001)) - 0.001
    long = timing.task(2, np.full(40_000, 10.0)) - 10.0
    expected = pool_waiting_s(6, 1.0, mean, square)
    assert expected > 0.5
    assert short.mean() == pytest.approx(expected, rel=0.05)
    assert long.mean() == pytest.approx(expected, rel=0.05)
