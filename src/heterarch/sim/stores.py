"""The tiers of a plan's pools as empty stores for the core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heterarch.errors import InputError
from heterarch.plan.document import MOST_TIERS, Pool, TierPart
from heterarch.sim.pools import pool_kind
from heterarch.sim.state import NONE, STORE, PoolKind, Shared, Stores
from heterarch.sim.tasks import Table

Key = tuple[str | int, ...]


def stores_of(pools: Sequence[Pool], block_tokens: int) -> Stores:
    """The stores below the engines of ``pools``, in the order of the engines.

    Args:
        pools: the pools of a plan.
        block_tokens: tokens of a KV block.

    Raises:
        InputError: pools that share a tier say different things about it, or swap without a host tier.
    """
    engines = [_keys(pool, row) for pool in pools for row in range(_engines(pool))]
    numbers: dict[Key, int] = {}
    parts: list[TierPart] = []
    links = np.full((len(engines), MOST_TIERS), NONE)
    for e, keys in enumerate(engines):
        for k, (key, part) in enumerate(keys):
            number = numbers.setdefault(key, len(parts))
            if number == len(parts):
                parts.append(part)
            _refuse_difference(part, parts[number])
            links[e, k] = number
    return Stores(_records(parts, block_tokens), links)


def _engines(pool: Pool) -> int:
    kind = pool_kind(pool)
    if pool.kv_tiers and kind != PoolKind.ENGINES:
        raise InputError(f"pool {pool.name} has KV tiers but no KV", observed=f"role {pool.role}")
    return pool.engines if kind == PoolKind.ENGINES else int(kind == PoolKind.ENDPOINT)


def _keys(pool: Pool, row: int) -> list[tuple[Key, TierPart]]:
    """What engine ``row`` of ``pool`` has below it, by who shares it."""
    if pool.preemption == "swap" and (not pool.kv_tiers or pool.kv_tiers[0].name != "host"):
        raise InputError(
            f"pool {pool.name} swaps, but has no host to swap to",
            observed=[tier.name for tier in pool.kv_tiers],
            expected="a tier `host` first in `kv_tiers`",
        )
    owner: dict[str, Key] = {
        "engine": (pool.name, "engine", row),
        "server": (pool.name, "server", row // pool.engines_per_server),
        "pool": ("model", pool.model) if pool.model else ("pool", pool.name),
    }
    return [((*owner[tier.shared], tier.name), tier) for tier in pool.kv_tiers]


def _refuse_difference(part: TierPart, other: TierPart) -> None:
    if part != other:
        raise InputError(
            f"two pools of one model share the tier {part.name}, but describe it differently",
            observed=part.model_dump_json(),
            expected=other.model_dump_json(),
        )


def _records(parts: Sequence[TierPart], block_tokens: int) -> Table:
    records = np.zeros(len(parts), STORE)
    records["lru_head"] = records["lru_tail"] = NONE
    for record, part in zip(records, parts, strict=True):
        record["capacity"] = record["free"] = part.kv_tokens // block_tokens
        record["ttl_s"], record["shared"] = part.ttl_s or 0.0, Shared[part.shared.upper()]
        for name in ("read_bytes_per_s", "write_bytes_per_s", "latency_s"):
            record[name] = getattr(part, name)
    return records
