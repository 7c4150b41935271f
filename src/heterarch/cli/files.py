"""The files that a simulation is asked to leave, and plots of sweeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heterarch.cli.output import file_to_write, note
from heterarch.documents import write_text
from heterarch.errors import InputError
from heterarch.report.plot import Plotted, check_picture, check_plot, plot_run
from heterarch.report.records import write_parquet
from heterarch.report.series import write_series
from heterarch.report.trace_events import Run, write_trace_events
from heterarch.sim.simulate import Simulation


@dataclass(frozen=True)
class Files:
    """Where to write what; None for what is not wanted. ``trace_requests``: most requests that ``trace`` shows."""

    report: Path | None = None
    requests: Path | None = None
    calls: Path | None = None
    series: Path | None = None
    trace: Path | None = None
    plot: Path | None = None
    trace_requests: int = 2000

    def __post_init__(self) -> None:
        """Refuse two results in one file, of which only the last would stay."""
        wanted = (self.report, self.requests, self.calls, self.series, self.trace, self.plot)
        files = [path.resolve() for path in wanted if path is not None and (path.is_file() or not path.exists())]
        twice = [str(path) for path in files if files.count(path) > 1]
        if twice:
            raise InputError("two results are to be written into one file", observed=twice[0])


def place_to_plot(path: Path | None) -> Path | None:
    """A file or folder for plots, checked before any work is done for it.

    Raises:
        InputError: it cannot be written, has the suffix of no picture, or matplotlib is not installed.
    """
    if path is not None:
        check_plot(path)
    return path if path is None or path.is_dir() else file_to_write(path)


def picture_to_write(path: Path | None) -> Path | None:
    """A file for a plot, checked before any work is done for it.

    Raises:
        InputError: it cannot be written, has the suffix of no picture, or matplotlib is not installed.
    """
    if path is not None:
        check_picture(path)
    return file_to_write(path)


def write_files(done: Simulation, files: Files) -> None:
    """Write what is wanted, each file whole or not at all, and say so.

    Raises:
        InputError: a file cannot be written; those before it stay.
    """
    facts, labels, sampled = facts_of(done), done.labels, done.sampled
    samples = None if sampled is None else sampled.rows
    _write(files.report, lambda path: write_text(path, done.report.model_dump_json(indent=2) + "\n"))
    _write(files.requests, lambda path: write_parquet(done.requests, path, labels, facts))
    _write(files.calls, lambda path: write_parquet(done.calls, path, labels, facts))
    if samples is not None:
        _write(files.series, lambda path: write_series(samples, path, labels, facts))
    _write(files.trace, lambda path: _trace(done, path, facts, files.trace_requests))
    _write(files.plot, lambda path: _plot(done, path))
    if sampled is not None and sampled.doubled:
        note(f"too many samples: one every {sampled.every_s:g} s was kept")


def facts_of(done: Simulation) -> dict[str, object]:
    """What the metadata of every file says of its run."""
    report = done.report
    return {
        "kind": report.kind,
        "agent": report.agent,
        "workload": report.workload,
        "plan_sha256": report.plan_sha256,
        "seed": report.seed,
        "partial": str(report.partial).lower(),
    }


def _write(path: Path | None, write: Callable[[Path], None]) -> None:
    if path is not None:
        write(path)
        note(f"wrote {path}")


def _trace(done: Simulation, path: Path, facts: dict[str, object], requests: int) -> None:
    run = Run(done.calls, done.tools, done.labels, None if done.sampled is None else done.sampled.few)
    if write_trace_events(run, path, facts, requests):
        note(f"{path} shows the first {requests:,} requests; --trace-requests shows more")


def _plot(done: Simulation, path: Path) -> None:
    busy = {} if done.sampled is None else done.sampled.busy
    plot_run(Plotted(done.calls, done.requests, done.report, busy), path)
