"""One engine: who waits, who runs, and what the next iteration computes.

Rules, as in vLLM V1 and Sarathi (OSDI'24): first come first served; decodes first, then the prefill under way, then
new prompts, up to ``budget`` tokens and ``seats`` sequences per iteration. A prompt is admitted when the blocks that
it still needs are there and ``watermark`` blocks stay free. A decode that needs a block when none is left evicts the
latest admitted sequence, which recomputes its KV later and waits at the front (Vidur, vLLM). A decode's growth is
counted by iteration modulo block size and its end stands in a heap, so an iteration costs nothing per decoding
sequence. ``sequences`` of the step cost are the decoding ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heterarch.sim.cache import append_run, blocks_of, cover, hold, idle_on_path, keep_all, lookup, release, take
from heterarch.sim.compiled import compiled, inlined
from heterarch.sim.heap import drop_finish, push_finish
from heterarch.sim.seconds import cost_of, step_seconds
from heterarch.sim.speculate import draft_seconds, kept_tokens, token_limit
from heterarch.sim.state import Load
from heterarch.sim.tiers import begin_load, drop_expired, loads, note_use, set_aside, swap_out

NO_LOAD, LOADED, SWAPPED = int(Load.NONE), int(Load.LOADED), int(Load.SWAPPED)

#: iterations in a row that decodes make way for whole prompts, as `max_preemptions` of splitwise-sim's start states
MOST_RESTS = 4


@compiled
def cached_blocks(s: Any, t: Any, tree: Any, e: int, task: int) -> int:
    """Leading blocks of the prompt of ``task`` that engine ``e`` holds."""
    cache, leaf = s.engines[e].cache, t.rows[task].node
    return lookup(tree, s.nodes[cache], leaf) if cache >= 0 and leaf >= 0 else 0


@compiled
def enqueue(s: Any, t: Any, tree: Any, e: int, task: int, front: bool) -> None:
    """Put ``task`` into the queue of engine ``e``."""
    engine, sequence, progress = s.engines[e], s.sequences[task], s.progress[task]
    engine.still = 0
    sequence.engine = e
    if progress.owed == 0:
        found = cached_blocks(s, t, tree, e, task) * tree.block_tokens
        progress.owed = progress.need - min(found, progress.need - 1)
        engine.unprefilled += progress.owed
    engine.queued += 1
    progress.next = -1
    if front:
        to_front(s, e, task)
    elif engine.head < 0:
        engine.head = engine.tail = task
    else:
        s.progress[engine.tail].next = task
        engine.tail = task


@compiled
def to_front(s: Any, e: int, task: int) -> None:
    """Link ``task`` in behind those at the front of the queue whose KV has come from a tier."""
    engine = s.engines[e]
    engine.still = 0
    before, after = -1, engine.head
    for _ in range(engine.loaded):
        before, after = after, s.progress[after].next
    s.progress[task].next = after
    if before >= 0:
        s.progress[before].next = task
    else:
        engine.head = task
    if after < 0:
        engine.tail = task


@inlined
def begin_iteration(s: Any, t: Any, tree: Any, e: int, now_s: float) -> bool:
    """Form the next batch of engine ``e`` and set ``end_s``; False when there is nothing to compute."""
    engine = s.engines[e]
    pool = s.pools[engine.pool]
    _seat_transferred(s, t, tree, e, now_s)
    _grow(s, t, tree, e)
    if engine.stall_s > 0.0:
        now_s += engine.stall_s
        engine.stall_s = 0.0
    first = 0 if pool.whole and engine.rest < MOST_RESTS else engine.decodes
    tokens, pairs = first, 0.0
    limit = token_limit(pool, first)
    while tokens < limit:
        task = engine.partial
        if task < 0:
            task = engine.head
            if task < 0 or s.progress[task].transferred or _too_much(s, pool, task, tokens):
                break
            if not _admit(s, t, tree, e, task, now_s):
                break
            if loads(s, task):
                continue
            engine.partial = task
        progress = s.progress[task]
        chunk = progress.need - progress.done
        if not pool.whole:
            chunk = min(limit - tokens, chunk)
        pairs += chunk * (progress.done + 0.5 * chunk)
        tokens += chunk
        _compute(s, t, tree, e, task, chunk)
    decodes = engine.decodes
    if pool.whole:
        decodes = _riding(s, tree, e, tokens, first)
        tokens += decodes - first
    engine.busy = 1 if tokens > 0 else 0
    engine.computing = tokens - decodes
    engine.still = tokens == engine.decodes and pairs == 0.0 and (engine.head < 0 or _refuses_still(s, pool, first))
    if tokens > 0:
        phase = _kind_of(tokens, decodes)
        others_s = _without_context_s(pool, phase, tokens, pairs, decodes)
        engine.started_s = now_s
        context_s = pool.context_s[phase] + pool.mixed_s[phase] * (pairs > 0)
        context_s = context_s / kept_tokens(pool, decodes) * (engine.context if decodes > 0 else 0)
        engine.end_s = now_s + (others_s + context_s) * engine.slowness
    return bool(tokens > 0)


@compiled
def _too_much(s: Any, pool: Any, task: int, tokens: int) -> bool:
    """Whether a prompt that is never cut must wait for the next batch; the first of a batch may exceed the budget."""
    return bool(pool.whole and tokens > 0 and tokens + s.progress[task].owed > pool.budget)


@compiled
def _refuses_still(s: Any, pool: Any, first: int) -> bool:
    """Whether who waits now will be refused again: for want of KV or a seat, not because decodes went first."""
    return bool(s.clock[0].unbounded == 0 and (not pool.whole or first == 0))


@compiled
def _riding(s: Any, tree: Any, e: int, tokens: int, first: int) -> int:
    """Decodes that join the whole prompts: all where the budget has room, else none, and their new blocks return."""
    engine = s.engines[e]
    room = s.pools[engine.pool].budget - tokens
    if first > 0 or tokens == 0 or engine.decodes <= max(room, 0):
        engine.rest = 0
        return int(engine.decodes)
    engine.rest += 1
    engine.rests += 1
    engine.free += s.crossing[e, engine.iteration % tree.block_tokens]
    return 0


@compiled
def _kind_of(tokens: int, decodes: int) -> int:
    """Which of a pool's step costs an iteration has; numbers as in :func:`heterarch.sim.seconds.cost_of`."""
    return 2 if tokens == decodes else (1 if decodes == 0 else 0)


