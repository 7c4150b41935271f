"""The compiled event loop: one event per engine iteration at most, resumable at any time.

:func:`advance` runs until nothing is left, a time is reached, or a policy written in Python must decide. Between two
calls Python may look at the state, change the health of engines or stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from heterarch.cost import step, transfer
from heterarch.policy import admission, router
from heterarch.policy.admission import Admission
from heterarch.policy.base import RouterView
from heterarch.policy.router import least_pending_tokens, least_queued, prefix_affinity
from heterarch.sim import batch, cache, flow, gate, heap, links, seconds, speculate, stranded, tiers
from heterarch.sim.batch import (
    begin_iteration,
    cached_blocks,
    decode_on,
    end_iteration,
    enqueue,
    free_blocks,
    leave,
    next_finished,
    next_prefilled,
    start_decode,
    to_front,
)
from heterarch.sim.cache import blocks_of, keep_all, lookup
from heterarch.sim.compiled import bound, compiled, entry, fingerprint, inlined
from heterarch.sim.flow import COMPLETED, FAILED, REJECTED, end_task, first_token, open_request
from heterarch.sim.gate import answer, hold, judge, let_go, limited_until, token_seconds
from heterarch.sim.heap import drop_event, push_event
from heterarch.sim.links import move_on, send
from heterarch.sim.state import STRANDED, UNDECIDED, Event, Health, PoolKind, State, Stop
from heterarch.sim.stranded import rescue, strand
from heterarch.sim.tasks import Prefixes, TaskKind, Tasks
from heterarch.sim.tiers import begin_use, drop_expired, end_load, end_use

GENERATE = int(TaskKind.GENERATE)
ENDPOINT = int(PoolKind.ENDPOINT)
SUBMIT, ITERATION, HANDOFF = int(Event.SUBMIT), int(Event.ITERATION), int(Event.HANDOFF)
ARRIVED, FIRST, DONE = int(Event.ARRIVED), int(Event.FIRST), int(Event.DONE)
START, RETRY, EXPIRE = int(Event.START), int(Event.RETRY), int(Event.EXPIRE)
LOADED, LINK, ADMIT = int(Event.LOADED), int(Event.LINK), int(Event.ADMIT)
UP = int(Health.UP)
STOP_DONE, STOP_UNTIL, STOP_ROUTE = int(Stop.DONE), int(Stop.UNTIL), int(Stop.ROUTE)
STOP_STUCK, STOP_ADMIT = int(Stop.STUCK), int(Stop.ADMIT)

#: reasons by number, as they stand in ``requests.reason``
REASONS = (
    "the call needs more KV than one engine has",
    "no healthy engine",
    "engine lost {attempts} times",
    "the call is longer than the model's context",
    "the admission policy rejected it",
)
TOO_LONG, NO_ENGINE, ENGINE_LOST, BEYOND_CONTEXT, NOT_ADMITTED = 0, 1, 2, 3, 4
ADMITTED, REFUSED, WAITS = int(Admission.ADMIT), int(Admission.REJECT), int(Admission.WAIT)
NOWHERE = -1  # no pool, where one may be named; or UNDECIDED
ANSWERED = -1  # kind: Python has chosen an engine
EVENT, ROOT, NETWORK = 0, 1, 2  # where the next thing stands
_NEVER = float("inf")

_least_pending_tokens = compiled(least_pending_tokens)
_prefix_affinity = compiled(prefix_affinity)
_least_queued = compiled(least_queued)


@compiled
def _next(s: Any, t: Any) -> tuple[float, int]:
    """When the next thing happens, and where it stands: an event, a task without predecessors, the network."""
    clock = s.clock[0]
    at_s, source = _NEVER, EVENT
    if clock.events > 0:
        at_s = s.events[0].time_s
    if clock.next_root < len(s.roots):
        task = s.roots[clock.next_root]
        root_s = t.rows[task].release_s + t.rows[task].delay_s
        if root_s <= at_s:
            at_s, source = root_s, ROOT
    if clock.sent_s < at_s:
        at_s, source = clock.sent_s, NETWORK
    return at_s, source


@compiled
def _happen(s: Any, t: Any, tree: Any, kind: int, id_: int, now_s: float) -> None:
    """What is neither an engine's iteration nor a call on its way to a pool."""
    if kind == ARRIVED:
        _arrived(s, t, tree, id_, now_s)
    elif kind == FIRST:
        first_token(s, t, id_, now_s)
        later = max(t.rows[id_].output_tokens, 1) - 1
        push_event(s.clock[0], s.events, now_s + t.rows[id_].tpot_s * later, DONE, id_)
    elif kind == DONE:
        _delay_done(s, t, tree, id_, now_s)
    elif kind == EXPIRE:
        _give_up(s, t, tree, id_, now_s)
    elif kind == LOADED:
        _loaded(s, tree, id_, now_s)
    elif kind == LINK:
        move_on(s, id_, now_s)


