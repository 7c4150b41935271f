"""A sweep for the reader: tables that fit the terminal, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from heterarch.sim.sweep.metrics import SHOWN, UNITS, Unit
from heterarch.sim.sweep.report import CellReport, SweepReport
from heterarch.sim.sweep.statistics import Interval
from heterarch.tables import Grid
from heterarch.units import format_number

_SECONDS = ((0.0, 1.0, " s"), (1e-3, 1e6, " us"), (1.0, 1e3, " ms"), (math.inf, 1.0, " s"))  # up to, factor, unit
_COLUMNS = ("plan", "router", "load", "seeds", "metric", "unit", "mean", "low", "high",
            "difference", "difference_low", "difference_high", "significant")  # fmt: skip


def render_sweep(report: SweepReport, metrics: Sequence[str] = SHOWN) -> RenderableType:
    """Per load the means with their intervals, then the differences from the baseline; failures and notes."""
    chosen = report.settings
    parts: list[RenderableType] = [
        Text(
            f"{chosen.agent} under {chosen.workload}, {chosen.requests:,} requests a run, {report.seeds} seeds; "
            f"means and {report.confidence:.0%} intervals."
        )
    ]
    for load in dict.fromkeys(cell.cell.load for cell in report.cells):
        cells = [cell for cell in report.cells if cell.cell.load == load]
        rate = format_number(load * report.sessions_per_s, 3)
        parts.append(_means(f"Load {load:g}: {rate} sessions/s", cells, metrics))
        if len(cells) > 1:
            parts.append(_differences(f"Load {load:g}: difference from {report.baseline}, in pairs", cells, metrics))
    if any(cell.differences for cell in report.cells):
        parts.append(Text(f"* 0 lies outside the {report.confidence:.0%} interval, taken by itself.", style="dim"))
    parts += [Text(f"{_runs(count)} failed: {reason}", style="red") for reason, count in report.failures.items()]
    parts += [Text(f"Note: {note}", style="dim") for note in report.notes]
    return Group(*parts)


def plus_minus(found: Interval | None, unit: Unit, sign: str = "") -> str:
    """``123 ±4 ms``; ``sign`` is ``+`` for differences."""
    if found is None:
        return "-"
    factor, suffix = {"share": (100.0, " %"), "s": _scale_s(found)}.get(unit, (1.0, ""))
    mean, half = found.mean * factor, (found.half or 0.0) * factor
    places = min(_places(mean, 4), _places(half, 2)) if mean and half else _places(mean or half, 4)
    shown = f"{sign if mean > 0 else ''}{mean:,.{places}f}"
    return shown + (f" ±{half:,.{places}f}" if found.half is not None else "") + suffix


def sweep_csv(report: SweepReport) -> str:
    """One line per cell and metric, in seconds, USD, per second and shares."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for cell in report.cells:
        for name, found in cell.metrics.items():
            away = cell.differences.get(name)
            head = (cell.cell.plan, cell.cell.router, cell.cell.load, found.n, name, UNITS[name])
            writer.writerow((*head, *_bounds(found), *_bounds(away), away.significant if away else ""))
    return stream.getvalue()


def _means(title: str, cells: Sequence[CellReport], metrics: Sequence[str]) -> Grid:
    rows = [(cell.label, *(plus_minus(cell.metrics.get(name), UNITS[name]) for name in metrics)) for cell in cells]
    return _grid(title, metrics, rows)


def _differences(title: str, cells: Sequence[CellReport], metrics: Sequence[str]) -> Grid:
    rows = [
        (cell.label, *(_marked(cell.differences.get(name), UNITS[name]) for name in metrics))
        for cell in cells
        if not cell.baseline
    ]
    return _grid(title, metrics, rows)


def _grid(title: str, metrics: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Grid:
    names = ["", *(_heading(name) for name in metrics)]
    return Grid(title, names, [False, *(True for _ in metrics)], list(rows))


def _heading(metric: str) -> str:
    return f"{metric}, {UNITS[metric]}" if UNITS[metric] in ("USD", "1/s") else metric


def _marked(found: Interval | None, unit: Unit) -> str:
    return plus_minus(found, unit, "+") + (" *" if found is not None and found.significant else "  ")


def _scale_s(found: Interval) -> tuple[float, str]:
    size = max(abs(found.mean), found.half or 0.0)
    return next((factor, unit) for limit, factor, unit in _SECONDS if size <= limit)


def _places(value: float, digits: int) -> int:
    """Decimal places that show ``digits`` figures."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def _bounds(found: Interval | None) -> Iterator[float | str]:
    if found is None:
        return iter(("", "", ""))
    if found.half is None:
        return iter((found.mean, "", ""))
    return iter((found.mean, found.mean - found.half, found.mean + found.half))


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"
