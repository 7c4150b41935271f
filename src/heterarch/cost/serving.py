"""Time to first token and time per token of engines under a closed loop of clients, in closed form.

A fixed number of clients each send a prompt, read the whole output, and send the next prompt: what serving benchmarks
call a fixed concurrency. Everything broadcasts: scalars or arrays over configurations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from heterarch.cost.step import StepCost, step_time_s

CHUNK_TOKENS = 8192  # most tokens of an iteration in today's engines
ROUNDS = 30  # of the fixed point between running sequences and time per token


class Load(NamedTuple):
    """Clients in a closed loop, and how one engine takes them."""

    concurrency: Any  # requests in flight, of one engine
    prompt: Any  # tokens
    output: Any  # tokens
    chunk: Any = CHUNK_TOKENS  # most prompt tokens of one iteration
    most_running: Any = np.inf  # sequences whose KV fits
    held: Any = 0.0  # iterations that a prompt is held back, to come in with others


class Latency(NamedTuple):
    """What a client sees in the steady state, and what the engine does meanwhile."""

    ttft_s: Any  # mean, with the wait behind other requests
    tpot_s: Any  # mean time between output tokens
    running: Any  # decoding sequences, mean
    decode_s: Any  # one iteration of decodes alone
    prefill_s: Any  # one prompt, beside the decodes
    service_s: Any  # per prompt where prompts are queued at all engines that take them


def aggregated(cost: StepCost, load: Load) -> Latency:
    """An engine that prefills and decodes in the same iterations (chunked prefill).

    While a sequence decodes its output, every other running one is replaced once, so its tokens wait for as many
    prompts: TPOT = decode iteration + (running - 1) x added time of a prompt / output. A prompt waits for the prompts
    before it (:func:`queue_s`), for an iteration to end, and for a sequence to leave where KV is short.
    """
    running = np.minimum(load.concurrency, load.most_running)
    decode, prefill, added = _iteration(cost, load, running)
    tpot = decode + np.maximum(running - 1, 0.0) * added / load.output
    busy = load.output * tpot
    ttft = queue_s(prefill, running, busy) + (0.5 + load.held) * tpot + (load.concurrency / running - 1) * busy
    return Latency(ttft, tpot, running, decode, prefill, _prompt(cost, load)[1])


def disaggregated(
    prefill: StepCost, decode: StepCost, load: Load, *, prefill_engines: Any = 0, decode_engines: Any = 1,
    transfer_s: Any = 0.0,
) -> Latency:  # fmt: skip
    """Prompts on one pool of engines, outputs on another; ``load`` is that of both pools together.

    The decode pool holds those clients that do not wait for a first token; the two follow from each other, by
    iteration. ``chunk`` is that of the prefill engines, ``most_running`` of one decode engine; ``prefill_engines`` 0
    stands for as many as keep up with the decode pool, one or more, in fractions.
    """
    alone, service = _prompt(prefill, load)
    running = load.concurrency / decode_engines * np.ones_like(service)
    for _ in range(ROUNDS):
        iteration = _iteration(decode, load, np.maximum(np.minimum(running, load.most_running), 1.0))[0]
        busy = load.output * iteration
        enough = np.maximum(load.concurrency * service / busy, 1.0)
        each = service / np.where(np.asarray(prefill_engines) > 0, prefill_engines, enough)
        wait = queue_s(each, load.concurrency, busy) + alone - each
        share = busy / (busy + wait + transfer_s)
        running = 0.5 * running + 0.5 * share * load.concurrency / decode_engines
    slots = np.minimum(running, load.most_running)
    ttft = wait + transfer_s + (running / slots - 1) * busy
    return Latency(ttft, iteration, slots, iteration, alone, each)


def queue_s(service_s: Any, clients: Any, think_s: Any) -> Any:
    """Mean time at one server that ``clients`` visit in turn, each ``think_s`` after its last visit, seconds.

    Schweitzer's approximation of mean value analysis for one queue (Schweitzer 1979; Lazowska et al., Quantitative
    System Performance, 1984, section 6.4), solved: R = S (1 + (n - 1) R / (Z + R)). It tends to S for few clients and
    to n S - Z when the server is always busy.
    """
    excess = clients * service_s - think_s
    return (excess + np.sqrt(excess**2 + 4 * service_s * think_s)) / 2


def _iteration(cost: StepCost, load: Load, running: Any) -> tuple[Any, Any, Any]:
    """(decode iteration, a prompt beside it, what the prompt adds to the decodes), seconds."""
    context = running * (load.prompt + load.output / 2)
    decode = step_time_s(cost, running, 0, running, context)
    chunks = np.ceil(load.prompt / load.chunk)
    mixed = step_time_s(cost, load.prompt / chunks + running, load.prompt**2 / 2 / chunks, running, context)
    return decode, chunks * mixed, chunks * np.maximum(mixed - decode, 0.0)


def _prompt(cost: StepCost, load: Load) -> tuple[Any, Any]:
    """(seconds of one prompt alone, seconds per prompt where iterations are filled with them)."""
    alone = _iteration(cost, load, 0.0)[1]
    full = np.maximum(load.chunk / load.prompt, 1.0)
    filled = step_time_s(cost, full * load.prompt, full * load.prompt**2 / 2, 0, 0) / full
    return alone, np.where(full > 1, filled, alone)
