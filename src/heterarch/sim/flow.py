"""Tasks in time: what a finished task lets start, and how requests end."""

from __future__ import annotations

from typing import Any

import numpy as np

from heterarch.report.aggregate import Status
from heterarch.sim.compiled import compiled
from heterarch.sim.gate import ask_again
from heterarch.sim.heap import push_event
from heterarch.sim.state import Event

SUBMIT = int(Event.SUBMIT)
COMPLETED, REJECTED, FAILED = int(Status.COMPLETED), int(Status.REJECTED), int(Status.FAILED)


@compiled
def open_request(s: Any, t: Any, task: int, now_s: float) -> bool:
    """Note the submission of ``task``; whether its request is still worth working on."""
    if np.isnan(s.sequences[task].submitted_s):
        s.sequences[task].submitted_s = now_s
    request = s.requests[t.rows[task].request]
    if np.isnan(request.release_s):
        request.release_s = now_s
    return bool(request.status != REJECTED and request.status != FAILED)


@compiled
def first_token(s: Any, t: Any, task: int, now_s: float) -> None:
    """Note the first token of ``task`` and start what was waiting for it only."""
    sequence = s.sequences[task]
    if np.isnan(sequence.first_s):
        sequence.first_s = now_s
        _fire(s, t, task, now_s, 1)
        ask_again(s, t.rows[task].prefill_pool, now_s)


@compiled
def end_task(s: Any, t: Any, task: int, now_s: float, status: int, reason: int) -> None:
    """End ``task`` as ``status``: its successors may start; a request that lost a task is rejected or failed.

    The other tasks of such a request end with it; later requests of the session go on.
    """
    sequence = s.sequences[task]
    if np.isnan(sequence.first_s):
        if status == COMPLETED:
            sequence.first_s = now_s
        _fire(s, t, task, now_s, 1)
    sequence.status = status
    sequence.finish_s = now_s
    s.clock[0].open_tasks -= 1
    request = s.requests[t.rows[task].request]
    request.left -= 1
    request.finish_s = now_s
    if status != COMPLETED and request.status == 0:
        request.status = status
        request.reason = reason
    if request.left == 0 and request.status == 0:
        request.status = COMPLETED
    _fire(s, t, task, now_s, 0)
    ask_again(s, t.rows[task].prefill_pool, now_s)


@compiled
def _fire(s: Any, t: Any, task: int, now_s: float, at_first: int) -> None:
    for k in range(t.rows[task].first_edge, t.rows[task].end_edge):
        if t.edges[k].at_first != at_first:
            continue
        after = t.edges[k].task
        progress = s.progress[after]
        progress.deps -= 1
        if progress.deps == 0:
            start = max(now_s, t.rows[after].release_s) + t.rows[after].delay_s
            push_event(s.clock[0], s.events, start, SUBMIT, after)
