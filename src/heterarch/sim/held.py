"""Calls that wait because no engine of their pool is up: a first-in, first-out chain at the pool."""

from __future__ import annotations

from typing import Any

from heterarch.sim.compiled import compiled
from heterarch.sim.heap import push_event
from heterarch.sim.state import HELD, Event

EXPIRE = int(Event.EXPIRE)


@compiled
def hold(s: Any, task: int, p: int, now_s: float) -> bool:
    """Let ``task`` wait for an engine of pool ``p``; False when none is coming and no patience is stated."""
    pool, sequence = s.pools[p], s.sequences[task]
    if pool.coming == 0 and pool.patience_s == 0.0:
        return False
    sequence.target = HELD - p
    sequence.next = -1
    if pool.held < 0:
        pool.held = task
    else:
        s.sequences[pool.held_tail].next = task
    pool.held_tail = task
    if pool.patience_s > 0.0:
        push_event(s.clock[0], s.events, now_s + pool.patience_s, EXPIRE, task)
    return True


@compiled
def unhold(s: Any, task: int) -> None:
    """Take ``task``, which waits, out of the chain of its pool."""
    sequence = s.sequences[task]
    pool = s.pools[HELD - sequence.target]
    sequence.target = -1
    before, at = -1, pool.held
    while at != task:
        before, at = at, s.sequences[at].next
    if before < 0:
        pool.held = sequence.next
    else:
        s.sequences[before].next = sequence.next
    if pool.held_tail == task:
        pool.held_tail = before
