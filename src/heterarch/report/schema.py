"""The Report: what happened, simulated or live, in one schema."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

REPORT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Summary(_Part):
    """A distribution in a table: count, mean and the percentiles that SLOs are written against."""

    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


class Counts(_Part):
    """How requests and calls ended; ``offered = completed + rejected + failed + unfinished`` for each."""

    offered: int
    completed: int
    rejected: int = 0
    failed: int = 0
    unfinished: int = 0


class TierReport(_Part):
    """KV found on one tier: prompt tokens, their share of all prompt tokens, and bytes moved from and to the device."""

    name: str
    hit_tokens: int
    hit_rate: float
    read_bytes: int = 0
    written_bytes: int = 0


class PoolReport(_Part):
    """One pool: busy share of the time that its engines served, what its cache did, and what it lost.

    ``downtime_s``: engine-seconds from an engine's loss until it, or the next in its place, serves. ``availability``:
    share of the wanted engine-seconds that served. ``restarts``: calls that began again because an engine was lost.
    ``preemptions`` of decodes for want of memory, ``swaps`` of them to the host. ``prefill_amplification``: prompt
    tokens computed over those that a cache which never forgets would have computed; None for engines without tiers
    or TTL, where it is not counted.
    """

    name: str
    role: str
    engines: int
    devices: int
    utilisation: float
    usd: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    iterations: int
    preemptions: int
    downtime_s: float = 0.0
    availability: float = 1.0
    engines_lost: int = 0
    restarts: int = 0
    swaps: int = 0
    tiers: list[TierReport] = []
    prefill_amplification: float | None = None


class OpReport(_Part):
    """One op: predicted against measured seconds per task, mean; ``source`` says where the prediction came from."""

    name: str
    kind: str
    pool: str
    tasks: int
    measured_s: Summary
    predicted_s: float | None = None
    source: str = ""


class CacheReport(_Part):
    """Prefix reuse. ``block_hit_rate`` = blocks found on any tier / prompt blocks; the rest as :class:`PoolReport`."""

    block_tokens: int
    blocks: int
    hit_blocks: int
    block_hit_rate: float
    tiers: list[TierReport] = []
    prefill_amplification: float | None = None


class Verdict(_Part):
    """One SLO and what was observed."""

    slo: str
    observed: float
    met: bool


class Overload(_Part):
    """A pool that the load is too much for: its waiting grows by ``growth`` seconds per second, ``queued`` calls and
    tasks waited when the last one came, and the last tenth of those served had waited ``wait_s``."""

    pool: str
    growth: float
    wait_s: float
    queued: int


class PoolSeries(_Part):
    """One pool at the times of a :class:`Series`.

    ``queued``, ``running``: LLM calls, or tasks of a tool pool. ``kv_share``: KV memory in use by them;
    ``cached_share``: held for prefixes that may come again. ``busy_share``: busy part of its engines' or servers' time
    since the sample before; 0 for hosted APIs. ``usd``: spent until then.
    """

    name: str
    queued: list[int]
    running: list[int]
    kv_share: list[float]
    cached_share: list[float]
    busy_share: list[float]
    usd: list[float]


class Series(_Part):
    """The pools over time; ``time_s`` in ascending seconds of the run."""

    time_s: list[float]
    pools: list[PoolSeries]


class Report(_Part):
    """What happened. Times in seconds, money in USD, rates per second of the run."""

    heterarch: Literal["report"] = "report"
    version: int = REPORT_VERSION
    kind: Literal["simulated", "live"]
    plan_sha256: str
    agent: str
    workload: str
    seed: int
    partial: bool = False
    duration_s: float
    requests: Counts
    calls: Counts
    reasons: dict[str, int] = {}
    e2e_s: Summary
    ttft_s: Summary
    tpot_s: Summary
    goodput_rps: float
    throughput_rps: float
    output_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    kv_transfer_bytes: int
    cache: CacheReport
    usd: float
    usd_per_request: float
    usd_per_million_tokens: float
    pools: list[PoolReport]
    ops: list[OpReport]
    slo: list[Verdict]
    overloaded: list[Overload] = []
    notes: list[str] = []
    series: Series | None = None
