"""KV on its way: out of an engine one transfer after the other, between engines a fair share of every link.

A transfer passes three limits: what its engine sends, what the target engine receives, and the link between the two
pools (per pair of engines, and where the pairs share one wire, all together). An engine sends one at a time, in
order; transfers of different engines that meet share max-min fairly (progressive filling, Bertsekas and Gallager, Data
Networks, section 6.5.2). Rates change only when a transfer begins or ends, so a step costs about the number of engines
that send, and bytes are conserved. With ``layers`` above 1 the KV of a layer leaves when it is computed: what went
during the prefill takes the engine's own idle link time, but not that of others.
"""

from __future__ import annotations

from typing import Any

from heterarch.cost.transfer import exposed_bytes
from heterarch.sim.compiled import compiled
from heterarch.sim.heap import push_event
from heterarch.sim.state import Event

LINK, ARRIVED = int(Event.LINK), int(Event.ARRIVED)
_NEVER = float("inf")
_ALMOST = 1 + 1e-12  # limits that differ by rounding alone are one
_INSTANT_S = 1e-9  # what takes less is done

_exposed_bytes = compiled(exposed_bytes)


@compiled
def send(s: Any, task: int, kv_bytes: float, now_s: float) -> None:
    """Put ``kv_bytes`` of ``task`` in line from the engine that it is on to its ``target``."""
    e = s.sequences[task].engine
    engine = s.engines[e]
    s.links[engine.pool, s.engines[s.progress[task].target].pool].sent_bytes += kv_bytes
    s.transfers[task].send_bytes = kv_bytes - _sent_early(s, e, task, kv_bytes, now_s)
    s.progress[task].next = -1
    if engine.send_head >= 0:
        s.progress[engine.send_tail].next = task
    else:
        engine.send_head = task
        engine.send_since_s = now_s
        push_event(s.clock[0], s.events, now_s, LINK, e)
    engine.send_tail = task


@compiled
def move_on(s: Any, e: int, now_s: float) -> None:
    """Engine ``e`` begins to send, or (-1) a transfer has ended or a link has changed."""
    clock = s.clock[0]
    _progress(s, now_s)
    if e >= 0:
        s.engines[e].send_left = s.transfers[s.engines[e].send_head].send_bytes
        s.engines[clock.sending].sender = e
        clock.sending += 1
    share(s, now_s)


@compiled
def share(s: Any, now_s: float) -> None:
    """Give every transfer under way its max-min fair rate, and note when the first one ends.

    A rate of 0 in ``links`` stops a link.
    """
    clock = s.clock[0]
    _count(s)
    fixed = 0
    while fixed < clock.sending:
        least = _NEVER
        for k in range(clock.sending):
            if s.engines[s.engines[k].sender].send_rate < 0:
                least = min(least, _limit(s, s.engines[k].sender))
        for k in range(clock.sending):
            e = s.engines[k].sender
            if s.engines[e].send_rate < 0 and _limit(s, e) <= least * _ALMOST:
                _fix(s, e, least)
                fixed += 1
    _schedule(s, now_s)


@compiled
def _sent_early(s: Any, e: int, task: int, kv_bytes: float, now_s: float) -> float:
    """Bytes that left while the prefill computed, in time that the engine's own link was idle."""
    engine, sequence, progress = s.engines[e], s.sequences[task], s.progress[task]
    layers = s.pools[engine.pool].transfer_layers
    if layers <= 1 or now_s != sequence.first_s:
        return 0.0
    first_layer_s = sequence.scheduled_s + (now_s - sequence.scheduled_s) / layers
    begun = max(first_layer_s, engine.link_free_s)
    overlap_s = (engine.send_since_s if engine.send_head >= 0 else now_s) - begun
    target = s.engines[progress.target]
    rate = min(s.pools[engine.pool].link_bytes_per_s, s.pools[target.pool].link_bytes_per_s)
    rate = min(rate, s.links[engine.pool, target.pool].bytes_per_s)
    if overlap_s <= 0.0 or rate <= 0.0:
        return 0.0
    early = kv_bytes - _exposed_bytes(kv_bytes, rate, float(layers), overlap_s * layers / (layers - 1))
    engine.link_free_s = begun + early / rate
    return float(early)


@compiled
def _progress(s: Any, now_s: float) -> None:
    """Move all bytes up to ``now_s``; transfers that end arrive after the latency of their link."""
    clock = s.clock[0]
    seconds = now_s - clock.network_s
    clock.network_s = now_s
    k = 0
    while k < clock.sending:
        e = s.engines[k].sender
        engine = s.engines[e]
        if engine.send_rate == _NEVER:
            engine.send_left = 0.0
        else:
            engine.send_left -= engine.send_rate * seconds
        goes_on = engine.send_left > engine.send_rate * _INSTANT_S
        goes_on = goes_on and now_s + engine.send_left / engine.send_rate > now_s
        if goes_on or _next_transfer(s, e, now_s):
            k += 1
        else:
            clock.sending -= 1
            s.engines[k].sender = s.engines[clock.sending].sender


@compiled
def _next_transfer(s: Any, e: int, now_s: float) -> bool:
    """The transfer out of engine ``e`` has ended; False when it has no other."""
    engine, task = s.engines[e], s.engines[e].send_head
    link = s.links[engine.pool, s.engines[s.progress[task].target].pool]
    push_event(s.clock[0], s.events, now_s + link.latency_s, ARRIVED, task)
    engine.send_head = s.progress[task].next
    engine.send_rate = 0.0
    if engine.send_head < 0:
        engine.link_free_s = now_s
        return False
    engine.send_left = s.transfers[engine.send_head].send_bytes
    return True


@compiled
def _count(s: Any) -> None:
    """What every link has to give, and to how many."""
    for k in range(s.clock[0].sending):
        engine = s.engines[s.engines[k].sender]
        target = s.engines[s.progress[engine.send_head].target]
        link = s.links[engine.pool, target.pool]
        engine.send_rate = -1.0
        target.receive_left = s.pools[target.pool].link_bytes_per_s
        link.left = link.shared_bytes_per_s
        target.receives = 0
        link.users = 0
    for k in range(s.clock[0].sending):
        engine = s.engines[s.engines[k].sender]
        target = s.engines[s.progress[engine.send_head].target]
        target.receives += 1
        s.links[engine.pool, target.pool].users += 1


@compiled
def _limit(s: Any, e: int) -> float:
    engine = s.engines[e]
    target = s.engines[s.progress[engine.send_head].target]
    link = s.links[engine.pool, target.pool]
    own = min(s.pools[engine.pool].link_bytes_per_s, link.bytes_per_s)
    return float(max(0.0, min(own, target.receive_left / target.receives, link.left / link.users)))


@compiled
def _fix(s: Any, e: int, rate: float) -> None:
    engine = s.engines[e]
    target = s.engines[s.progress[engine.send_head].target]
    link = s.links[engine.pool, target.pool]
    engine.send_rate = rate
    target.receives -= 1
    link.users -= 1
    if rate < _NEVER:
        target.receive_left -= rate
        link.left -= rate


@compiled
def _schedule(s: Any, now_s: float) -> None:
    clock = s.clock[0]
    clock.sent_s = _NEVER
    for k in range(clock.sending):
        engine = s.engines[s.engines[k].sender]
        if engine.send_rate > 0.0:
            clock.sent_s = min(clock.sent_s, now_s + engine.send_left / engine.send_rate)
