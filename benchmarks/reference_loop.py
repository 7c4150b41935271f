"""The floor of a simulation case: the same engines and requests in one plain compiled loop, and nothing else.

First come first served, chunked prefill, KV blocks, an affine step cost, and the engine with the fewest waiting
requests: the rules of the standard cases and no others. No prefix cache, agents, pools, transfers or faults. Every
iteration visits every running sequence, as an engine does; only the times of first token and finish are kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.sim.compiled import entry, inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int32] | NDArray[np.int64]


class Engines(NamedTuple):
    """``engines`` equal ones: limits of an iteration, KV blocks, and the step cost in seconds."""

    engines: int
    seats: int
    budget_tokens: int
    blocks: int
    block_tokens: int
    watermark_blocks: int
    fixed_s: float
    token_s: float
    sequence_s: float
    context_s: float
    pair_s: float


class World(NamedTuple):
    """n requests and E engines."""

    arrival_s: Floats  # [n]
    first_s: Floats
    finish_s: Floats
    need: Ints  # [n] tokens to prefill, and those there
    done: Ints
    chunk: Ints  # [n] tokens in this iteration
    left: Ints  # [n] tokens to make
    held: Ints  # [n] blocks
    after: Ints  # [n] next in the queue
    head: Ints  # [E]
    tail: Ints
    queued: Ints
    running: Ints  # [E, seats] in order of admission
    size: Ints  # [E]
    free: Ints
    end_s: Floats  # [E] of the iteration, infinity when idle
    totals: Ints  # iterations, restarts


def reference_run(
    engines: Engines, arrival_s: NDArray[np.float64], prompt: NDArray[np.int32], output: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, int]:
    """First token and finish [n] in seconds, iterations, restarts; requests in order of arrival."""
    n, count = len(prompt), engines.engines
    zeros, nobody, unknown = np.zeros(n, np.int32), np.full(n, -1, np.int32), np.full(n, np.nan)
    idle, empty = np.zeros(count, np.int32), np.full(count, -1, np.int32)
    world = World(
        arrival_s, unknown, unknown.copy(), prompt.astype(np.int32), zeros, zeros.copy(),
        np.maximum(output, 1).astype(np.int32), zeros.copy(), nobody, empty, empty.copy(), idle,
        np.zeros((count, engines.seats), np.int32), idle.copy(), np.full(count, engines.blocks, np.int32),
        np.full(count, np.inf), np.zeros(2, np.int64),
    )  # fmt: skip
    _loop(engines, world)
    return world.first_s, world.finish_s, int(world.totals[0]), int(world.totals[1])


@inlined
def _least(values: Any) -> int:
    best = 0
    for k in range(1, len(values)):
        if values[k] < values[best]:
            best = k
    return best


@inlined
def _arrive(w: Any, i: int) -> None:
    e = _least(w.queued)
    if w.head[e] < 0:
        w.head[e] = i
    else:
        w.after[w.tail[e]] = i
    w.tail[e] = i
    w.queued[e] += 1
    if w.end_s[e] == np.inf:
        w.end_s[e] = w.arrival_s[i]


@inlined
def _make_tokens(w: Any, e: int, now_s: float) -> None:
    """The iteration ends: who has all tokens leaves."""
    stay = 0
    for k in range(w.size[e]):
        i = w.running[e, k]
        w.done[i] += w.chunk[i]
        if w.chunk[i] > 0 and w.done[i] >= w.need[i]:
            w.left[i] -= 1
            if np.isnan(w.first_s[i]):
                w.first_s[i] = now_s
        w.chunk[i] = 0
        if w.left[i] == 0:
            w.finish_s[i] = now_s
            w.free[e] += w.held[i]
        else:
            w.running[e, stay] = i
            stay += 1
    w.size[e] = stay


@inlined
def _evict(w: Any, e: int) -> None:
    """The latest waits first in the queue, to prefill what it had and its last token again."""
    w.size[e] -= 1
    i = w.running[e, w.size[e]]
    w.free[e] += w.held[i]
    if w.done[i] >= w.need[i]:
        w.need[i] = w.done[i] + 1
    w.done[i] = w.held[i] = w.chunk[i] = 0
    w.after[i] = w.head[e]
    if w.head[e] < 0:
        w.tail[e] = i
    w.head[e] = i
    w.queued[e] += 1
    w.totals[1] += 1


@inlined
def _decodes(p: Any, w: Any, e: int) -> tuple[int, int]:
    """Every decode takes a token and the block it needs; how many there are, and their context."""
    k = 0
    while k < w.size[e]:
        i = w.running[e, k]
        if w.done[i] >= w.need[i] and w.done[i] + 1 > w.held[i] * p.block_tokens:
            while w.free[e] == 0 and k < w.size[e]:
                _evict(w, e)
            if k < w.size[e]:
                w.free[e] -= 1
                w.held[i] += 1
        k += 1
    count = context = 0
    for k in range(w.size[e]):
        i = w.running[e, k]
        if w.done[i] >= w.need[i]:
            w.chunk[i] = 1
            count += 1
            context += w.done[i] + 1
    return count, context


@inlined
def _prefills(p: Any, w: Any, e: int, tokens: int) -> tuple[int, float]:
    """Fill the batch with the prompt under way and with new ones; its tokens, and their pairs."""
    pairs = 0.0
    last = w.size[e] - 1  # only the latest can be in the middle of its prompt
    i = w.running[e, last] if last >= 0 and w.done[w.running[e, last]] < w.need[w.running[e, last]] else -1
    while tokens < p.budget_tokens:
        if i < 0:
            i = w.head[e]
            if i < 0 or w.size[e] == p.seats:
                break
            blocks = (w.need[i] + p.block_tokens - 1) // p.block_tokens
            if blocks > w.free[e] - (p.watermark_blocks if w.size[e] > 0 else 0):
                break
            w.head[e] = w.after[i]
            w.queued[e] -= 1
            w.after[i] = -1
            w.free[e] -= blocks
            w.held[i] = blocks
            w.running[e, w.size[e]] = i
            w.size[e] += 1
        chunk = min(p.budget_tokens - tokens, w.need[i] - w.done[i])
        w.chunk[i] = chunk
        pairs += chunk * (w.done[i] + 0.5 * chunk)
        tokens += chunk
        i = -1
    return tokens, pairs


def _run(p: Any, w: Any) -> None:
    arrived = 0
    while True:
        e = _least(w.end_s)
        now_s = w.end_s[e]
        if arrived < len(w.arrival_s) and w.arrival_s[arrived] <= now_s:
            _arrive(w, arrived)
            arrived += 1
            continue
        if now_s == np.inf:
            return
        _make_tokens(w, e, now_s)
        decodes, context = _decodes(p, w, e)
        tokens, pairs = _prefills(p, w, e, decodes)
        w.end_s[e] = np.inf
        if tokens > 0:
            others_s = p.fixed_s + p.token_s * tokens + p.sequence_s * decodes
            w.end_s[e] = now_s + (others_s + p.context_s * context + p.pair_s * pairs)
            w.totals[0] += 1


_loop = entry(_run)