@compiled
def _go_on(s: Any, t: Any, tree: Any, kind: int, id_: int, now_s: float) -> bool:
    """Let a call (of ADMIT, the first in line) go to the pool that it needs now; False when Python must decide."""
    task = id_
    if kind == ADMIT:
        s.pools[id_].asking = 0
        task = int(s.pools[id_].held_head)
        if task < 0:
            return True
    if kind == HANDOFF:
        p = int(t.rows[task].decode_pool)
    elif kind == ANSWERED:
        p = int(s.clock[0].route_pool)
    elif kind == RETRY:
        p = _retry(s, t, tree, task, now_s)
    else:
        p = _submit(s, t, tree, task, now_s)
    return p != UNDECIDED and (p == NOWHERE or _route(s, t, tree, task, p, now_s))


@compiled
def _submit(s: Any, t: Any, tree: Any, task: int, now_s: float) -> int:
    """The pool that ``task`` goes to, NOWHERE, or UNDECIDED when Python must decide."""
    if not open_request(s, t, task, now_s):
        request = s.requests[t.rows[task].request]
        let_go(s, task, t.rows[task].prefill_pool, now_s)
        end_task(s, t, task, now_s, request.status, request.reason)
        return NOWHERE
    pool = t.rows[task].prefill_pool
    if t.rows[task].kind != GENERATE:
        _delay(s, t, task, now_s)
        return NOWHERE
    tokens = t.rows[task].prompt_tokens + t.rows[task].output_tokens
    if 0 < s.pools[t.rows[task].decode_pool].context_tokens < tokens and s.clock[0].unbounded == 0:
        end_task(s, t, task, now_s, REJECTED, BEYOND_CONTEXT)
        return NOWHERE
    if s.pools[pool].kind != ENDPOINT and _too_long(s, t, tree, task):
        end_task(s, t, task, now_s, REJECTED, TOO_LONG)
        return NOWHERE
    if s.clock[0].admission != 0 and not s.requests[t.rows[task].request].admitted:
        decision = _admission(s, t, tree, task, pool, now_s)
        if decision == REFUSED:
            end_task(s, t, task, now_s, REJECTED, NOT_ADMITTED)
        if decision != ADMITTED:
            return UNDECIDED if decision == UNDECIDED else NOWHERE
    let_go(s, task, pool, now_s)
    if s.pools[pool].kind == ENDPOINT:
        _call_endpoint(s, t, tree, task, now_s)
        return NOWHERE
    return int(pool)


@compiled
def _admission(s: Any, t: Any, tree: Any, task: int, p: int, now_s: float) -> int:
    """The decision about ``task``, UNDECIDED when Python must decide; a call that must wait joins the line."""
    decision = answer(s, task)
    if decision == UNDECIDED and s.pools[p].held_head >= 0 and s.pools[p].held_head != task:
        decision = WAITS
    elif decision == UNDECIDED:
        fill_view(s, t, tree, task, p)
        decision = judge(s, t, task, p, now_s)
    if decision == ADMITTED:
        s.requests[t.rows[task].request].admitted = 1
    elif decision == REFUSED:
        let_go(s, task, p, now_s)
    elif decision == WAITS:
        hold(s, task, p)
    return decision


@compiled
def _too_long(s: Any, t: Any, tree: Any, task: int) -> bool:
    shared = tree.runs[t.rows[task].node].end if t.rows[task].node >= 0 else 0
    prompt = max(shared, blocks_of(tree, t.rows[task].prompt_tokens))
    whole = max(shared, blocks_of(tree, t.rows[task].prompt_tokens + t.rows[task].output_tokens))
    prefill, decode = s.pools[t.rows[task].prefill_pool], s.pools[t.rows[task].decode_pool]
    if s.clock[0].unbounded:  # what the cache holds takes no memory
        prompt, whole = prompt - shared, whole - shared
    return bool(prompt > prefill.capacity or whole > decode.capacity)


