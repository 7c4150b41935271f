"""Fits one kernel family on one device to measurements: the law first, then the residual, scored on held-out shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from heterarch.cost.document import Fit
from heterarch.cost.fitting.score import FOLDS, error_of, folds_of, short, spread_of
from heterarch.cost.kernels.base import Family, Floats, Law, Shapes, Work
from heterarch.cost.residual import LIMIT, Basis, candidates, choose, fit_weights, residual

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
INDIFFERENT = 1.03  # of held-out errors this close, the one of the smoothest residual is taken
LEAST_ROWS = 12  # fewer keep the prior
LAUNCHED_S = 15e-6  # no single kernel takes that long on a device, however little it does: the host launched it
IDLE = 5.0  # times its roofline, a kernel has hardly any work
PRIOR = 0.1  # weight of the start values: what rows do not tell stays there
PURSUIT_ROWS = 1500  # of each table, to choose the functions of the residual
#: (lowest, start, highest) of the shares and times of a law
BOUNDS = {
    "compute": (0.02, 0.7, 1.0),
    "memory": (0.02, 0.75, 1.0),
    "overhead_s": (2e-7, 5e-6, 5e-4),
    "sharpness": (1.0, 2.0, 8.0),
    "host_s": (1e-6, 2e-5, 2e-3),
}


@dataclass(frozen=True)
class Measurements:
    """Rows of one family, device, format and engine: shape columns, seconds, and the group of alike shapes of each."""

    shapes: Shapes
    seconds: Floats
    groups: Sequence[object]  # rows of one group are held out together


def fit_law(family: Family, dtype: str, data: Measurements, peak: float, bandwidth: float) -> Law:
    """The law with the least soft-L1 error of log time."""
    return _law(family, family.work(data.shapes, dtype), np.log(data.seconds), peak, bandwidth)


class Table(NamedTuple):
    """Measurements in the kernel format ``dtype``, with the data-sheet peaks of their device."""

    dtype: str
    data: Measurements
    peak: float
    bandwidth: float


def shared_basis(family: Family, tables: Sequence[Table]) -> Basis:
    """The ``family.centres`` functions that together explain best what laws leave of the rows of all ``tables``."""
    draw = np.random.default_rng(7)
    points, targets = [], []
    for table in tables:
        work = family.work(table.data.shapes, table.dtype)
        law = fit_law(family, table.dtype, table.data, table.peak, table.bandwidth)
        rest = np.log(table.data.seconds / law.seconds(work, table.peak, table.bandwidth))
        rows = draw.permutation(len(rest))[:PURSUIT_ROWS]
        points.append(work.at[rows])
        targets.append(np.clip(rest[rows], -LIMIT, LIMIT))
    flags = [family.axes.index(name) for name in family.flags]
    offered = candidates(np.concatenate(points), (family.scales, *family.lengths), flags)
    offered = replace(offered, centres=offered.centres.round(3))
    return offered.take(choose([offered.values(at) for at in points], targets, family.centres))


def fit_family(
    family: Family,
    dtype: str,
    data: Measurements,
    *,
    device: str,
    engine: str,
    engine_version: str,
    peak: float,
    bandwidth: float,
    basis: Basis,
) -> Fit:
    """Law and residual of one family, with the error on the rows and on shapes that were held out.

    Groups of shapes are split into folds; the largest ridge that predicts held-out folds about best is used.
    """
    work = family.work(data.shapes, dtype)
    log_s = np.log(data.seconds)
    fold = folds_of(data.groups)
    values = basis.values(work.at)
    held: dict[float, Floats] = {ridge: np.empty(len(log_s)) for ridge in RIDGES}
    held_law = np.empty(len(log_s))
    for index in range(FOLDS):
        out, rest = fold == index, fold != index
        law = _law(family, _rows(work, rest), log_s[rest], peak, bandwidth)
        base = np.log(law.seconds(work, peak, bandwidth))
        held_law[out] = log_s[out] - base[out]
        for ridge in RIDGES:
            weights = fit_weights(values[rest], (log_s - base)[rest], ridge)
            held[ridge][out] = log_s[out] - base[out] - residual(values[out], weights)
    ridge = _smoothest({value: float(np.abs(error).mean()) for value, error in held.items()})
    law = _law(family, work, log_s, peak, bandwidth)
    base = np.log(law.seconds(work, peak, bandwidth))
    weights = fit_weights(values, log_s - base, ridge)
    used = work.at
    return Fit(
        family=family.name,
        device=device,
        dtype=dtype,
        engine=engine,
        engine_version=engine_version,
        compute=short(law.compute),
        memory=short(law.memory),
        overhead_s=short(law.overhead_s),
        sharpness=short(law.sharpness),
        host_s=short(law.host_s),
        weights=[round(float(weight), 4) for weight in weights],
        rows=len(log_s),
        fitted=error_of(log_s - base - residual(values, weights)),
        held_out=error_of(held[ridge]),
        sigma=spread_of(held[ridge]),
        law_sigma=spread_of(held_law),
        domain={axis: (round(float(low), 3), round(float(high), 3))
                for axis, low, high in zip(family.axes, used.min(0), used.max(0), strict=True)},
    )  # fmt: skip


def _smoothest(errors: Mapping[float, float]) -> float:
    """The largest ridge whose error is about the least."""
    return max(ridge for ridge, error in errors.items() if error <= INDIFFERENT * min(errors.values()))


def _law(family: Family, work: Work, log_s: Floats, peak: float, bandwidth: float) -> Law:
    """The law of the rows; with a host where their shortest times are those of launches."""
    from scipy.optimize import least_squares

    floor, launched = float(np.quantile(log_s, 0.02)), family.single and _launched(work, np.exp(log_s), peak, bandwidth)
    low, start, high = (np.log([bound[i] for bound in BOUNDS.values()])[: 5 if launched else 4] for i in range(3))
    if launched:
        high[2] = np.log(LAUNCHED_S)
    start[-1 if launched else 2] = np.clip(floor, low[2] + 1e-6, np.log(BOUNDS["overhead_s"][2]) - 1e-6)

    def error(parameters: Floats) -> Floats:
        misses = np.log(Law(*np.exp(parameters)).seconds(work, peak, bandwidth)) - log_s
        return np.concatenate([misses, PRIOR * (parameters - start)])

    found = least_squares(error, start, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    return Law(*(float(value) for value in np.exp(found.x)))


def _launched(work: Work, seconds: Floats, peak: float, bandwidth: float) -> bool:
    """Whether even kernels with hardly any work take longer than :data:`LAUNCHED_S`."""
    roofline_s = np.maximum(work.flops / peak if peak else 0.0, work.bytes / bandwidth)
    idle = seconds[seconds > IDLE * roofline_s]
    return len(idle) >= LEAST_ROWS and bool(np.quantile(idle, 0.02) > LAUNCHED_S)


def _rows(work: Work, rows: Floats) -> Work:
    return Work(work.flops[rows], work.bytes[rows], work.at[rows])
