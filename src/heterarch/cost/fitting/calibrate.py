"""From measured kernels to a calibration: screened, fitted, scored on held-out shapes, refused if worse than before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from heterarch.catalog.device import Device
from heterarch.cost.config import EngineConfig
from heterarch.cost.document import Calibration, Centres, Fit, MeasurementFile
from heterarch.cost.engine import step_cost
from heterarch.cost.fitting.adjust import adjusted
from heterarch.cost.fitting.engine_fit import EngineFit, fit_engine
from heterarch.cost.fitting.fit import LEAST_ROWS, Measurements, Table, fit_family, shared_basis
from heterarch.cost.fitting.score import FOLDS
from heterarch.cost.kernels.base import Family
from heterarch.cost.kernels.collective import COLLECTIVES
from heterarch.cost.kernels.families import FAMILIES
from heterarch.cost.kernels.formats import FORMATS
from heterarch.cost.library import Kernel, Library
from heterarch.cost.measured.logs import Log
from heterarch.cost.measured.measurements import KernelTable, pooled
from heterarch.cost.measured.screening import screen
from heterarch.cost.residual import Basis
from heterarch.errors import HeterarchError, InputError, RefusedFitError, UnknownNameError

#: families whose bytes go over a link
LINKED = frozenset(family.name for family in COLLECTIVES)
#: functions of a fit beside another of the same kernels, so that both have at most 200 numbers
SECOND = 48
#: receives (tables done, tables in all, what is next)
OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of the measurements of one family on one device in one format, as one engine runs it.

    ``held_out`` and ``prior`` are mean absolute relative errors, as shares: of the fit on shapes it has not seen, and
    of the calibration that was in use before on the same rows (None: it has no prediction). ``why`` a fit is not used.
    """

    family: str
    device: str
    dtype: str
    engine: str
    rows: int
    held_out: float | None = None
    prior: float | None = None
    used: bool = False
    why: str = ""

    @property
    def name(self) -> str:
        """For messages: ``gemm on h100-sxm in bf16 (vllm)``."""
        return f"{self.family} on {self.device} in {self.dtype}" + (f" ({self.engine})" if self.engine else "")


@dataclass(frozen=True)
class EngineLog:
    """Iterations of an engine, and what ran them."""

    file: str
    log: Log
    config: EngineConfig
    version: str = ""


@dataclass(frozen=True)
class CalibrationResult:
    """The document, what became of every table, and what was left out of the files."""

    calibration: Calibration
    outcomes: list[Outcome]
    notes: list[str]


@dataclass(frozen=True)
class _Case:
    """A screened table with what its fit needs."""

    table: KernelTable
    family: Family
    peak: float
    bandwidth: float


@dataclass
class _Work:
    """What gathers while tables are screened and fitted."""

    notes: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    cases: list[_Case] = field(default_factory=list)
    errors: list[HeterarchError] = field(default_factory=list)


