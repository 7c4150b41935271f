"""A load that is too much: the verdict, and runs that stop early."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from heterarch.report.render import render_report
from heterarch.sim import run_simulation

from .test_simulate import trace
from .test_unroll import agent_loop, workload
from .worlds import mixed, one_call, placed, plan_of, tools


def replayed(rate, n=600, **options):
    return run_simulation(
        plan_of([mixed(engines=2)], placed("ask")), one_call(), trace(n).scaled_rate(rate), replay="open", **options
    )


def test_a_load_beyond_capacity_is_called_overloaded():
    report = replayed(6.0).report
    (verdict,) = report.overloaded
    assert verdict.pool == "llm"
    assert verdict.growth > 0.1
    assert verdict.queued > 100
    assert report.requests.completed == 600
    console = Console(width=200)
    with console.capture() as shown:
        console.print(render_report(report))
    assert "OVERLOADED: llm" in shown.get()


def test_a_load_within_capacity_is_not():
    assert replayed(1.0).report.overloaded == []


def test_the_pool_that_is_short_is_named():
    plan = plan_of(
        [mixed(kv_tokens=65_536, engines=8, concurrency=64), tools(servers=1)], placed("step") | {"shell": "tools"}
    )
    report = run_simulation(plan, agent_loop(4).build(), workload(), requests=200, steady=False).report
    assert [row.pool for row in report.overloaded] == ["tools"]


@pytest.mark.parametrize("router", ["prefix-affinity", "python"])
def test_a_long_run_stops_when_too_many_wait(router):
    class First:
        name = "first"

        def decide(self, view):
            return 0

    done = replayed(20.0, n=30_000, max_queue=2_000, router=First() if router == "python" else router)
    counts = done.report.requests
    assert done.report.partial
    assert not done.interrupted
    assert counts.offered == counts.completed + counts.unfinished < 30_000
    assert "the load does not drain" in " ".join(done.report.notes)
    assert done.report.overloaded


def test_until_ends_an_overloaded_run_with_its_verdict():
    done = replayed(6.0, n=3000, until_s=200.0)
    assert done.report.partial
    assert [row.pool for row in done.report.overloaded] == ["llm"]
    assert np.isfinite(done.report.overloaded[0].wait_s)