@compiled
def _without_context_s(pool: Any, phase: int, tokens: int, pairs: float, decodes: int) -> float:
    """Seconds of an iteration that do not change while the same sequences decode."""
    kept = kept_tokens(pool, decodes)
    computed = (tokens - decodes) * kept + decodes * pool.verified
    seconds = step_seconds(cost_of(pool, phase), computed, pairs * kept, decodes, 0)
    return float((seconds + draft_seconds(pool, decodes)) / kept)


@compiled
def end_iteration(s: Any, e: int) -> None:
    """Account for the iteration that ends now; decodes move on by one token."""
    engine = s.engines[e]
    seconds = engine.end_s - engine.started_s
    engine.computing = 0
    engine.busy_s += seconds
    engine.kv_block_s += seconds * (s.pools[engine.pool].capacity - engine.free - engine.idle)
    if engine.rest == 0:
        engine.output_tokens += engine.decodes
        engine.context += engine.decodes
        engine.iteration += 1


@inlined
def decode_on(s: Any, tree: Any, e: int, coming_s: float, until_s: float, most: int) -> int:
    """End the iteration of engine ``e`` and begin the next, on and on while the same sequences decode; how many times.

    None if the batch changes at once. The engine must be ``still``: decodes only, and whoever waits was refused a seat
    and would be again, as there are never more blocks. The same sums in the same order as :func:`begin_iteration` and
    :func:`end_iteration`; the last iteration begun ends at ``coming_s`` or later, or after ``until_s``.
    """
    engine = s.engines[e]
    pool = s.pools[engine.pool]
    crossing = s.crossing[e]
    decodes, context, iteration, free = engine.decodes, engine.context, engine.iteration, engine.free
    started_s, end_s, busy_s, kv_block_s = engine.started_s, engine.end_s, engine.busy_s, engine.kv_block_s
    others_s, slowness = _without_context_s(pool, 2, decodes, 0.0, decodes), engine.slowness
    context_s = pool.context_s[2] / kept_tokens(pool, decodes)
    taken = pool.capacity - engine.idle
    last = iteration + min(most, s.finishes[e, 0].iteration - iteration)
    while iteration < last:
        wanted = crossing[(iteration + 1) % tree.block_tokens]
        if wanted > free:
            break
        seconds = end_s - started_s
        busy_s += seconds
        kv_block_s += seconds * (taken - free)
        context += decodes
        iteration += 1
        free -= wanted
        started_s = end_s
        end_s = started_s + (others_s + context_s * context) * slowness
        if end_s >= coming_s or end_s > until_s:
            break
    count = iteration - engine.iteration
    engine.output_tokens += count * decodes
    engine.context, engine.iteration, engine.free = context, iteration, free
    engine.started_s, engine.end_s, engine.busy_s, engine.kv_block_s = started_s, end_s, busy_s, kv_block_s
    return int(count)


