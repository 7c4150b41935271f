"""Plan in, Report out."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.flat import OpKind, Slot
from heterarch.report.schema import Report
from heterarch.sim import evaluator, run_simulation, simulate
from heterarch.units import Grade, Source
from heterarch.workload.distribution import constant
from heterarch.workload.trace import Trace

from .test_unroll import agent_loop, workload
from .worlds import ProgramBuilder, hosted, mixed, one_call, placed, plan_of, tools


def trace(n: int = 30, per_session: int = 1, gap: float = 2.0) -> Trace:
    rows = np.arange(n)
    session = (rows // per_session).astype(np.int32)
    first = rows % per_session == 0
    return Trace(
        name="t", source=Source(Grade.DECLARED, "test"), kind="open" if per_session == 1 else "sessions",
        block_tokens=16, session=session, time_s=np.where(first, session * 1.0, session + 0.5), gap_s=np.where(first, np.nan, gap),
        prompt_tokens=np.full(n, 64), output_tokens=np.full(n, 5), parent=np.where(rows > 0, 0, -1).astype(np.int32),
        shared_blocks=np.where(rows > 0, 2, 0).astype(np.int32), n_blocks=np.full(n, 4, np.int32),
    )  # fmt: skip


def coding(**changes):
    plan = plan_of(
        [mixed(kv_tokens=65_536, engines=2), tools(servers=3)], placed("step") | {"shell": "tools"}, **changes
    )
    return plan, agent_loop(4).build()


def test_the_report_adds_up():
    plan, flat = coding(slo=["e2e.p95<=1000s", "ttft.p50<=1us"])
    report = simulate(plan, flat, workload(), requests=50, seed=7)
    assert report.requests.offered == report.requests.completed == 50
    assert report.calls.completed == 200
    assert report.output_tokens == 200 * 30 == sum(pool.output_tokens for pool in report.pools)
    assert report.usd == pytest.approx(2 * 3.6 * report.duration_s / 3600)
    assert report.usd_per_request == pytest.approx(report.usd / 50)
    assert report.throughput_rps == pytest.approx(50 / report.duration_s)
    assert [v.met for v in report.slo] == [True, False]
    assert report.goodput_rps == 0.0
    assert 0 < report.pools[0].utilisation <= 1
    assert report.pools[1].utilisation == pytest.approx(200 * 2.0 / (3 * report.duration_s))
    assert {op.name: op.tasks for op in report.ops} == {
        "step.prefill": 200,
        "step.transfer": 200,
        "step.decode": 200,
        "shell": 200,
    }
    assert report.cache.block_hit_rate > 0.5
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_same_seed_same_bytes():
    plan, flat = coding()
    a, b, c = (run_simulation(plan, flat, workload(), requests=30, seed=seed) for seed in (1, 1, 2))
    assert a.report == b.report
    assert a.calls.tobytes() == b.calls.tobytes()
    assert c.report.plan_sha256 == a.report.plan_sha256


def test_records_are_the_reports_numbers():
    plan, flat = coding()
    sim = run_simulation(plan, flat, workload(), requests=30)
    ttft = sim.calls["first_token_s"] - sim.calls["submitted_s"]
    assert sim.report.ttft_s.mean == pytest.approx(ttft.mean())
    assert sim.report.ttft_s.p95 == pytest.approx(np.percentile(ttft, 95))
    tpot = (sim.calls["finish_s"] - sim.calls["first_token_s"]) / (sim.calls["output_tokens"] - 1)
    assert sim.report.tpot_s.p50 == pytest.approx(np.percentile(tpot, 50))
    e2e = sim.requests["finish_s"] - sim.requests["release_s"]
    assert sim.report.e2e_s.p99 == pytest.approx(np.percentile(e2e, 99))


def test_a_run_cut_short_is_partial_and_still_adds_up():
    plan, flat = coding()
    whole = simulate(plan, flat, workload(), requests=40)
    report = simulate(plan, flat, workload(), requests=40, until_s=whole.duration_s / 3)
    assert report.partial
    for part in (report.requests, report.calls):
        assert part.offered == part.completed + part.rejected + part.failed + part.unfinished
    assert report.requests.unfinished > 0
    assert report.duration_s == pytest.approx(whole.duration_s / 3)


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    from heterarch.sim import drive

    plan, flat = coding()
    monkeypatch.setattr(drive, "SLICE_EVENTS", 200)
    real, calls = drive.advancer, []

    def interrupted(*world):
        advance = real(*world)

        def slice_(*limits):
            calls.append(1)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return advance(*limits)

        return slice_

    monkeypatch.setattr(drive, "advancer", interrupted)
    report = simulate(plan, flat, workload(), requests=40)
    assert report.partial
    assert report.requests.offered == report.requests.completed + report.requests.unfinished
    assert report.calls.completed > 0


def test_open_and_closed_replay():
    plan, flat = plan_of([mixed()], placed("ask")), one_call()
    sessions = trace(30, per_session=3)
    closed = run_simulation(plan, flat, sessions)
    waits = closed.calls["submitted_s"][1:3] - closed.calls["finish_s"][0:2]
    assert waits == pytest.approx([2.0, 2.0])
    opened = run_simulation(plan, flat, sessions, replay="open")
    assert opened.calls["submitted_s"] == pytest.approx(np.sort(sessions.time_s))
    assert closed.report.requests.completed == opened.report.requests.completed == 30
    assert closed.report.cache.block_hit_rate == pytest.approx(29 * 2 / 120)


def test_hosted_tokens_are_billed_with_cached_ones_at_their_price():
    report = simulate(plan_of([hosted()], placed("ask", pool="api")), one_call(), trace(10))
    fresh = 10 * 64 - 9 * 32
    assert report.usd == pytest.approx((fresh * 1.0 + 9 * 32 * 0.1 + 50 * 10.0) / 1e6)
    assert report.ttft_s.mean == pytest.approx(0.5)
    assert any("hosted API" in note for note in report.notes)


def test_disaggregated_phases_are_reported_apart():
    link = {"transfer_bytes_per_s": 64_000.0, "transfer_latency_s": 0.0}
    pools = [mixed("p", role="prefill", **link), mixed("d", role="decode", **link)]
    placement = placed("ask", pool="p") | {"ask.decode": "d"}
    report = simulate(plan_of(pools, placement), one_call(), trace(1))
    times = {op.name: op.measured_s.mean for op in report.ops}
    assert times == pytest.approx({"ask.prefill": 1.0, "ask.transfer": 1.0, "ask.decode": 4.0})
    assert report.kv_transfer_bytes == 64 * 1000


def test_a_call_that_cannot_fit_is_counted_with_its_reason():
    report = simulate(plan_of([mixed(kv_tokens=64)], placed("ask"), slo=["e2e.p95<=1h"]), one_call(), trace(4))
    assert report.requests.rejected == 4
    assert report.reasons == {"the call needs more KV than one engine has": 4}
    assert not report.slo[0].met


def test_the_evaluator_of_a_planner():
    plan, flat = coding()
    evaluate = evaluator(flat, requests=10)
    assert evaluate(plan, workload(), 3) == simulate(plan, flat, workload(), requests=10, seed=3)


def test_a_tool_may_have_no_pool():
    b = ProgramBuilder()
    b.op(OpKind.TOOL, "free", [], stats={Slot.SECONDS: constant(2.0)})
    report = simulate(plan_of([mixed()]), b.build(), workload(), requests=5)
    assert report.e2e_s.mean == 2.0


@pytest.mark.parametrize(
    ("options", "error"),
    [({"router": "nearest"}, UnknownNameError), ({"cache": "none"}, InputError), ({"replay": "twice"}, InputError), ({"call": "tell"}, InputError)],
)  # fmt: skip
def test_bad_options_are_refused(options, error):
    with pytest.raises(error):
        simulate(plan_of([mixed()], placed("ask")), one_call(), trace(3), **options)


def test_an_endpoint_that_states_the_p95_of_its_tpot_scatters():
    plan = plan_of([hosted(tpot_p95_s=0.03)], placed("ask", pool="api"))
    report = simulate(plan, one_call(), trace(3000), replay="open")
    assert report.tpot_s.p50 == pytest.approx(0.01, rel=0.05)
    assert report.tpot_s.p95 == pytest.approx(0.03, rel=0.1)
    assert not any("p95" in note for note in report.notes)
