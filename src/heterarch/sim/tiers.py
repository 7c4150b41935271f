"""Tiers of KV below the device: what a call has computed is written through, and read back where that is faster.

When a call ends (or its KV has left for a decode engine), every tier of its engine is given the blocks of its prompt
and answer that it lacks, as KV offloading connectors do: nothing is written when the device is in need of memory, and
what other engines can reach is there before this engine forgets it. A store evicts by least recent use, as the device.
Reads of a store follow each other, and so do writes; a block can be read once it is written. A waiting call that
reads takes its memory first and no seat; the engine goes on with others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heterarch.sim.cache import append_run, blocks_of, cover, expire, hold, keep_all, lookup, release, take, touch
from heterarch.sim.compiled import compiled, inlined
from heterarch.sim.heap import push_event
from heterarch.sim.seconds import cost_of, step_seconds
from heterarch.sim.state import Event, Load

LOADED_EVENT = int(Event.LOADED)
LOADING, LOADED = int(Load.LOADING), int(Load.LOADED)
SWAPPED, RETURNING = int(Load.SWAPPED), int(Load.RETURNING)


@inlined
def loads(s: Any, task: int) -> bool:
    """Whether ``task`` has its memory and waits for its KV."""
    return bool(s.progress[task].tier == LOADING or s.progress[task].tier == RETURNING)


@compiled
def drop_expired(s: Any, e: int, now_s: float) -> None:
    """Drop what engine ``e`` has kept unused for longer than its pool's TTL."""
    engine = s.engines[e]
    if engine.cache >= 0:
        expire(s.nodes[engine.cache], s.used_s[engine.cache], engine, now_s - s.pools[engine.pool].ttl_s)


@compiled
def note_use(s: Any, t: Any, tree: Any, e: int, task: int, leaf_out: int, computed: bool) -> None:
    """``task`` ends now, its answer at ``leaf_out``: date both for the TTL, and write them through if ``computed``."""
    engine, leaf = s.engines[e], max(s.progress[task].locked, leaf_out)
    pool, seen = s.pools[engine.pool], s.pools[t.rows[task].prefill_pool].seen
    if seen >= 0:
        keep_all(tree, s.nodes[seen], leaf_out)
    if pool.ttl_s > 0.0:
        touch(tree, s.used_s[engine.cache], leaf, s.clock[0].now_s)
    if computed:
        for k in range(pool.tiers):
            store = s.stores[engine.stores[k]]
            blocks = _write(s, tree, store, pool.kv_bytes, leaf, s.clock[0].now_s)
            engine.tier_writes[k] += blocks * tree.block_tokens


@compiled
def begin_use(s: Any, tree: Any, e: int, task: int, leaf: int, found: int) -> None:
    """A hosted API with a TTL has the whole prompt of ``task`` in use from now on."""
    engine = s.engines[e]
    hold(tree, s.nodes[engine.cache], engine, leaf)
    cover(tree, s.nodes[engine.cache], leaf, found, tree.runs[leaf].end)
    s.progress[task].locked = leaf


@compiled
def end_use(s: Any, t: Any, tree: Any, task: int) -> None:
    """The hosted API keeps prompt and answer of ``task`` from now on, for its TTL."""
    sequence, progress = s.sequences[task], s.progress[task]
    engine, leaf_out = s.engines[sequence.engine], t.rows[task].node_out
    row = s.nodes[engine.cache]
    touch(tree, s.used_s[engine.cache], max(progress.locked, leaf_out), s.clock[0].now_s)
    if leaf_out >= 0:
        append_run(tree, row, engine, progress.locked, leaf_out)
    release(tree, row, engine, progress.locked)
    progress.locked = -1


@compiled
def _write(s: Any, tree: Any, store: Any, kv_bytes: float, leaf: int, now_s: float) -> int:
    """Write what ``store`` lacks of the path to ``leaf``, as much as fits, and make the path its youngest; blocks."""
    row, used_s = s.nodes[store.row], s.used_s[store.row]
    if store.ttl_s > 0.0:
        expire(row, used_s, store, now_s - store.ttl_s)
    found = lookup(tree, row, leaf)
    hold(tree, row, store, leaf)
    blocks = min(tree.runs[leaf].end - found, store.free + store.idle)
    take(row, store, blocks)
    cover(tree, row, leaf, found, found + blocks)
    touch(tree, used_s, leaf, now_s)
    if blocks > 0:
        store.write_free_s = max(now_s, store.write_free_s)
        store.write_free_s += blocks * tree.block_tokens * kv_bytes / store.write_bytes_per_s
        node = leaf
        while node >= 0 and tree.runs[node].end > found:
            used_s[node] = store.write_free_s
            node = tree.runs[node].parent
    release(tree, row, store, leaf)
    return int(blocks)


@compiled
def _readable(tree: Any, row: Any, used_s: Any, leaf: int, now_s: float) -> int:
    """Leading blocks of the path to ``leaf`` that a store has, without those still being written."""
    node = leaf
    while node >= 0 and (row[node].resident == 0 or used_s[node] > now_s):
        node = tree.runs[node].parent
    return lookup(tree, row, node)


