"""Collectives over the link of one server or rack, and which of them a transformer layer needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from heterarch.cost.kernels.base import Family, Floats, Shapes, Work, columns, log2

#: ``message_bytes`` is the whole message: what a device holds after an all-gather, before a reduce-scatter or an
#: all-to-all, before and after an all-reduce, and what it sends to one other device
COLUMNS = ("message_bytes", "devices")
#: the rate that stands for a peak: the law's share of it says how long one step of a ring waits, 0.1 us at least
STEPS_PER_S = 1e7
WIDE_BYTES = 2.0  # activations are summed and exchanged in 16 bits
PerDevice = Callable[[Floats], Floats]  # of the number of devices g


def _work(share: PerDevice, steps: PerDevice) -> Callable[[Shapes, str], Work]:
    """``share`` of the message crosses each device's link, per direction, in ``steps`` that wait for one another."""

    def work(shapes: Shapes, dtype: str) -> Work:
        message, devices = columns(shapes, COLUMNS)
        return Work(steps(devices), message * share(devices), np.stack([log2(message), log2(devices)], axis=1))

    return work


def _once(devices: Floats) -> Floats:
    """(g - 1) / g: each device keeps its own part."""
    return (devices - 1) / devices


def _around(devices: Floats) -> Floats:
    """g - 1: once around a ring."""
    return devices - 1


def _family(name: str, share: PerDevice, steps: PerDevice) -> Family:
    return Family(
        name, COLUMNS, ("log2 bytes", "log2 devices"), (2.0, 1.0), 60, _work(share, steps), LENGTHS, peak=STEPS_PER_S
    )


LENGTHS = ((1.0, 0.7), (1.0, 3.0), (4.0, 2.0))

#: a ring reduces, then gathers: 2 (g - 1) / g of the message (Patarasuk, Yuan, J. Parallel Distrib. Comput. 69, 2009)
ALL_REDUCE = _family("all_reduce", lambda g: 2 * _once(g), lambda g: 2 * _around(g))
ALL_GATHER = _family("all_gather", _once, _around)
REDUCE_SCATTER = _family("reduce_scatter", _once, _around)
ALL_TO_ALL = _family("all_to_all", _once, _around)
SEND_RECV = _family("send_recv", np.ones_like, np.zeros_like)
COLLECTIVES = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, SEND_RECV)


class Collective(NamedTuple):
    """One collective: its family, the whole message [points] in bytes, and how many devices take part."""

    family: str
    message_bytes: Floats
    devices: int


def expert_exchange(
    tokens: Any,
    hidden: int,
    *,
    topk: int,
    tp: int = 1,
    attention_dp: int = 1,
    ep: int = 1,
    all_to_all: bool = True,
    dispatch_bytes: float = WIDE_BYTES,
) -> tuple[Collective, ...]:
    """What each MoE layer exchanges around its experts, in order.

    - Attention is tensor parallel only (``attention_dp`` 1): after attention's own all-reduce every device holds every
      token, so experts need no dispatch, whether they are split inside (TP) or by whole experts (EP). Their partial
      sums take one all-reduce.
    - Attention is data parallel and every device holds whole experts (``ep`` = tp x attention_dp): an all-to-all takes
      each token to the devices that hold its experts, once per device (DeepEP and its like in vLLM, SGLang and
      TensorRT-LLM), and a second one brings 16-bit results back.
    - Otherwise, or without such kernels (``all_to_all`` False): an all-gather takes
      all tokens to all devices, a reduce-scatter returns the sums. Where attention is also tensor parallel, its
      devices gather the tokens of their group at last.

    Args:
        tokens: [points] of the whole layer, over all attention groups.
        hidden: values per token.
        topk: routed experts per token.
        tp: devices per attention group.
        attention_dp: attention groups; tp x attention_dp devices share the experts.
        ep: devices over which whole experts are spread.
        all_to_all: whether the engine has all-to-all kernels for experts.
        dispatch_bytes: per value sent to the experts: 1 where it is quantised before.
    """
    group, total = tp * attention_dp, np.atleast_1d(np.asarray(tokens, dtype=np.float64)) * hidden
    if group == 1:
        return ()
    if attention_dp == 1:
        return (Collective("all_reduce", WIDE_BYTES * total, group),)
    if all_to_all and ep == group:
        copies = total / group * _destinations(ep, topk)
        sent, returned = dispatch_bytes * copies, WIDE_BYTES * copies
        return (Collective("all_to_all", sent, group), Collective("all_to_all", returned, group))
    gathered = Collective("all_gather", dispatch_bytes * total, attention_dp)
    scattered = Collective("reduce_scatter", WIDE_BYTES * total, group)
    if tp == 1:
        return (gathered, scattered)
    return (gathered, scattered, Collective("all_gather", WIDE_BYTES * total / attention_dp, tp))


def _destinations(devices: int, topk: int) -> float:
    """Different devices to which the ``topk`` experts of a token belong, on average, when all are equally likely."""
    return float(devices * (1 - (1 - 1 / devices) ** topk))
