"""``heterarch simulate``: what a plan does under its workload, or under a recorded trace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import typer

from heterarch.catalog.catalog import Catalog
from heterarch.cli.files import Files, place_to_plot, write_files
from heterarch.cli.output import JSON_HELP, OVERLAY_HELP, above_zero, console, file_to_write, print_json
from heterarch.cli.pipeline import flat_of
from heterarch.documents import parse_yaml, validate
from heterarch.errors import InputError, Interrupted
from heterarch.plan.store import check_plan, load_plan
from heterarch.report.render import render_report
from heterarch.sim.faults import Faults, Rates, load_faults
from heterarch.sim.simulate import Simulation, run_simulation
from heterarch.workload.arrivals import arrival_times
from heterarch.workload.profile import Arrivals, Workload, load_workload
from heterarch.workload.trace import Trace, read_trace

app = typer.Typer(rich_markup_mode=None)


@app.command()
def simulate(
    plan: Path = typer.Argument(help="A plan file."),
    workload: str | None = typer.Option(None, help="A packaged workload or a file; default: the plan's own."),
    trace: Path | None = typer.Option(None, help="Replay recorded calls instead (see heterarch workload trace)."),
    requests: int = typer.Option(1000, min=1, help="Agent requests of a workload; a trace is replayed whole."),
    rate: float | None = typer.Option(
        None, help="Sessions (of a trace without them: calls) per second; default: as recorded.", callback=above_zero
    ),
    arrivals: str | None = typer.Option(
        None, help="Instead of the workload's: YAML as in its file, such as '{process: gamma, cv: 2}'."
    ),
    replay: Literal["open", "closed"] | None = typer.Option(
        None, help="Calls at their recorded times, or each after its session's last answer; default by trace."
    ),
    cache: Literal["engine", "unbounded"] = typer.Option(
        "engine", help="KV of each engine, or one cache without limits for all (bounds the hit rate)."
    ),
    call: str = typer.Option("", help="LLM call that a trace is replayed on; default: the one that generates most."),
    router: str | None = typer.Option(
        None, help="prefix-affinity, least-pending-tokens or least-queued; default: the plan's."
    ),
    admission: str | None = typer.Option(
        None,
        help="all, queue-limit[:TOKENS], queue-hold[:TOKENS] or deadline[:SECONDS]; default: the plan's, else all.",
    ),
    max_queue: int | None = typer.Option(None, min=1, help="Stop when more calls and tasks wait than this."),
    faults: str = typer.Option("", help="What fails or is changed: a file, or `random` for crashes of engines."),
    mtbf_s: float | None = typer.Option(
        None, help="Of random faults: mean seconds between crashes of one engine.", callback=above_zero
    ),
    mttr_s: float = typer.Option(
        0.0, min=0.0, max=1e9, help="Of random faults: mean seconds until an engine starts again."
    ),
    until: float | None = typer.Option(None, help="Stop at this simulated time, seconds.", callback=above_zero),
    seed: int = typer.Option(0, min=0, help="Seed of every draw; the same seed gives the same bytes."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write the report as JSON.", callback=file_to_write
    ),
    requests_out: Path | None = typer.Option(None, help="Write one row per request, parquet.", callback=file_to_write),
    calls_out: Path | None = typer.Option(
        None, "--calls-out", "--parquet", help="Write one row per LLM call, parquet.", callback=file_to_write
    ),
    series_out: Path | None = typer.Option(
        None, help="Write queues, memory, busy shares and USD over time: parquet, or .csv.", callback=file_to_write
    ),
    sample_s: float | None = typer.Option(
        None, help="Simulated seconds between samples over time; default: 200 to 400 samples.", callback=above_zero
    ),
    trace_out: Path | None = typer.Option(
        None, help="Write trace events for ui.perfetto.dev: .json, or .json.gz.", callback=file_to_write
    ),
    trace_requests: int = typer.Option(2000, min=1, help="Requests that --trace-out shows, the first ones."),
    plot: Path | None = typer.Option(
        None, help="Write plots: one .png, .svg or .pdf, or a folder (extra `plot`).", callback=place_to_plot
    ),
    overlay: list[Path] = typer.Option([], help=f"{OVERLAY_HELP} More than the plan names."),
    progress: bool = typer.Option(True, help="Show progress on a terminal."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Simulate a plan; exit code 0 also when an SLO is missed or a pool is overloaded (the report says so), 130 after
    Ctrl-C (the partial report is kept)."""
    files = Files(output, requests_out, calls_out, series_out, trace_out, plot, trace_requests)
    made = load_plan(plan)
    check_plan(made, Catalog.load(*made.provenance.catalog_files, *overlay), str(plan))
    source: Workload | Trace
    if trace is not None and arrivals is not None:
        raise InputError("a trace has arrivals of its own", observed="--trace and --arrivals", fix="leave one out")
    if trace is not None:
        source = placed_in_time(read_trace(trace, rate_per_s=rate), rate, seed)
    else:
        source = made.load if workload is None and made.load is not None else load_workload(workload or made.workload)
        source = source if arrivals is None else source.arriving(arrivals_of(arrivals, source))
        source = source.at_rate(rate) if rate is not None else source
    done = run_simulation(
        made, flat_of(made, str(plan)), source, seed=seed, requests=requests, until_s=until, router=router,
        admission=admission, max_queue=max_queue, cache=cache, replay=replay, call=call,
        faults=faults_of(faults, mtbf_s, mttr_s, seed), sample=sample_s or any((series_out, trace_out, plot)),
        progress=progress and not as_json,
    )  # fmt: skip
    show(done, as_json)
    write_files(done, files)
    raise typer.Exit(Interrupted.exit_code if done.interrupted else 0)


def faults_of(faults: str, mtbf_s: float | None, mttr_s: float, seed: int) -> Faults | None:
    """What ``--faults`` means; None where it is not given.

    Raises:
        InputError: not a file of faults, or random faults without a rate, or a rate without them.
    """
    if (faults == "random") != (mtbf_s is not None):
        raise InputError("random faults need a rate", expected="--faults random together with --mtbf-s SECONDS")
    if mtbf_s is not None:
        return Faults(random=Rates(engine_mtbf_s=mtbf_s, engine_mttr_s=mttr_s, seed=seed))
    return load_faults(faults) if faults else None


def placed_in_time(trace: Trace, rate: float | None, seed: int) -> Trace:
    """The trace at ``rate``: independent calls are stretched to it in time; sessions get starts, a Poisson process of
    ``rate`` sessions per second (default 0.05)."""
    if trace.kind != "sessions":
        return trace.scaled_rate(rate * trace.duration_s / len(trace)) if rate and trace.duration_s else trace
    arrivals = Arrivals(rate_per_s=rate or 0.05)
    return trace.with_session_starts(arrival_times(arrivals, np.random.default_rng(seed), trace.sessions))


def arrivals_of(text: str, workload: Workload) -> Arrivals:
    """What ``--arrivals`` says; the rate is the workload's where it says none.

    Raises:
        InputError: it is not YAML, or not arrivals.
    """
    data, locate = parse_yaml(text, "--arrivals")
    if isinstance(data, Mapping):
        data = {"rate_per_s": workload.arrivals.rate_per_s, **data}
    return validate(Arrivals, data, locate)


def show(done: Simulation, as_json: bool) -> None:
    """Print the report."""
    if as_json:
        print_json(done.report.model_dump(mode="json"))
    else:
        console().print(render_report(done.report))
