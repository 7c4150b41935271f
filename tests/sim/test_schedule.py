"""Sessions in time."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.report.aggregate import Status
from heterarch.sim import run_simulation
from heterarch.sim.schedule import from_empty, in_steady_state
from heterarch.workload.distribution import constant, uniform
from heterarch.workload.profile import Arrivals

from .test_unroll import agent_loop, workload
from .worlds import mixed, placed, plan_of, tools


def long_sessions(**changes):
    return workload(
        arrivals=Arrivals(rate_per_s=0.5), requests_per_session=uniform(1, 9), think_s=uniform(0, 400), **changes
    )


def test_an_empty_system_starts_with_first_requests():
    sessions = from_empty(long_sessions(), 50, np.random.default_rng(0))
    assert sum(1 + len(s.think_s) for s in sessions) == 50
    assert all(s.skipped == 0 for s in sessions)


def test_steady_state_has_the_planned_rate_from_the_first_second():
    work = long_sessions()
    sessions = in_steady_state(work, 4000, np.random.default_rng(0), request_s=5.0)
    times = np.sort([t for s in sessions for t in s.start_s + np.cumsum([0.0, *(np.array(s.think_s) + 5.0)])])
    assert len(times) == 4000
    window = 4000 / work.requests_per_s
    first, last = (np.histogram(times, 4, (0, window))[0][k] for k in (0, 3))
    assert first == pytest.approx(1000, rel=0.2)
    assert last == pytest.approx(1000, rel=0.2)
    assert np.mean([s.skipped > 0 for s in sessions]) > 0.3


def test_one_request_per_session_is_the_same_either_way():
    work = workload(requests_per_session=constant(1))
    steady = in_steady_state(work, 20, np.random.default_rng(0))
    assert [s.start_s for s in steady] == list(range(20))
    assert all(s.skipped == 0 and s.think_s == () for s in steady)


def test_a_session_under_way_brings_its_conversation_but_no_cache():
    plan = plan_of([mixed(kv_tokens=10**7, engines=2), tools(servers=50)], placed("step") | {"shell": "tools"})
    sims = [
        run_simulation(plan, agent_loop(2).build(), long_sessions(), requests=300, steady=steady)
        for steady in (True, False)
    ]
    for sim in sims:
        assert (sim.requests["status"] == Status.COMPLETED).all()
        assert len(sim.requests) == 300
    rates = [sim.report.throughput_rps for sim in sims]
    assert rates[0] > 1.3 * rates[1]
