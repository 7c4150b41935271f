"""Moves a fit that exists towards a few new measurements: near them it follows them, elsewhere it stays."""

from __future__ import annotations

import numpy as np

from heterarch.cost.document import ErrorPart, Fit
from heterarch.cost.fitting.fit import FOLDS, RIDGES, Measurements
from heterarch.cost.kernels.base import Floats
from heterarch.cost.library import Kernel
from heterarch.cost.residual import fit_weights, residual

SHORT = 4  # figures that are kept


def adjusted(kernel: Kernel, data: Measurements, *, device: str, engine: str, engine_version: str) -> Fit:
    """The fit behind ``kernel`` with weights changed by a ridge regression of what it leaves over on ``data``.

    The law stays, and a weight whose centre lies far from all new shapes hardly changes. The ridge is the one that
    predicts held-out groups best. ``kernel`` must have a residual.
    """
    assert kernel.basis is not None
    work = kernel.family.work(data.shapes, kernel.dtype)
    low, high = work.at.min(0), work.at.max(0)
    if kernel.basis.bounds is not None:
        low, high = np.minimum(low, kernel.basis.bounds[0]), np.maximum(high, kernel.basis.bounds[1])
    values = kernel.basis.within(low, high).values(work.at)
    log_law = np.log(kernel.law.seconds(work, kernel.peak, kernel.bandwidth))
    left = np.log(data.seconds) - log_law
    target = left - values @ kernel.weights
    fold = _folds(data)
    held = {ridge: np.empty(len(left)) for ridge in RIDGES}
    for ridge in RIDGES:
        for index in range(FOLDS):
            out = fold == index
            change = fit_weights(values[~out], target[~out], ridge)
            held[ridge][out] = left[out] - residual(values[out], kernel.weights + change)
    ridge = min(RIDGES, key=lambda value: float(np.abs(held[value]).mean()))
    weights = kernel.weights + fit_weights(values, target, ridge)
    spread = np.subtract(*np.quantile(held[ridge], [0.84, 0.16]))
    return Fit(
        family=kernel.family.name,
        device=device,
        dtype=kernel.dtype,
        engine=engine,
        engine_version=engine_version,
        **kernel.law._asdict(),
        weights=weights.round(SHORT).tolist(),
        rows=len(left),
        fitted=_error(left - residual(values, weights)),
        held_out=_error(held[ridge]),
        sigma=max(round(float(spread) / 2, 4), 0.01),
        law_sigma=kernel.law_sigma,
        domain={
            axis: (round(float(least), 3), round(float(most), 3))
            for axis, least, most in zip(kernel.family.axes, low, high, strict=True)
        },
    )


def _folds(data: Measurements) -> Floats:
    _, index = np.unique(np.array([str(group) for group in data.groups]), return_inverse=True)
    return np.asarray(np.random.default_rng(7).permutation(index.max() + 1)[index] % FOLDS)


def _error(log_error: Floats) -> ErrorPart:
    share = np.abs(np.expm1(-log_error))
    return ErrorPart(rows=len(share), median=round(float(np.median(share)), 5), mean=round(float(share.mean()), 5))
