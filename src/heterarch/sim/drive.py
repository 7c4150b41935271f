"""Drives the core from Python: slices, progress, Python routers, Ctrl-C."""

from __future__ import annotations

import math
from collections.abc import Callable

from heterarch.errors import InputError, PolicyError
from heterarch.policy.admission import Admission, AdmissionPolicy, AdmissionView
from heterarch.policy.ask import ask, name_of
from heterarch.policy.base import Router, RouterView
from heterarch.sim.change import Changes
from heterarch.sim.core import advancer
from heterarch.sim.state import State, Stop
from heterarch.sim.tasks import Prefixes, Table, Tasks

#: columns of :data:`heterarch.sim.state.VIEW` in the order of the views of policies
ROUTER_COLUMNS = ("age", "cached", "pending", "decode", "queued", "running", "healthy")
ADMISSION_COLUMNS = ("age", "wait", "pending", "decode", "queued", "running", "healthy")
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
    *,
    changes: Changes | None = None,
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
        changes: faults and changes that are due during the run.
        admission: an admission policy in Python, where the state has no built-in one.
        max_queue: stop when more calls and tasks wait than that; looked at once per slice.

    Raises:
        PolicyError: a policy raised, wrote to its view or decided what cannot be.
        InputError: tasks wait for each other in a circle.
    """
    run = driver(state, tasks, tree, router, tick, changes=changes, admission=admission, max_queue=max_queue)
    try:
        return run(until_s)
    except KeyboardInterrupt:
        return False


def driver(
    state: State,
    tasks: Tasks,
    tree: Prefixes,
    router: Router | None = None,
    tick: Callable[[State], None] | None = None,
    *,
    changes: Changes | None = None,
    admission: AdmissionPolicy | None = None,
    max_queue: float = math.inf,
) -> Callable[[float], bool]:
    """What runs ``state`` to a time, as :func:`drive` does once; for many times, since it takes a while to make.

    Ctrl-C comes out of it as KeyboardInterrupt.
    """
    advance = advancer(state, tasks, tree)
    answer = _answers(state, tasks, router, admission)
    most_events = SLICE_EVENTS if math.isinf(max_queue) else QUEUE_EVENTS

    def run(until_s: float) -> bool:
        decisions = 0
        while True:
            change_s = math.inf if changes is None else changes.next_s
            stop = advance(min(until_s, change_s), most_events)
            if stop == Stop.DONE:
                return True
            if stop in answer:
                answer[stop]()
                decisions += 1
                if decisions % SLICE_DECISIONS:
                    continue
            elif not _change(state, tasks, Stop(stop), changes, until_s, admission):
                return False
            if tick is not None:
                tick(state)
            if too_many_wait(state, max_queue):
                return False

    return run


def _change(
    state: State,
    tasks: Tasks,
    stop: Stop,
    changes: Changes | None,
    until_s: float,
    admission: AdmissionPolicy | None,
) -> bool:
    """Do what is due now that the core has come back; False when ``until_s`` is reached."""
    change_s = math.inf if changes is None else changes.next_s
    if changes is not None and change_s <= until_s and _is_quiet(state, tasks, stop, change_s):
        changes.apply()
    elif stop == Stop.STUCK and math.isinf(change_s):
        raise _stuck(state, admission)
    if _next_event_s(state, tasks) <= until_s:
        return True
    state.clock[0]["now_s"] = until_s
    return False


Answer = Callable[[], None]


def _answers(state: State, tasks: Tasks, router: Router | None, admission: AdmissionPolicy | None) -> dict[int, Answer]:
    """What answers the core at each stop for a decision; the arrays of the views are those that the core fills."""
    views = state.views.view()
    views.flags.writeable = False
    pools = [views[a : a + n] for a, n in zip(state.pools["first"], state.pools["engines"], strict=True)]
    return {Stop.ROUTE: _router(state, tasks, pools, router), Stop.ADMIT: _gate(state, tasks, pools, admission)}


def _router(state: State, tasks: Tasks, pools: list[Table], router: Router | None) -> Answer:
    clock = state.clock[0]
    prompt_tokens, sessions, last_engine = tasks.rows["prompt_tokens"], tasks.rows["session"], state.last_engine
    columns = [tuple(views[name] for name in ROUTER_COLUMNS) for views in pools]

    def decide() -> None:
        if router is None:
            raise InputError("the pools have no built-in router and no router was given")
        task, pool = clock["route_task"], clock["route_pool"]
        last = int(last_engine[sessions[task], pool])
        row = ask("router", router, RouterView(float(clock["now_s"]), int(prompt_tokens[task]), last, *columns[pool]))
        if not -1 <= row < len(pools[pool]):
            raise PolicyError(
                f"router {name_of(router)!r} chose an engine that does not exist",
                observed=row,
                expected=f"0..{len(pools[pool]) - 1}, or -1 for none",
            )
        if row >= 0 and not pools[pool]["healthy"][row]:
            raise PolicyError(f"router {name_of(router)!r} chose an engine that is not healthy", observed=row)
        clock["decision"] = row

    return decide


def _gate(state: State, tasks: Tasks, pools: list[Table], admission: AdmissionPolicy | None) -> Answer:
    clock = state.clock[0]

    def judge() -> None:
        if admission is None:
            raise InputError("the run has no built-in admission policy and none was given")
        task, views = int(clock["ask_task"]), pools[clock["ask_pool"]]
        now_s = float(clock["now_s"])
        since_s = now_s - float(state.sequences["submitted_s"][task])
        columns = (views[name] for name in ADMISSION_COLUMNS)
        view = AdmissionView(now_s, since_s, int(tasks.rows["prompt_tokens"][task]), *columns)
        decision = ask("admission policy", admission, view)
        if decision not in list(Admission):
            raise PolicyError(
                f"admission policy {name_of(admission)!r} decided what does not exist",
                observed=decision,
                expected="0 (admit), 1 (reject) or 2 (wait)",
            )
        clock["decision"] = decision

    return judge


def _is_quiet(state: State, tasks: Tasks, stop: Stop, until_s: float) -> bool:
    """Whether there is work left, and nothing more happens to it up to ``until_s``."""
    return stop == Stop.STUCK or (state.clock[0]["open_tasks"] > 0 and _next_event_s(state, tasks) > until_s)


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


def too_many_wait(state: State, max_queue: float) -> bool:
    """Whether more calls and tasks wait than ``max_queue``; where that is infinite, nobody counts them."""
    return max_queue < math.inf and waiting(state) > max_queue


def waiting(state: State) -> int:
    """Calls that wait for an engine or for their admission, and tasks that wait for a server."""
    queued = int(state.engines["queued"].sum())
    for name in ("head", "held_head", "stranded"):
        for task in state.pools[name].tolist():
            while task >= 0:
                queued += 1
                task = int(state.progress["next"][task])
    return queued


def _next_event_s(state: State, tasks: Tasks) -> float:
    clock = state.clock[0]
    times = [float(clock["sent_s"])]
    if clock["events"] > 0:
        times.append(float(state.events[0]["time_s"]))
    if clock["next_root"] < len(state.roots):
        task = int(state.roots[clock["next_root"]])
        times.append(float(tasks.rows["release_s"][task] + tasks.rows["delay_s"][task]))
    return min(times)