@inlined
def next_finished(s: Any, t: Any, tree: Any, e: int) -> int:
    """Take out one decode that made its last token in the iteration just ended; -1 when there is none."""
    engine = s.engines[e]
    if engine.finishes == 0 or s.finishes[e, 0].iteration != engine.iteration - 1:
        return -1
    task = s.finishes[e, 0].task
    engine.finishes = drop_finish(s.finishes[e], engine.finishes, 0)
    _stop_decode(s, tree, e, task)
    s.progress[task].left = 0
    leave(s, t, tree, e, task)
    free_blocks(s, t, tree, e, task, True)
    return int(task)


@compiled
def next_prefilled(s: Any, e: int) -> int:
    """Take out one sequence whose prefill ended; its next token is made. -1 when there is none."""
    engine = s.engines[e]
    task = engine.prefilled
    if task >= 0:
        progress = s.progress[task]
        engine.prefilled = progress.next
        engine.output_tokens += 1
        progress.left -= 1
    return int(task)


@compiled
def start_decode(s: Any, tree: Any, e: int, task: int) -> None:
    """Let a running sequence take part in the decodes from the next iteration on."""
    engine, progress = s.engines[e], s.progress[task]
    progress.from_iteration = engine.iteration
    progress.from_context = progress.need + 1
    engine.decodes += 1
    engine.context += progress.from_context
    s.crossing[e, _crossing_of(progress, tree)] += 1
    last = engine.iteration + progress.left - 1
    engine.finishes = push_finish(s.finishes[e], engine.finishes, last, task)


@compiled
def leave(s: Any, t: Any, tree: Any, e: int, task: int) -> None:
    """Give up the seat; blocks stay."""
    engine, progress = s.engines[e], s.progress[task]
    before, after = progress.run_prev, progress.run_next
    if before >= 0:
        s.progress[before].run_next = after
    else:
        engine.run_head = after
    if after >= 0:
        s.progress[after].run_prev = before
    else:
        engine.run_tail = before
    engine.running -= 1


@compiled
def free_blocks(s: Any, t: Any, tree: Any, e: int, task: int, keep_answer: bool) -> None:
    """Give back the blocks of ``task``; its prompt, and its answer if the tree knows it, stay as a cache."""
    engine, progress = s.engines[e], s.progress[task]
    engine.still = 0
    engine.free += progress.held
    progress.held = 0
    cache = engine.cache
    leaf_out = t.rows[task].node_out if keep_answer else -1
    if cache >= 0 and s.clock[0].unbounded:
        keep_all(tree, s.nodes[cache], leaf_out)
    elif progress.locked >= 0:
        if s.pools[engine.pool].ttl_s > 0.0 or s.pools[engine.pool].tiers > 0:
            note_use(s, t, tree, e, task, leaf_out, keep_answer or progress.done >= progress.need)
        if leaf_out >= 0:
            engine.free -= append_run(tree, s.nodes[cache], engine, progress.locked, leaf_out)
        release(tree, s.nodes[cache], engine, progress.locked)
        progress.locked = -1


