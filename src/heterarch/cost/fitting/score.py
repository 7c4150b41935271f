"""How a fit is scored: groups of rows held out together, the error on them, and its spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heterarch.cost.document import ErrorPart
from heterarch.cost.kernels.base import Floats

FOLDS = 4


def folds_of(groups: Sequence[object]) -> Floats:
    """The fold, 0 to FOLDS - 1, of each row; rows of one group are in one fold."""
    names, index = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    order = np.random.default_rng(7).permutation(len(names))
    return np.asarray(order[index] % FOLDS)


def error_of(log_error: Floats) -> ErrorPart:
    """The absolute relative error behind log(measured / predicted) of each row."""
    share = np.abs(np.expm1(-log_error))
    return ErrorPart(rows=len(share), median=short(float(np.median(share))), mean=short(float(share.mean())))


def spread_of(log_error: Floats) -> float:
    """A robust sd: half the range of the central 68 %, at least 0.01."""
    low, high = np.quantile(log_error, [0.16, 0.84])
    return short(max(float(high - low) / 2, 0.01))


def short(value: float) -> float:
    """To 4 figures."""
    return float(f"{value:.4g}")
