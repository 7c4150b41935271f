"""Plots of a report (extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from heterarch.errors import InputError
from heterarch.report.aggregate import Floats, Records, e2e_s, tpot_s, ttft_s
from heterarch.report.schema import Report
from heterarch.report.slo import parse_slo


def plot_latencies(calls: Records, requests: Records, report: Report, path: Path | str) -> None:
    """Cumulative distributions of e2e, TTFT and TPOT with their SLOs, and the busy share of each pool.

    Raises:
        InputError: matplotlib is not installed, or the suffix of ``path`` is no picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib", fix="pip install 'heterarch[plot]'") from None
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    measured = {"e2e": e2e_s(requests), "ttft": ttft_s(calls), "tpot": tpot_s(calls)}
    for axis, (name, seconds) in zip(axes.flat, measured.items(), strict=False):
        _cdf(axis, name, seconds[np.isfinite(seconds)], report)
    _pools(axes.flat[3], report)
    figure.suptitle(f"{report.agent} under {report.workload}, {report.kind}: {report.requests.completed:,} requests")
    try:
        figure.savefig(path, dpi=110)
    except (ValueError, OSError) as error:
        raise InputError(f"cannot write the plot: {error}", where=str(path)) from None


def _cdf(axis: Any, name: str, seconds: Floats, report: Report) -> None:
    ordered = np.sort(np.maximum(seconds, 1e-6))
    if ordered.size:
        axis.step(ordered, np.arange(1, ordered.size + 1) / ordered.size, where="post")
        axis.set_xscale("log")
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
