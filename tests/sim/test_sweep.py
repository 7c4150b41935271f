"""Sweeps: common random numbers, intervals, results files, workers that die."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.plan.document import Plan, StepPart
from heterarch.plan.store import plan_sha256
from heterarch.sim.sweep import Sweep, SweepDocument, run_sweep
from heterarch.sim.sweep.document import read_sweep
from heterarch.sim.sweep.render import plus_minus, sweep_csv
from heterarch.sim.sweep.report import SweepReport, sweep_report
from heterarch.sim.sweep.results import Results
from heterarch.sim.sweep.runs import Run, Work
from heterarch.sim.sweep.statistics import Interval, interval, paired
from heterarch.sim.sweep.sweep import Placed
from heterarch.sim.sweep.workers import DIED, Runs, in_processes, on_ray
from heterarch.sim.tasks import Tasks
from heterarch.sim.unroll import unroll
from heterarch.workload.distribution import uniform
from heterarch.workload.profile import Arrivals, CallStatistics, Workload

from .worlds import ProgramBuilder, hosted, mixed, placed, plan_of, tools

WORKLOAD = Workload(
    name="w",
    arrivals=Arrivals(rate_per_s=0.05),
    requests_per_session=uniform(1, 4),
    think_s=uniform(1, 30),
    call=CallStatistics(context_tokens=uniform(20, 200), tokens_in=uniform(5, 50), tokens_out=uniform(1, 9)),
    tools={"look": uniform(0.1, 2.0)},
)


def program() -> FlatProgram:
    """Between one and four times: a call, then a tool; one conversation for the session."""
    builder = ProgramBuilder()
    (question,) = builder.args[0] = [builder.value()]
    (kept,) = builder.op(OpKind.MEMORY_LOAD, "kept", [question], key="chat")
    body = builder.region(1)
    chat, text = builder.llm("ask", builder.args[body], region=body)
    builder.op(OpKind.TOOL, "look", [text], region=body)
    builder.yields[body] = [chat]
    (done,) = builder.op(OpKind.LOOP, "again", [kept], children=[body], stats={Slot.COUNT: uniform(0.6, 4.4)})
    builder.op(OpKind.MEMORY_STORE, "keep", [done], key="chat")
    builder.yields[0] = [done]
    return builder.build()


def plan(pool: str = "mixed", predicted_s: float = 1.0, step_s: float = 0.1) -> Plan:
    step = StepPart(fixed_s=step_s, token_s=0.0)
    first = hosted("llm", ttft_p95_s=2.0) if pool == "hosted" else mixed("llm", kv_tokens=16_000, step=step)
    made = plan_of([first, tools()], {**placed("ask"), "look": "tools"})
    predictions = made.predictions.model_copy(update={"e2e_s": {"mean": predicted_s}})
    return made.model_copy(update={"load": WORKLOAD, "predictions": predictions})


def of(*plans: Plan, **document: object) -> Sweep:
    names = [f"p{row}" for row in range(len(plans))]
    flat = program()
    chosen = SweepDocument.model_validate({"plans": names, "seeds": 3, "requests": 20, **document})
    found = {name: Placed(made, plan_sha256(made), flat) for name, made in zip(names, plans, strict=True)}
    return Sweep.of(chosen, found)


def swept(sweep: Sweep, results: Results | None = None) -> SweepReport:
    results = results or Results(sweep.settings)
    run_sweep(sweep, results)
    return sweep_report(sweep, results)


# ---------------------------------------------------------------- common random numbers

DRAWN = ("kind", "request", "session", "release_s", "delay_s", "service_s", "prompt_tokens", "output_tokens")


def drawn(work: Work) -> Tasks:
    settings = work.settings
    return unroll(
        work.plan, work.flat, work.workload, requests=settings.requests, seed=work.seed, steady=settings.steady,
        request_s=settings.request_s,
    )[0]  # fmt: skip


def test_a_seed_draws_the_same_work_for_every_plan_and_router() -> None:
    """Also of plans that predict other times, and of a hosted API."""
    plans = (plan(), plan(predicted_s=50.0, step_s=0.3), plan("hosted", predicted_s=7.0))
    sweep = of(*plans, routers=["prefix-affinity", "least-pending-tokens"], loads=[0.5, 2.0])
    by_load: dict[tuple[float, int], list[Tasks]] = {}
    for work in (work for works in sweep.works.values() for work in works):
        by_load.setdefault((work.cell.load, work.seed), []).append(drawn(work))
    assert {len(found) for found in by_load.values()} == {6}
    for first, *others in by_load.values():
        for other in others:
            for column in DRAWN:
                assert np.array_equal(first.rows[column], other.rows[column]), column
            assert np.array_equal(first.edges, other.edges)
    seeds = [found[0].rows["prompt_tokens"] for (load, _), found in by_load.items() if load == 2.0]
    assert not any(np.array_equal(seeds[0], other) for other in seeds[1:])


def test_without_one_nominal_time_plans_would_draw_other_sessions() -> None:
    one, other = (unroll(made, program(), WORKLOAD, requests=20, steady=True)[0].rows["prompt_tokens"]
                  for made in (plan(), plan(predicted_s=50.0)))  # fmt: skip
    assert not np.array_equal(one, other)


def test_from_empty_the_loads_share_their_draws_too() -> None:
    sweep = of(plan(), steady=False, loads=[0.5, 2.0], seeds=1)
    slow, fast = (drawn(works[0]).rows for works in sweep.works.values())
    for column in ("session", "delay_s", "service_s", "prompt_tokens", "output_tokens"):
        assert np.array_equal(slow[column], fast[column]), column
    roots = slow["release_s"] > 0
    assert slow["release_s"][roots] == pytest.approx(4 * fast["release_s"][roots])


def test_hosted_latency_is_drawn_per_task_whichever_pools_there_are() -> None:
    alone, beside = plan("hosted"), plan("hosted")
    beside = beside.model_copy(update={"pools": [hosted("unused"), *beside.pools]})
    report = swept(of(alone, beside))
    assert report.cells[1].differences["ttft.p95"].mean == 0.0


# ---------------------------------------------------------------- statistics


def test_intervals_are_students() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = interval(values, 0.9)
    assert found is not None
    low, high = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    assert (found.mean - (found.half or 0), found.mean + (found.half or 0)) == pytest.approx((low, high))


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [abs(found.mean) <= found.half for _ in range(4000)
            if (found := interval(rng.normal(0, 3, 5).tolist(), 0.9)) and found.half]  # fmt: skip
    assert np.mean(held) == pytest.approx(0.9, abs=0.015)


def test_what_is_missing_is_left_out() -> None:
    assert interval([None, None]) is None
    assert interval([None, 3.0]) == Interval(n=1, mean=3.0, half=None)
    assert paired([1.0, None, 5.0], [1.0, 2.0, 3.0]) == interval([0.0, 2.0])
    assert not Interval(n=1, mean=3.0, half=None).significant
    assert Interval(n=2, mean=-3.0, half=2.9).significant


def test_pairs_see_a_difference_that_the_means_hide() -> None:
    """One plan is 5 % slower: less than the seeds differ among each other, yet it shows in the pairs."""
    report = swept(of(plan(step_s=0.1), plan(step_s=0.105), seeds=6))
    base, slower = (cell.metrics["e2e.mean"] for cell in report.cells)
    pair = report.cells[1].differences["e2e.mean"]
    assert base.mean < slower.mean < base.mean + (base.half or 0)
    assert pair.significant
    assert pair.mean == pytest.approx(slower.mean - base.mean)
    assert pair.half is not None
    assert pair.half < (base.half or 0) / 3


def test_the_baseline_is_the_first_or_the_one_named() -> None:
    plans = (plan(), plan(step_s=0.2))
    routers = ["prefix-affinity", "least-pending-tokens"]
    assert swept(of(*plans, routers=routers, seeds=1)).baseline == "p0/prefix-affinity"
    assert swept(of(plan(), routers=routers, seeds=1)).baseline == "prefix-affinity"
    for asked, label in (
        ("p1", "p1/prefix-affinity"),
        ("least-pending-tokens", "p0/least-pending-tokens"),
        ("p1/least-pending-tokens", "p1/least-pending-tokens"),
    ):
        report = swept(of(*plans, routers=routers, seeds=1, baseline=asked))
        assert report.baseline == label
        assert [cell.label for cell in report.cells if not cell.differences] == [label]
    with pytest.raises(UnknownNameError, match="unknown baseline 'p2'"):
        swept(of(*plans, baseline="p2", seeds=1))


def test_notes_say_how_far_to_trust_it() -> None:
    notes = " ".join(swept(of(plan(), seeds=2)).notes)
    assert "fewer than 5 seeds" in notes
    assert "empty caches" in notes
    report = swept(of(plan(), seeds=5, until_s=20.0))
    assert not any("fewer" in note for note in report.notes)
    assert any("did not complete" in note for note in report.notes)


@pytest.mark.parametrize(
    ("mean", "half", "unit", "shown"),
    [
        (0.0123456, 0.0004, "s", "12.35 ±0.40 ms"),
        (12.987, 0.081, "s", "12.99 ±0.08 s"),
        (1234.5, 67.0, "s", "1,234 ±67 s"),
        (0.0, 0.0, "s", "0 ±0 s"),
        (0.5, None, "share", "50.00 %"),
        (0.0000866, 0.0000061, "USD", "0.0000866 ±0.0000061"),
        (7.0, 1e-15, "1/s", "7.000 ±0.000"),
        (-2.5, 0.5, "1/s", "-2.50 ±0.50"),
        (2.5, 30.0, "1/s", "+2 ±30"),
    ],
)
def test_cells(mean: float, half: float | None, unit: str, shown: str) -> None:
    sign = "+" if shown.startswith("+") else ""
    assert plus_minus(Interval(n=3, mean=mean, half=half), unit, sign) == shown


# ---------------------------------------------------------------- results files


def test_a_results_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    few, many = of(plan(), seeds=2), of(plan(), plan(step_s=0.2), seeds=3)
    swept(few, Results(few.settings, path))
    first = path.read_text()
    made: list[Run] = []
    results = Results(many.settings, path)
    run_sweep(many, results, tick=made.append)
    assert len(made) == 4
    assert path.read_text().startswith(first)
    assert sweep_report(many, Results(many.settings, path)) == swept(many)


def test_a_torn_last_line_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    sweep = of(plan())
    whole = swept(sweep, Results(sweep.settings, path))
    text = path.read_text()
    for cut in (20, len(text.splitlines()[0]) + 30, len(text) - 1, len(text) - 50):
        path.write_text(text[:cut])
        assert swept(sweep, Results(sweep.settings, path)) == whole
        assert sorted(path.read_text().splitlines()) == sorted(text.splitlines())


def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    sweep, other = of(plan()), of(plan(), requests=30, until_s=9.0)
    swept(sweep, Results(sweep.settings, path))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"another sweep(?s:.)*requests 20, until_s None(?s:.)*requests 30, until_s 9"):
        Results(other.settings, path)
    assert path.read_bytes() == before
    path.write_bytes(before + b"{}\n")
    with pytest.raises(InputError, match=r"r.jsonl:5: not a run"):
        Results(sweep.settings, path)
    for foreign in ("my notes\nmore\n", "my notes", "{}\n"):
        path.write_text(foreign)
        with pytest.raises(InputError, match="does not hold the results"):
            Results(sweep.settings, path)
        assert path.read_text() == foreign


def test_a_full_disk_keeps_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    sweep = of(plan())
    made: list[Run] = []
    results = Results(sweep.settings, path)
    with pytest.raises(InputError, match=r"r.jsonl: cannot write the results(?s:.)*goes on where it stopped"):
        run_sweep(sweep, results, tick=lambda run: (made.append(run), limit(path.stat().st_size + 100)))
    limit(None)
    assert len(made) == 1
    assert not path.read_text().endswith("\n")
    again: list[Run] = []
    run_sweep(sweep, Results(sweep.settings, path), tick=again.append)
    assert len(again) == 2


def limit(size: int | None) -> None:
    """The largest file that this process may write."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


