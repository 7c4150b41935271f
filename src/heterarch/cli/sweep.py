"""``heterarch sweep``: plans, routers and loads against each other, over many seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from heterarch.catalog.catalog import Catalog
from heterarch.cli.files import picture_to_write
from heterarch.cli.output import JSON_HELP, OVERLAY_HELP, above_zero, console, file_to_write, note, print_json
from heterarch.cli.pipeline import flat_of
from heterarch.documents import validate, write_text
from heterarch.errors import Interrupted, Where
from heterarch.plan.store import check_plan, load_plan, plan_sha256
from heterarch.sim.sweep.document import SweepDocument, read_sweep
from heterarch.sim.sweep.metrics import SHOWN, check_metrics
from heterarch.sim.sweep.render import render_sweep, sweep_csv
from heterarch.sim.sweep.report import SweepReport, baseline_of, labels, sweep_report
from heterarch.sim.sweep.results import Results
from heterarch.sim.sweep.runs import Run
from heterarch.sim.sweep.sweep import Placed, Sweep, run_sweep
from heterarch.sim.sweep.workers import Workers, in_processes, in_this_process, on_ray

app = typer.Typer(rich_markup_mode=None)


@app.command()
def sweep(
    plans: list[Path] = typer.Argument(None, help="Plan files."),
    file: Path | None = typer.Option(None, "-f", "--file", help="A sweep file; options below replace what it says."),
    router: list[str] = typer.Option([], help="Router; may be repeated. Default: each plan's own."),
    load: list[float] = typer.Option([], help="Factor of the workload's rate; may be repeated. Default: 1."),
    seeds: int | None = typer.Option(None, min=1, help="Runs of each cell, with seeds from 0. Default: 10."),
    requests: int | None = typer.Option(None, min=1, help="Agent requests of each run. Default: 1000."),
    workload: str | None = typer.Option(None, help="A packaged workload or a file; default: the plans' own."),
    baseline: str | None = typer.Option(None, help="PLAN, ROUTER or PLAN/ROUTER to compare with; default: the first."),
    until: float | None = typer.Option(None, help="Stop runs at this simulated time, seconds.", callback=above_zero),
    metric: list[str] = typer.Option([], help=f"Shown; may be repeated. Default: {', '.join(SHOWN)}."),
    confidence: float = typer.Option(0.95, min=0.5, max=0.999, help="Of the intervals."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Results file; a sweep cut short goes on from it.", callback=file_to_write
    ),
    csv: Path | None = typer.Option(None, help="Write every metric of every cell.", callback=file_to_write),
    plot: Path | None = typer.Option(
        None, help="Write a plot of metrics against load: .png, .svg or .pdf (extra `plot`).", callback=picture_to_write
    ),
    jobs: int = typer.Option(os.cpu_count() or 1, min=1, help="Processes; the numbers do not depend on it."),
    ray: bool = typer.Option(False, "--ray", help="Run on a Ray cluster (extra `ray`)."),
    overlay: list[Path] = typer.Option([], help=f"{OVERLAY_HELP} More than the plans name."),
    progress: bool = typer.Option(True, help="Show progress on a terminal."),
    as_json: bool = typer.Option(False, "--json", help=JSON_HELP),
) -> None:
    """Simulate every plan with every router under every load, once per seed, and compare.

    The same seed gives every plan and router the same requests, so that differences are taken in pairs. Exit code 1
    when a run failed, 130 after Ctrl-C; what was finished is in the results file.
    """
    given = {
        "plans": list(map(str, plans or [])), "routers": router, "loads": load, "seeds": seeds, "requests": requests,
        "workload": workload, "baseline": baseline, "until_s": until,
    }  # fmt: skip
    document = document_of(file, {name: value for name, value in given.items() if value not in (None, [])})
    chosen = check_metrics(metric)
    made = Sweep.of(document, placed_plans(document, overlay))
    baseline_of(labels(list(made.works)), document.baseline)
    results = Results(made.settings, output)
    workers = on_ray if ray else in_this_process if jobs == 1 else partial(in_processes, jobs=jobs)
    finished = carry_out(made, results, workers, progress and not as_json)
    report = sweep_report(made, results, confidence)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        console().print(render_sweep(report, chosen))
    write_files(report, chosen, csv, plot)
    raise typer.Exit(Interrupted.exit_code if not finished else 1 if report.failures else 0)


def document_of(file: Path | None, given: Mapping[str, Any]) -> SweepDocument:
    """The sweep file with what the command line gives, or the command line alone.

    Raises:
        InputError: the file is wrong, or what was given is.
    """
    read = read_sweep(file).model_dump() if file is not None else {}
    return validate(SweepDocument, {**read, **given}, lambda _: Where(str(file) if file else "the command line"))


def placed_plans(document: SweepDocument, overlays: list[Path]) -> dict[str, Placed]:
    """The plans by the names of their files; by their paths where two files have one name."""
    found: dict[str, Placed] = {}
    stems = [name_of(path) for path in document.plans]
    for path, stem in zip(document.plans, stems, strict=True):
        plan = load_plan(path)
        check_plan(plan, Catalog.load(*plan.provenance.catalog_files, *overlays), path)
        found[stem if stems.count(stem) == 1 else path] = Placed(plan, plan_sha256(plan), flat_of(plan, path))
    return found


def name_of(path: str) -> str:
    """``a`` of ``plans/a.plan.yaml``."""
    return Path(path).name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".plan")


def carry_out(made: Sweep, results: Results, workers: Workers, progress: bool) -> bool:
    """Make the missing runs under a progress bar; False after Ctrl-C."""
    works = [work for each in made.works.values() for work in each]
    kept = sum(results.finished(work.key) for work in works)
    if kept:
        note(f"{kept} of {len(works)} runs are in {results.path}")
    try:
        with bar(len(works), kept, progress) as tick:
            run_sweep(made, results, workers, tick)
    except KeyboardInterrupt:
        kept = sum(results.finished(work.key) for work in works)
        where = f"are in {results.path}; the same command goes on" if results.path else "were made; -o would keep them"
        note(f"{kept} of {len(works)} runs {where}")
        return False
    return True


@contextmanager
def bar(total: int, kept: int, progress: bool) -> Iterator[Callable[[Run], None]]:
    """A progress bar on a terminal with the time that is left."""
    screen = console(stderr=True)
    columns = ("simulating", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not (progress and screen.is_terminal)) as shown:
        task = shown.add_task("simulating", total=total - kept)
        yield lambda _: shown.advance(task)


def write_files(report: SweepReport, metrics: tuple[str, ...], csv: Path | None, plot: Path | None) -> None:
    """Write what was asked for."""
    if csv is not None:
        write_text(csv, sweep_csv(report))
        note(f"wrote {csv}")
    if plot is not None:
        from heterarch.sim.sweep.plot import plot_sweep

        plot_sweep(report, plot, metrics)
        note(f"wrote {plot}")
