"""Plot of a sweep (extra ``plot``): metrics against load, with the intervals as bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heterarch.report.plot import check_picture, save_figure
from heterarch.sim.sweep.metrics import SHOWN, UNITS
from heterarch.sim.sweep.report import SweepReport


def plot_sweep(report: SweepReport, path: Path, metrics: Sequence[str] = SHOWN) -> None:
    """One panel per metric, one line per plan and router.

    Raises:
        InputError: matplotlib is not installed, ``path`` has the suffix of no picture, or it cannot be written.
    """
    check_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = min(3, len(metrics))
    high = math.ceil(len(metrics) / wide)
    figure = Figure(figsize=(4 * wide, 3.2 * high + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(high, wide, squeeze=False).flat
    for axis, name in zip(axes, metrics, strict=False):
        _panel(axis, report, name)
    for axis in list(axes)[len(metrics) :]:
        axis.set_axis_off()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8)
    chosen = report.settings
    figure.suptitle(f"{chosen.agent} under {chosen.workload}: means and {report.confidence:.0%} intervals")
    save_figure(figure, path)


def _panel(axis: Any, report: SweepReport, metric: str) -> None:
    for label in dict.fromkeys(cell.label for cell in report.cells):
        cells = [cell for cell in report.cells if cell.label == label and metric in cell.metrics]
        cells.sort(key=lambda cell: cell.cell.load)
        loads = [cell.cell.load for cell in cells]
        means = [cell.metrics[metric].mean for cell in cells]
        halves = [cell.metrics[metric].half or 0.0 for cell in cells]
        (line,) = axis.plot(loads, means, marker="o", markersize=3, label=label)
        low = [mean - half for mean, half in zip(means, halves, strict=True)]
        high = [mean + half for mean, half in zip(means, halves, strict=True)]
        axis.fill_between(loads, low, high, color=line.get_color(), alpha=0.2)
    axis.set(title=metric, xlabel="load", ylabel=UNITS[metric])
    axis.grid(alpha=0.3)
