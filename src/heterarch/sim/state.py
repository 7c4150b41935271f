"""Everything that changes while the core runs, as records in arrays."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.cost.step import KNOTS, StepCost
from heterarch.plan.document import MOST_TIERS
from heterarch.policy.admission import ADMISSIONS, BuiltinAdmission
from heterarch.sim.tasks import Int32, Int64, Prefixes, Table, TaskKind, Tasks

Floats = NDArray[np.float64]

NONE = -1
STRANDED = -2
PHASES = 3  # step costs of a pool: iterations of prompts and decodes, of prompts only, of decodes only
UNDECIDED = -2  # no answer of a Python router yet; -1 means that no engine is healthy


class PoolKind(IntEnum):
    """How a pool serves: engines with a batch, a hosted API, or plain servers."""

    ENGINES = 0
    ENDPOINT = 1
    SERVERS = 2


class Event(IntEnum):
    """What the clock can bring; ``id`` is a task where nothing else is said."""

    SUBMIT = 0
    ITERATION = 1  # an engine's iteration ends; ``id`` is the engine
    HANDOFF = 2  # a prefill is done and its KV must go to a decode engine
    ARRIVED = 3  # the KV is there
    FIRST = 4  # an endpoint sends the first token
    DONE = 5  # a delay or an endpoint call ends
    START = 6  # an idle engine has something to do; ``id`` is the engine
    RETRY = 7  # a call that lost its engine, or waited for one, goes to its router again
    EXPIRE = 8  # the patience of a call that waits for an engine ends
    LOADED = 9  # KV from a tier, or swapped out before, is on the device
    LINK = 10  # an engine begins to send KV; ``id`` is the engine, -1: a transfer ends or a link has changed
    ADMIT = 11  # the calls held before a pool are asked for again; ``id`` is the pool


class Health(IntEnum):
    """What an engine does: DOWN nothing, UP everything, DRAINING what it has and nothing new."""

    DOWN = 0
    UP = 1
    DRAINING = 2


class Stop(IntEnum):
    """Why :func:`heterarch.sim.core.advance` came back."""

    DONE = 0  # nothing is left to happen
    UNTIL = 1
    ROUTE = 2  # a router in Python must decide; see ``clock.route_task``, ``clock.route_pool``
    STUCK = 3  # tasks remain that nothing will ever start
    ADMIT = 4  # an admission policy in Python must decide; see ``clock.ask_task``, ``clock.ask_pool``


class Load(IntEnum):
    """Whether a sequence waits for KV from a tier, or for its own; LOADED: it has come, a seat is next."""

    NONE = 0
    LOADING = 1
    LOADED = 2
    SWAPPED = 3  # ``need`` tokens are on the host
    RETURNING = 4


class Shared(IntEnum):
    """Who has a store in common: an engine alone, the engines of a server, or all of the pool."""

    ENGINE = 0
    SERVER = 1
    POOL = 2


POOL = np.dtype(
    [
        ("kind", np.int64),
        ("first", np.int64),  # row of its first engine
        ("engines", np.int64),
        ("router", np.int64),  # code of a built-in router, -1: ask Python
        ("budget", np.int64),  # tokens per iteration
        ("seats", np.int64),  # sequences at once
        ("capacity", np.int64),  # KV blocks per engine
        ("watermark", np.int64),  # blocks that admission leaves free
        ("kv_bytes", np.float64),  # per token
        ("link_bytes_per_s", np.float64),
        ("link_latency_s", np.float64),
        ("free_servers", np.int64),  # SERVERS: c servers, first come first served
        ("head", np.int64),
        ("tail", np.int64),
        ("busy_s", np.float64),
        ("call_interval_s", np.float64),  # ENDPOINT: 60 / requests per minute, 0 for no limit
        ("calls_due_s", np.float64),
        ("token_interval_s", np.float64),
        ("tokens_due_s", np.float64),
        *((name, np.float64, (PHASES,)) for name in StepCost._fields if name != "bends_s"),
        ("bends_s", np.float64, (PHASES, len(KNOTS))),
        ("stranded", np.int64),  # calls that wait for an engine to come up
        ("stranded_tail", np.int64),
        ("coming", np.int64),  # engines that are going to come up
        ("patience_s", np.float64),  # longest wait for an engine, 0 where none is stated
        ("context_tokens", np.int64),  # most tokens of a call, 0 for no limit
        ("transfer_layers", np.int64),
        ("verified", np.int64),  # tokens per decoding sequence and pass: 1, or with speculation draft_tokens + 1
        ("tokens_per_step", np.float64),  # tokens that a pass moves a decode on
        ("draft_s", np.float64),
        ("held_head", np.int64),  # calls that the admission policy lets wait
        ("held_tail", np.int64),
        ("asking", np.int64),  # ADMIT is due
        ("whole", np.int64),  # prompts are computed whole, before the decodes
        ("ttl_s", np.float64),  # of cached KV, 0 for ever
        ("tiers", np.int64),  # stores below each engine
        ("swap", np.int64),
        ("seen", np.int64),  # row of ``nodes`` that never forgets, for comparison; NONE where not compared
    ]
)

ENGINE = np.dtype(
    [
        ("pool", np.int64),
        ("cache", np.int64),  # row of ``nodes``, -1 without a prefix tree
        ("healthy", np.int64),  # Health
        ("busy", np.int64),  # an iteration runs, or START is due
        ("free", np.int64),  # KV blocks
        ("idle", np.int64),  # blocks of cached prefixes that nobody uses
        ("head", np.int64),  # waiting
        ("tail", np.int64),
        ("queued", np.int64),
        ("run_head", np.int64),  # running, in order of admission
        ("run_tail", np.int64),
        ("running", np.int64),
        ("partial", np.int64),  # the sequence in the middle of its prefill
        ("prefilled", np.int64),  # chain of sequences whose prefill ends with this iteration
        ("prefilled_tail", np.int64),
        ("decodes", np.int64),
        ("context", np.int64),  # sum over the decoding sequences
        ("unprefilled", np.int64),  # prompt tokens accepted and not yet computed
        ("finishes", np.int64),  # size of its heap of finishing iterations
        ("iteration", np.int64),
        ("started_s", np.float64),
        ("end_s", np.float64),
        ("link_free_s", np.float64),
        ("lru_head", np.int64),
        ("lru_tail", np.int64),
        ("busy_s", np.float64),
        ("kv_block_s", np.float64),
        ("prompt_tokens", np.int64),
        ("cached_tokens", np.int64),
        ("output_tokens", np.int64),
        ("preemptions", np.int64),
        ("peak_running", np.int64),
        ("transfer_tokens", np.int64),  # KV sent away
        ("still", np.int64),  # the next iteration computes the same sequences, unless one of them ends
        ("slowness", np.float64),  # seconds of an iteration over those of a sound engine
        ("lost_calls", np.int64),  # that began again elsewhere because this engine was lost
        ("send_head", np.int64),  # transfers out of the engine, one after the other
        ("send_tail", np.int64),
        ("send_left", np.float64),  # bytes of the first, and its rate
        ("send_rate", np.float64),
        ("send_since_s", np.float64),  # since when it sends without a pause
        ("receive_left", np.float64),  # bytes/s not given to anyone yet, while rates are shared out
        ("receives", np.int64),
        ("sender", np.int64),  # row of the k-th engine that sends, k being this row
        ("computing", np.int64),  # prompt tokens of the iteration under way
        ("rest", np.int64),  # iterations in a row, this one included, in which the decodes make way for whole prompts
        ("rests", np.int64),  # such iterations; ``iteration`` does not count them
        ("loaded", np.int64),  # sequences at the front of its queue whose KV has come from a tier
        ("stall_s", np.float64),  # the next iteration waits for a swap
        ("swaps", np.int64),
        ("computed_tokens", np.int64),  # of prompts, with those computed again
        ("fresh_tokens", np.int64),  # that a cache which never forgets would have computed
        ("stores", np.int64, (MOST_TIERS,)),  # below it, fastest first
        ("tier_hits", np.int64, (MOST_TIERS,)),  # tokens found, read and written there
        ("tier_reads", np.int64, (MOST_TIERS,)),
        ("tier_writes", np.int64, (MOST_TIERS,)),
    ]
)

#: what is recorded of a task
SEQUENCE = np.dtype(
    [
        ("submitted_s", np.float64),
        ("scheduled_s", np.float64),
        ("first_s", np.float64),
        ("finish_s", np.float64),
        ("engine", np.int32),  # that prefilled it, then that decodes it
        ("first_engine", np.int32),
        ("cached", np.int32),  # tokens found at its first admission
        ("restarts", np.int16),
        ("status", np.int8),
        ("losses", np.int8),  # engines that were lost under the call
    ],
    align=True,
)

#: what is needed of a task until it ends
PROGRESS = np.dtype(
    [
        ("deps", np.int32),
        ("next", np.int32),  # in a queue, or in the chain ``prefilled``
        ("run_prev", np.int32),
        ("run_next", np.int32),
        ("target", np.int32),  # decode engine while the KV is on its way; STRANDED - pool while it waits for an engine
        ("locked", np.int32),  # leaf of the path it holds, -1 none
        ("need", np.int32),  # tokens to have in KV before the next token comes
        ("done", np.int32),
        ("covered", np.int32),  # blocks of the prompt computed or found
        ("held", np.int32),  # blocks that are its own
        ("left", np.int32),  # tokens still to generate
        ("owed", np.int32),  # what it adds to the engine's ``unprefilled``
        ("from_iteration", np.int32),  # first decode iteration, and the context there
        ("from_context", np.int32),
        ("transferred", np.int8),
        ("tier", np.int8),  # Load
    ],
    align=True,
)

#: of a call whose KV goes to another engine
TRANSFER = np.dtype([("arrived_s", np.float64), ("send_bytes", np.float64)])  # there; when the prefill has ended

REQUEST_STATE = np.dtype(
    [
        ("left", np.int32),
        ("status", np.int8),
        ("reason", np.int8),
        ("admitted", np.int8),
        ("release_s", np.float64),
        ("finish_s", np.float64),
    ],
    align=True,
)

NODE = np.dtype([("resident", np.int32), ("refs", np.int32), ("older", np.int32), ("newer", np.int32)])
#: one store of KV below the device; blocks as in ENGINE
STORE = np.dtype(
    [
        ("row", np.int64),  # of ``nodes``
        ("capacity", np.int64),
        ("free", np.int64),
        ("idle", np.int64),  # blocks of prefixes; what is neither free nor idle is swapped out
        ("lru_head", np.int64),
        ("lru_tail", np.int64),
        ("ttl_s", np.float64),
        ("read_bytes_per_s", np.float64),
        ("write_bytes_per_s", np.float64),
        ("latency_s", np.float64),
        ("read_free_s", np.float64),  # reads follow each other, and so do writes
        ("write_free_s", np.float64),
        ("shared", np.int64),  # Shared
    ]
)
EVENT = np.dtype([("time_s", np.float64), ("order", np.int64), ("kind", np.int32), ("id", np.int32)])
FINISH = np.dtype([("iteration", np.int32), ("task", np.int32)])
VIEW = np.dtype(
    [
        ("age", np.float64),
        ("cached", np.int64),
        ("pending", np.int64),
        ("decode", np.int64),
        ("queued", np.int64),
        ("running", np.int64),
        ("healthy", np.bool_),
        ("wait", np.float64),  # predicted seconds until the first token
    ]
)
#: of one pair of pools; bytes/s and seconds
LINK = np.dtype(
    [
        ("bytes_per_s", np.float64),  # of one pair of engines
        ("latency_s", np.float64),
        ("shared_bytes_per_s", np.float64),  # of all pairs together
        ("left", np.float64),  # of the shared rate, while rates are shared out
        ("users", np.int64),
        ("sent_bytes", np.float64),
    ]
)
CLOCK = np.dtype(
    [
        ("now_s", np.float64),
        ("order", np.int64),
        ("events", np.int64),  # size of the heap
        ("next_root", np.int64),
        ("open_tasks", np.int64),
        ("unbounded", np.int64),
        ("route_task", np.int64),
        ("route_pool", np.int64),
        ("decision", np.int64),
        ("asked_blocks", np.int64),
        ("hit_blocks", np.int64),
        ("decisions", np.int64),
        ("most_losses", np.int64),  # a call that lost so many engines fails
        ("admission", np.int64),  # code of a built-in policy, -1: ask Python
        ("admission_limit", np.float64),
        ("otherwise", np.int64),  # what the built-in decides beyond its limit
        ("ask_task", np.int64),
        ("ask_pool", np.int64),
        ("sending", np.int64),  # engines that send KV: ``sender`` of the first so many rows of ``engines``
        ("network_s", np.float64),  # until when their bytes have moved
        ("sent_s", np.float64),  # when the first of them is done, or the rates are to be shared out again
    ]
)


class State(NamedTuple):
    """The world: P pools, E engines, n tasks, R requests, N prefix nodes."""

    clock: Table  # [1]
    pools: Table  # [P]
    engines: Table  # [E]
    sequences: Table  # [n]
    progress: Table  # [n]
    transfers: Table  # [n], or [0] where no KV is ever sent
    requests: Table  # [R]
    nodes: Table  # [caches + S + pools with TTL or tiers, N]
    events: Table  # heap: at most one per task that is not over at once, and three per engine
    finishes: Table  # [E, seats] heaps by iteration
    crossing: Int32  # [E, block_tokens] decodes that need a block at this iteration modulo block size
    roots: Int32  # tasks without predecessors, by time
    last_engine: Int32  # [sessions, P] row within the pool that served the session last, -1 none
    views: Table  # [E] what a router sees, filled before each decision
    links: Table  # [P, P] from pool to pool
    stores: Table  # [S]
    used_s: Floats  # [caches + S, N] last use; in a store, when it is written; [0, 0] without TTL and tiers


class Stores(NamedTuple):
    """The stores below the engines, empty."""

    stores: Table  # [S] STORE
    below: Int64  # [E, MOST_TIERS] rows of the stores below each engine, fastest first; NONE where there is none


def no_stores(engines: int) -> Stores:
    """Engines without tiers."""
    return Stores(np.zeros(0, STORE), np.full((engines, MOST_TIERS), NONE))


def new_state(
    pools: Table,
    tasks: Tasks,
    tree: Prefixes,
    unbounded: bool,
    links: Table | None = None,
    stores: Stores | None = None,
    steady: bool = False,
) -> State:
    """The world before the first event.

    Args:
        pools: [P] :data:`POOL` records; ``first`` and ``engines`` number the engines.
        tasks: what to run.
        tree: prefixes of the prompts.
        unbounded: one cache for all engines, which never forgets and takes no memory.
        links: [P, P] :data:`LINK` records; by default only what engines send and receive limits.
        stores: the tiers below the engines (:func:`heterarch.sim.stores.stores_of`); none by default.
        steady: no engine fails and no plan changes, so that the state has room only for what such a run needs.
    """
    count = int(pools["engines"].sum())
    engines = _engines(pools, count, len(tree.runs) > 0, unbounded)
    caches = int(engines["cache"].max(initial=-1)) + 1
    below = no_stores(count) if stores is None else stores
    stored = len(below.stores)
    engines["stores"] = below.below
    below.stores["row"] = caches + np.arange(stored)
    if unbounded:
        pools["tiers"] = pools["swap"] = pools["ttl_s"] = 0
    dated = (pools["ttl_s"] > 0) | (pools["tiers"] > 0)
    pools["seen"] = _seen(pools, engines, dated, caches + stored, unbounded)
    nodes = np.zeros((max(caches + stored, int(pools["seen"].max(initial=NONE)) + 1), len(tree.runs)), NODE)
    nodes["older"] = nodes["newer"] = NONE
    seats = int(pools["seats"].max(initial=1)) + 1
    sends = not steady or bool(_sends(tasks).any())
    pending = int(_pending(pools, tasks).sum()) if steady else len(tasks.rows)
    return State(
        clock=_clock(tasks, unbounded),
        pools=pools,
        engines=engines,
        sequences=_sequences(len(tasks.rows)),
        progress=_progress(tasks),
        transfers=np.full(len(tasks.rows) if sends else 0, np.nan, TRANSFER),
        requests=_requests(tasks),
        nodes=nodes,
        events=np.zeros(pending + 3 * count + len(pools) + 8, EVENT),
        finishes=np.zeros((count, seats), FINISH),
        crossing=np.zeros((count, tree.block_tokens), np.int32),
        roots=_roots(tasks),
        last_engine=np.full((tasks.sessions, len(pools)), NONE, np.int32),
        views=np.zeros(count, VIEW),
        links=open_links(pools) if links is None else links,
        stores=below.stores,
        used_s=np.zeros((caches + stored, len(tree.runs)) if dated.any() else (0, 0)),
    )


def _seen(pools: Table, engines: Table, dated: NDArray[np.bool_], row: int, unbounded: bool) -> Int64:
    """[P] rows from ``row`` on for pools that forget by TTL or have tiers; a cache that never forgets is its own."""
    seen = np.where(dated, row + np.cumsum(dated) - 1, NONE)
    for p, pool in enumerate(pools):
        if pool["engines"] and not dated[p] and (unbounded or pool["kind"] == PoolKind.ENDPOINT):
            seen[p] = engines["cache"][pool["first"]]
    return seen


def settled(state: State) -> State:
    """Of a run that is over, what its records are made of."""
    return state._replace(
        progress=np.zeros(0, PROGRESS),
        events=np.zeros(0, EVENT),
        last_engine=np.zeros((0, len(state.pools)), np.int32),
        roots=state.roots[-1:].copy(),
    )


def set_admission(state: State, policy: BuiltinAdmission | None) -> None:
    """Let a built-in admission policy decide, or with None one in Python; a new state admits all."""
    clock = state.clock[0]
    clock["admission"] = -1 if policy is None else list(ADMISSIONS).index(policy.name)
    if policy is not None:
        clock["admission_limit"], clock["otherwise"] = policy.limit, policy.otherwise


def open_links(pools: Table) -> Table:
    """[P, P] links without limits of their own, at the longer latency of both pools."""
    table = np.zeros((len(pools), len(pools)), LINK)
    table["bytes_per_s"] = table["shared_bytes_per_s"] = np.inf
    table["latency_s"] = np.maximum.outer(pools["link_latency_s"], pools["link_latency_s"])
    return table


def _engines(pools: Table, count: int, tree: bool, unbounded: bool) -> Table:
    engines = np.zeros(count, ENGINE)
    for name in (
        "head",
        "tail",
        "run_head",
        "run_tail",
        "partial",
        "prefilled",
        "prefilled_tail",
        "lru_head",
        "send_head",
    ):
        engines[name] = NONE
    engines["lru_tail"] = NONE
    engines["healthy"] = Health.UP
    engines["slowness"] = 1.0
    engines["pool"] = np.repeat(np.arange(len(pools)), pools["engines"])
    engines["free"] = np.repeat(pools["capacity"], pools["engines"])
    engines["cache"] = NONE if not tree else (0 if unbounded else np.arange(count))
    return engines


def _sends(tasks: Tasks) -> NDArray[np.bool_]:
    """[n] which calls decode in another pool."""
    rows = tasks.rows
    return np.asarray((rows["kind"] == TaskKind.GENERATE) & (rows["decode_pool"] != rows["prefill_pool"]))


def _pending(pools: Table, tasks: Tasks) -> NDArray[np.bool_]:
    """[n] which tasks may stand in the heap; not a call without predecessors on engines that never send or load KV."""
    rows = tasks.rows
    plain = (pools["kind"] == PoolKind.ENGINES) & (pools["tiers"] == 0) & (pools["swap"] == 0)
    calls = (rows["kind"] == TaskKind.GENERATE) & plain[rows["prefill_pool"]]
    return np.asarray((rows["deps"] > 0) | ~calls | _sends(tasks))


def _roots(tasks: Tasks) -> Int32:
    rows = tasks.rows
    ready = np.flatnonzero(rows["deps"] == 0)
    at = rows["release_s"][ready] + rows["delay_s"][ready]
    return ready[np.argsort(at, kind="stable")].astype(np.int32)


def _sequences(count: int) -> Table:
    rows = np.zeros(count, SEQUENCE)
    for name in ("engine", "first_engine"):
        rows[name] = NONE
    for name in ("submitted_s", "scheduled_s", "first_s", "finish_s"):
        rows[name] = np.nan
    return rows


def _progress(tasks: Tasks) -> Table:
    rows = np.zeros(len(tasks.rows), PROGRESS)
    for name in ("next", "run_prev", "run_next", "target", "locked"):
        rows[name] = NONE
    rows["deps"] = tasks.rows["deps"]
    rows["need"] = np.maximum(tasks.rows["prompt_tokens"], 1)
    rows["left"] = np.maximum(tasks.rows["output_tokens"], 1)
    return rows


def _requests(tasks: Tasks) -> Table:
    rows = np.zeros(tasks.requests, REQUEST_STATE)
    rows["left"] = np.bincount(tasks.rows["request"], minlength=tasks.requests)
    rows["reason"] = NONE
    rows["release_s"] = rows["finish_s"] = np.nan
    return rows


def _clock(tasks: Tasks, unbounded: bool) -> Table:
    clock = np.zeros(1, CLOCK)
    clock["open_tasks"] = len(tasks.rows)
    clock["unbounded"] = unbounded
    clock["route_task"] = clock["route_pool"] = clock["ask_task"] = clock["ask_pool"] = NONE
    clock["decision"] = UNDECIDED
    clock["most_losses"] = 1
    clock["sent_s"] = np.inf
    return clock
