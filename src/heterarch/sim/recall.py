"""KV on its way when an engine dies or a link fails: changes to what :mod:`heterarch.sim.links` sends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from heterarch.sim.events import drop_events
from heterarch.sim.state import NONE, Event, State


def recall(state: State, engine: int) -> tuple[list[int], list[int]]:
    """Take what ``engine`` sends, and what is sent to it, out of the lines; the tasks of both.

    Bytes that have moved are lost. The LINK event of ``engine`` itself must be gone already.
    """
    _move_bytes(state)
    leaving = list(in_line(state, engine))
    _set_line(state, engine, [])
    coming: list[int] = []
    for sender in np.flatnonzero(state.engines["send_head"] >= 0).tolist():
        line = list(in_line(state, sender))
        rest = [task for task in line if state.progress["target"][task] != engine]
        if len(rest) < len(line):
            coming += [task for task in line if state.progress["target"][task] == engine]
            _set_line(state, sender, rest, goes_on=line[0] in rest)
    return leaving, coming


def set_rate(state: State, source: int, target: int, bytes_per_s: float) -> None:
    """From now on the link from pool ``source`` to pool ``target`` has this rate, 0 for none."""
    state.links["bytes_per_s"][source, target] = bytes_per_s
    state.clock["sent_s"] = state.clock["now_s"]  # rates are shared out again


def in_line(state: State, engine: int) -> Iterator[int]:
    """The tasks whose KV ``engine`` sends, in order."""
    task = int(state.engines["send_head"][engine])
    while task >= 0:
        yield task
        task = int(state.progress["next"][task])


def _move_bytes(state: State) -> None:
    """Bytes move up to now, at the rates of before; the rates are to be shared out again."""
    clock = state.clock[0]
    senders = state.engines["sender"][: clock["sending"]]
    seconds = float(clock["now_s"] - clock["network_s"])
    rates = state.engines["send_rate"][senders]
    moved = np.multiply(rates, seconds, out=np.full(len(rates), np.inf), where=np.isfinite(rates))
    state.engines["send_left"][senders] = np.maximum(state.engines["send_left"][senders] - moved, 0.0)
    clock["network_s"] = clock["sent_s"] = clock["now_s"]


def _set_line(state: State, engine: int, tasks: list[int], goes_on: bool = False) -> None:
    """Let ``engine`` send ``tasks``, the first from its beginning unless it ``goes_on``."""
    record, clock = state.engines[engine], state.clock[0]
    state.progress["next"][tasks] = [*tasks[1:], NONE][: len(tasks)]
    record["send_head"], record["send_tail"] = (tasks[0], tasks[-1]) if tasks else (NONE, NONE)
    if tasks:
        if not goes_on:
            record["send_left"] = state.transfers["send_bytes"][tasks[0]]
        return
    record["send_rate"], record["link_free_s"] = 0.0, clock["now_s"]
    senders = [k for k in state.engines["sender"][: clock["sending"]].tolist() if k != engine]
    state.engines["sender"][: len(senders)] = senders
    clock["sending"] = len(senders)
    _forget_start(state, engine)


def _forget_start(state: State, engine: int) -> None:
    """Take the event out of the heap that would let ``engine`` begin to send."""
    live = state.events[: state.clock[0]["events"]]
    drop_events(state, (live["kind"] == Event.LINK) & (live["id"] == engine))
