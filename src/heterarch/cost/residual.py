"""A residual of log time on radial basis functions: it interpolates where kernels were measured and fades elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LIMIT = 2.5  # most that a residual may change a log time
CONSTANT = 999.0  # the length along an axis on which a function does not depend
FADE = 2.0  # how far beyond what was measured, in units of an axis, a residual fades
SPANNED = 1e-6  # variance below which a point is explained by others
CANDIDATES = 250  # functions of one choice of lengths that are tried


@dataclass(frozen=True)
class Basis:
    """Gaussian functions around ``centres`` [functions, axes], of lengths ``scales`` [axes] or [functions, axes].

    With the weights of a ridge regression this is the subset of regressors of a Gaussian process with mean zero
    (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 8.3.1): away from the centres the
    residual goes to 0, so that the law stands alone.
    """

    centres: Floats
    scales: Floats
    bounds: tuple[Floats, Floats] | None = None  # (lowest, highest) point that was measured, by axis

    def values(self, at: Floats) -> Floats:
        """[points, functions] of points [points, axes]; outside the bounds those of the nearest point, fading to 0."""
        low, high = self.bounds or (-np.inf, np.inf)
        inside = np.clip(at, low, high)
        beyond = (((at - inside) / FADE) ** 2).sum(1)
        middle = self.centres.mean(0)  # small numbers keep the differences exact
        points, centres = inside - middle, self.centres - middle
        squares = points**2 @ self._sharp.T - 2 * points @ (centres * self._sharp).T + (centres**2 * self._sharp).sum(1)
        return np.asarray(np.exp(-0.5 * (np.maximum(squares, 0.0) + beyond[:, None])))

    def within(self, low: Any, high: Any) -> Basis:
        """The same functions for a fit to points from ``low`` to ``high`` [axes]."""
        return replace(self, bounds=(np.asarray(low, np.float64), np.asarray(high, np.float64)))

    def take(self, chosen: Sequence[int]) -> Basis:
        """Some of the functions."""
        return Basis(self.centres[chosen], np.broadcast_to(self.scales, self.centres.shape)[chosen], self.bounds)

    @cached_property
    def _sharp(self) -> Floats:
        return np.broadcast_to(np.asarray(self.scales, np.float64), self.centres.shape) ** -2.0


def spread_centres(at: Floats, scales: Any, count: int) -> Floats:
    """At most ``count`` of the points ``at`` [points, axes], far apart: each the farthest from those before it."""
    points = np.unique(at / np.asarray(scales), axis=0)
    chosen = [int(((points - points.mean(0)) ** 2).sum(1).argmin())]
    nearest = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.asarray(points[chosen] * np.asarray(scales))


def candidates(at: Floats, lengths: Iterable[Sequence[float]], flags: Sequence[int] = ()) -> Basis:
    """Functions of all ``lengths``, each spread over the points ``at`` [points, axes] along the axes it depends on.

    Along the axes ``flags`` they lie where a point is nearer to 1 than to 0, so that a fit to points without the flag
    gives them no weight.
    """
    centres, scales = [], []
    for one in lengths:
        length = np.asarray(one, np.float64)
        local = length < CONSTANT
        flagged = (at[:, [axis for axis in flags if local[axis]]] > 0.5).all(axis=1)
        if flagged.any():
            centres.append(spread_centres(np.where(local, at, 0.0)[flagged], length, CANDIDATES))
            scales.append(np.broadcast_to(length, centres[-1].shape))
    return Basis(np.concatenate(centres), np.concatenate(scales))


def choose(values: Sequence[Floats], targets: Sequence[Floats], count: int) -> list[int]:
    """At most ``count`` functions that together explain several targets best: (values [rows, functions], target) each.

    Simultaneous orthogonal matching pursuit (Tropp, Gilbert and Strauss, Signal Processing 86, 2006): the function
    with the largest sum of explained shares of the targets is taken, then all are made orthogonal to it.
    """
    tasks = [_Pursuit(value, target) for value, target in zip(values, targets, strict=True)]
    chosen: list[int] = []
    for _ in range(min(count, values[0].shape[1])):
        gain = np.sum([task.gain() for task in tasks], axis=0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        for task in tasks:
            task.take(chosen[-1])
    return chosen


class _Pursuit:
    """What the functions taken so far leave of one target, and of the other functions."""

    SHRINK = 0.3  # of the ridge regressions that follow: a function that hardly touches a row gains nothing

    def __init__(self, values: Floats, target: Floats) -> None:
        self.values = values
        self.left = target / max(float(np.linalg.norm(target)), 1e-12)
        self.energy = (values**2).sum(0)
        self.taken = np.zeros((len(target), 0))

    def gain(self) -> Floats:
        return np.asarray((self.values.T @ self.left) ** 2 / (self.energy + self.SHRINK))

    def take(self, function: int) -> None:
        direction = self.values[:, function] - self.taken @ (self.taken.T @ self.values[:, function])
        norm = float(np.linalg.norm(direction))
        if norm < 1e-6:
            return
        direction = direction / norm
        self.taken = np.column_stack([self.taken, direction])
        self.left = self.left - direction * float(direction @ self.left)
        self.energy = np.maximum(self.energy - (self.values.T @ direction) ** 2, 1e-9)


def spanning(covariance: Floats, count: int) -> list[int]:
    """At most ``count`` points that span all: each has the largest variance that those before it leave unexplained.

    Pivoted incomplete Cholesky factorisation of the ``covariance`` [points, points] (Fine and Scheinberg, Journal of
    Machine Learning Research 2, 2001); it stops where nothing is left.
    """
    left, factor = np.diag(covariance).copy(), np.zeros((len(covariance), 0))
    chosen: list[int] = []
    while len(chosen) < count and len(left) and left.max() > SPANNED:
        pivot = int(left.argmax())
        column = (covariance[:, pivot] - factor @ factor[pivot]) / np.sqrt(left[pivot])
        factor, left = np.column_stack([factor, column]), np.maximum(left - column**2, 0.0)
        chosen.append(pivot)
    return chosen


def fit_weights(values: Floats, target: Floats, ridge: float | Floats) -> Floats:
    """Weights [functions] of a ridge regression of ``target`` on ``values``, with Huber weights against outliers.

    ``ridge`` weighs the squares of the weights, or is the matrix [functions, functions] of that quadratic form.
    """
    trust = np.ones(len(target))
    penalty = ridge * np.eye(values.shape[1]) if np.ndim(ridge) == 0 else ridge
    weights: Floats = np.zeros(values.shape[1])
    for _ in range(4):
        weighted = values * trust[:, None]
        normal = weighted.T @ values + penalty
        weights = np.asarray(np.linalg.solve(normal, weighted.T @ target), np.float64)
        error = np.abs(target - values @ weights)
        scale = max(1.5 * float(np.median(error)), 1e-3)
        trust = np.minimum(1.0, 2 * scale / np.maximum(error, 1e-12))
    return weights


def residual(values: Floats, weights: Floats) -> Floats:
    """Change of the log time at points whose basis ``values`` [points, functions] are given."""
    return np.clip(values @ weights, -LIMIT, LIMIT)


def coverage(values: Floats) -> Floats:
    """How well points lie among the centres: 1 at a centre, 0 far from all."""
    return np.asarray(values.max(axis=1)) if values.shape[1] else np.zeros(len(values))
