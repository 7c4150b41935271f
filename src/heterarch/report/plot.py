"""Plots of a report (extra ``plot``): latencies, and where the run was sampled, engines, queues and cost over time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from heterarch.documents import replacing
from heterarch.errors import InputError
from heterarch.report.aggregate import Floats, Records, e2e_s, tpot_s, ttft_s
from heterarch.report.schema import Report
from heterarch.report.slo import parse_slo

Draw = Callable[[Any], None]
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Plotted:
    """What is drawn: records, their report, and the busy share of engines by name at the times of its series."""

    calls: Records
    requests: Records
    report: Report
    busy: Mapping[str, Floats]


def plot_run(run: Plotted, path: Path | str) -> None:
    """One picture of everything, or in a folder (there, or a name without a suffix) one file per subject.

    The same run gives the same bytes.

    Raises:
        InputError: matplotlib is not installed, ``path`` has the suffix of no picture, or it cannot be written.
    """
    target = Path(path)
    subjects = _subjects(run)
    check_plot(target)
    if target.suffix and not target.is_dir():
        _save([draw for part in subjects.values() for draw in part], run.report, target)
        return
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError("cannot make the folder", observed=error.strerror, where=str(path)) from None
    for name, part in subjects.items():
        _save(part, run.report, target / f"{name}.png")


def check_plot(path: Path) -> None:
    """Refuse to plot before any work is done for it.

    Raises:
        InputError: matplotlib is not installed, or ``path`` is no folder and has the suffix of no picture.
    """
    _check(path, folder=True)


def check_picture(path: Path) -> None:
    """Likewise for a single picture.

    Raises:
        InputError: matplotlib is not installed, or ``path`` has the suffix of no picture.
    """
    _check(path, folder=False)


def _check(path: Path, *, folder: bool) -> None:
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        raise InputError("plots need matplotlib", fix="pip install 'heterarch[plot]'") from None
    into_folder = folder and (path.is_dir() or not path.suffix)
    if not into_folder and path.suffix[1:].lower() not in FORMATS:
        expected = ", ".join(f".{name}" for name in FORMATS) + (", or a folder" if folder else "")
        raise InputError("no format of a picture", observed=path.suffix or "none", expected=expected, where=str(path))


def _subjects(run: Plotted) -> dict[str, list[Draw]]:
    measured = {"e2e": e2e_s(run.requests), "ttft": ttft_s(run.calls), "tpot": tpot_s(run.calls)}
    cdfs: list[Draw] = [partial(_cdf, name=name, seconds=s, report=run.report) for name, s in measured.items()]
    subjects: dict[str, list[Draw]] = {"latency": [*cdfs, partial(_pools, report=run.report)]}
    if run.report.series is not None and len(run.report.series.time_s) > 1:
        subjects["utilisation"] = [partial(_heat, run=run)]
        subjects["queue"] = [partial(_lines, report=run.report, column="queued", title="waiting calls and tasks")]
        subjects["memory"] = [partial(_lines, report=run.report, column="kv_share", title="share of KV memory in use")]
        subjects["cost"] = [partial(_lines, report=run.report, column="usd", title="spent, USD")]
    return subjects


def _save(parts: Sequence[Draw], report: Report, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = (len(parts) + 1) // 2
    columns = min(2, len(parts))
    figure = Figure(figsize=(11 if columns == 2 else 8, 3.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, draw in zip(axes, parts, strict=False):
        draw(axis)
    for axis in axes[len(parts) :]:
        axis.set_axis_off()
    figure.suptitle(_title(report))
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib in the format of its suffix, whole or not at all.

    It says no date, so that the same figure gives the same bytes.

    Raises:
        InputError: the folder is absent or may not be written, or the disk is full.
    """
    import matplotlib

    kind = path.suffix[1:].lower()
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "heterarch"}), replacing(path) as stream:
        figure.savefig(stream, dpi=110, format=kind, metadata=undated[kind])


def _title(report: Report) -> str:
    text = f"{report.agent} under {report.workload}, {report.kind}: {report.requests.completed:,} requests"
    return f"{text} (PARTIAL: the run was cut short)" if report.partial else text


def _cdf(axis: Any, name: str, seconds: Floats, report: Report) -> None:
    ordered = np.sort(np.maximum(seconds[np.isfinite(seconds)], 1e-6))
    if ordered.size:
        axis.step(ordered, np.arange(1, ordered.size + 1) / ordered.size, where="post")
        axis.set_xscale("log")
        axis.tick_params(axis="x", which="minor", labelsize=6)
    for verdict in report.slo:
        slo = parse_slo(verdict.slo)
        if slo.metric == name:
            colour = "tab:green" if verdict.met else "tab:red"
            axis.axvline(
                slo.target, color=colour, linestyle="--", label=f"{verdict.slo}: {'met' if verdict.met else 'missed'}"
            )
            axis.axhline(max(slo.percentile, 0) / 100, color=colour, linestyle=":", linewidth=0.8)
    axis.set(title=name, xlabel="seconds", ylabel="share", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower right", fontsize=8)


def _pools(axis: Any, report: Report) -> None:
    names = [pool.name for pool in report.pools]
    axis.barh(names, [pool.utilisation for pool in report.pools], color="tab:blue")
    axis.set(title="busy share of each pool", xlim=(0, 1))
    axis.invert_yaxis()


def _heat(axis: Any, run: Plotted) -> None:
    """Engines by time; the colour is the busy share of the time before each sample."""
    times = np.array(run.report.series.time_s if run.report.series else [])
    shares = np.stack(list(run.busy.values()))[:, 1:]
    mesh = axis.pcolormesh(times, np.arange(len(run.busy) + 1), shares, vmin=0, vmax=1, cmap="viridis", rasterized=True)
    axis.set_yticks(np.arange(len(run.busy)) + 0.5, list(run.busy), fontsize=8 if len(run.busy) < 24 else 4)
    axis.invert_yaxis()
    axis.set(title="busy share", xlabel="seconds")
    axis.figure.colorbar(mesh, ax=axis)


def _lines(axis: Any, report: Report, column: str, title: str) -> None:
    series = report.series
    if series is None:
        return
    for pool in series.pools:
        values = getattr(pool, column)
        if any(values):
            axis.plot(series.time_s, values, label=pool.name, linewidth=1.0)
    axis.set(title=title, xlabel="seconds")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", fontsize=8)
