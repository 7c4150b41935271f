"""From recorded times to a Report: one definition of every metric, for simulator and live runtime alike.

* TTFT = first token - submission; over completed LLM calls.
* TPOT = (finish - first token) / (output tokens - 1); over completed calls with two tokens or more.
* e2e = end of the request's last task - release; over completed agent requests.
* goodput = completed requests per second of the run of which every SLO threshold held.

Records are NumPy structured arrays, so that a million calls cost no Python objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heterarch.report.schema import (
    CacheReport,
    Counts,
    OpReport,
    Overload,
    PoolReport,
    Report,
    Series,
    Summary,
    TierReport,
    Verdict,
)
from heterarch.report.slo import SLO, parse_slo

Records = NDArray[np.void]
Floats = NDArray[np.float64]


class Status(IntEnum):
    """How a call or a request ended; ``reason`` columns number why it was rejected or failed."""

    UNFINISHED = 0
    COMPLETED = 1
    REJECTED = 2
    FAILED = 3


#: one row per LLM call; seconds of the run, NaN where the moment never came; pools, ops by row
CALL = np.dtype(
    [
        ("request", np.int32),
        ("session", np.int32),
        ("op", np.int32),
        ("pool", np.int32),  # pool and engine (row within the pool) of the prefill
        ("engine", np.int32),
        ("decode_pool", np.int32),
        ("decode_engine", np.int32),
        ("submitted_s", np.float64),
        ("scheduled_s", np.float64),
        ("first_token_s", np.float64),
        ("finish_s", np.float64),
        ("prompt_tokens", np.int32),
        ("cached_tokens", np.int32),
        ("output_tokens", np.int32),
        ("restarts", np.int32),
        ("status", np.int8),
        ("kv_arrived_s", np.float64),  # at the decode engine, where it is another
    ]
)

#: one row per task of a tool or of other code on a pool; its number of ``request``, ``op``, ``pool`` as in CALL
TOOL = np.dtype(
    [
        ("request", np.int32),
        ("session", np.int32),
        ("op", np.int32),
        ("pool", np.int32),
        ("submitted_s", np.float64),
        ("scheduled_s", np.float64),
        ("finish_s", np.float64),
        ("status", np.int8),
    ]
)

#: one row per agent request; ``usd`` is what the request itself was billed (hosted APIs), 0 on own engines
REQUEST = np.dtype(
    [
        ("session", np.int32),
        ("release_s", np.float64),
        ("finish_s", np.float64),
        ("usd", np.float64),
        ("status", np.int8),
        ("reason", np.int8),  # row in RunFacts.reasons, -1 for none
    ]
)


@dataclass(frozen=True)
class OpTimes:
    """The measured seconds of every finished task of one op, and what the plan predicted for their mean."""

    name: str
    kind: str
    pool: str
    seconds: Floats
    predicted_s: float | None = None
    source: str = ""


@dataclass(frozen=True)
class RunFacts:
    """What a Report says about a run beside its records.

    ``duration_s``: first release to last event. ``usd``: engines times hours plus hosted tokens.
    ``reasons``: texts that the ``reason`` column of :data:`REQUEST` numbers.
    """

    kind: Literal["simulated", "live"]
    agent: str
    workload: str
    plan_sha256: str
    seed: int
    duration_s: float
    usd: float
    slo: Sequence[str]
    partial: bool = False
    kv_transfer_bytes: int = 0
    block_tokens: int = 0
    blocks: int = 0
    hit_blocks: int = 0
    tiers: Sequence[TierReport] = ()
    prefill_amplification: float | None = None
    reasons: Sequence[str] = ()
    overloaded: Sequence[Overload] = ()
    notes: Sequence[str] = ()
    series: Series | None = None


def summarise(values: Floats | Sequence[float]) -> Summary:
    """Count, mean, percentiles (linear interpolation) of the finite values; all zero if there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if array.size == 0:
        return Summary(n=0, mean=0.0, p50=0.0, p90=0.0, p95=0.0, p99=0.0)
    p50, p90, p95, p99 = (float(x) for x in np.percentile(array, (50, 90, 95, 99)))
    return Summary(n=int(array.size), mean=float(array.mean()), p50=p50, p90=p90, p95=p95, p99=p99)


def ttft_s(calls: Records) -> Floats:
    """Seconds from submission to first token of each call (:data:`CALL`); NaN if not completed."""
    return np.where(calls["status"] == Status.COMPLETED, calls["first_token_s"] - calls["submitted_s"], np.nan)


def tpot_s(calls: Records) -> Floats:
    """Mean seconds per token after the first; NaN if not completed or of fewer than two tokens."""
    defined = (calls["status"] == Status.COMPLETED) & (calls["output_tokens"] > 1)
    gaps = np.maximum(calls["output_tokens"] - 1, 1)
    return np.where(defined, (calls["finish_s"] - calls["first_token_s"]) / gaps, np.nan)


def e2e_s(requests: Records) -> Floats:
    """Seconds from release to the last task's end, by request (:data:`REQUEST`); NaN if not completed."""
    return np.where(requests["status"] == Status.COMPLETED, requests["finish_s"] - requests["release_s"], np.nan)


def counts(status: NDArray[np.int8]) -> Counts:
    """How many ended how; the parts add up to ``offered``."""
    number = np.bincount(status.astype(np.int64), minlength=len(Status))
    return Counts(
        offered=int(status.size),
        completed=int(number[Status.COMPLETED]),
        rejected=int(number[Status.REJECTED]),
        failed=int(number[Status.FAILED]),
        unfinished=int(number[Status.UNFINISHED]),
    )