@compiled
def _crossing_of(progress: Any, tree: Any) -> int:
    """The iteration, modulo block size, at which a decode needs a block."""
    return int((progress.from_iteration + 1 - progress.from_context) % tree.block_tokens)


@compiled
def _stop_decode(s: Any, tree: Any, e: int, task: int) -> None:
    engine, progress = s.engines[e], s.progress[task]
    made = engine.iteration - progress.from_iteration
    context = progress.from_context + made
    engine.decodes -= 1
    engine.context -= context
    s.crossing[e, _crossing_of(progress, tree)] -= 1
    progress.left -= made
    progress.held += blocks_of(tree, context - 1) - blocks_of(tree, progress.need)
    progress.need = context


@inlined
def _grow(s: Any, t: Any, tree: Any, e: int) -> None:
    engine = s.engines[e]
    row = engine.iteration % tree.block_tokens
    while s.crossing[e, row] > engine.free + engine.idle:
        _preempt(s, t, tree, e, engine.run_tail)
    wanted = s.crossing[e, row]
    if wanted > engine.free:
        take(s.nodes[engine.cache], engine, wanted)
    else:
        engine.free -= wanted


@compiled
def _preempt(s: Any, t: Any, tree: Any, e: int, task: int) -> None:
    engine, sequence, progress = s.engines[e], s.sequences[task], s.progress[task]
    decoding = task != engine.partial
    if not decoding:
        engine.partial = -1
        engine.unprefilled -= progress.owed
    else:
        _stop_decode(s, tree, e, task)
        for row in range(engine.finishes):
            if s.finishes[e, row].task == task:
                engine.finishes = drop_finish(s.finishes[e], engine.finishes, row)
                break
    leave(s, t, tree, e, task)
    swapped = decoding and s.pools[engine.pool].swap != 0 and swap_out(s, tree, e, task)
    free_blocks(s, t, tree, e, task, False)
    progress.owed = 0
    progress.done = 0
    sequence.restarts += 0 if swapped else 1
    engine.preemptions += 1
    enqueue(s, t, tree, e, task, True)


@compiled
def _fits(s: Any, tree: Any, e: int, leaf: int, wanted: int) -> bool:
    engine = s.engines[e]
    spare = engine.free + engine.idle - wanted
    if engine.running > 0:
        spare -= s.pools[engine.pool].watermark
    if spare >= 0 and leaf >= 0:
        spare -= idle_on_path(tree, s.nodes[engine.cache], leaf)
    return bool(spare >= 0)


@compiled
def _admit(s: Any, t: Any, tree: Any, e: int, task: int, now_s: float) -> bool:
    engine, progress = s.engines[e], s.progress[task]
    if engine.running >= s.pools[engine.pool].seats:
        return False
    if progress.tier == LOADED:
        progress.tier = NO_LOAD
        engine.loaded -= 1
        _seat(s, e, task)
        return True
    leaf = t.rows[task].node if engine.cache >= 0 else -1
    if s.pools[engine.pool].ttl_s > 0.0:
        drop_expired(s, e, now_s)
    found = lookup(tree, s.nodes[engine.cache], leaf) if leaf >= 0 else 0
    shared = tree.runs[leaf].end if leaf >= 0 else 0
    unbounded = s.clock[0].unbounded != 0
    wanted = max(blocks_of(tree, progress.need), shared) - (shared if unbounded else found)
    coming = blocks_of(tree, progress.need + 1) - blocks_of(tree, progress.need) if progress.tier == SWAPPED else 0
    if not _fits(s, tree, e, -1 if unbounded else leaf, wanted + coming):
        return False
    if leaf >= 0 and not unbounded:
        hold(tree, s.nodes[engine.cache], engine, leaf)
        progress.locked = leaf
    if wanted > engine.free:
        take(s.nodes[engine.cache], engine, wanted)
    else:
        engine.free -= wanted
    progress.held = wanted
    progress.covered = found
    if s.pools[engine.pool].tiers > 0:
        found = begin_load(s, t, tree, e, task, found, now_s)
    _count_hits(s, t, tree, e, task, found, shared, now_s)
    if unbounded and leaf >= 0:
        keep_all(tree, s.nodes[engine.cache], leaf)
    if loads(s, task):
        set_aside(s, e)
    else:
        _seat(s, e, task)
    return True


