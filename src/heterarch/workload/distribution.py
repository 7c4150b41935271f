"""One form for every statistic: a quantile function with a source.

Tokens in and out, trip counts, widths, tool seconds and think times are all distributions; a constant is a
distribution with one point. The mean always follows from the points, so what is planned with is what is sampled.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heterarch.errors import InputError, Where
from heterarch.units import Grade, Source

DECLARED = Source(Grade.DECLARED, "the author")
_LOGNORMAL_PROBABILITIES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_FIT_PROBABILITIES = (
    0, 0.05, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Distribution:
    """A quantile function: ``values[i]`` at probability ``probabilities[i]``, linear in between, flat outside.

    Raises:
        InputError: no points, probabilities outside 0..1 or not ascending, values negative, not finite or falling.
    """

    probabilities: tuple[float, ...]
    values: tuple[float, ...]
    source: Source = DECLARED

    def __post_init__(self) -> None:
        p, v = self.probabilities, self.values
        if not p or len(p) != len(v):
            raise InputError(
                "a distribution needs as many probabilities as values, at least one",
                observed=f"{len(p)} probabilities, {len(v)} values",
                where=_caller(),
            )
        if any(not 0 <= x <= 1 for x in p) or any(b <= a for a, b in itertools.pairwise(p)):
            raise InputError("probabilities must ascend within 0..1", observed=list(p), where=_caller())
        if any(not math.isfinite(x) or x < 0 for x in v) or any(b < a for a, b in itertools.pairwise(v)):
            what = "a statistic must be finite and not negative"
            if len(v) > 1:
                what = "quantiles must be finite, not negative, and must not fall"
            points = ", ".join(f"p{100 * a:g}={b:g}" for a, b in zip(p, v, strict=True)) if len(v) > 1 else f"{v[0]:g}"
            raise InputError(what, observed=points, where=_caller())

    @property
    def mean(self) -> float:
        """The integral of the quantile function over 0..1."""
        p, v = self.probabilities, self.values
        inner = sum((b - a) * (x + y) / 2 for a, b, x, y in zip(p, p[1:], v, v[1:], strict=False))
        return inner + p[0] * v[0] + (1 - p[-1]) * v[-1]

    def quantile(self, probability: float) -> float:
        """The value that a share ``probability`` of the draws does not exceed."""
        return float(np.interp(probability, self.probabilities, self.values))

    def cdf(self, value: float) -> float:
        """The share of draws at or below ``value``."""
        if value >= self.values[-1]:
            return 1.0
        if value < self.values[0]:
            return 0.0
        low, high = self.values[0], self.values[-1]
        if low == high:
            return 1.0
        return float(np.interp(value, self.values, self.probabilities))

    def at(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The quantiles at ``probabilities``."""
        return np.interp(probabilities, self.probabilities, self.values)

    def sample(self, rng: np.random.Generator, size: int) -> NDArray[np.float64]:
        """``size`` independent draws, by inversion."""
        return self.at(rng.random(size))

    def scaled(self, factor: float) -> Distribution:
        """The distribution of ``factor`` times the quantity."""
        return Distribution(self.probabilities, tuple(v * factor for v in self.values), self.source)


def constant(value: float, source: Source = DECLARED) -> Distribution:
    """Always ``value``."""
    return Distribution((0.5,), (float(value),), source)


def uniform(low: float, high: float, source: Source = DECLARED) -> Distribution:
    """Evenly spread between ``low`` and ``high``."""
    return Distribution((0.0, 1.0), (float(low), float(high)), source)


def quantiles(
    points: Mapping[float, float] | None = None, *, source: Source = DECLARED, **named: float
) -> Distribution:
    """From quantiles, as ``quantiles(p50=216, p95=1554)`` or ``quantiles({0.5: 216, 0.95: 1554})``.

    ``p0`` and ``p100`` are the least and the largest value; ``p99_9`` is 99.9 %.

    Raises:
        InputError: a name that is not ``p`` and a percentage.
    """
    table = dict(points or {})
    for name, value in named.items():
        table[_probability(name)] = value
    ordered = sorted(table.items())
    return Distribution(tuple(p for p, _ in ordered), tuple(float(v) for _, v in ordered), source)


def lognormal(*, p50: float, p95: float, source: Source = DECLARED) -> Distribution:
    """Log-normal with the given median and 95th percentile, cut at 0.1 % and 99.9 %.

    Raises:
        InputError: unless ``0 < p50 <= p95``.
    """
    if not 0 < p50 <= p95 < math.inf:
        raise InputError(
            "a log-normal needs 0 < p50 <= p95", observed=f"lognormal(p50={p50:g}, p95={p95:g})", where=_caller()
        )
    sigma = math.log(p95 / p50) / NormalDist().inv_cdf(0.95)
    values = tuple(p50 * math.exp(sigma * NormalDist().inv_cdf(p)) for p in _LOGNORMAL_PROBABILITIES)
    return Distribution(_LOGNORMAL_PROBABILITIES, values, source)


def fit(sample: ArrayLike, source: Source, probabilities: Sequence[float] = _FIT_PROBABILITIES) -> Distribution:
    """Quantiles of a sample, exact up to the 95th percentile; above it shrunk so that the mean is the sample's.

    Lines between the quantiles of a long tail lie above it, so without this the mean would be too large. Of the
    probabilities only 0, 1 and those that at least one value of the sample stands for on either side are used.

    Raises:
        InputError: an empty sample, or a value that is not finite or negative.
    """
    values = np.asarray(sample, np.float64)
    if not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise InputError("a fit needs finite values that are not negative", observed=f"{values.size} values")
    used = [float(p) for p in probabilities if p in (0, 1) or min(p, 1 - p) * values.size >= 1] or [0.5]
    raw = Distribution(tuple(used), tuple(np.quantile(values, used).tolist()), source)
    knee = raw.quantile(0.95)
    above = Distribution(raw.probabilities, tuple(max(0.0, v - knee) for v in raw.values)).mean
    surplus = raw.mean - float(values.mean())
    factor = min(1.0, max(0.0, 1.0 - surplus / above)) if above > 0 else 1.0
    bent = tuple(v if v <= knee else knee + (v - knee) * factor for v in raw.values)
    return Distribution(raw.probabilities, bent, source)


def _probability(name: str) -> float:
    try:
        if not name.startswith("p"):
            raise ValueError
        return round(float(name[1:].replace("_", ".")) / 100, 12)
    except ValueError:
        raise InputError(
            "a quantile is named by its percentage", observed=name, expected="p50, p95, p99_9", where=_caller()
        ) from None


def _caller() -> Where | None:
    """The line of the user's program that called into this module; none where another part of heterarch did."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").startswith("heterarch."):
        return None
    file, here = Path(frame.f_code.co_filename), Path.cwd()
    return Where(file.relative_to(here).as_posix() if file.is_relative_to(here) else str(file), frame.f_lineno)