@inlined
def _run_engine(s: Any, t: Any, tree: Any, e: int, kind: int, until_s: float, most: int) -> int:
    """Start engine ``e``, or end its iteration, and run on until another event comes first; iterations begun."""
    clock, engine = s.clock[0], s.engines[e]
    runs = kind == ITERATION
    count = 0
    while True:
        coming, _ = _next(s, t)
        same = decode_on(s, tree, e, coming, until_s, most - count) if runs and engine.still and engine.healthy else 0
        count += same
        if same > 0:
            clock.now_s = engine.started_s
        else:
            if runs:
                _harvest(s, t, tree, e, clock.now_s)
            runs = True
            count += 1
            if engine.healthy == 0 or not begin_iteration(s, t, tree, e, clock.now_s):
                engine.busy = 0
                return count
            coming, _ = _next(s, t)
        if engine.end_s >= coming or engine.end_s > until_s or count >= most:
            push_event(clock, s.events, engine.end_s, ITERATION, e)
            return count
        clock.now_s = engine.end_s


@inlined
def _harvest(s: Any, t: Any, tree: Any, e: int, now_s: float) -> None:
    end_iteration(s, e)
    while True:
        task = next_finished(s, t, tree, e)
        if task < 0:
            break
        end_task(s, t, task, now_s, COMPLETED, -1)
    while True:
        task = next_prefilled(s, e)
        if task < 0:
            break
        first_token(s, t, task, now_s)
        if s.progress[task].left <= 0:
            leave(s, t, tree, e, task)
            free_blocks(s, t, tree, e, task, True)
            end_task(s, t, task, now_s, COMPLETED, -1)
        elif s.engines[e].pool != t.rows[task].decode_pool:
            leave(s, t, tree, e, task)
            push_event(s.clock[0], s.events, now_s, HANDOFF, task)
        else:
            start_decode(s, tree, e, task)


@compiled
def _wake(s: Any, e: int, now_s: float) -> None:
    """Let an idle engine look at its queue once everything else of this moment has happened."""
    engine = s.engines[e]
    if engine.busy == 0:
        engine.busy = 1
        push_event(s.clock[0], s.events, now_s, START, e)


@compiled
def _route(s: Any, t: Any, tree: Any, task: int, p: int, now_s: float) -> bool:
    """Choose an engine of pool ``p`` for ``task``, as Python has where it was asked, and send it there.

    False when Python must choose.
    """
    clock = s.clock[0]
    if clock.route_task == task:
        row = int(clock.decision)
        clock.route_task, clock.route_pool, clock.decision = -1, -1, UNDECIDED
    else:
        fill_view(s, t, tree, task, p)
        if s.pools[p].router < 0:
            clock.route_task, clock.route_pool = task, p
            return False
        row = _decide(s, t, task, p, now_s)
    _place(s, t, tree, task, p, row, now_s)
    return True


@compiled
def fill_view(s: Any, t: Any, tree: Any, task: int, p: int) -> None:
    """Write what a policy sees of pool ``p`` into the scratch arrays; but for ``wait``, which :func:`judge` adds."""
    first = s.pools[p].first
    shares = t.rows[task].node >= 0
    for e in range(first, first + s.pools[p].engines):
        engine, view = s.engines[e], s.views[e]
        if s.pools[p].ttl_s > 0.0:
            drop_expired(s, e, s.clock[0].now_s)
        found = cached_blocks(s, t, tree, e, task) * tree.block_tokens if shares else 0
        view.cached = min(found, t.rows[task].prompt_tokens)
        view.pending = engine.unprefilled + engine.computing
        view.decode = engine.context
        view.queued = engine.queued
        view.running = engine.running
        view.healthy = engine.healthy == UP


@compiled
def _decide(s: Any, t: Any, task: int, p: int, now_s: float) -> int:
    a = s.pools[p].first
    b = a + s.pools[p].engines
    views = s.views[a:b]
    view = RouterView(
        now_s,
        t.rows[task].prompt_tokens,
        last_engine(s, t, task, p),
        views.age,
        views.cached,
        views.pending,
        views.decode,
        views.queued,
        views.running,
        views.healthy,
    )
    if s.pools[p].router == 0:
        return _least_pending_tokens(view)
    if s.pools[p].router == 1:
        return _prefix_affinity(view)
    return _least_queued(view)


@compiled
def last_engine(s: Any, t: Any, task: int, p: int) -> int:
    """Row within pool ``p`` of the engine that last served this session there, -1 if none did."""
    return int(s.last_engine[t.rows[task].session, p])


@compiled
def _place(s: Any, t: Any, tree: Any, task: int, p: int, row: int, now_s: float) -> None:
    sequence = s.sequences[task]
    s.clock[0].decisions += 1
    if row < 0:
        if not strand(s, task, p, now_s):
            _give_up(s, t, tree, task, now_s)
        return
    s.last_engine[t.rows[task].session, p] = row
    e = s.pools[p].first + row
    if sequence.engine >= 0:
        _send(s, t, tree, task, e, now_s)
        return
    if p == t.rows[task].prefill_pool:  # else the decode pool computes a lost call's prompt
        sequence.first_engine = e
    enqueue(s, t, tree, e, task, False)
    _wake(s, e, now_s)


