"""Drives the core from Python: slices, progress, Python routers, Ctrl-C."""

from __future__ import annotations

import math
from collections.abc import Callable

from heterarch.errors import InputError
from heterarch.policy.base import Router, RouterView
from heterarch.sim.change import Changes
from heterarch.sim.core import advance
from heterarch.sim.state import State, Stop
from heterarch.sim.tasks import Prefixes, Tasks

SLICE_EVENTS = 200_000  # between two looks at the keyboard


def drive(
    state: State,
    tasks: Tasks,
    tree: Prefixes,
    until_s: float = math.inf,
    router: Router | None = None,
    tick: Callable[[State], None] | None = None,
    changes: Changes | None = None,
) -> bool:
    """Run ``state`` to its end or to ``until_s``; True when it ended, False when it was stopped before.

    Args:
        state: changed in place.
        tasks: what runs.
        tree: prefixes of the prompts.
        until_s: seconds of simulated time.
        router: a router in Python for the pools without a built-in one.
        tick: called after every slice.
        changes: faults and changes that are due during the run.

    Raises:
        InputError: the router chose an engine that does not exist, or tasks wait for each other in a circle.
    """
    try:
        while True:
            change_s = math.inf if changes is None else changes.next_s
            stop = advance(state, tasks, tree, min(until_s, change_s), SLICE_EVENTS)
            if stop == Stop.ROUTE:
                _decide(state, tasks, router)
            elif stop == Stop.DONE:
                return True
            elif changes is not None and change_s <= until_s and _is_quiet(state, tasks, stop, change_s):
                changes.apply()
            elif stop == Stop.STUCK and math.isinf(change_s):
                raise InputError(
                    "tasks wait for each other, or an unhealthy engine holds them",
                    observed=f"{int(state.clock[0]['open_tasks'])} tasks never start",
                )
            elif _next_event_s(state, tasks) > until_s:
                state.clock[0]["now_s"] = until_s
                return False
            if tick is not None and stop != Stop.ROUTE:
                tick(state)
    except KeyboardInterrupt:
        return False


def router_view(state: State, tasks: Tasks, task: int, pool: int) -> RouterView:
    """What a router sees of ``pool`` for ``task``, from the scratch arrays that the core filled."""
    a = int(state.pools[pool]["first"])
    b = a + int(state.pools[pool]["engines"])
    views = state.views[a:b]
    return RouterView(
        float(state.clock[0]["now_s"]),
        int(tasks.rows["prompt_tokens"][task]),
        int(state.last_engine[tasks.rows["session"][task], pool]),
        views["age"],
        views["cached"],
        views["pending"],
        views["decode"],
        views["queued"],
        views["running"],
        views["healthy"],
    )


def _decide(state: State, tasks: Tasks, router: Router | None) -> None:
    if router is None:
        raise InputError("the pools have no built-in router and no router was given")
    clock = state.clock[0]
    task, pool = int(clock["route_task"]), int(clock["route_pool"])
    row = int(router.decide(router_view(state, tasks, task, pool)))
    engines = int(state.pools[pool]["engines"])
    if not -1 <= row < engines:
        raise InputError(
            f"router {router.name!r} chose an engine that does not exist",
            observed=row,
            expected=f"0..{engines - 1}, or -1 for none",
        )
    if row >= 0 and not state.views["healthy"][int(state.pools[pool]["first"]) + row]:
        raise InputError(f"router {router.name!r} chose an engine that is not healthy", observed=row)
    clock["decision"] = row


def _is_quiet(state: State, tasks: Tasks, stop: Stop, until_s: float) -> bool:
    """Whether there is work left, and nothing more happens to it up to ``until_s``."""
    return stop == Stop.STUCK or (state.clock[0]["open_tasks"] > 0 and _next_event_s(state, tasks) > until_s)


def _next_event_s(state: State, tasks: Tasks) -> float:
    clock = state.clock[0]
    times = [math.inf]
    if clock["events"] > 0:
        times.append(float(state.events[0]["time_s"]))
    if clock["next_root"] < len(state.roots):
        task = int(state.roots[clock["next_root"]])
        times.append(float(tasks.rows["release_s"][task] + tasks.rows["delay_s"][task]))
    return min(times)
