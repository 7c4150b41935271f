"""Whole iterations of an engine against the predicted step: an overhead and two factors, fitted to the user's logs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from heterarch.cost.measured.columns import Floats
from heterarch.cost.step import StepCost, step_time_s
from heterarch.errors import InputError, RefusedFitError

LEAST_ITERATIONS = 20
FOLDS = 4
ROBUST = 0.1  # log errors above this count linearly
#: a factor at this bound means that something else was measured than the configuration says
FACTOR_BOUND = 5.0
OVERHEAD_BOUND_S = 1.0
FIRST_BOUND = 50.0  # median iterations that a prompt may wait before the engine
#: sd of the log of a factor that is expected before any measurement, and what that counts for as a share of the rows:
#: what the log does not show stays at 1
EXPECTED_SD = 0.5
EXPECTED_SHARE = 0.1


class Iterations(NamedTuple):
    """Measured iterations of one engine, one row each; the arguments of :func:`heterarch.cost.step.step_time_s`."""

    prefill_tokens: Floats
    pairs: Floats  # (query, key) pairs of the prefill
    sequences: Floats  # that decode one token
    context: Floats  # sum of their contexts, tokens
    seconds: Floats

    def part(self, chosen: Floats) -> Iterations:
        """Some of the rows."""
        return Iterations(*(values[chosen] for values in self))


class EngineFit(BaseModel):
    """An engine on a device: measured = ``overhead_s`` + ``linear`` x (linear layers, experts, collectives, fixed) +
    ``attention`` x (attention and what is per sequence) of the prediction from kernels.

    ``held_out`` and ``prior`` are mean absolute relative errors, as shares: on iterations that were held out, and of
    the prediction as it is. The factors are those of ``model`` on engines of ``split``; they make up for what the
    prediction gets wrong of it, so that they need not hold for another. ``first_s`` is what a prompt takes before the
    engine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    engine: str
    engine_version: str = ""
    device: str
    dtype: str
    model: str = ""
    split: str = ""
    overhead_s: float = Field(ge=0)
    linear: float = Field(gt=0)
    attention: float = Field(gt=0)
    first_s: float = Field(0.0, ge=0)
    rows: int
    held_out: float
    prior: float

    def apply(self, cost: StepCost) -> StepCost:
        """The step with the overhead and the factors; fields may be arrays over configurations."""
        return StepCost(
            fixed_s=self.linear * cost.fixed_s + self.overhead_s,
            token_s=self.linear * cost.token_s,
            bends_s=self.linear * cost.bends_s,
            pair_s=self.attention * cost.pair_s,
            context_s=self.attention * cost.context_s,
            sequence_s=self.attention * cost.sequence_s,
            mixed_s=self.attention * cost.mixed_s,
        )


def fit_engine(
    cost: StepCost, log: Iterations, *, device: str, dtype: str, engine: str, engine_version: str = "", model: str = ""
) -> EngineFit:
    """The overhead and the factors with the least robust error of log time, scored on held-out kinds of iterations.

    Raises:
        RefusedFitError: too few iterations, or a fit that predicts held-out iterations no better than ``cost`` does.
        InputError: times in another unit, or another configuration than ``cost`` is for.
    """
    if len(log.seconds) < LEAST_ITERATIONS:
        raise RefusedFitError(
            "the log is too short to calibrate an engine: the prior stays",
            observed=f"{len(log.seconds)} usable iterations",
            expected=f"at least {LEAST_ITERATIONS}",
        )
    parts = _parts(cost, log)
    _check_unit(parts, log.seconds)
    found = _solve(parts, log.seconds)
    held = _held_out(parts, log)
    prior = _error(parts[:2].sum(axis=0), log.seconds)
    if held >= prior:
        raise RefusedFitError(
            "the fitted engine predicts held-out iterations no better than the prior, which stays",
            observed=f"held-out error {held:.1%}",
            expected=f"below the prior's {prior:.1%}",
        )
    overhead_s, linear, attention, first_s = (float(f"{value:.4g}") for value in found)
    return EngineFit(
        engine=engine, engine_version=engine_version, device=device, dtype=dtype, model=model, overhead_s=overhead_s,
        linear=linear, attention=attention, first_s=first_s, rows=len(log.seconds), held_out=round(held, 4),
        prior=round(prior, 4),
    )  # fmt: skip