def calibrate(
    tables: Iterable[KernelTable],
    devices: Mapping[str, Device],
    *,
    prior: Library | None,
    name: str,
    date: str,
    engines: Sequence[EngineLog] = (),
    progress: OnProgress | None = None,
) -> CalibrationResult:
    """Fit every table and log, and keep the fits that predict held-out shapes better than ``prior`` does.

    The radial functions are those of the prior, so that documents can be laid over each other; without one those that
    explain the measured shapes best. A table that cannot be used is an :class:`Outcome` with the reason.

    Args:
        tables: as :func:`heterarch.cost.measured.measurements.read_kernels` gives them; those of one key are pooled.
        devices: the catalogue's, by id.
        prior: what predicts today; None keeps every fit.
        name: of the document.
        date: ISO, of the measurements.
        engines: logs of whole engines, each of which becomes an :class:`EngineFit`.
        progress: called before each fit.

    Raises:
        InputError: no table and no log can be used; the reason of the first one.
    """
    work, given = _Work(), list(tables)
    for table in given:
        _screen(table, devices, work)
    work.cases = _pooled(work.cases)
    engine_fits = [fit for log in engines if (fit := _fit_log(log, work)) is not None]
    if not work.cases and not engine_fits and work.errors:
        raise work.errors[0]
    bases = _bases(work.cases, prior)
    fits: list[Fit] = []
    for number, case in enumerate(work.cases):
        if progress:
            progress(number, len(work.cases), case.table.name)
        basis = bases[case.family.name]
        if _is_second(case, work.cases):
            basis = basis.take(range(min(SECOND, len(basis.centres))))
        found, outcome = _fit(case, basis, prior, devices)
        work.outcomes.append(outcome)
        fits += [found] if found is not None and outcome.used else []
    calibration = Calibration(
        name=name,
        date=date,
        files=_files(
            [
                *((table.file, len(table)) for table in given),
                *((e.file, len(e.log.iterations.seconds)) for e in engines),
            ]
        ),
        families={family: _centres(FAMILIES[family], bases[family]) for family in sorted({fit.family for fit in fits})},
        fits=fits,
        engines=engine_fits,
    )
    return CalibrationResult(calibration, work.outcomes, work.notes)


def _is_second(case: _Case, cases: Sequence[_Case]) -> bool:
    """Whether another engine has more rows of the same compute kernel on the device in the format."""
    alike = [other for other in cases if other.table.key[:3] == case.table.key[:3]]
    return case.family.name not in LINKED and len(case.table) < max(len(other.table) for other in alike)


def rates(family: str, device: Device, dtype: str) -> tuple[float, float]:
    """(FLOP/s, bytes/s) of the data sheet that a family's law divides by: of collectives the link's rate, else of the
    memory.

    Raises:
        UnknownNameError: no such format.
        InputError: the catalogue lacks the number.
    """
    if dtype not in FORMATS:
        raise UnknownNameError("kernel format", dtype, FORMATS)
    link = device.scaleup_bytes_per_s or device.host_bytes_per_s
    rate = link if family in LINKED else device.mem_bytes_per_s
    if not rate:
        what = "rate of its links" if family in LINKED else "memory bandwidth"
        raise InputError(f"the catalogue has no {what} for {device.id}", fix="add the number in an overlay")
    known = FAMILIES[family]
    return known.peak or device.peak(known.compute or FORMATS[dtype].compute), rate


def _screen(table: KernelTable, devices: Mapping[str, Device], work: _Work) -> None:
    """Add the table to the cases, or the reason against it to the outcomes."""
    try:
        if table.family not in FAMILIES:
            raise UnknownNameError("kernel family", table.family, FAMILIES, where=table.file)
        if table.device not in devices:
            fix = "add a row for it in an overlay of the catalogue (--overlay)"
            raise UnknownNameError("device", table.device, devices, where=table.file, fix=fix)
        peak, bandwidth = rates(table.family, devices[table.device], table.dtype)
        screened = screen(table, FAMILIES[table.family], peak, bandwidth)
    except HeterarchError as error:
        work.errors.append(error)
        work.outcomes.append(Outcome(*table.key, rows=len(table), why=str(error)))
        return
    work.notes += screened.notes
    work.cases.append(_Case(screened.table, FAMILIES[table.family], peak, bandwidth))


def _fit_log(log: EngineLog, work: _Work) -> EngineFit | None:
    """The fit of an engine; the reason against it goes to the outcomes."""
    config, rows = log.config, len(log.log.iterations.seconds)
    work.notes += log.log.notes
    outcome = Outcome("engine", config.device.id, config.dtype, config.engine, rows)
    try:
        fit = fit_engine(
            step_cost(config), log.log.iterations, device=config.device.id, dtype=config.dtype, engine=config.engine,
            engine_version=log.version, model=config.model.id,
        )  # fmt: skip
    except HeterarchError as error:
        work.errors += [] if isinstance(error, RefusedFitError) else [error]
        work.outcomes.append(_with(outcome, why=str(error)))
        return None
    work.outcomes.append(_with(outcome, held_out=fit.held_out, prior=fit.prior, used=True))
    return fit.model_copy(update={"split": config.name})


