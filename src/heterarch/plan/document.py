"""The Plan: pools, placement, policies, predictions and provenance in one versioned YAML file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from heterarch.cost.step import KNOTS, StepCost
from heterarch.errors import InputError
from heterarch.workload.profile import Workload

PLAN_VERSION = 1
MOST_TIERS = 3  # of KV below the device: host, disk, remote
Role = Literal["mixed", "prefill", "decode", "embed", "tool", "endpoint"]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Amount = Annotated[int, Field(ge=0, le=2**53)]  # of tokens or bytes
Measure = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # USD, watts, or a rate that may be absent
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CallablePart(_Part):
    """A Python callable by reference: ``package.module:qualname`` and the SHA-256 of its source."""

    symbol: str
    ref: str
    sha256: str
    where: str = ""


class AgentPart(_Part):
    """The agent: its name, the placed module as text, and the callables that the module names by symbol."""

    name: str
    source: str
    module: str
    callables: list[CallablePart] = []


class StepPart(_Part):
    """Coefficients of :class:`heterarch.cost.step.StepCost`, seconds; ``bends_s``: knot (tokens) -> change of slope."""

    fixed_s: Seconds
    token_s: FiniteFloat  # may be below zero, as the sum over an iteration is what counts
    bends_s: dict[int, FiniteFloat] = {}
    pair_s: Seconds = 0.0
    context_s: Seconds = 0.0
    sequence_s: FiniteFloat = 0.0
    mixed_s: Seconds = 0.0

    @classmethod
    def of(cls, cost: StepCost) -> StepPart:
        """The part of a step cost of floats, to 9 digits."""
        values = {name: float(f"{getattr(cost, name):.9g}") for name in cls.model_fields if name != "bends_s"}
        bends = {int(knot): float(f"{bend:.9g}") for knot, bend in zip(KNOTS, cost.bends_s, strict=True) if bend}
        return cls(bends_s=bends, **values)

    def cost(self) -> StepCost:
        """The step cost.

        Raises:
            InputError: a knot that this release does not have.
        """
        unknown = sorted(set(self.bends_s) - {int(knot) for knot in KNOTS})
        if unknown:
            raise InputError(
                "the step cost bends where this release has no knot",
                observed=", ".join(map(str, unknown)),
                fix="plan it again",
            )
        bends = np.array([self.bends_s.get(int(knot), 0.0) for knot in KNOTS])
        return StepCost(self.fixed_s, self.token_s, bends, self.pair_s, self.context_s, self.sequence_s, self.mixed_s)


class EndpointPart(_Part):
    """A hosted API: prices in USD per million tokens, rate limits per minute, latency in seconds (p50, p95)."""

    provider: str
    api_model: str
    url: str = ""
    api_key_env: str = ""
    input_usd_per_mtok: Measure
    cached_usd_per_mtok: Measure
    output_usd_per_mtok: Measure
    requests_per_min: Rate | None = None
    tokens_per_min: Rate | None = None
    ttft_p50_s: Seconds
    ttft_p95_s: Seconds
    tpot_p50_s: Seconds
    tpot_p95_s: Seconds | None = None
    price_date: str
    source: str


class LocalPart(_Part):
    """How to start this pool's engines on this machine (llama.cpp), or where they answer (OpenAI-compatible)."""

    kind: Literal["xllamacpp", "openai"]
    model_path: str = ""  # GGUF; "tiny" generates the built-in test model
    context_tokens: int = 0
    threads: int = 1
    slots: int = 1
    urls: list[str] = []


class TierPart(_Part):
    """A tier of KV below the device: capacity per store in tokens, rates of a store per direction, seconds per read.

    ``shared``: who has a store in common: each engine its own, those of a server, or all of the pool (and of other
    pools of the same model which name the same tier). ``ttl_s``: what is unused for longer is gone (None or 0: kept).
    """

    name: Literal["host", "disk", "remote"]
    kv_tokens: int = Field(gt=0, le=2**53)
    read_bytes_per_s: Rate
    write_bytes_per_s: Rate
    latency_s: Seconds = 0.0
    shared: Literal["engine", "server", "pool"] = "engine"
    ttl_s: Seconds | None = None


class SpeculationPart(_Part):
    """Speculative decoding: ``draft_tokens`` drafted per pass in ``draft_s`` seconds, ``tokens_per_step`` kept of them
    and the pass's own token together, on average."""

    tokens_per_step: FiniteFloat = Field(ge=1)
    draft_tokens: int = Field(ge=1, le=1_000_000)
    draft_s: Seconds = 0.0

    @model_validator(mode="after")
    def _keeps_no_more_than_it_drafts(self) -> Self:
        if self.tokens_per_step > self.draft_tokens + 1:
            raise ValueError(f"tokens_per_step is at most draft_tokens + 1 = {self.draft_tokens + 1}")
        return self


class PoolLink(_Part):
    """The link over which KV goes from the engines of pool ``sender`` to those of ``receiver``, per direction.

    ``bytes_per_s``: of one pair of engines. ``shared_bytes_per_s``: of all pairs together (0: no common limit).
    """

    sender: str
    receiver: str
    bytes_per_s: Rate
    latency_s: Seconds = 0.0
    shared_bytes_per_s: Measure = 0.0