@pytest.fixture(autouse=True)
def _unlimited() -> Iterator[None]:
    yield
    limit(None)


# ---------------------------------------------------------------- workers

KILLER = """
import os, signal
from pathlib import Path
from heterarch.sim.sweep.runs import Run, Work

def task(work: Work) -> Run:
    deaths = Path(os.environ["DEATHS"])
    died = len(list(deaths.iterdir()))
    if work.seed == 1 and died < int(os.environ["MOST"]):
        (deaths / str(died)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Run(key=work.key, cell=work.cell, seed=work.seed, status="done", requests=os.getpid())
"""


@contextmanager
def dying(folder: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[Work]], Runs]]:
    """Workers of which the one with seed 1 dies, ``most`` times."""
    (folder / "killer.py").write_text(KILLER)
    (folder / "deaths").mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("DEATHS", str(folder / "deaths"))
    monkeypatch.setenv("MOST", str(most))
    monkeypatch.delitem(sys.modules, "killer", raising=False)
    import killer

    yield lambda works: in_processes(works, 2, killer.task)


@pytest.mark.parametrize(("most", "status"), [(1, "done"), (9, "failed")])
def test_a_worker_that_dies_is_replaced(
    most: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = of(plan(), seeds=5)
    results = Results(sweep.settings)
    with dying(tmp_path, most, monkeypatch) as workers:
        run_sweep(sweep, results, workers)
    by_seed = {run.seed: run for run in results.runs.values()}
    assert {seed: run.status for seed, run in by_seed.items()} == {**dict.fromkeys(range(5), "done"), 1: status}
    assert by_seed[1].reason == (DIED if status == "failed" else "")
    assert len(list((tmp_path / "deaths").iterdir())) == min(most, 2)
    assert os.getpid() not in {run.requests for run in by_seed.values()}


def test_a_run_that_fails_is_reported_and_made_again(tmp_path: Path) -> None:
    """Of two plans one cannot be simulated: its call has no pool."""
    good, bad = plan(), plan()
    bad = bad.model_copy(update={"placement": {"look": "tools"}})
    sweep = of(good, bad)
    path = tmp_path / "r.jsonl"
    report = swept(sweep, Results(sweep.settings, path))
    assert [(cell.done, cell.failed) for cell in report.cells] == [(3, 0), (0, 3)]
    (reason,) = report.failures
    assert report.failures[reason] == 3
    assert "ask" in reason
    again: list[Run] = []
    run_sweep(sweep, Results(sweep.settings, path), tick=again.append)
    assert [run.cell.plan for run in again] == ["p1"] * 3


def test_ray_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs Ray(?s:.)*heterarch\[ray\]"):
        next(on_ray([]))


@pytest.mark.slow
def test_ray_makes_the_same_runs() -> None:
    ray = pytest.importorskip("ray")
    sweep = of(plan())
    here, there = Results(sweep.settings), Results(sweep.settings)
    run_sweep(sweep, here)
    run_sweep(sweep, there, on_ray)
    ray.shutdown()
    assert there.runs == here.runs


# ---------------------------------------------------------------- what a user may get wrong


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"agent": "other"}, "plans are of different agents"),
        ({"load": WORKLOAD.at_rate(9.0)}, "plans are for different workloads"),
        ({}, "two cells of the sweep are the same"),
    ],
)
def test_plans_that_cannot_be_compared(change: dict[str, object], says: str) -> None:
    other = plan()
    if "agent" in change:
        change = {"agent": other.agent.model_copy(update={"name": "other"})}
    with pytest.raises(InputError, match=says):
        of(plan(), other.model_copy(update=change))


