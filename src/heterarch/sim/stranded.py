"""Calls that wait because no engine of their pool is up: a first-in, first-out chain at the pool."""

from __future__ import annotations

from typing import Any

from heterarch.sim.compiled import compiled
from heterarch.sim.heap import push_event
from heterarch.sim.state import STRANDED, Event

EXPIRE = int(Event.EXPIRE)


@compiled
def strand(s: Any, task: int, p: int, now_s: float) -> bool:
    """Let ``task`` wait for an engine of pool ``p``; False when none is coming and no patience is stated."""
    pool, progress = s.pools[p], s.progress[task]
    if pool.coming == 0 and pool.patience_s == 0.0:
        return False
    progress.target = STRANDED - p
    progress.next = -1
    if pool.stranded < 0:
        pool.stranded = task
    else:
        s.progress[pool.stranded_tail].next = task
    pool.stranded_tail = task
    if pool.patience_s > 0.0:
        push_event(s.clock[0], s.events, now_s + pool.patience_s, EXPIRE, task)
    return True


@compiled
def rescue(s: Any, task: int) -> None:
    """Take ``task``, which waits, out of the chain of its pool."""
    progress = s.progress[task]
    pool = s.pools[STRANDED - progress.target]
    progress.target = -1
    before, at = -1, pool.stranded
    while at != task:
        before, at = at, s.progress[at].next
    if before < 0:
        pool.stranded = progress.next
    else:
        s.progress[before].next = progress.next
    if pool.stranded_tail == task:
        pool.stranded_tail = before