@compiled
def _give_up(s: Any, t: Any, tree: Any, task: int, now_s: float) -> None:
    """Fail a call that no engine takes; where its prefill is done, that engine forgets it."""
    if s.progress[task].target <= STRANDED:
        rescue(s, task)
    engine = s.sequences[task].engine
    if engine >= 0:
        free_blocks(s, t, tree, engine, task, False)
        _wake(s, engine, now_s)
    end_task(s, t, task, now_s, FAILED, NO_ENGINE)


@compiled
def _retry(s: Any, t: Any, tree: Any, task: int, now_s: float) -> int:
    """A call without an engine starts again: on the decode engine that waits for its KV, else as a new one.

    The pool that it goes to, or NOWHERE.

    Its answer so far is a part of the prompt now; where that is more than a prefill engine holds, the decode pool
    computes it.
    """
    sequence, progress, request = s.sequences[task], s.progress[task], s.requests[t.rows[task].request]
    target = progress.target
    progress.target = -1
    if request.status == REJECTED or request.status == FAILED:
        end_task(s, t, task, now_s, request.status, request.reason)
    elif sequence.losses >= s.clock[0].most_losses:
        end_task(s, t, task, now_s, FAILED, ENGINE_LOST)
    elif target >= 0 and s.engines[target].healthy == UP:
        enqueue(s, t, tree, target, task, False)
        _wake(s, target, now_s)
    else:
        p = t.rows[task].prefill_pool
        if blocks_of(tree, progress.need) > s.pools[p].capacity:
            p = t.rows[task].decode_pool
        return int(p)
    return NOWHERE


@compiled
def _send(s: Any, t: Any, tree: Any, task: int, target: int, now_s: float) -> None:
    """Send the KV that the decode engine lacks."""
    sequence, progress = s.sequences[task], s.progress[task]
    source, engine = s.engines[sequence.engine], s.engines[target]
    found = cached_blocks(s, t, tree, target, task) * tree.block_tokens
    tokens = max(progress.need - found, 0)
    source.transfer_tokens += tokens
    progress.target = target
    progress.owed = progress.need
    engine.unprefilled += progress.owed
    send(s, task, tokens * s.pools[source.pool].kv_bytes, now_s)


@compiled
def _arrived(s: Any, t: Any, tree: Any, task: int, now_s: float) -> None:
    sequence, progress = s.sequences[task], s.progress[task]
    source = sequence.engine
    free_blocks(s, t, tree, source, task, False)
    progress.transferred = 1
    s.transfers[task].arrived_s = now_s
    enqueue(s, t, tree, progress.target, task, False)
    _wake(s, source, now_s)
    _wake(s, sequence.engine, now_s)


@compiled
def _loaded(s: Any, tree: Any, task: int, now_s: float) -> None:
    """The KV of ``task`` has come from a tier: it is among the first of the queue now."""
    e = s.sequences[task].engine
    end_load(s, tree, task)
    to_front(s, e, task)
    s.engines[e].loaded += 1
    _wake(s, e, now_s)


@compiled
def _call_endpoint(s: Any, t: Any, tree: Any, task: int, now_s: float) -> None:
    """A hosted API: sampled latency, after the rate limits let the call pass."""
    pool, sequence = s.pools[t.rows[task].prefill_pool], s.sequences[task]
    engine = s.engines[pool.first]
    output = max(t.rows[task].output_tokens, 1)
    tokens_s = token_seconds(t, pool, task)
    start = limited_until(pool, tokens_s, now_s)
    if pool.call_interval_s > 0.0:
        pool.calls_due_s = max(pool.calls_due_s, start) + pool.call_interval_s
    if tokens_s > 0.0:
        pool.tokens_due_s = max(pool.tokens_due_s, start) + tokens_s
    sequence.scheduled_s = start
    sequence.first_engine = sequence.engine = pool.first
    leaf = t.rows[task].node
    if leaf >= 0:
        if pool.ttl_s > 0.0:
            drop_expired(s, pool.first, start)
        found = lookup(tree, s.nodes[engine.cache], leaf)
        sequence.cached = min(found * tree.block_tokens, t.rows[task].prompt_tokens - 1)
        s.clock[0].asked_blocks += tree.runs[leaf].end
        s.clock[0].hit_blocks += found
        seen = s.nodes[pool.seen]
        known = lookup(tree, seen, leaf) * tree.block_tokens
        keep_all(tree, seen, leaf)
        keep_all(tree, seen, t.rows[task].node_out)
        if pool.ttl_s > 0.0:
            begin_use(s, tree, pool.first, task, leaf, found)
        engine.fresh_tokens -= min(known, t.rows[task].prompt_tokens - 1)
    engine.prompt_tokens += t.rows[task].prompt_tokens
    engine.cached_tokens += sequence.cached
    engine.computed_tokens += t.rows[task].prompt_tokens - sequence.cached
    engine.fresh_tokens += t.rows[task].prompt_tokens
    engine.output_tokens += output
    push_event(s.clock[0], s.events, start + t.rows[task].ttft_s, FIRST, task)


