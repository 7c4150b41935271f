"""Where the seconds of an iteration go: by kernel, with what bounds each, how sure it is, and what that rests on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from heterarch.cost.closed_form import hops_s, launches_s
from heterarch.cost.config import EngineConfig
from heterarch.cost.engine import step_cost
from heterarch.cost.forward import (
    Call,
    decode_calls,
    head_calls,
    joint_decode_s,
    kernel_of,
    linear_calls,
    prefill_calls,
)
from heterarch.cost.step import step_time_s
from heterarch.cost.transfer import group_link
from heterarch.errors import InputError
from heterarch.units import Grade, Source, weakest

#: sd of the log error of host times, which no kernel measurement covers
HOST_SIGMA = 0.5
BESIDE_SIGMA = 0.15  # of decodes beside a prompt: constants of the two devices that were measured, over all shapes


@dataclass(frozen=True, slots=True)
class Row:
    """One part of an iteration. ``sigma``: sd of its log error; about 68 % of measurements lie in low_s .. high_s."""

    part: str
    family: str
    dtype: str
    count: float
    seconds: float
    bound: str  # compute, bandwidth, link, overhead
    sigma: float
    source: Source

    @property
    def low_s(self) -> float:
        """Seconds x exp(-sigma)."""
        return float(self.seconds * np.exp(-self.sigma))

    @property
    def high_s(self) -> float:
        """Seconds x exp(sigma)."""
        return float(self.seconds * np.exp(self.sigma))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """An iteration of ``batch`` decoding sequences of ``context`` tokens beside a chunk of ``prefill`` tokens.

    ``seconds`` is the sum of the rows; ``closed_form_s`` what planner and simulator use. ``low_s``, ``high_s`` take the
    errors of one family as common to its rows, and of different families as independent.
    """

    config: EngineConfig
    rows: tuple[Row, ...]
    seconds: float
    closed_form_s: float
    low_s: float
    high_s: float
    grade: Grade

    def by_family(self) -> dict[str, float]:
        """Family -> seconds, the longest first."""
        total: dict[str, float] = {}
        for row in self.rows:
            total[row.family] = total.get(row.family, 0.0) + row.seconds
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def explain(config: EngineConfig, batch: int = 1, context: int = 1024, prefill: int = 0, cached: int = 0) -> Breakdown:
    """The parts of one iteration.

    Args:
        config: the engine.
        batch: sequences in decode, each of ``context`` tokens; 0 for a pure prefill.
        context: tokens that each decoding sequence has so far.
        prefill: tokens of a prompt's chunk in the same iteration, after ``cached`` tokens of that prompt.
        cached: tokens of the prompt that are done.

    Raises:
        InputError: nothing to compute, or the device lacks a peak or link that is needed.
    """
    if not batch and not prefill:
        raise InputError("the iteration has no tokens", expected="a batch of sequences in decode, or a prefill")
    kernels = list(_kernels(config, batch, context, prefill, cached))
    kernels += _beside(config, kernels, batch * context if prefill else 0)
    rows = [*kernels, *_host(config, batch, prefill, sum(row.seconds for row in kernels))]
    seconds = sum(row.seconds for row in rows)
    spread = _spread(rows)
    pairs = prefill * (cached + prefill / 2)
    closed = step_time_s(step_cost(config), batch + prefill, pairs, batch, batch * context)
    return Breakdown(
        config=config,
        rows=tuple(sorted(rows, key=lambda row: -row.seconds)),
        seconds=seconds,
        closed_form_s=float(closed),
        low_s=float(seconds * np.exp(-spread)),
        high_s=float(seconds * np.exp(spread)),
        grade=weakest(*(row.source.grade for row in rows)),
    )


def _kernels(config: EngineConfig, batch: int, context: int, prefill: int, cached: int) -> Iterator[Row]:
    def at(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(value)])

    calls = [*linear_calls(config, at(_stage_tokens(config, batch, prefill))), *head_calls(config, at(max(batch, 1)))]
    for call in calls:
        yield _row(config, call)
    attention: list[Call] = []
    if batch:
        attention += decode_calls(config, at(max(batch / config.pp, 1.0)), at(context))
    if prefill:  # the micro-batches of a pipeline and the groups of data parallel attention share it
        prompt = prefill_calls(config, at(prefill), at(cached))
        attention += [replace(call, count=call.count / config.pp / config.attention_dp) for call in prompt]
    for call in attention:
        yield _row(config, call)


def _beside(config: EngineConfig, kernels: list[Row], context: int) -> Iterator[Row]:
    """What decodes of ``context`` tokens in all take more beside a prompt than their kernels take alone."""
    alone = [row for row in kernels if row.family == "attention_decode"]
    seconds = joint_decode_s(config) * context / config.pp - sum(row.seconds for row in alone)
    if alone and seconds > 0:
        count, source = sum(row.count for row in alone), alone[0].source
        yield Row("decodes beside it", "attention_decode", "bf16", count, seconds, "compute", BESIDE_SIGMA, source)


def _stage_tokens(config: EngineConfig, batch: int, prefill: int) -> float:
    """Tokens that each stage of a pipeline meets."""
    return max((batch + prefill) / config.pp, 1.0)


def _row(config: EngineConfig, call: Call) -> Row:
    kernel = kernel_of(config, call)
    estimate = kernel.estimate(call.shapes)
    parts = {
        "steps" if call.link else "compute": float(estimate.compute_s[0]),
        "link" if call.link else "bandwidth": float(estimate.memory_s[0]),
        "overhead": estimate.overhead_s,
    }
    bound = max(parts, key=lambda name: parts[name]).replace("steps", "link")
    seconds = float(call.count * estimate.seconds[0])
    return Row(call.part, call.family, call.dtype, call.count, seconds, bound, float(estimate.sigma[0]), kernel.source)


def _host(config: EngineConfig, batch: int, prefill: int, device_s: float) -> Iterator[Row]:
    """Host work, the launches that kernels of ``device_s`` do not hide, and the hops of a pipeline."""
    host, hops = config.host_work, config.pp - 1
    seconds = host.step_s + batch / config.attention_dp * host.sequence_s + hops * host.hop_s
    yield Row("host", "host", "", 1, seconds, "overhead", HOST_SIGMA, host.source)
    if launches_s(config) > device_s:
        yield Row("launches", "host", "", 1, launches_s(config) - device_s, "overhead", HOST_SIGMA, host.source)
    if hops:
        sent = float(hops_s(config, np.array([_stage_tokens(config, batch, prefill)]))[0])
        source = group_link(config.device, config.devices).source
        yield Row("pipeline hops", "send_recv", "bf16", hops, sent, "link", HOST_SIGMA, source)


def _spread(rows: list[Row]) -> float:
    """sd of the log of the sum: rows of one family err together, families independently."""
    seconds: dict[str, float] = {}
    for row in rows:
        seconds[row.family] = seconds.get(row.family, 0.0) + row.seconds * row.sigma
    return float(np.sqrt(sum(value**2 for value in seconds.values())) / sum(row.seconds for row in rows))