def _parts(cost: StepCost, log: Iterations) -> Floats:
    """[3, rows]: predicted seconds of what scales with ``linear`` and with ``attention``; whether there is a prompt."""
    tokens = log.prefill_tokens + log.sequences
    linear = step_time_s(cost, tokens, 0.0, 0.0, 0.0)
    whole = step_time_s(cost, tokens, log.pairs, log.sequences, log.context)
    return np.stack([np.asarray(part, dtype=np.float64) for part in (linear, whole - linear, log.prefill_tokens > 0)])


def _check_unit(parts: Floats, seconds: Floats) -> None:
    ratio = float(np.median(seconds / parts[:2].sum(axis=0)))
    if not 1 / 100 < ratio < 100:
        way = "seconds in a column of milliseconds" if ratio < 1 else "milliseconds in a column of seconds"
        times = f"{ratio:,.0f}x above" if ratio > 1 else f"{1 / ratio:,.0f}x below"
        raise InputError(
            f"the times of the log look like another unit ({way})",
            observed=f"median is {times} the predicted iteration",
            fix="rename the column to the unit of its numbers; check device, model and tp",
        )


def _solve(parts: Floats, seconds: Floats) -> tuple[float, float, float, float]:
    """(overhead, linear, attention, first)."""
    from scipy.optimize import least_squares

    scale = float(np.median(seconds))

    def error(x: Floats) -> Floats:
        predicted = x[0] * scale + np.exp(x[1]) * parts[0] + np.exp(x[2]) * parts[1] + x[3] * scale * parts[2]
        expected = math.sqrt(EXPECTED_SHARE * len(seconds)) * ROBUST * x[1:3] / EXPECTED_SD
        return np.concatenate([np.log(predicted / seconds), expected])

    bound = math.log(FACTOR_BOUND)
    low, high = [0.0, -bound, -bound, 0.0], [min(OVERHEAD_BOUND_S / scale, 1.0), bound, bound, FIRST_BOUND]
    found = least_squares(error, [0.01, 0.0, 0.0, 0.01], bounds=(low, high), loss="soft_l1", f_scale=ROBUST)
    overhead, linear, attention, first = found.x
    if max(abs(linear), abs(attention)) > 0.98 * bound:
        raise InputError(
            f"the measured iterations are more than {FACTOR_BOUND:g}x from the predicted ones",
            observed=f"linear layers {math.exp(linear):.2g}x, attention {math.exp(attention):.2g}x",
            fix="check device, model, tp and format of the engine that wrote the log",
        )
    return float(overhead) * scale, math.exp(linear), math.exp(attention), float(first) * scale


def _held_out(parts: Floats, log: Iterations) -> float:
    """Mean error on iterations of kinds (sizes within a factor of 2) that were not fitted."""
    sizes = np.stack([np.floor(np.log2(1 + values)) for values in (log.prefill_tokens, log.sequences, log.context)])
    _, kind = np.unique(sizes, axis=1, return_inverse=True)
    kind = kind.ravel()
    if kind.max() + 1 < FOLDS:
        kind = np.arange(len(kind))
    fold = np.random.default_rng(7).permutation(kind.max() + 1)[kind] % FOLDS
    errors = np.empty(len(kind))
    for index in range(FOLDS):
        out = fold == index
        overhead_s, *factors = _solve(parts[:, ~out], log.seconds[~out])
        predicted = overhead_s + np.array(factors) @ parts[:, out]
        errors[out] = np.abs(predicted / log.seconds[out] - 1)
    return float(errors.mean())


def _error(predicted: Floats, seconds: Floats) -> float:
    return float(np.abs(predicted / seconds - 1).mean())