@compiled
def _delay(s: Any, t: Any, task: int, now_s: float) -> None:
    """Serve a task on its pool's servers, first come first served, or at once where it has none."""
    p = t.rows[task].prefill_pool
    if p >= 0:
        pool = s.pools[p]
        if pool.free_servers == 0:
            s.progress[task].next = -1
            if pool.head < 0:
                pool.head = task
            else:
                s.progress[pool.tail].next = task
            pool.tail = task
            return
        pool.free_servers -= 1
        pool.busy_s += t.rows[task].service_s
    s.sequences[task].scheduled_s = now_s
    push_event(s.clock[0], s.events, now_s + t.rows[task].service_s, DONE, task)


@compiled
def _delay_done(s: Any, t: Any, tree: Any, task: int, now_s: float) -> None:
    p = t.rows[task].prefill_pool
    if p >= 0 and t.rows[task].kind != GENERATE:
        pool = s.pools[p]
        pool.free_servers += 1
        waiting = pool.head
        if waiting >= 0:
            pool.head = s.progress[waiting].next
            _delay(s, t, waiting, now_s)
    elif s.progress[task].locked >= 0:
        end_use(s, t, tree, task)
    end_task(s, t, task, now_s, COMPLETED, -1)


@compiled
def _take(s: Any, source: int) -> tuple[int, int]:
    """Take out what happens next: its kind and id."""
    clock = s.clock[0]
    if source == NETWORK:
        return LINK, -1
    if source == ROOT:
        clock.next_root += 1
        return SUBMIT, int(s.roots[clock.next_root - 1])
    kind, id_ = int(s.events[0].kind), int(s.events[0].id)
    drop_event(clock, s.events)
    return kind, id_


def _event_loop(sources: int) -> Callable[[State, Tasks, Prefixes, float, int], int]:
    def advance(s: Any, t: Any, tree: Any, until_s: float, most_events: int) -> int:
        clock = s.clock[0]
        left = most_events if sources else 0  # ties the machine code on disk to its sources
        asked = max(clock.ask_task, clock.route_task)
        happens = asked < 0 or clock.decision != UNDECIDED
        if asked >= 0 and happens:
            happens = _go_on(s, t, tree, SUBMIT if clock.ask_task >= 0 else ANSWERED, asked, clock.now_s)
        while happens and left > 0:
            now_s, source = _next(s, t)
            if now_s == _NEVER:
                return STOP_STUCK if clock.open_tasks > 0 else STOP_DONE
            if now_s > until_s:
                return STOP_UNTIL
            clock.now_s = now_s
            kind, id_ = _take(s, source)
            if kind in (ITERATION, START):
                left -= _run_engine(s, t, tree, id_, kind, until_s, left)
                continue
            left -= 1
            if kind in (SUBMIT, ADMIT, HANDOFF, RETRY):
                happens = _go_on(s, t, tree, kind, id_, now_s)
            else:
                _happen(s, t, tree, kind, id_, now_s)
        if happens:
            return STOP_UNTIL
        return STOP_ADMIT if clock.ask_task >= 0 else STOP_ROUTE

    return entry(advance)


_advance = _event_loop(
    fingerprint(
        admission, batch, cache, flow, gate, heap, links, router, seconds, speculate, step, stranded, tiers, transfer
    )
)


def advance(state: State, tasks: Tasks, tree: Prefixes, until_s: float, most_events: int) -> Stop:
    """Run the world.

    Args:
        state: changed in place.
        tasks: what runs.
        tree: prefixes of the prompts.
        until_s: stop before the first event after this time.
        most_events: come back (as at UNTIL) after about so many events and iterations.
    """
    return Stop(_advance(state, tasks, tree, until_s, most_events))


def advancer(state: State, tasks: Tasks, tree: Prefixes) -> Callable[[float, int], int]:
    """:func:`advance` of this one world, for many short calls: (until_s, most_events) to the number of a Stop."""
    return bound(_advance, state, tasks, tree)
