"""The definitions of the metrics, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from heterarch.report.aggregate import (
    CALL,
    REQUEST,
    OpTimes,
    RunFacts,
    Status,
    build_report,
    counts,
    summarise,
    tpot_s,
    ttft_s,
    verdict,
    within_slo,
)  # fmt: skip
from heterarch.report.schema import Report
from heterarch.report.slo import parse_slo


def calls_of(*rows):
    """(request, submitted, first, finish, output, status)."""
    table = np.zeros(len(rows), CALL)
    for name, column in zip(("request", "submitted_s", "first_token_s", "finish_s", "output_tokens", "status"), zip(*rows, strict=True), strict=True):  # fmt: skip
        table[name] = column
    table["prompt_tokens"] = 100
    return table


def requests_of(*rows):
    """(release, finish, status, reason)."""
    table = np.zeros(len(rows), REQUEST)
    for name, column in zip(("release_s", "finish_s", "status", "reason"), zip(*rows, strict=True), strict=True):
        table[name] = column
    return table


DONE, LOST = Status.COMPLETED, Status.REJECTED
CALLS = calls_of((0, 0, 1, 5, 5, DONE), (0, 5, 7, 7, 1, DONE), (1, 2, np.nan, 2, 3, LOST), (2, 0, 4, 6, 2, DONE))
REQUESTS = requests_of((0, 7, DONE, -1), (2, 2, LOST, 0), (0, 6, DONE, -1))


def facts(**changes):
    values = dict(
        kind="live",
        agent="a",
        workload="w",
        plan_sha256="",
        seed=0,
        duration_s=10.0,
        usd=0.5,
        slo=[],
        reasons=("too long",),
    )
    return RunFacts(**{**values, **changes})


def test_times_of_calls():
    assert ttft_s(CALLS)[[0, 1, 3]].tolist() == [1, 2, 4]
    assert np.isnan(ttft_s(CALLS)[2])
    assert tpot_s(CALLS)[[0, 3]].tolist() == [1, 2]
    assert np.isnan(tpot_s(CALLS)[1])  # one token has no time between tokens


def test_summary_leaves_out_what_is_not_finite_and_survives_nothing():
    assert summarise([1.0, np.nan, 3.0]).mean == 2.0
    assert summarise([]).n == 0
    assert summarise(np.arange(101.0)).p95 == 95.0


def test_counts_add_up():
    found = counts(np.array([0, 1, 1, 2, 3, 1], np.int8))
    assert (found.offered, found.completed, found.rejected, found.failed, found.unfinished) == (6, 3, 1, 1, 1)


def test_goodput_needs_every_call_of_the_request_in_time():
    def good(*slo):
        return within_slo(REQUESTS, CALLS, [parse_slo(text) for text in slo]).tolist()

    assert good() == [True, False, True]
    assert good("ttft.p50<=1.5s") == [False, False, False]
    assert good("ttft.p99<=2s") == [True, False, False]
    assert good("tpot.p50<=1s", "e2e.p50<=7s") == [True, False, False]


def test_what_is_lost_counts_as_late():
    slo = parse_slo("e2e.p95<=10s")
    values = np.array([1.0] * 95)
    assert verdict(slo, values, 0).met
    assert verdict(slo, values, 5).met  # exactly 95 % in time
    assert not verdict(slo, values, 6).met
    assert not verdict(slo, np.array([np.nan]), 0).met


def test_the_report():
    report = build_report(facts(slo=["ttft.p50<=3s", "cost.mean<=0.3", "e2e.mean<=1s"]), CALLS, REQUESTS, [], [OpTimes("o", "tool", "p", np.array([1.0, 3.0]), 2.0, "guess")])  # fmt: skip
    assert report.requests.completed == 2
    assert report.reasons == {"too long": 1}
    assert report.usd_per_request == 0.25
    assert (report.prompt_tokens, report.output_tokens) == (300, 8)
    assert report.usd_per_million_tokens == pytest.approx(0.5 / 308 * 1e6)
    assert report.throughput_rps == 0.2
    assert [v.met for v in report.slo] == [True, True, False]
    assert report.slo[1].observed == 0.25
    assert report.ops[0].measured_s.mean == 2.0
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_run_in_which_nothing_happened():
    report = build_report(facts(duration_s=0.0, usd=0.0, slo=["e2e.p95<=1s"]), CALLS[:0], REQUESTS[:0], [], [])
    assert report.requests.offered == 0
    assert not report.slo[0].met
