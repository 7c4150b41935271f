"""Admission in the core: what the policy sees, what a built-in decides, and the line of calls that it lets wait."""

from __future__ import annotations

from typing import Any

from heterarch.policy.admission import ADMISSIONS, Admission, AdmissionView, first_token_within, pending_below
from heterarch.sim.compiled import compiled
from heterarch.sim.heap import push_event
from heterarch.sim.seconds import cost_of, step_seconds
from heterarch.sim.speculate import draft_seconds
from heterarch.sim.state import UNDECIDED, Event, PoolKind

ADMIT_EVENT = int(Event.ADMIT)
ENDPOINT = int(PoolKind.ENDPOINT)
ADMITTED = int(Admission.ADMIT)
DEADLINE = list(ADMISSIONS).index("deadline")
_BURST_S = 60.0  # the rate limits of hosted APIs are per minute; a bucket holds that much

_pending_below = compiled(pending_below)
_first_token_within = compiled(first_token_within)


@compiled
def judge(s: Any, t: Any, task: int, p: int, now_s: float) -> int:
    """The decision about ``task``, whose view of pool ``p`` is filled; UNDECIDED when Python must decide."""
    clock = s.clock[0]
    _fill_waits(s, t, task, p, now_s)
    if clock.admission < 0:
        clock.ask_task, clock.ask_pool = task, p
        return UNDECIDED
    a = s.pools[p].first
    views = s.views[a : a + s.pools[p].engines]
    view = AdmissionView(
        now_s,
        now_s - s.sequences[task].submitted_s,
        t.rows[task].prompt_tokens,
        views.age,
        views.wait,
        views.pending,
        views.decode,
        views.queued,
        views.running,
        views.healthy,
    )
    if clock.admission == DEADLINE:
        room = _first_token_within(view, clock.admission_limit)
    else:
        room = _pending_below(view, clock.admission_limit)
    return ADMITTED if room else clock.otherwise


@compiled
def answer(s: Any, task: int) -> int:
    """What Python has decided about ``task``; UNDECIDED when it was not asked."""
    clock = s.clock[0]
    if clock.ask_task != task:
        return UNDECIDED
    clock.ask_task, clock.ask_pool = -1, -1
    decision = clock.decision
    clock.decision = UNDECIDED
    return int(decision)


@compiled
def _fill_waits(s: Any, t: Any, task: int, p: int, now_s: float) -> None:
    pool = s.pools[p]
    for e in range(pool.first, pool.first + pool.engines):
        if pool.kind == ENDPOINT:
            s.views[e].wait = limited_until(pool, token_seconds(t, pool, task), now_s) - now_s
        else:
            s.views[e].wait = _first_token_s(s, t, e, task)


@compiled
def _first_token_s(s: Any, t: Any, e: int, task: int) -> float:
    """Seconds that engine ``e`` takes for what it has to prefill and the prompt of ``task``, its decodes going on."""
    engine, pool = s.engines[e], s.pools[s.engines[e].pool]
    prompt, cached = t.rows[task].prompt_tokens, min(s.views[e].cached, t.rows[task].prompt_tokens - 1)
    tokens = engine.unprefilled + prompt - cached
    room = max(1, pool.budget - engine.decodes * pool.verified)
    computed = min(tokens, room) + engine.decodes * pool.verified
    seconds = step_seconds(cost_of(pool, 0), computed, 0.0, engine.decodes, engine.context)
    seconds = max(1.0, tokens / room) * (seconds + draft_seconds(pool, engine.decodes))
    return float(seconds + pool.pair_s[0] * 0.5 * (float(prompt) * prompt - float(cached) * cached))


@compiled
def token_seconds(t: Any, pool: Any, task: int) -> float:
    """Of the limit on tokens per minute, what a call uses up."""
    tokens = t.rows[task].prompt_tokens + max(t.rows[task].output_tokens, 1)
    return float(min(_BURST_S, pool.token_interval_s * tokens))


@compiled
def limited_until(pool: Any, tokens_s: float, now_s: float) -> float:
    """When the rate limits of a hosted API (token buckets that hold one minute) let a call pass."""
    start_s = now_s
    if pool.call_interval_s > 0.0:
        start_s = max(start_s, pool.calls_due_s + pool.call_interval_s - _BURST_S)
    if tokens_s > 0.0:
        start_s = max(start_s, pool.tokens_due_s + tokens_s - _BURST_S)
    return float(start_s)


@compiled
def hold(s: Any, task: int, p: int) -> None:
    """Put ``task`` at the end of the line before pool ``p``, unless it stands first in it."""
    pool = s.pools[p]
    if pool.held_head == task:
        return
    s.progress[task].next = -1
    if pool.held_head < 0:
        pool.held_head = task
    else:
        s.progress[pool.held_tail].next = task
    pool.held_tail = task


@compiled
def let_go(s: Any, task: int, p: int, now_s: float) -> None:
    """Take ``task`` out of the line of pool ``p`` (-1: none) if it stands first, and ask for the next."""
    if p >= 0 and s.pools[p].held_head == task:
        s.pools[p].held_head = s.progress[task].next
        ask_again(s, p, now_s)


@compiled
def ask_again(s: Any, p: int, now_s: float) -> None:
    """Something in pool ``p`` (-1: none) moved: the first in line before it may be admitted."""
    if p >= 0 and s.pools[p].held_head >= 0 and s.pools[p].asking == 0:
        s.pools[p].asking = 1
        push_event(s.clock[0], s.events, now_s, ADMIT_EVENT, p)
