"""The pools of a plan as records for the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.cost.step import KNOTS, StepCost, step_time_s
from heterarch.errors import InputError, UnknownNameError
from heterarch.plan.document import Pool, PoolLink
from heterarch.policy.router import ROUTERS
from heterarch.sim.state import POOL, PoolKind, open_links
from heterarch.sim.tasks import TaskKind, Tasks
from heterarch.workload.distribution import lognormal

DEFAULT_BATCHED_TOKENS = 2048  # vLLM's default for a server, where a plan says nothing
UNLIMITED = 1 << 60
_LLM_ROLES = ("mixed", "prefill", "decode")


def pool_kind(pool: Pool) -> PoolKind:
    """How the simulator serves ``pool``."""
    if pool.role == "endpoint":
        return PoolKind.ENDPOINT
    return PoolKind.ENGINES if pool.role in _LLM_ROLES else PoolKind.SERVERS


def pool_table(pools: Sequence[Pool], router: str | None, block_tokens: int) -> Any:
    """Records (:data:`heterarch.sim.state.POOL`) of the pools of a plan.

    Args:
        pools: the pools.
        router: name of a built-in router, None when Python decides.
        block_tokens: tokens of a KV block.

    Raises:
        InputError: a pool without what its role needs.
    """
    records = np.zeros(len(pools), POOL)
    code = -1 if router is None else list(ROUTERS).index(router)
    first = 0
    for row, pool in enumerate(pools):
        kind = pool_kind(pool)
        records[row]["kind"], records[row]["router"], records[row]["first"] = kind, code, first
        for name in ("head", "tail", "held_head", "held_tail", "stranded", "stranded_tail"):
            records[row][name] = -1
        records[row]["context_tokens"] = pool.context_tokens
        records[row]["verified"] = records[row]["tokens_per_step"] = 1
        records[row]["ttl_s"] = pool.kv_ttl_s or 0.0
        records[row]["tiers"], records[row]["swap"] = len(pool.kv_tiers), pool.preemption == "swap"
        records[row]["free_servers"] = max(1, pool.engines) * max(1, pool.concurrency)
        if kind == PoolKind.ENGINES:
            _engines(records[row], pool, block_tokens)
        elif kind == PoolKind.ENDPOINT:
            _endpoint(records[row], pool)
        first += int(records[row]["engines"])
    return records


def link_table(records: Any, pools: Sequence[Pool], links: Sequence[PoolLink]) -> Any:
    """[P, P] records (:data:`heterarch.sim.state.LINK`) of the links between the pools ``records``."""
    table = open_links(records)
    set_links(table, {pool.name: row for row, pool in enumerate(pools)}, links)
    return table


def set_links(table: Any, rows: Mapping[str, int], links: Sequence[PoolLink]) -> None:
    """Write the stated ``links`` between pools, whose ``rows`` in ``table`` [P, P] are given by name.

    Raises:
        UnknownNameError: a link of a pool that the plan does not have.
    """
    for link in links:
        for name in (link.sender, link.receiver):
            if name not in rows:
                raise UnknownNameError("pool", name, rows, fix="name pools of the plan in its `links`")
        record = table[rows[link.sender], rows[link.receiver]]
        record["bytes_per_s"], record["latency_s"] = link.bytes_per_s, link.latency_s
        record["shared_bytes_per_s"] = link.shared_bytes_per_s or math.inf


def check_placement(tasks: Tasks, pools: Sequence[Pool], links: Sequence[PoolLink] = ()) -> None:
    """Refuse LLM calls on pools that cannot run them, and disaggregation without a link.

    Raises:
        InputError: with the pools concerned.
    """
    stated = {(link.sender, link.receiver) for link in links}
    calls = tasks.rows["kind"] == TaskKind.GENERATE
    pairs = np.stack([tasks.rows["prefill_pool"][calls], tasks.rows["decode_pool"][calls]], axis=1)
    for a, b in np.unique(pairs, axis=0).tolist():
        prefill, decode = pools[a], pools[b]
        kinds = {pool_kind(prefill), pool_kind(decode)}
        if PoolKind.SERVERS in kinds or (a != b and PoolKind.ENDPOINT in kinds):
            raise InputError(
                "an LLM call is placed on pools that cannot run it",
                observed=f"prefill on {prefill.name} ({prefill.role}), decode on {decode.name} ({decode.role})",
                expected="one mixed pool, one endpoint, or a prefill and a decode pool",
            )
        linked = (prefill.name, decode.name) in stated
        if a != b and not linked and min(prefill.transfer_bytes_per_s, decode.transfer_bytes_per_s) <= 0:
            raise InputError(
                f"no KV link from pool {prefill.name} to pool {decode.name}",
                observed="transfer_bytes_per_s is 0",
                fix="give both pools a transfer_bytes_per_s, or the plan a link from one to the other",
            )


def draw_endpoint_latency(
    pools: Sequence[Pool], tasks: Tasks, rng: np.random.Generator, which: NDArray[np.bool_] | None = None
) -> None:
    """Draw TTFT and TPOT of calls on hosted APIs: log-normal through p50 and p95, or the median alone.

    Args:
        pools: the pools that the tasks are placed on.
        tasks: changed in place.
        rng: of the draws: two per task, whichever pools there are.
        which: [n] tasks to draw for; by default all.
    """
    rows = tasks.rows
    draws = rng.random((2, len(rows)))
    for row, pool in enumerate(pools):
        if pool.endpoint is None:
            continue
        there = (rows["kind"] == TaskKind.GENERATE) & (rows["prefill_pool"] == row)
        mine = np.flatnonzero(there if which is None else there & which)
        p50 = max(pool.endpoint.ttft_p50_s, 1e-9)
        law = lognormal(p50=p50, p95=max(pool.endpoint.ttft_p95_s, p50))
        rows["ttft_s"][mine] = law.at(draws[0, mine])
        tpot_s, slow_s = pool.endpoint.tpot_p50_s, pool.endpoint.tpot_p95_s
        rows["tpot_s"][mine] = tpot_s
        if slow_s is not None and slow_s > tpot_s:
            rows["tpot_s"][mine] = lognormal(p50=tpot_s, p95=slow_s).at(draws[1, mine])


def _engines(record: Any, pool: Pool, block_tokens: int) -> None:
    if pool.kv_tokens <= 0 or pool.engines <= 0 or pool.concurrency <= 0:
        raise InputError(
            f"pool {pool.name} cannot be simulated",
            observed=f"engines {pool.engines}, concurrency {pool.concurrency}, kv_tokens {pool.kv_tokens}",
            expected="all above zero",
        )
    if pool.step is None:
        raise InputError(f"pool {pool.name} has no step cost", fix="plan it again, or give it `step`")
    for phase, step in enumerate((pool.step, pool.prefill_step or pool.step, pool.decode_step or pool.step)):
        cost = step.cost()
        _check_cost(pool, cost)
        for name, value in cost._asdict().items():
            record[name][phase] = value
    capacity = pool.kv_tokens // block_tokens
    record["engines"], record["seats"] = pool.engines, pool.concurrency
    record["budget"] = pool.max_batched_tokens or DEFAULT_BATCHED_TOKENS
    record["capacity"], record["watermark"] = capacity, int(pool.kv_headroom * capacity)
    record["whole"] = pool.batching == "whole-prompt"
    record["kv_bytes"] = pool.kv_bytes_per_token
    record["link_bytes_per_s"] = pool.transfer_bytes_per_s or math.inf
    record["link_latency_s"] = pool.transfer_latency_s
    record["transfer_layers"] = pool.transfer_layers
    if pool.speculation is not None:
        record["verified"] = pool.speculation.draft_tokens + 1
        record["tokens_per_step"] = pool.speculation.tokens_per_step
        record["draft_s"] = pool.speculation.draft_s


def _check_cost(pool: Pool, cost: StepCost) -> None:
    """Refuse a step cost with which time would run backwards; single coefficients may be below zero."""
    tokens = np.array([1, *KNOTS])
    for decodes in (0 * tokens, np.minimum(tokens, pool.concurrency)):
        seconds = step_time_s(cost, tokens, 0.0, decodes, 0.0)
        if seconds.min() < 0:
            raise InputError(
                f"the step cost of pool {pool.name} makes iterations of less than no time",
                observed=f"{seconds.min():.3g} s for {int(tokens[seconds.argmin()]):,} tokens",
                fix="plan it again",
            )


def _endpoint(record: Any, pool: Pool) -> None:
    if pool.endpoint is None:
        raise InputError(f"pool {pool.name} is an endpoint without an `endpoint` part")
    record["engines"] = 1  # the provider's cache
    record["free_servers"] = UNLIMITED
    for name, limit in (
        ("call_interval_s", pool.endpoint.requests_per_min),
        ("token_interval_s", pool.endpoint.tokens_per_min),
    ):
        record[name] = 60.0 / limit if limit else 0.0