def within_slo(requests: Records, calls: Records, slos: Sequence[SLO]) -> NDArray[np.bool_]:
    """Which requests completed with every threshold met: e2e by itself, TTFT and TPOT by all its calls.

    Percentiles do not matter here: the target applies to every request; cost is no threshold of one.
    """
    good: NDArray[np.bool_] = np.asarray(requests["status"] == Status.COMPLETED)
    measured = {"ttft": ttft_s(calls), "tpot": tpot_s(calls)}
    for slo in slos:
        if slo.metric == "e2e":
            good &= e2e_s(requests) <= slo.target
        elif slo.metric in measured:
            late = measured[slo.metric] > slo.target
            good[calls["request"][late]] = False
    return good


def verdict(slo: SLO, values: Floats, lost: int) -> Verdict:
    """Whether ``slo`` held over ``values`` (NaN = not completed) when ``lost`` more were rejected or failed.

    ``observed`` is over what completed; ``met`` counts what was lost as late; nothing completed is not met.
    """
    done = values[np.isfinite(values)]
    if done.size == 0:
        return Verdict(slo=str(slo), observed=0.0, met=False)
    if slo.percentile < 0:
        mean = float(done.mean())
        return Verdict(slo=str(slo), observed=mean, met=mean <= slo.target)
    observed = float(np.percentile(done, slo.percentile))
    late = np.concatenate([done, np.full(lost, math.inf)])
    strict = float(np.percentile(late, slo.percentile, method="inverted_cdf")) if lost else observed
    return Verdict(slo=str(slo), observed=observed, met=max(observed, strict) <= slo.target)


def build_report(
    facts: RunFacts, calls: Records, requests: Records, pools: Sequence[PoolReport], ops: Sequence[OpTimes]
) -> Report:
    """The Report of one run.

    Args:
        facts: what is not in the records.
        calls: one :data:`CALL` row per LLM call that was due; ``request`` is a row of ``requests``.
        requests: one :data:`REQUEST` row per agent request offered.
        pools: one row per pool of the plan.
        ops: measured times by op.

    Raises:
        InputError: an SLO that cannot be read.
    """
    slos = [parse_slo(text) for text in facts.slo]
    ended = counts(requests["status"])
    done = calls[calls["status"] == Status.COMPLETED]
    prompt, output = int(done["prompt_tokens"].sum()), int(done["output_tokens"].sum())
    duration = max(facts.duration_s, 1e-12)
    per_request = facts.usd / ended.completed if ended.completed else 0.0
    return Report(
        kind=facts.kind,
        plan_sha256=facts.plan_sha256,
        agent=facts.agent,
        workload=facts.workload,
        seed=facts.seed,
        partial=facts.partial,
        duration_s=facts.duration_s,
        requests=ended,
        calls=counts(calls["status"]),
        reasons=_reasons(requests, facts.reasons),
        e2e_s=summarise(e2e_s(requests)),
        ttft_s=summarise(ttft_s(calls)),
        tpot_s=summarise(tpot_s(calls)),
        goodput_rps=float(within_slo(requests, calls, slos).sum()) / duration,
        throughput_rps=ended.completed / duration,
        output_tokens_per_s=output / duration,
        prompt_tokens=prompt,
        output_tokens=output,
        kv_transfer_bytes=facts.kv_transfer_bytes,
        cache=_cache(facts),
        usd=facts.usd,
        usd_per_request=per_request,
        usd_per_million_tokens=facts.usd / (prompt + output) * 1e6 if prompt + output else 0.0,
        pools=list(pools),
        ops=[_op(row) for row in ops],
        slo=[_judge(slo, calls, requests, per_request) for slo in slos],
        overloaded=list(facts.overloaded),
        notes=list(facts.notes),
        series=facts.series,
    )


def _judge(slo: SLO, calls: Records, requests: Records, usd_per_request: float) -> Verdict:
    if slo.metric == "cost":  # own engines are paid by the hour, so only the mean is defined
        return Verdict(slo=str(slo), observed=usd_per_request, met=0 < usd_per_request <= slo.target)
    rows = requests if slo.metric == "e2e" else calls
    lost = int(np.isin(rows["status"], (Status.REJECTED, Status.FAILED)).sum())
    values = {"e2e": e2e_s, "ttft": ttft_s, "tpot": tpot_s}[slo.metric](rows)
    return verdict(slo, values, lost)


def _reasons(requests: Records, texts: Sequence[str]) -> dict[str, int]:
    found = Counter(int(row) for row in requests["reason"] if row >= 0)
    return {texts[row]: found[row] for row in sorted(found)}


def _cache(facts: RunFacts) -> CacheReport:
    rate = facts.hit_blocks / facts.blocks if facts.blocks else 0.0
    return CacheReport(
        block_tokens=facts.block_tokens,
        blocks=facts.blocks,
        hit_blocks=facts.hit_blocks,
        block_hit_rate=rate,
        tiers=list(facts.tiers),
        prefill_amplification=facts.prefill_amplification,
    )


def _op(row: OpTimes) -> OpReport:
    return OpReport(
        name=row.name,
        kind=row.kind,
        pool=row.pool,
        tasks=len(row.seconds),
        measured_s=summarise(row.seconds),
        predicted_s=row.predicted_s,
        source=row.source,
    )