class Pool(_Part):
    """``engines`` identical engines of one role.

    ``concurrency``: most sequences an engine runs at once (for a tool pool: most tasks at once per engine).
    ``context_tokens``: most tokens of one sequence, prompt and answer; longer chats are compacted (0: no limit).
    ``kv_tokens``: KV capacity per engine; ``kv_headroom``: share of it that admission leaves free for sequences that
    grow (0.01 in Vidur and in vLLM's first scheduler; 0 in its second, V1). ``kv_ttl_s``: cached KV unused for longer
    is gone, on engines and at a hosted API (None or 0: kept). ``kv_tiers``: stores of KV below the device, fastest
    first. ``preemption``: what a decoding sequence without memory does: ``recompute`` its KV later, or ``swap`` it to
    the first tier, which must be the host. ``usd_per_engine_h`` under the plan's accounting. ``start_s``: seconds from
    the order of an engine to its first iteration. ``engines_per_server``: engines that fail together.
    ``transfer_layers``: parts in which KV leaves while the prefill computes (1: all of it afterwards). ``batching``:
    prompts are cut to the tokens of an iteration and wait for decodes (chunked), or are computed whole and before the
    decodes. ``prefill_step``, ``decode_step``: step costs of iterations of only that, where they were measured apart;
    by default ``step``.
    """

    name: str
    role: Role
    device: str
    engines: Count
    devices_per_engine: Count = 1
    model: str = ""
    dtype: str = ""
    kv_dtype: str = ""
    tp: int = 1
    pp: int = 1
    concurrency: Count = 1
    max_batched_tokens: Amount = 0
    context_tokens: Amount = 0
    kv_tokens: int = Field(default=0, le=2**53)
    kv_headroom: float = Field(default=0.01, ge=0, lt=1)
    kv_bytes_per_token: Amount = 0
    transfer_bytes_per_s: Measure = 0.0  # KV out of (prefill) or into (decode) one engine, per direction
    transfer_latency_s: Seconds = 0.0
    transfer_layers: int = Field(default=1, ge=1, le=1_000_000)
    speculation: SpeculationPart | None = None
    usd_per_engine_h: Measure = 0.0
    watts_per_engine: Measure = 0.0
    start_s: Seconds = 0.0
    engines_per_server: int = Field(default=1, ge=1, le=1_000_000)
    step: StepPart | None = None
    prefill_step: StepPart | None = None
    decode_step: StepPart | None = None
    batching: Literal["chunked", "whole-prompt"] = "chunked"
    endpoint: EndpointPart | None = None
    local: LocalPart | None = None
    kv_ttl_s: Seconds | None = None
    kv_tiers: list[TierPart] = Field(default=[], max_length=MOST_TIERS)
    preemption: Literal["recompute", "swap"] = "recompute"


class OpPrediction(_Part):
    """Predicted seconds of one task of one op at the planned load, USD per request, visits per request."""

    op: str
    kind: str
    pool: str
    visits: float
    mean_s: float
    usd_per_request: float
    source: str


class Predictions(_Part):
    """What the plan promises at its load; seconds at the percentile of the SLO, USD, shares of capacity."""

    requests_per_s: float
    usd_per_h: float
    usd_per_request: float
    usd_per_million_tokens: float
    watts: float
    e2e_s: dict[str, float]  # "mean", "p50", "p95"
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    prefix_hit_rate: float
    utilisation: dict[str, float]
    ops: list[OpPrediction]


class LeftOut(_Part):
    """A device that could not take part, and why."""

    device: str
    reason: str


class Alternative(_Part):
    """A plan that was not chosen: its cost under the same SLO, or why it is infeasible."""

    name: str
    usd_per_h: float | None
    reason: str = ""


class Objective(_Part):
    """What was minimised, what was reached, and how far that is from proven optimal (0 = proven)."""

    name: str = "usd_per_h"
    value: float
    bound: float
    gap: float
    solver: str
    solve_s: float = Field(default=0.0, exclude=True)  # differs from run to run, so it stays out of files


class Provenance(_Part):
    """Everything that the answer rests on."""

    heterarch_version: str
    catalog_sha256: dict[str, str]  # row id -> hash of the catalogue row used
    statistics_sha256: str
    fleet: str
    fleet_sha256: str
    catalog_files: list[str] = []  # overlays that the catalogue was read with, as paths
    calibration_sha256: dict[str, str] = {}  # file of the user's own calibration -> hash of its bytes
    workload: str
    workload_sha256: str
    seed: int = 0


class Plan(_Part):
    """A plan. ``placement`` maps the name of every op that does work to its pool; ``load`` is its workload.

    ``links``: of the pairs of pools that send KV to each other; others go at the slower ``transfer_bytes_per_s``.
    """

    heterarch: Literal["plan"] = "plan"
    version: int = PLAN_VERSION
    agent: AgentPart
    workload: str
    load: Workload | None = None
    slo: list[str]
    accounting: str
    pools: list[Pool]
    links: list[PoolLink] = []
    placement: dict[str, str]
    policies: dict[str, str]  # {"router": "prefix-affinity"}
    predictions: Predictions
    objective: Objective
    why: list[str] = []
    alternatives: list[Alternative] = []
    left_out: list[LeftOut] = []
    notes: list[str] = []
    provenance: Provenance

    @model_validator(mode="after")
    def _names_each_pool_once(self) -> Self:
        names = [pool.name for pool in self.pools]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"pools have names of their own; {', '.join(twice)} stands there twice")
        return self

    def pool(self, name: str) -> Pool:
        """The pool of that name."""
        return next(pool for pool in self.pools if pool.name == name)