@compiled
def _saved_s(pool: Any, need: int, before: int, after: int) -> float:
    """Seconds of prefill, alone on an engine of ``pool``, that tokens ``before..after`` take."""
    seconds, sign = 0.0, 1.0
    for done in (before, after):
        tokens = float(need - done)
        chunks = max(1.0, tokens / pool.budget)
        pairs = tokens * (done + 0.5 * tokens)
        seconds += sign * chunks * step_seconds(cost_of(pool, 1), tokens / chunks, pairs / chunks, 0, 0)
        sign = -1.0
    return seconds


@compiled
def begin_load(s: Any, t: Any, tree: Any, e: int, task: int, found: int, now_s: float) -> int:
    """Let ``task``, whose memory is taken, wait for what the tiers have of it; leading blocks of its prompt then.

    ``found`` are those that the device has.
    """
    progress = s.progress[task]
    blocks, ready_s = found, now_s
    if progress.tier == SWAPPED:
        progress.tier = RETURNING
        ready_s = _swap_in(s, tree, e, task, found, now_s)
    elif not progress.transferred:
        blocks, ready_s = _read(s, t, tree, e, task, found, now_s)
    if blocks > found:
        progress.tier = LOADING
    if progress.tier == LOADING or progress.tier == RETURNING:
        push_event(s.clock[0], s.events, ready_s, LOADED_EVENT, task)
    return blocks


@compiled
def _read(s: Any, t: Any, tree: Any, e: int, task: int, found: int, now_s: float) -> tuple[int, float]:
    """Leading blocks of the prompt that device and tiers give, and when they are on the device.

    A tier is left out where computing what it has is faster than waiting for it.
    """
    engine, need = s.engines[e], s.progress[task].need
    pool = s.pools[engine.pool]
    blocks, ready_s = found, now_s
    for k in range(pool.tiers):
        store = s.stores[engine.stores[k]]
        row, used_s = s.nodes[store.row], s.used_s[store.row]
        if store.ttl_s > 0.0:
            expire(row, used_s, store, now_s - store.ttl_s)
        there = _readable(tree, row, used_s, t.rows[task].node, now_s)
        before, after = blocks * tree.block_tokens, min(there * tree.block_tokens, need - 1)
        if after <= before:
            continue
        end_s = max(now_s, store.read_free_s) + (after - before) * pool.kv_bytes / store.read_bytes_per_s
        if end_s + store.latency_s - now_s >= _saved_s(pool, need, before, after):
            continue
        blocks, ready_s = there, max(ready_s, end_s + store.latency_s)
        store.read_free_s = end_s
        engine.tier_reads[k] += after - before
        if np.isnan(s.sequences[task].scheduled_s):  # hits are counted at the first admission
            engine.tier_hits[k] += after - before
    return blocks, ready_s


@compiled
def _swap_in(s: Any, tree: Any, e: int, task: int, found: int, now_s: float) -> float:
    """When the KV that ``task`` has on the host, less the ``found`` blocks of the device, is back."""
    engine = s.engines[e]
    store = s.stores[engine.stores[0]]
    tokens = max(0, s.progress[task].need - found * tree.block_tokens)
    start_s = max(now_s, store.read_free_s)
    store.read_free_s = start_s + tokens * s.pools[engine.pool].kv_bytes / store.read_bytes_per_s
    engine.tier_reads[0] += tokens
    return float(store.read_free_s + store.latency_s)


@compiled
def set_aside(s: Any, e: int) -> None:
    """Take the head out of the queue of engine ``e``; it still counts as queued."""
    engine = s.engines[e]
    engine.head = s.progress[engine.head].next
    if engine.head < 0:
        engine.tail = -1


@compiled
def end_load(s: Any, tree: Any, task: int) -> None:
    """The KV is on the device: of a prompt, in the prefix cache too."""
    sequence, progress = s.sequences[task], s.progress[task]
    engine = s.engines[sequence.engine]
    returned = progress.tier == RETURNING
    progress.tier = LOADED
    if returned:
        s.stores[engine.stores[0]].free += blocks_of(tree, progress.need)
        return
    after = max(progress.covered, blocks_of(tree, progress.done))
    moved, twice = cover(tree, s.nodes[engine.cache], progress.locked, progress.covered, after)
    progress.held -= moved
    engine.free += twice
    progress.covered = after


@compiled
def swap_out(s: Any, tree: Any, e: int, task: int) -> bool:
    """Move the KV of an evicted decode to the host; False where the host has no room.

    The next iteration of the engine waits for the copy, since it uses the memory. On its return the sequence is like
    one whose KV has come from a prefill engine; its last token has no KV yet.
    """
    engine, progress = s.engines[e], s.progress[task]
    store = s.stores[engine.stores[0]]
    tokens = progress.need - 1
    blocks = blocks_of(tree, tokens)
    if blocks > store.free + store.idle:
        return False
    take(s.nodes[store.row], store, blocks)
    now_s = s.clock[0].now_s
    store.write_free_s = max(now_s, store.write_free_s)
    store.write_free_s += tokens * s.pools[engine.pool].kv_bytes / store.write_bytes_per_s
    engine.stall_s = store.write_free_s - now_s
    engine.swaps += 1
    engine.tier_writes[0] += tokens
    progress.need, progress.tier, progress.transferred = tokens, SWAPPED, 1
    return True
