"""The floor of a simulation case: the same engines and requests in one plain compiled loop, and nothing else.

First come first served, chunked prefill, KV blocks, an affine step cost, the fewest waiting requests choose the engine:
the rules of the standard cases and no others. No prefix cache, agents, pools, transfers or faults; every iteration visits
every running sequence, as an engine does; only the times of first token and finish are kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Engines(NamedTuple):
    """``count`` equal engines: limits of an iteration, KV blocks, and the step cost in seconds."""

    count: int
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


def reference_run(
    engines: Engines, arrival_s: NDArray[np.float64], prompt: NDArray[np.int32], output: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, int]:
    """First token and finish [n] in seconds, iterations, restarts; requests in order of arrival."""
    first_s, finish_s = np.full(len(prompt), np.nan), np.full(len(prompt), np.nan)
    iterations, restarts = _loop(engines, arrival_s, prompt, output, first_s, finish_s)
    return first_s, finish_s, int(iterations), int(restarts)


_compiled: Any = numba.njit(error_model="numpy", cache=True)


@_compiled
def _loop(p: Any, arrival_s: Any, prompt: Any, output: Any, first_s: Any, finish_s: Any) -> Any:
    n = len(prompt)
    need, left = prompt.copy(), np.maximum(output, 1)  # tokens to prefill, tokens to make
    done, chunk, held = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
    after, head = np.full(n, -1, np.int32), np.full(p.count, -1, np.int32)  # queues
    tail, queued = head.copy(), np.zeros(p.count, np.int32)
    running, size = np.zeros((p.count, p.seats), np.int32), np.zeros(p.count, np.int32)
    free, end_s = np.full(p.count, p.blocks, np.int32), np.full(p.count, np.inf)
    arrived = iterations = restarts = 0
    while True:
        e = 0
        for k in range(1, p.count):
            if end_s[k] < end_s[e]:
                e = k
        if arrived < n and arrival_s[arrived] <= end_s[e]:
            e = 0
            for k in range(1, p.count):
                if queued[k] < queued[e]:
                    e = k
            if head[e] < 0:
                head[e] = arrived
            else:
                after[tail[e]] = arrived
            tail[e] = arrived
            queued[e] += 1
            if end_s[e] == np.inf:
                end_s[e] = arrival_s[arrived]
            arrived += 1
            continue
        now_s = end_s[e]
        if now_s == np.inf:
            return iterations, restarts
        row = running[e]
        # the iteration ends: tokens are made, and who is complete leaves
        stay = 0
        for k in range(size[e]):
            i = row[k]
            if chunk[i] > 0:
                done[i] += chunk[i]
                chunk[i] = 0
                if done[i] >= need[i]:
                    left[i] -= 1
                    if np.isnan(first_s[i]):
                        first_s[i] = now_s
                    if left[i] == 0:
                        finish_s[i] = now_s
                        free[e] += held[i]
                        continue
            row[stay] = i
            stay += 1
        size[e] = stay
        # the next batch: decodes, the prefill under way, new requests
        tokens = decodes = context = 0
        pairs = 0.0
        k = 0
        while k < size[e]:
            i = row[k]
            k += 1
            if done[i] < need[i]:
                continue
            if done[i] + 1 > held[i] * p.block_tokens:
                while free[e] == 0:
                    size[e] -= 1
                    last = row[size[e]]
                    free[e] += held[last]
                    if chunk[last] > 0:
                        tokens -= 1
                        decodes -= 1
                        context -= done[last] + 1
                    if done[last] >= need[last]:
                        need[last] = done[last] + 1
                    done[last] = held[last] = chunk[last] = 0
                    after[last] = head[e]
                    if head[e] < 0:
                        tail[e] = last
                    head[e] = last
                    queued[e] += 1
                    restarts += 1
                    if last == i:
                        break
                if done[i] == 0:
                    break
                free[e] -= 1
                held[i] += 1
            chunk[i] = 1
            tokens += 1
            decodes += 1
            context += done[i] + 1
        k = size[e] - 1  # only the latest can be in the middle of its prefill
        if k >= 0 and done[row[k]] < need[row[k]] and tokens < p.budget_tokens:
            i = row[k]
            chunk[i] = min(p.budget_tokens - tokens, need[i] - done[i])
            pairs += chunk[i] * (done[i] + 0.5 * chunk[i])
            tokens += chunk[i]
        while tokens < p.budget_tokens and head[e] >= 0 and size[e] < p.seats:
            i = head[e]
            blocks = (need[i] + p.block_tokens - 1) // p.block_tokens
            if blocks > free[e] - (p.watermark_blocks if size[e] > 0 else 0):
                break
            head[e] = after[i]
            after[i] = -1
            queued[e] -= 1
            free[e] -= blocks
            held[i] = blocks
            row[size[e]] = i
            size[e] += 1
            chunk[i] = min(p.budget_tokens - tokens, need[i])
            pairs += chunk[i] * 0.5 * chunk[i]
            tokens += chunk[i]
        end_s[e] = np.inf
        if tokens > 0:
            seconds = p.fixed_s + p.token_s * tokens + p.sequence_s * decodes + p.context_s * context + p.pair_s * pairs
            end_s[e] = now_s + seconds
            iterations += 1
