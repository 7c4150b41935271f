"""The routed experts of one layer on the device that is loaded most: gate, up and down projections of its tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from heterarch.cost.kernels.base import Family, Floats, Shapes, Work, columns, log2
from heterarch.cost.kernels.formats import FORMATS
from heterarch.cost.residual import CONSTANT

COLUMNS = (
    "num_tokens",
    "hidden_size",
    "inter_size",
    "topk",
    "num_experts",
    "moe_tp_size",
    "moe_ep_size",
    "skew",
    "matrices",
)
AXES = ("log2 pairs", "log2 active experts", "log2 hidden", "log2 inter", "log2 all pairs", "log2 ep")
#: 16-bit values moved per routed token and hidden or inner size, and per token of the layer (see :func:`work`)
PAIR_HIDDEN, PAIR_INNER, ALL_HIDDEN, TOKEN_HIDDEN = 3.0, 2.0, 0.5, 2.0
#: bounds of the power law of loads: [1, 0.8 x tokens] where there are more pairs than experts, else [0.01, 2]
MANY, FEW = (1.0, 0.8), (0.01, 2.0)


class Load(NamedTuple):
    """What the most loaded device of a group holds: (token, expert) pairs, and its experts that have any."""

    pairs: Floats
    active: Floats


def work(shapes: Shapes, dtype: str) -> Work:
    """2 x matrices x hidden x inner FLOP per routed token; weights of the active experts are read once.

    ``num_tokens`` are those of the whole layer, which every device of the group holds (gathered before, reduced
    after); ``skew`` is 0 for equally loaded experts, else the exponent of a power law (:func:`load`); ``matrices``
    is 3 for gated experts, 2 for plain ones. Activations: gather, the two projections and the weighted sum
    move ``PAIR_HIDDEN`` x hidden + ``PAIR_INNER`` x inner 16-bit values per pair on this device; routing moves
    ``ALL_HIDDEN`` x hidden per pair of the layer, and ``TOKEN_HIDDEN`` x hidden per token.
    """
    tokens, hidden, inter, topk, experts, tp, ep, skew, matrices = columns(shapes, COLUMNS)
    inner, held = inter / tp, load(tokens, topk, experts, ep, skew)
    weights = matrices * hidden * inner * held.active * FORMATS[dtype].weight_bytes
    values = held.pairs * (PAIR_HIDDEN * hidden + PAIR_INNER * inner)
    values = values + tokens * hidden * (ALL_HIDDEN * topk + TOKEN_HIDDEN)
    at = (held.pairs, held.active, hidden, inner, tokens * topk, ep)
    return Work(2 * matrices * hidden * inner * held.pairs, weights + 2 * values, np.stack([log2(x) for x in at], 1))


def load(tokens: Floats, topk: Floats, experts: Floats, ep: Floats, skew: Floats) -> Load:
    """The load of the device that is loaded most, all [rows].

    With ``skew`` 0 the pairs are spread evenly, over as many experts as there are pairs. Otherwise the loads of the
    experts follow a density x^-skew between two bounds, as in AIConfigurator's MoE benchmark: an expert is active
    where its share rounds to one token, and the largest of ``ep`` groups of experts lies about
    1.15 ln(ep)^0.75 standard deviations above their mean (a fit to simulated draws, within 10 % in most rows).
    """
    pairs, local = tokens * topk, experts / ep
    even = Load(np.maximum(pairs / ep, np.minimum(pairs, 1.0)), np.minimum(local, np.ceil(pairs / ep)))
    skewed = _skewed(tokens, pairs, experts, ep, np.where(skew > 0, skew, 1.0))
    return Load(*(np.where(skew > 0, a, b) for a, b in zip(skewed, even, strict=True)))


def _skewed(tokens: Floats, pairs: Floats, experts: Floats, ep: Floats, skew: Floats) -> Load:
    local, many = experts / ep, pairs > experts
    low = np.where(many, MANY[0], FEW[0])
    high = np.where(many, np.maximum(MANY[1] * tokens, 1.001), FEW[1])
    mass = _moment(skew, low, high, 0)
    mean, square = _moment(skew, low, high, 1) / mass, _moment(skew, low, high, 2) / mass
    spread = np.sqrt(np.maximum(square / mean**2 - 1, 0) * (1 - 1 / ep) / local)
    above_mean = 1 + 1.15 * np.log(ep) ** 0.75 * spread
    held = np.clip(pairs / ep * above_mean, np.minimum(1.0, pairs), np.minimum(pairs, tokens * local))
    least = np.clip(0.5 * mean * experts / pairs, low, high)  # the smallest load that rounds to one token
    active = experts * _moment(skew, least, high, 0) / mass
    active = np.minimum(np.maximum(active, np.where(many, 0.0, pairs - active)), np.minimum(experts, pairs))
    return Load(held, np.clip(active / ep * above_mean, 1.0, np.minimum(held, local)))


def _moment(skew: Floats, low: Floats, high: Floats, power: int) -> Floats:
    """The integral of x^(power - skew) from ``low`` to ``high``."""
    exponent = power + 1 - skew
    exponent = np.where(np.abs(exponent) < 1e-6, 1e-6, exponent)
    return np.asarray((high**exponent - low**exponent) / exponent)


SCALES = (3.0, 3.0, 3.0, 3.0, 3.0, CONSTANT)
LENGTHS = (
    (6.0, 6.0, 6.0, 6.0, 6.0, CONSTANT),
    (2.0, 2.0, 1.5, 1.5, 3.0, CONSTANT),
    (3.0, 3.0, CONSTANT, CONSTANT, CONSTANT, 0.7),
    (CONSTANT, CONSTANT, 0.3, 0.6, CONSTANT, CONSTANT),
)
MOE = Family("moe", COLUMNS, AXES, SCALES, 140, work, LENGTHS, single=False)
