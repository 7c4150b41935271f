"""KV blocks of an engine: sequences hold their own, prompts share the runs of the prefix tree.

A run of which nobody holds a sequence stays as a cache until its blocks are wanted. Runs are kept by least recent use;
a released path is touched from its leaf up to its root, so a run is always older than the run before it, and the cache
shrinks from the ends of prompts. ``resident`` counts the leading blocks of a run that are there.
"""

from __future__ import annotations

from typing import Any

from heterarch.sim.compiled import compiled


@compiled
def blocks_of(tree: Any, tokens: int) -> int:
    """KV blocks of ``tokens`` tokens."""
    return int((tokens + tree.block_tokens - 1) // tree.block_tokens)


@compiled
def lookup(tree: Any, row: Any, leaf: int) -> int:
    """Leading blocks of the prompt that ends at ``leaf`` which the cache ``row`` holds."""
    node = leaf
    while node >= 0:
        if row[node].resident > 0:
            return int(tree.runs[node].end - tree.runs[node].blocks + row[node].resident)
        node = tree.runs[node].parent
    return 0


@compiled
def idle_on_path(tree: Any, row: Any, leaf: int) -> int:
    """Blocks on the path to ``leaf`` that are cached and held by nobody."""
    blocks = 0
    node = leaf
    while node >= 0 and row[node].refs == 0:
        blocks += row[node].resident
        node = tree.runs[node].parent
    return blocks


@compiled
def hold(tree: Any, row: Any, engine: Any, leaf: int) -> None:
    """Protect the path to ``leaf`` from eviction."""
    node = leaf
    while node >= 0:
        if row[node].refs == 0 and row[node].resident > 0:
            _unlink(row, engine, node)
            engine.idle -= row[node].resident
        row[node].refs += 1
        node = tree.runs[node].parent


@compiled
def release(tree: Any, row: Any, engine: Any, leaf: int) -> None:
    """Undo one :func:`hold`; what nobody holds becomes the youngest of the cache, the root last."""
    node = leaf
    while node >= 0:
        row[node].refs -= 1
        if row[node].refs == 0 and row[node].resident > 0:
            _link(row, engine, node)
            engine.idle += row[node].resident
        node = tree.runs[node].parent


@compiled
def take(row: Any, engine: Any, blocks: int) -> None:
    """Take ``blocks`` (at most free + idle), evicting the oldest cached runs from their ends as needed."""
    while engine.free < blocks:
        node = engine.lru_head
        wanted = min(blocks - engine.free, row[node].resident)
        row[node].resident -= wanted
        engine.free += wanted
        engine.idle -= wanted
        if row[node].resident == 0:
            _unlink(row, engine, node)
    engine.free -= blocks


@compiled
def cover(tree: Any, row: Any, leaf: int, before: int, after: int) -> tuple[int, int]:
    """Register blocks ``before..after`` of the held path to ``leaf`` as resident.

    Returns:
        blocks of that range that belong to the tree, and how many of them were resident already (computed twice).
    """
    covered = 0
    twice = 0
    node = leaf
    while node >= 0 and tree.runs[node].end > before:
        start = tree.runs[node].end - tree.runs[node].blocks
        span = min(tree.runs[node].end, after) - max(start, before)
        if span > 0:
            grown = max(0, min(tree.runs[node].end, after) - start - row[node].resident)
            row[node].resident += grown
            covered += span
            twice += span - grown
        node = tree.runs[node].parent
    return covered, twice


@compiled
def append_run(tree: Any, row: Any, engine: Any, leaf: int, leaf_out: int) -> int:
    """Make the runs after ``leaf`` down to ``leaf_out`` resident and cached; the blocks that this moved."""
    moved = 0
    node = leaf_out
    while node != leaf and node >= 0:
        grown = tree.runs[node].blocks - row[node].resident
        if grown > 0 and row[node].refs == 0:
            if row[node].resident > 0:
                _unlink(row, engine, node)
            row[node].resident += grown
            _link(row, engine, node)
            engine.idle += grown
            moved += grown
        node = tree.runs[node].parent
    return moved


@compiled
def touch(tree: Any, used_s: Any, leaf: int, at_s: float) -> None:
    """Note that the path to ``leaf`` was in use until ``at_s``."""
    node = leaf
    while node >= 0:
        used_s[node] = max(used_s[node], at_s)
        node = tree.runs[node].parent


@compiled
def expire(row: Any, used_s: Any, engine: Any, before_s: float) -> None:
    """Drop the cached runs whose last use was before ``before_s``; the list is in order of last use."""
    while engine.lru_head >= 0 and used_s[engine.lru_head] < before_s:
        node = engine.lru_head
        engine.free += row[node].resident
        engine.idle -= row[node].resident
        row[node].resident = 0
        _unlink(row, engine, node)


@compiled
def keep_all(tree: Any, row: Any, leaf: int) -> None:
    """Make the whole path to ``leaf`` resident in a cache that never forgets and takes no memory."""
    node = leaf
    while node >= 0 and row[node].resident < tree.runs[node].blocks:
        row[node].resident = tree.runs[node].blocks
        node = tree.runs[node].parent


@compiled
def _link(row: Any, engine: Any, node: int) -> None:
    row[node].older = engine.lru_tail
    row[node].newer = -1
    if engine.lru_tail >= 0:
        row[engine.lru_tail].newer = node
    else:
        engine.lru_head = node
    engine.lru_tail = node


@compiled
def _unlink(row: Any, engine: Any, node: int) -> None:
    older, newer = row[node].older, row[node].newer
    if older >= 0:
        row[older].newer = newer
    else:
        engine.lru_head = newer
    if newer >= 0:
        row[newer].older = older
    else:
        engine.lru_tail = older
