"""Two binary heaps in arrays: the events of the world by time, and the finishing iterations of an engine."""

from __future__ import annotations

from typing import Any

from heterarch.sim.compiled import compiled


@compiled
def push_event(clock: Any, events: Any, time_s: float, kind: int, id_: int) -> None:
    """Add an event; of two at the same time the one pushed first comes first.

    ``clock`` is the record that keeps the size of the heap and the running number of events.
    """
    row = clock.events
    clock.events += 1
    order = clock.order
    clock.order += 1
    while row > 0:
        above = (row - 1) // 2
        if events[above].time_s <= time_s:
            break
        events[row] = events[above]
        row = above
    event = events[row]
    event.time_s = time_s
    event.order = order
    event.kind = kind
    event.id = id_


@compiled
def drop_event(clock: Any, events: Any) -> None:
    """Remove the earliest event, which stands at row 0."""
    clock.events -= 1
    last = clock.events
    time_s, order = events[last].time_s, events[last].order
    row = 0
    while True:
        below = 2 * row + 1
        if below >= last:
            break
        if below + 1 < last and _before(events, below + 1, below):
            below += 1
        if events[below].time_s > time_s or (events[below].time_s == time_s and events[below].order > order):
            break
        events[row] = events[below]
        row = below
    if row != last:
        events[row] = events[last]


@compiled
def _before(events: Any, a: int, b: int) -> bool:
    if events[a].time_s != events[b].time_s:
        return bool(events[a].time_s < events[b].time_s)
    return bool(events[a].order < events[b].order)


@compiled
def push_finish(heap: Any, size: int, iteration: int, task: int) -> int:
    """Add ``task`` to a heap of ``size`` entries ordered by iteration, then task; the new size."""
    _sift_up(heap, size, iteration, task)
    return size + 1


@compiled
def drop_finish(heap: Any, size: int, row: int) -> int:
    """Remove the entry at ``row`` (0: the first to finish); the new size."""
    size -= 1
    if row < size:
        row = _sift_down(heap, size, row, heap[size].iteration, heap[size].task)
        _sift_up(heap, row, heap[row].iteration, heap[row].task)
    return size


@compiled
def _sift_up(heap: Any, row: int, iteration: int, task: int) -> None:
    while row > 0:
        above = heap[(row - 1) // 2]
        if above.iteration < iteration or (above.iteration == iteration and above.task < task):
            break
        heap[row].iteration, heap[row].task = above.iteration, above.task
        row = (row - 1) // 2
    heap[row].iteration, heap[row].task = iteration, task


@compiled
def _sift_down(heap: Any, size: int, row: int, iteration: int, task: int) -> int:
    while 2 * row + 1 < size:
        k = 2 * row + 1
        if k + 1 < size and _sooner(heap[k + 1], heap[k].iteration, heap[k].task):
            k += 1
        if not _sooner(heap[k], iteration, task):
            break
        heap[row].iteration, heap[row].task = heap[k].iteration, heap[k].task
        row = k
    heap[row].iteration, heap[row].task = iteration, task
    return row


@compiled
def _sooner(entry: Any, iteration: int, task: int) -> bool:
    return bool(entry.iteration < iteration or (entry.iteration == iteration and entry.task < task))
