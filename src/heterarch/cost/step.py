"""The engine iteration in closed form, cheap enough for the simulator's inner loop and vectorised for the planner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

#: tokens of an iteration at which the slope of its time may change
KNOTS = (
    *(2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 768.0),
    *(1024.0, 1536.0, 2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 16384.0),
)
NO_BENDS = np.zeros(len(KNOTS))
NO_BENDS.setflags(write=False)


class StepCost(NamedTuple):
    """Coefficients of one forward pass of one engine; each field is a float, or an array over configurations.

    The time of the linear layers, experts and collectives is piecewise linear in the tokens of the iteration, exact at
    :data:`KNOTS`; attention adds what its pairs and its context take.
    """

    fixed_s: Any = 0.0  # host work, launches, and what the kernels take however few the tokens
    token_s: Any = 0.0  # per token, below the first knot
    bends_s: Any = NO_BENDS  # [knots] (and configurations): change of the slope at each knot
    pair_s: Any = 0.0  # prefill attention per (query, key) pair
    context_s: Any = 0.0  # decode attention per token of context read
    sequence_s: Any = 0.0  # attention, output head, sampling and host work per decoding sequence
    mixed_s: Any = 0.0  # what decode attention takes more per token of context beside a prompt

    def scaled(self, factor: float) -> StepCost:
        """The cost of iterations that take ``factor`` times as long."""
        return StepCost(*(factor * field for field in self))


def step_time_s(cost: StepCost, tokens: Any, pairs: Any, sequences: Any, context: Any) -> Any:
    """Seconds of one iteration.

    Args:
        cost: coefficients, scalars or arrays that broadcast with the counts.
        tokens: tokens in the batch, prefill chunk and decodes together.
        pairs: sum over prefill chunks of chunk x (tokens already done + chunk / 2).
        sequences: decoding sequences in the batch; the simulator counts no others.
        context: sum of the context lengths of the decoding sequences.
    """
    linear = cost.token_s * tokens
    for index in range(len(KNOTS)):
        linear = linear + cost.bends_s[index] * np.maximum(tokens - KNOTS[index], 0.0)
    attention = cost.pair_s * pairs + (cost.context_s + cost.mixed_s * (pairs > 0)) * context
    return cost.fixed_s + linear + attention + cost.sequence_s * sequences


def token_curve(seconds: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """(fixed, slope, bends) of the piecewise linear curve through ``seconds`` at 1 token, at every knot and beyond.

    ``seconds`` maps tokens [points] to times [points]; beyond the last knot the slope up to twice that knot goes on.
    Where more tokens take less time, fewer take no more than they do: an engine pads its batch.
    """
    points = np.array([1.0, *KNOTS, 2 * KNOTS[-1]])
    times = np.minimum.accumulate(np.asarray(seconds(points))[::-1])[::-1]
    slopes = np.diff(times) / np.diff(points)
    return times[0] - slopes[0], slopes[0], np.diff(slopes)
