"""What a loss does to the world, between two calls of the core: engines, KV on its way, calls that must start again.

Events of what is gone are taken out of the heap, so that the core never meets a stale one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from heterarch.sim.events import add_events, drop_events
from heterarch.sim.recall import recall
from heterarch.sim.state import NONE, Event, Health, Load, Shared, State
from heterarch.sim.tasks import Int64

_MOVES = (Event.HANDOFF, Event.ARRIVED)
_QUEUES = ("head", "tail", "run_head", "run_tail", "partial", "prefilled", "prefilled_tail", "lru_head", "lru_tail")
_COUNTS = (
    "still",
    "computing",
    "rest",
    "busy",
    "idle",
    "queued",
    "running",
    "decodes",
    "context",
    "unprefilled",
    "finishes",
    "loaded",
)


def lose_engine(state: State, engine: int) -> None:
    """Engine ``engine`` dies now: its iteration, its KV and what it sends are lost.

    Its calls go back to their routers with what they had generated as a part of the prompt. KV that was on its way to
    it is sent again, elsewhere; where it had sent KV, the decode engine computes it instead.
    """
    now_s = float(state.clock[0]["now_s"])
    record = state.engines[engine]
    record["healthy"] = Health.DOWN
    dropped = drop_events(state, _concerns(state, engine))
    if (dropped["kind"] == Event.ITERATION).any():
        record["busy_s"] += max(0.0, now_s - record["started_s"])  # it begins later where it waits for a swap
    moves = dropped["id"][np.isin(dropped["kind"], _MOVES)]
    sent = state.sequences["engine"][moves] == engine
    leaving, coming = recall(state, engine)
    _hand_over_again(state, np.array([*coming, *moves[~sent]], np.int64))
    gone = _on_their_way(state, np.array([*leaving, *moves[sent]], np.int64))
    loading = dropped["id"][dropped["kind"] == Event.LOADED].tolist()
    lost = [*_settled(state, engine, loading), *gone, *_waiting_with_kv(state, engine)]
    _empty(state, engine, now_s)
    _empty_stores(state, [engine], Shared.ENGINE)
    _start_again(state, np.array(lost, np.int64))
    record["lost_calls"] += len(lost)
    _ask_again(state, int(record["pool"]))


def lose_servers(state: State, engines: Sequence[int]) -> None:
    """The servers of ``engines`` are gone, where none of their engines is up: so is the KV on them."""
    _empty_stores(state, engines, Shared.SERVER)


def release_stranded(state: State, pool: int) -> None:
    """Calls that wait for an engine of ``pool`` go to their router again."""
    stranded = _stranded(state, pool)
    _let_go(state, pool, stranded, stranded)
    tasks = np.array(stranded, np.int64)
    prefilled = state.sequences["engine"][tasks] >= 0
    add_events(state, Event.HANDOFF, tasks[prefilled])
    add_events(state, Event.RETRY, tasks[~prefilled])
    _ask_again(state, pool)


def expire_stranded(state: State, pool: int) -> None:
    """Calls that wait for an engine of ``pool`` wait no longer."""
    stranded = _stranded(state, pool)
    drop_events(state, _expiries(state, stranded))
    add_events(state, Event.EXPIRE, stranded)


def _ask_again(state: State, pool: int) -> None:
    """Calls that the admission policy lets wait before ``pool`` may be let in now."""
    record = state.pools[pool]
    if record["held_head"] >= 0 and not record["asking"]:
        record["asking"] = 1
        add_events(state, Event.ADMIT, [pool])


def _concerns(state: State, engine: int) -> NDArray[np.bool_]:
    """Which events are of ``engine``: its iterations, KV that it sends or reads or that is on its way to it."""
    live = state.events[: state.clock[0]["events"]]
    moves = np.isin(live["kind"], (*_MOVES, Event.LOADED))
    tasks = np.where(moves, live["id"], 0)
    mine = moves & ((state.sequences["engine"][tasks] == engine) | (state.progress["target"][tasks] == engine))
    return np.asarray(
        mine | (np.isin(live["kind"], (Event.ITERATION, Event.START, Event.LINK)) & (live["id"] == engine))
    )


def _hand_over_again(state: State, tasks: Int64) -> None:
    """Send KV again that did not arrive: the router chooses again."""
    progress = state.progress
    there = tasks[progress["target"][tasks] >= 0]
    np.subtract.at(state.engines["unprefilled"], progress["target"][there], progress["owed"][there])
    progress["owed"][there] = 0
    progress["target"][there] = NONE
    add_events(state, Event.HANDOFF, tasks)


def _settled(state: State, engine: int, loading: list[int]) -> list[int]:
    """The calls that wait, run or load KV on ``engine``; they need in KV what they have generated, too."""
    record, progress = state.engines[engine], state.progress
    decoding = state.finishes[engine, : record["finishes"]]["task"]
    made = record["iteration"] - progress["from_iteration"][decoding]
    progress["left"][decoding] -= made
    progress["need"][decoding] = progress["from_context"][decoding] + made
    waiting = [*_chain(state, int(record["head"]), "next"), *loading]
    _leave_host(state, engine, waiting)
    progress["need"][waiting] += progress["transferred"][waiting]  # their first token was made
    here = [*_chain(state, int(record["run_head"]), "run_next"), *waiting]
    progress["target"][here] = NONE
    return here


def _leave_host(state: State, engine: int, tasks: list[int]) -> None:
    """Give back the room on the host of those of ``tasks`` that are swapped out."""
    progress = state.progress[tasks]
    need = progress["need"][np.isin(progress["tier"], (Load.SWAPPED, Load.RETURNING))]
    if len(need):
        block_tokens = state.crossing.shape[1]
        state.stores["free"][state.engines["stores"][engine][0]] += (-(-need // block_tokens)).sum()


def _on_their_way(state: State, tasks: Int64) -> list[int]:
    """Calls whose KV is lost on its way; it is the decode engine, if one is chosen, that computes it."""
    progress = state.progress
    there = tasks[progress["target"][tasks] >= 0]
    np.subtract.at(state.engines["unprefilled"], progress["target"][there], progress["owed"][there])
    progress["need"][tasks] += 1
    return [int(task) for task in tasks]


def _waiting_with_kv(state: State, engine: int) -> list[int]:
    """Calls whose KV is on ``engine`` and that wait for a decode engine; they wait no longer."""
    found: list[int] = []
    for pool in range(len(state.pools)):
        stranded = _stranded(state, pool)
        mine = [task for task in stranded if state.sequences["engine"][task] == engine]
        if mine:
            _let_go(state, pool, stranded, mine)
            found.extend(mine)
    state.progress["need"][found] += 1
    return found


def _let_go(state: State, pool: int, stranded: list[int], tasks: list[int]) -> None:
    """Take ``tasks`` out of those that ``pool`` holds."""
    drop_events(state, _expiries(state, tasks))
    gone = set(tasks)
    rest = [task for task in stranded if task not in gone]
    state.progress["next"][rest] = [*rest[1:], NONE][: len(rest)]
    state.pools["stranded"][pool], state.pools["stranded_tail"][pool] = (rest[0], rest[-1]) if rest else (NONE, NONE)
    state.progress["target"][tasks] = NONE


def _stranded(state: State, pool: int) -> list[int]:
    return list(_chain(state, int(state.pools["stranded"][pool]), "next"))


def _expiries(state: State, tasks: list[int]) -> NDArray[np.bool_]:
    live = state.events[: state.clock[0]["events"]]
    return np.asarray((live["kind"] == Event.EXPIRE) & np.isin(live["id"], tasks))


def _chain(state: State, first: int, link: str) -> Iterator[int]:
    while first >= 0:
        yield first
        first = int(state.progress[link][first])


def _empty(state: State, engine: int, now_s: float) -> None:
    """An engine that holds nothing."""
    record = state.engines[engine]
    for name in _QUEUES:
        record[name] = NONE
    for name in _COUNTS:
        record[name] = 0
    record["free"] = state.pools["capacity"][record["pool"]]
    record["link_free_s"] = now_s
    record["stall_s"] = 0.0
    state.crossing[engine] = 0
    if record["cache"] >= 0 and not state.clock[0]["unbounded"]:
        _forget(state, int(record["cache"]))


def _empty_stores(state: State, engines: Sequence[int], shared: Shared) -> None:
    """Stores below ``engines`` that are ``shared`` so hold nothing; but those below another engine that is up stay."""
    below = state.engines["stores"]
    up = np.unique(below[state.engines["healthy"] != Health.DOWN])
    for row in np.setdiff1d(below[list(engines)], [*up, NONE]).tolist():
        store = state.stores[row]
        if store["shared"] == shared:
            store["free"], store["idle"] = store["capacity"], 0
            store["lru_head"] = store["lru_tail"] = NONE
            store["read_free_s"] = store["write_free_s"] = state.clock[0]["now_s"]
            _forget(state, int(store["row"]))


def _forget(state: State, row: int) -> None:
    """A cache without any prefix."""
    nodes = state.nodes[row]
    nodes["resident"] = nodes["refs"] = 0
    nodes["older"] = nodes["newer"] = NONE


def _start_again(state: State, tasks: Int64) -> None:
    """Calls as new to the router, with one engine lost more."""
    rows, progress = state.sequences, state.progress
    rows["engine"][tasks] = NONE
    for name in ("next", "run_prev", "run_next", "locked"):
        progress[name][tasks] = NONE
    for name in ("transferred", "tier", "done", "covered", "held", "owed"):
        progress[name][tasks] = 0
    rows["restarts"][tasks] += 1
    rows["losses"][tasks] = np.minimum(rows["losses"][tasks], 126) + 1
    add_events(state, Event.RETRY, tasks)