@compiled
def _count_hits(s: Any, t: Any, tree: Any, e: int, task: int, found: int, shared: int, now_s: float) -> None:
    engine, sequence, progress = s.engines[e], s.sequences[task], s.progress[task]
    cached = min(found * tree.block_tokens, progress.need - 1)  # the last token is always computed
    progress.done = cached
    if np.isnan(sequence.scheduled_s):
        sequence.scheduled_s = now_s
        sequence.cached = cached
        s.clock[0].asked_blocks += shared
        s.clock[0].hit_blocks += found
        engine.prompt_tokens += progress.need
        engine.cached_tokens += cached
        if s.pools[engine.pool].seen >= 0:
            seen = s.nodes[s.pools[engine.pool].seen]
            known = lookup(tree, seen, t.rows[task].node) * tree.block_tokens
            keep_all(tree, seen, t.rows[task].node)
            engine.fresh_tokens += progress.need - min(known, progress.need - 1)
    engine.unprefilled += progress.need - cached - progress.owed
    progress.owed = progress.need - cached


@compiled
def _seat(s: Any, e: int, task: int) -> None:
    """The head of the queue takes a seat."""
    engine, progress = s.engines[e], s.progress[task]
    engine.head = progress.next
    if engine.head < 0:
        engine.tail = -1
    engine.queued -= 1
    progress.run_prev = engine.run_tail
    progress.run_next = -1
    if engine.run_tail >= 0:
        s.progress[engine.run_tail].run_next = task
    else:
        engine.run_head = task
    engine.run_tail = task
    engine.running += 1
    engine.peak_running = max(engine.peak_running, engine.running)


@inlined
def _compute(s: Any, t: Any, tree: Any, e: int, task: int, chunk: int) -> None:
    """Prefill ``chunk`` more tokens of the partial sequence; its blocks enter the tree as they are scheduled."""
    engine, progress = s.engines[e], s.progress[task]
    progress.done += chunk
    engine.computed_tokens += chunk
    progress.owed -= chunk
    engine.unprefilled -= chunk
    finished = progress.done >= progress.need
    if progress.locked >= 0:
        shared = tree.runs[progress.locked].end
        after = shared if finished else min(shared, progress.done // tree.block_tokens)
        if after > progress.covered:
            moved, twice = cover(tree, s.nodes[engine.cache], progress.locked, progress.covered, after)
            progress.held -= moved
            engine.free += twice
            progress.covered = after
    if finished:
        engine.partial = -1
        progress.next = -1
        if engine.prefilled < 0:
            engine.prefilled = task
        else:
            s.progress[engine.prefilled_tail].next = task
        engine.prefilled_tail = task


@inlined
def _seat_transferred(s: Any, t: Any, tree: Any, e: int, now_s: float) -> None:
    """Admit waiting sequences whose KV has come from a prefill engine or the host: they decode at once."""
    engine = s.engines[e]
    while engine.head >= 0 and s.progress[engine.head].transferred:
        task = engine.head
        if not _admit(s, t, tree, e, task, now_s):
            break
        progress = s.progress[task]
        if loads(s, task):
            continue
        engine.unprefilled -= progress.owed
        progress.owed = 0
        progress.done = progress.need
        progress.transferred = 0
        if progress.locked >= 0:
            shared = tree.runs[progress.locked].end
            moved, twice = cover(tree, s.nodes[engine.cache], progress.locked, progress.covered, shared)
            progress.held -= moved
            engine.free += twice
        start_decode(s, tree, e, task)