def test_a_sweep_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("heterarch: sweep\nplans: [a.plan.yaml, /b.plan.yaml]\nloads: [0.5, 1]\nworkload: chat\n")
    read = read_sweep(path)
    assert read.plans == [str(tmp_path / "a.plan.yaml"), "/b.plan.yaml"]
    assert read.workload == "chat"
    for text, says in (
        ("plans: [a, a]", "each only once; a is there twice"),
        ("plans: [a]\nloads: [1, 1.0]", "1.0 is there twice"),
        ("plans: [a]\nloads: [0]", "s.yaml:3"),
        ("plans: []", "at least 1 item"),
        ("plan: [a]", "unknown field 'plan'"),
    ):
        path.write_text(f"heterarch: sweep\n{text}\n")
        with pytest.raises(InputError, match=says):
            read_sweep(path)


def test_csv_has_every_metric_of_every_cell() -> None:
    report = swept(of(plan(), plan(step_s=0.2)))
    head, *rows = sweep_csv(report).splitlines()
    assert head.startswith("plan,router,load,seeds,metric,unit,mean,low,high,difference")
    assert len(rows) == sum(len(cell.metrics) for cell in report.cells)
    assert json.loads(report.model_dump_json())["cells"][1]["differences"]["cost"]["mean"] != 0
