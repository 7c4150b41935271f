"""Drives the core from Python: slices, progress, Python routers, Ctrl-C."""

from __future__ import annotations

import math
from collections.abc import Callable

from heterarch.errors import InputError
from heterarch.policy.base import Router, RouterView
from heterarch.sim.change import Changes
from heterarch.sim.core import advancer
from heterarch.sim.state import VIEW, State, Stop
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
    advance = advancer(state, tasks, tree)
    decide = None if router is None else _decider(state, tasks, router)
    try:
        while True:
            change_s = math.inf if changes is None else changes.next_s
            stop = advance(min(until_s, change_s), SLICE_EVENTS)
            if stop == Stop.ROUTE:
                if decide is None:
                    raise InputError("the pools have no built-in router and no router was given")
                decide()
                continue
            if stop == Stop.DONE:
                return True
            if changes is not None and change_s <= until_s and _is_quiet(state, tasks, Stop(stop), change_s):
                changes.apply()
            elif stop == Stop.STUCK and math.isinf(change_s):
                raise InputError(
                    "tasks wait for each other, or an unhealthy engine holds them",
                    observed=f"{int(state.clock[0]['open_tasks'])} tasks never start",
                )
            if _next_event_s(state, tasks) > until_s:
                state.clock[0]["now_s"] = until_s
                return False
            if tick is not None:
                tick(state)
    except KeyboardInterrupt:
        return False


def _decider(state: State, tasks: Tasks, router: Router) -> Callable[[], None]:
    """What answers the core when it waits for ``router``; the arrays of the views are those that the core fills."""
    clock = state.clock[0]
    prompt_tokens, sessions, last_engine = tasks.rows["prompt_tokens"], tasks.rows["session"], state.last_engine
    pools = [state.views[a : a + n] for a, n in zip(state.pools["first"], state.pools["engines"], strict=True)]
    columns = [tuple(views[name] for name in VIEW.names or ()) for views in pools]

    def decide() -> None:
        task, pool = clock["route_task"], clock["route_pool"]
        last = int(last_engine[sessions[task], pool])
        row = int(router.decide(RouterView(float(clock["now_s"]), int(prompt_tokens[task]), last, *columns[pool])))
        if not -1 <= row < len(pools[pool]):
            raise InputError(
                f"router {router.name!r} chose an engine that does not exist",
                observed=row,
                expected=f"0..{len(pools[pool]) - 1}, or -1 for none",
            )
        if row >= 0 and not pools[pool]["healthy"][row]:
            raise InputError(f"router {router.name!r} chose an engine that is not healthy", observed=row)
        clock["decision"] = row

    return decide


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
