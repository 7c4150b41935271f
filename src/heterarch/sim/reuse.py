"""How much KV was found where, what moved, and how much prefill the forgetting cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heterarch.plan.document import Pool
from heterarch.report.schema import TierReport
from heterarch.sim.state import State

DEVICE = "device"


class Reuse(NamedTuple):
    """Of some engines; see :class:`heterarch.report.schema.PoolReport`."""

    tiers: list[TierReport]
    prefill_amplification: float | None


def reuse_of(pools: Sequence[Pool], state: State, engines: NDArray[np.int64]) -> Reuse:
    """What the engines with these rows found, device first; nothing for engines that saw no prompt."""
    rows = state.engines[engines]
    asked = int(rows["prompt_tokens"].sum())
    if asked == 0:
        return Reuse([], None)
    moved: dict[str, NDArray[np.float64]] = {}
    for row in rows:
        pool = pools[int(row["pool"])]
        kv_bytes = pool.kv_bytes_per_token
        for k, part in enumerate(pool.kv_tiers):
            moved_bytes = kv_bytes * row["tier_reads"][k], kv_bytes * row["tier_writes"][k]
            counts = np.array([row["tier_hits"][k], *moved_bytes])
            moved[part.name] = moved.get(part.name, np.zeros(3)) + counts
    below = sum(int(counts[0]) for counts in moved.values())
    found = {DEVICE: np.array([rows["cached_tokens"].sum() - below, 0, 0]), **moved}
    compared = rows[state.pools["seen"][rows["pool"]] >= 0]
    computed, fresh = int(compared["computed_tokens"].sum()), int(compared["fresh_tokens"].sum())
    return Reuse([_tier(name, counts, asked) for name, counts in found.items()], computed / fresh if fresh else None)


def _tier(name: str, counts: NDArray[np.float64], asked: int) -> TierReport:
    hits, read, written = (int(count) for count in counts)
    return TierReport(name=name, hit_tokens=hits, hit_rate=hits / asked, read_bytes=read, written_bytes=written)
