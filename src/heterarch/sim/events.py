"""Events of the world, added and taken out between two calls of the core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heterarch.sim.state import EVENT, Event, State
from heterarch.sim.tasks import Int64, Table


def add_events(state: State, kind: Event, ids: Sequence[int] | Int64) -> None:
    """Events of ``kind`` that happen now, in the order of ``ids``."""
    clock = state.clock[0]
    new = np.zeros(len(ids), EVENT)
    new["time_s"], new["kind"], new["id"] = clock["now_s"], kind, ids
    new["order"] = clock["order"] + np.arange(len(new))
    clock["order"] += len(new)
    _set_events(state, np.concatenate([state.events[: clock["events"]], new]))


def drop_events(state: State, which: NDArray[np.bool_]) -> Table:
    """Take events out of the heap; those taken, in order."""
    live = state.events[: state.clock[0]["events"]]
    gone = live[which]
    _set_events(state, live[~which])
    return gone[np.lexsort((gone["order"], gone["time_s"]))]


def _set_events(state: State, events: Table) -> None:
    """Events in order are a heap."""
    state.events[: len(events)] = events[np.lexsort((events["order"], events["time_s"]))]
    state.clock[0]["events"] = len(events)
