"""Samples over time agree with what happened, and taking them changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heterarch.policy.base import RouterView
from heterarch.sim import run_simulation
from heterarch.sim import series as sampling
from heterarch.sim.simulate import Simulation

from .test_simulate import coding, trace, workload
from .worlds import hosted, mixed, one_call, placed, plan_of


def rows_of(sim: Simulation, pool: int) -> np.ndarray:
    assert sim.sampled is not None
    return sim.sampled.rows[sim.sampled.rows["pool"] == pool]


@pytest.mark.parametrize("every", [True, 0.5, 7.0, 1e6])
def test_sampling_changes_no_byte(every: bool | float) -> None:
    plan, flat = coding()
    plain, sampled = (run_simulation(plan, flat, workload(), requests=40, seed=3, sample=s) for s in (False, every))
    assert sampled.report.series is not None
    without = sampled.report.model_copy(update={"series": None})
    assert without.model_dump_json() == plain.report.model_dump_json()
    for name in ("calls", "requests", "tools"):
        assert getattr(sampled, name).tobytes() == getattr(plain, name).tobytes()


@pytest.mark.parametrize("every", [1.0, 0.3])
def test_nor_where_samples_and_events_coincide(every: float) -> None:
    """Iterations of a second, arrivals at whole seconds, KV moved between two pools, memory short."""
    link = {"transfer_bytes_per_s": 64_000.0, "kv_tokens": 320, "engines": 2}
    plan = plan_of(
        [mixed("p", role="prefill", **link), mixed("d", role="decode", **link)],
        placed("ask", pool="p") | {"ask.decode": "d"},
    )
    plain, sampled = (run_simulation(plan, one_call(), trace(60, 3), sample=s) for s in (False, every))
    assert sampled.report.model_copy(update={"series": None}) == plain.report
    assert sampled.calls.tobytes() == plain.calls.tobytes()


def test_a_run_cut_short_is_the_same_when_sampled() -> None:
    plan, flat = coding()
    plain, sampled = (
        run_simulation(plan, flat, workload(), requests=40, until_s=60.0, sample=s) for s in (False, True)
    )
    assert plain.report.partial
    assert sampled.report.model_copy(update={"series": None}) == plain.report
    assert sampled.sampled is not None
    assert sampled.sampled.rows["time_s"].max() == 60.0


def test_samples_are_what_the_records_say() -> None:
    plan, flat = coding()
    sim = run_simulation(plan, flat, workload(), requests=40, seed=3, sample=3.0)
    calls, tools, report = sim.calls, sim.tools, sim.report
    for row, records in ((0, calls), (1, tools)):
        mine = rows_of(sim, row)
        for at_s, queued, running in zip(mine["time_s"], mine["queued"], mine["running"], strict=True):
            begun = records["scheduled_s"] <= at_s
            assert running == (begun & (records["finish_s"] > at_s)).sum()
            assert queued == ((records["submitted_s"] <= at_s) & ~begun).sum()
    for row, pool in enumerate(report.pools):
        mine = rows_of(sim, row)
        begin_s = mine["time_s"][-1] - report.duration_s
        busy = mine["busy_share"] @ np.diff(mine["time_s"], prepend=begin_s)
        assert busy / report.duration_s == pytest.approx(pool.utilisation)
        assert mine["usd"][-1] == pytest.approx(pool.usd)
        assert (mine["busy_share"] <= 1 + 1e-9).all()
    assert rows_of(sim, 0)["kv_share"].max() > 0
    assert rows_of(sim, 0)["kv_share"][-1] == 0  # everything has ended
    assert rows_of(sim, 0)["cached_share"][-1] > 0


def test_hosted_apis_are_billed_over_time() -> None:
    sim = run_simulation(plan_of([hosted()], placed("ask", pool="api")), one_call(), trace(10), sample=0.25)
    usd = rows_of(sim, 0)["usd"]
    assert (np.diff(usd) >= 0).all()
    assert usd[0] == 0
    assert usd[-1] == pytest.approx(sim.report.usd)


@pytest.mark.parametrize("requests", [20, 200, 1000])
def test_about_as_many_samples_whatever_the_length(requests: int) -> None:
    plan, flat = plan_of([mixed()], placed("ask")), one_call()
    sim = run_simulation(plan, flat, trace(requests), sample=True)
    assert sim.report.series is not None
    assert 150 <= len(sim.report.series.time_s) <= 401


def test_too_many_samples_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST", 100)
    sim = run_simulation(plan_of([mixed()], placed("ask")), one_call(), trace(50), sample=0.05)
    assert sim.sampled is not None
    assert sim.sampled.doubled
    assert len(rows_of(sim, 0)) <= 101
    assert np.diff(rows_of(sim, 0)["time_s"])[:-1] == pytest.approx(sim.sampled.every_s)


def test_samples_closer_than_the_clock_can_tell_are_thinned() -> None:
    sim = run_simulation(plan_of([mixed()], placed("ask")), one_call(), trace(3), sample=1e-300)
    assert sim.sampled is not None
    assert sim.sampled.doubled


def test_the_core_is_bound_once_however_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from heterarch.sim import drive

    real, made = drive.advancer, []
    monkeypatch.setattr(drive, "advancer", lambda *world: made.append(1) or real(*world))
    sim = run_simulation(plan_of([mixed()], placed("ask")), one_call(), trace(20), sample=0.5)
    assert len(rows_of(sim, 0)) > 20
    assert len(made) == 1


def test_a_queue_that_is_too_long_is_seen_between_samples() -> None:
    sim = run_simulation(plan_of([mixed(concurrency=1)], placed("ask")), one_call(), trace(50), sample=0.5, max_queue=5)
    assert sim.report.partial
    assert not sim.interrupted
    assert sim.report.requests.unfinished > 5


def test_ctrl_c_at_the_moment_of_a_sample_ends_the_run() -> None:
    class Interrupted:
        name = "interrupted"
        asked = 0

        def decide(self, view: RouterView) -> int:
            self.asked += 1
            if self.asked == 3:
                raise KeyboardInterrupt
            return 0

    work = replace(trace(4), time_s=np.arange(4.0))
    sim = run_simulation(plan_of([mixed()], placed("ask")), one_call(), work, router=Interrupted(), sample=0.5)
    assert sim.interrupted
    assert sim.requests["release_s"].tolist() == [0.0, 1.0, 2.0]


def test_ctrl_c_between_samples_keeps_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from heterarch.sim import drive

    plan, flat = coding()
    real, calls = drive.advancer, []

    def interrupted(*world):
        advance = real(*world)

        def slice_(*limits):
            calls.append(1)
            if len(calls) == 20:
                raise KeyboardInterrupt
            return advance(*limits)

        return slice_

    monkeypatch.setattr(drive, "advancer", interrupted)
    sim = run_simulation(plan, flat, workload(), requests=40, sample=1.0)
    assert sim.interrupted
    assert sim.report.partial
    assert 10 <= len(rows_of(sim, 0)) <= 20
