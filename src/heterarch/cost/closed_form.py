"""The kernels of a pass, condensed into the coefficients of a step cost."""

from __future__ import annotations

import numpy as np

from heterarch.cost.config import EngineConfig
from heterarch.cost.forward import Call, decode_calls, head_calls, joint_decode_s, linear_calls, pass_s, prefill_calls
from heterarch.cost.kernels.base import Floats
from heterarch.cost.step import StepCost, token_curve
from heterarch.cost.transfer import group_link
from heterarch.cost.work import ACTIVATION_BYTES

#: batch sizes and contexts at which the attention of a decode pass is sampled, and chunks of a prefill
BATCHES = (1.0, 4.0, 16.0, 64.0, 256.0)
CONTEXTS = (256.0, 1024.0, 4096.0, 16384.0, 65536.0)
CHUNKS = (256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
DONE = (0.0, 8192.0, 65536.0)
SHORT = 1024.0  # tokens of a short context
HEADS = (1.0, 256.0)  # sequences at which the output head is sampled


def closed_form(config: EngineConfig) -> StepCost:
    """The step cost whose linear part is exact at the knots, and whose attention has the least relative error.

    Decode attention is a + b x sequences + c x context over a grid of batches and contexts; prefill attention adds
    u x tokens + p x pairs, and u is taken off each decoding sequence, whose token counts too. Where passes are launched
    kernel by kernel, the linear part takes no less than the launches. Pipeline stages work side by side on
    micro-batches, so under PP a pass meets tokens / pp tokens in each stage, and what attention adds per sequence and
    pair is divided by the number of stages. Beside a prompt, decode attention may take longer
    (:func:`heterarch.cost.forward.joint_decode_s`).
    """
    pp, host = config.pp, config.host_work
    once, sequence, context = _decode(config)
    token, pair = (each / config.attention_dp for each in _prefill(config, once))  # groups share the prompts
    head = np.zeros(len(HEADS)) + pass_s(config, head_calls(config, np.array(HEADS)))  # an encoder has none
    head_s = (head[1] - head[0]) / (HEADS[1] - HEADS[0])
    launched = launches_s(config) - once - head[0]
    fixed, slope, bends = token_curve(
        lambda tokens: np.maximum(_linear_s(config, np.maximum(tokens / pp, 1.0)), launched)
    )
    return StepCost(
        fixed_s=float(fixed + once + head[0] - head_s + host.step_s + (pp - 1) * host.hop_s),
        token_s=float(slope + token / pp),
        bends_s=bends,
        pair_s=float(pair / pp),
        context_s=float(context / pp),
        sequence_s=float(max(0.0, (sequence - token) / pp) + head_s + host.sequence_s / config.attention_dp),
        mixed_s=max(0.0, joint_decode_s(config) - float(context)) / pp,
    )


def _linear_s(config: EngineConfig, tokens: Floats) -> Floats:
    seconds = pass_s(config, linear_calls(config, tokens))
    return seconds + hops_s(config, tokens)


def hops_s(config: EngineConfig, tokens: Floats) -> Floats:
    """Seconds to send the activations of ``tokens`` [points] through all stages of a pipeline."""
    if config.pp == 1:
        return np.zeros_like(tokens)
    hop = group_link(config.device, config.devices)
    return np.asarray((config.pp - 1) * tokens * config.model.hidden * ACTIVATION_BYTES / hop.bytes_per_s)


def launches_s(config: EngineConfig) -> float:
    """Seconds that the host takes to launch the kernels of a decode pass one by one; 0 where a graph is captured."""
    one = np.ones(1)
    calls: list[Call] = [*linear_calls(config, one), *head_calls(config, one), *decode_calls(config, one, one)]
    return 0.0 if config.graphs else config.host_work.launch_s * sum(call.count for call in calls)


def _decode(config: EngineConfig) -> tuple[float, float, float]:
    """(a, b, c) of decode attention: a + b x sequences + c x (sum of contexts), seconds."""
    if config.model.encoder:
        return 0.0, 0.0, 0.0
    window = max((part.window for part in config.model.attention), default=0)
    contexts = np.maximum(CONTEXTS, min(window, SHORT))  # windows are full in all but short conversations
    batch, context = (grid.ravel() for grid in np.meshgrid(np.multiply(BATCHES, config.attention_dp), contexts))
    seconds = pass_s(config, decode_calls(config, batch, context))
    once, each, token = _least_relative(np.stack([np.ones_like(batch), batch, batch * context], axis=1), seconds)
    return float(once), float(each), float(token)


def _prefill(config: EngineConfig, once: float) -> tuple[float, float]:
    """(u, p) of the attention that a chunk of a prompt adds beyond ``once``: u x tokens + p x pairs, seconds."""
    tokens, done = (grid.ravel() for grid in np.meshgrid(CHUNKS, DONE))
    seconds = pass_s(config, prefill_calls(config, tokens, done))
    token, pair = _least_relative(np.stack([tokens, tokens * (done + tokens / 2)], axis=1), seconds, once)
    return float(token), float(pair)


def _least_relative(columns: Floats, seconds: Floats, once: float = 0.0) -> Floats:
    """Coefficients >= 0 of what ``columns`` add to ``once``, with the least squared error relative to ``seconds``.

    A column that would be negative is left out.
    """
    scaled, kept = columns / seconds[:, None], list(range(columns.shape[1]))
    found = np.zeros(columns.shape[1])
    while kept:
        values = np.linalg.lstsq(scaled[:, kept], 1 - once / seconds, rcond=None)[0]
        if values.min() >= 0:
            found[kept] = values
            break
        del kept[int(values.argmin())]
    return found
