"""Moves a fit that exists towards a few new measurements: near them it follows them, elsewhere it stays."""

from __future__ import annotations

import numpy as np

from heterarch.cost.document import Fit
from heterarch.cost.fitting.fit import RIDGES, Measurements
from heterarch.cost.fitting.score import FOLDS, error_of, folds_of, spread_of
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
    fold = folds_of(data.groups)
    held = {ridge: np.empty(len(left)) for ridge in RIDGES}
    for ridge in RIDGES:
        for index in range(FOLDS):
            out = fold == index
            change = fit_weights(values[~out], target[~out], ridge)
            held[ridge][out] = left[out] - residual(values[out], kernel.weights + change)
    ridge = min(RIDGES, key=lambda value: float(np.abs(held[value]).mean()))
    weights = kernel.weights + fit_weights(values, target, ridge)
    return Fit(
        family=kernel.family.name,
        device=device,
        dtype=kernel.dtype,
        engine=engine,
        engine_version=engine_version,
        **kernel.law._asdict(),
        weights=weights.round(SHORT).tolist(),
        rows=len(left),
        fitted=error_of(left - residual(values, weights)),
        held_out=error_of(held[ridge]),
        sigma=spread_of(held[ridge]),
        law_sigma=kernel.law_sigma,
        domain={
            axis: (round(float(least), 3), round(float(most), 3))
            for axis, least, most in zip(kernel.family.axes, low, high, strict=True)
        },
    )
