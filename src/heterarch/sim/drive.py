"""Drives the core from Python: slices, progress, Python routers, Ctrl-C."""

from __future__ import annotations

import math
from collections.abc import Callable

from heterarch.errors import InputError, PolicyError
from heterarch.policy.admission import Admission, AdmissionPolicy, AdmissionView
from heterarch.policy.ask import ask, name_of
from heterarch.policy.base import Router, RouterView
from heterarch.sim.core import advance
from heterarch.sim.state import State, Stop
from heterarch.sim.tasks import Prefixes, Tasks

SLICE_EVENTS = 200_000  # between two looks at the keyboard
QUEUE_EVENTS = 1_000  # between two looks at the queues where their length is limited
SLICE_DECISIONS = 1_000  # of policies in Python, between two looks at either


def drive(
    state: State,
    tasks: Tasks,
    tree: Prefixes,
    until_s: float = math.inf,
    router: Router | None = None,
    tick: Callable[[State], None] | None = None,
    admission: AdmissionPolicy | None = None,
    max_queue: float = math.inf,
) -> bool:
    """Run ``state`` to its end or to ``until_s``; True when it ended, False when it was stopped before.

    Args:
        state: changed in place.
        tasks: what runs.
        tree: prefixes of the prompts.
        until_s: seconds of simulated time.
        router: a router in Python for the pools without a built-in one.
        tick: called after every slice.
        admission: an admission policy in Python, where the state has no built-in one.
        max_queue: stop when more calls and tasks wait than that; looked at once per slice.

    Raises:
        PolicyError: a policy raised, wrote to its view or decided what cannot be.
        InputError: tasks wait for each other in a circle.
    """
    most_events = SLICE_EVENTS if math.isinf(max_queue) else QUEUE_EVENTS
    decisions = 0
    try:
        while True:
            stop = advance(state, tasks, tree, until_s, most_events)
            if stop == Stop.DONE:
                return True
            if stop == Stop.STUCK:
                raise _stuck(state, admission)
            if stop in (Stop.ROUTE, Stop.ADMIT):
                _answer(state, tasks, stop, router, admission)
                decisions += 1
                if decisions % SLICE_DECISIONS:
                    continue
            elif _next_event_s(state, tasks) > until_s:
                state.clock[0]["now_s"] = until_s
                return False
            if tick is not None:
                tick(state)
            if waiting(state) > max_queue:
                return False
    except KeyboardInterrupt:
        return False


def _answer(state: State, tasks: Tasks, stop: Stop, router: Router | None, admission: AdmissionPolicy | None) -> None:
    if stop == Stop.ROUTE:
        _decide(state, tasks, router)
    else:
        _judge(state, tasks, admission)


def _stuck(state: State, admission: AdmissionPolicy | None) -> InputError:
    if (state.pools["held_head"] >= 0).any():
        return PolicyError(
            f"admission policy {name_of(admission)!r} lets calls wait although nothing is left to wait for",
            observed=f"{waiting(state)} calls wait",
            fix="admit or reject where the pool is idle",
        )
    return InputError(
        "tasks wait for each other, or an unhealthy engine holds them",
        observed=f"{int(state.clock[0]['open_tasks'])} tasks never start",
    )


def waiting(state: State) -> int:
    """Calls that wait for an engine or for their admission, and tasks that wait for a server."""
    queued = int(state.engines["queued"].sum())
    for name in ("head", "held_head"):
        for task in state.pools[name].tolist():
            while task >= 0:
                queued += 1
                task = int(state.sequences["next"][task])
    return queued


def router_view(state: State, tasks: Tasks, task: int, pool: int) -> RouterView:
    """What a router sees of ``pool`` for ``task``, from the scratch arrays that the core filled."""
    a = int(state.pools[pool]["first"])
    b = a + int(state.pools[pool]["engines"])
    views = state.views[a:b]
    views.flags.writeable = False
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
    row = ask("router", router, router_view(state, tasks, task, pool))
    engines = int(state.pools[pool]["engines"])
    if not -1 <= row < engines:
        raise PolicyError(
            f"router {name_of(router)!r} chose an engine that does not exist",
            observed=row,
            expected=f"0..{engines - 1}, or -1 for none",
        )
    clock["decision"] = row


def admission_view(state: State, tasks: Tasks, task: int, pool: int) -> AdmissionView:
    """What an admission policy sees of ``pool`` for ``task``, from the scratch arrays that the core filled."""
    a = int(state.pools[pool]["first"])
    views = state.views[a : a + int(state.pools[pool]["engines"])]
    views.flags.writeable = False
    now_s = float(state.clock[0]["now_s"])
    return AdmissionView(
        now_s,
        now_s - float(state.sequences["submitted_s"][task]),
        int(tasks.rows["prompt_tokens"][task]),
        views["age"],
        views["wait"],
        views["pending"],
        views["decode"],
        views["queued"],
        views["running"],
        views["healthy"],
    )


def _judge(state: State, tasks: Tasks, admission: AdmissionPolicy | None) -> None:
    if admission is None:
        raise InputError("the run has no built-in admission policy and none was given")
    clock = state.clock[0]
    view = admission_view(state, tasks, int(clock["ask_task"]), int(clock["ask_pool"]))
    decision = ask("admission policy", admission, view)
    if decision not in list(Admission):
        raise PolicyError(
            f"admission policy {name_of(admission)!r} decided what does not exist",
            observed=decision,
            expected="0 (admit), 1 (reject) or 2 (wait)",
        )
    clock["decision"] = decision


def _next_event_s(state: State, tasks: Tasks) -> float:
    clock = state.clock[0]
    times = [math.inf]
    if clock["events"] > 0:
        times.append(float(state.events[0]["time_s"]))
    if clock["next_root"] < len(state.roots):
        task = int(state.roots[clock["next_root"]])
        times.append(float(tasks.rows["release_s"][task] + tasks.rows["delay_s"][task]))
    return min(times)
