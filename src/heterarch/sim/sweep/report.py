"""What a sweep found: per cell the interval of every metric, and of its difference from the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from heterarch.errors import UnknownNameError
from heterarch.sim.sweep.metrics import UNITS
from heterarch.sim.sweep.results import Results
from heterarch.sim.sweep.runs import Cell, Run, Settings
from heterarch.sim.sweep.statistics import FEW_SEEDS, Interval, interval, paired
from heterarch.sim.sweep.sweep import Sweep

_ALL_DONE = 0.999


class CellReport(BaseModel):
    """One cell: ``metrics`` over its seeds, and ``differences``, cell minus baseline under the same load, in pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cell: Cell
    label: str
    baseline: bool
    done: int
    failed: int
    missing: int
    metrics: dict[str, Interval]
    differences: dict[str, Interval]


class SweepReport(BaseModel):
    """All cells, in the order of the sweep; ``failures`` by reason; ``notes`` on how far to trust the numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Settings
    sessions_per_s: float
    seeds: int
    confidence: float
    baseline: str
    cells: list[CellReport]
    failures: dict[str, int]
    notes: list[str]


def labels(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """``(plan, router)`` in a table: the plan, the router, or both, whichever there are several of."""
    pairs = list(dict.fromkeys((cell.plan, cell.router) for cell in cells))
    plans, routers = (len(set(names)) for names in zip(*pairs, strict=True))
    if routers == 1:
        return {pair: pair[0] for pair in pairs}
    return {pair: "/".join(pair) if plans > 1 else pair[1] for pair in pairs}


def sweep_report(sweep: Sweep, results: Results, confidence: float = 0.95) -> SweepReport:
    """The report of what has been run so far.

    Raises:
        UnknownNameError: no cell is called as the baseline is.
    """
    cells = list(sweep.works)
    names = labels(cells)
    baseline = baseline_of(names, sweep.document.baseline)
    runs = {cell: [results.runs.get(work.key) for work in works] for cell, works in sweep.works.items()}
    values = {cell: _values(found) for cell, found in runs.items()}
    against = {cell.load: cell for cell in cells if names[cell.plan, cell.router] == baseline}
    made = [
        CellReport(
            cell=cell,
            label=names[cell.plan, cell.router],
            baseline=cell is against[cell.load],
            done=sum(run is not None and run.status == "done" for run in runs[cell]),
            failed=sum(run is not None and run.status == "failed" for run in runs[cell]),
            missing=runs[cell].count(None),
            metrics=_known((name, interval(values[cell][name], confidence)) for name in UNITS),
            differences={}
            if cell is against[cell.load]
            else _known(
                (name, paired(values[cell][name], values[against[cell.load]][name], confidence)) for name in UNITS
            ),
        )
        for cell in cells
    ]
    return SweepReport(
        settings=sweep.settings,
        sessions_per_s=sweep.workload.arrivals.rate_per_s,
        seeds=sweep.document.seeds,
        confidence=confidence,
        baseline=baseline,
        cells=made,
        failures=_failures(runs),
        notes=list(_notes(sweep, made, runs, against)),
    )


def baseline_of(names: Mapping[tuple[str, str], str], asked: str) -> str:
    """The label of the baseline: the first, or the first that ``asked`` (plan, router or ``plan/router``) names.

    Raises:
        UnknownNameError: none is named so.
    """
    for (plan, router), label in names.items():
        if asked in ("", plan, router, f"{plan}/{router}"):
            return label
    raise UnknownNameError("baseline", asked, names.values())


def _values(runs: Sequence[Run | None]) -> dict[str, list[float | None]]:
    """Per metric one value per seed; None where the run is missing or failed, or had nothing to measure."""
    return {name: [run.metrics.get(name) if run else None for run in runs] for name in UNITS}


def _known(intervals: Iterator[tuple[str, Interval | None]]) -> dict[str, Interval]:
    return {name: found for name, found in intervals if found is not None}


def _failures(runs: Mapping[Cell, Sequence[Run | None]]) -> dict[str, int]:
    reasons = [run.reason for found in runs.values() for run in found if run and run.status == "failed"]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _notes(
    sweep: Sweep, cells: Sequence[CellReport], runs: Mapping[Cell, Sequence[Run | None]], against: Mapping[float, Cell]
) -> Iterator[str]:
    if sweep.document.seeds < FEW_SEEDS:
        yield f"fewer than {FEW_SEEDS} seeds: intervals are wide and rest on the shape of the noise; give more --seeds"
    start = "sessions under way and empty caches" if sweep.document.steady else "an empty system"
    yield f"runs start with {start}, and every request counts: of short runs, hit rates are low and TTFT is high"
    missing = sum(cell.missing for cell in cells)
    if missing:
        yield f"{missing} runs are missing: the sweep was cut short; run it again to go on"
    lost = [cell for cell in cells if "completed" in cell.metrics and cell.metrics["completed"].mean < _ALL_DONE]
    for cell in lost:
        share = 1 - cell.metrics["completed"].mean
        yield (
            f"{cell.label} at load {cell.cell.load:g}: {share:.1%} of the requests did not complete; "
            "latencies are over those that did"
        )
    if any(_drew_other_work(found, runs[against[cell.load]]) for cell, found in runs.items()):
        yield "a seed drew other requests for one cell than for the baseline: pairs vary more than they need to"


def _drew_other_work(runs: Sequence[Run | None], baseline: Sequence[Run | None]) -> bool:
    pairs = [(a, b) for a, b in zip(runs, baseline, strict=True) if a and b and a.status == b.status == "done"]
    return any((a.requests, a.calls) != (b.requests, b.calls) for a, b in pairs)