def _pooled(cases: list[_Case]) -> list[_Case]:
    """One case per key, of every file's rows."""
    by_key = {case.table.key: case for case in cases}
    return [
        _Case(table, by_key[table.key].family, by_key[table.key].peak, by_key[table.key].bandwidth)
        for table in pooled(case.table for case in cases)
    ]


def _bases(cases: Sequence[_Case], prior: Library | None) -> dict[str, Basis]:
    """Family -> radial functions: the prior's where it has the family, else those that explain all tables best."""
    bases: dict[str, Basis] = {}
    for calibration in reversed(prior.calibrations if prior else ()):
        alike = {name for name, part in calibration.families.items() if part.axes == list(FAMILIES[name].axes)}
        bases |= {name: calibration.bases[name] for name in alike}
    for name in {case.family.name for case in cases} - {*bases}:
        tables = [Table(c.table.dtype, _data(c.table), c.peak, c.bandwidth) for c in cases if c.family.name == name]
        bases[name] = shared_basis(FAMILIES[name], tables)
    return bases


def _fit(case: _Case, basis: Basis, prior: Library | None, devices: Mapping[str, Device]) -> tuple[Fit | None, Outcome]:
    table = case.table
    kernel = _prior_kernel(case, prior, devices)
    before = None if kernel is None else float(np.abs(kernel.seconds(table.shapes) / table.seconds - 1).mean())
    outcome = Outcome(*table.key, rows=len(table), prior=before)
    if len(table) < LEAST_ROWS:
        why = f"{len(table)} usable rows are too few for a fit (at least {LEAST_ROWS}): the prior stays"
        return None, _with(outcome, why=why)
    data = _data(table)
    if kernel is not None and kernel.relation == "same" and len(kernel.weights) > len(table):
        fit = adjusted(kernel, data, device=table.device, engine=table.engine, engine_version=table.engine_version)
    else:
        fit = fit_family(
            case.family, table.dtype, data, peak=case.peak, bandwidth=case.bandwidth, basis=basis,
            device=table.device, engine=table.engine, engine_version=table.engine_version,
        )  # fmt: skip
    outcome = _with(outcome, held_out=fit.held_out.mean)
    if before is not None and fit.held_out.mean >= before:
        why = f"held-out error {fit.held_out.mean:.1%} is not below the prior's {before:.1%}: the prior stays"
        return fit, _with(outcome, why=why)
    return fit, _with(outcome, used=True)


def _data(table: KernelTable) -> Measurements:
    """The rows to fit; of too few groups to hold some out, each row is one."""
    few = len({*table.groups}) < FOLDS
    return Measurements(table.shapes, table.seconds, list(range(len(table))) if few else table.groups)


def _with(outcome: Outcome, **fields: float | str | bool) -> Outcome:
    return Outcome(**{**vars(outcome), **fields})


def _prior_kernel(case: _Case, prior: Library | None, devices: Mapping[str, Device]) -> Kernel | None:
    """What predicts the rows today; None where nothing can."""
    if prior is None:
        return None
    table = case.table
    link = case.bandwidth if case.family.name in LINKED else 0.0
    try:
        return prior.kernel(table.family, devices[table.device], table.dtype, table.engine, link)
    except InputError:
        return None


def _centres(family: Family, basis: Basis) -> Centres:
    scales = np.broadcast_to(basis.scales, basis.centres.shape)
    return Centres(axes=list(family.axes), scales=scales.tolist(), centres=basis.centres.tolist())


def _files(parts: Iterable[tuple[str, int]]) -> list[MeasurementFile]:
    rows: dict[str, int] = {}
    for file, count in parts:
        rows[file] = rows.get(file, 0) + count
    return [
        MeasurementFile(file=Path(file).name, sha256=hashlib.sha256(Path(file).read_bytes()).hexdigest(), rows=count)
        for file, count in sorted(rows.items())
    ]
