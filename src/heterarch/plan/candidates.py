"""Engine candidates: device types x splits x precision x operating points, filtered by the SLOs of single calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np

from heterarch.catalog.fleet import FleetEndpoint
from heterarch.catalog.hosted import TokenPrice
from heterarch.catalog.model import Model as CatalogModel
from heterarch.cost.engine import engine_configs, engine_table
from heterarch.cost.library import Library
from heterarch.cost.margin import step_margin
from heterarch.plan.mix import Mix
from heterarch.plan.operating import Engine, Model, Point
from heterarch.plan.supply import Supply
from heterarch.policy.base import Floats
from heterarch.units import format_duration

TP = (1, 2, 4, 8)
PP = (2, 4)  # only for models that one server does not hold
BUSY = (0.4, 0.5, 0.6, 0.7, 0.78, 0.86)  # prefill utilisations
BATCHES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181)
MOST_POINTS = 16  # kept per device type and role
KV_DTYPE = "bf16"


@dataclass(frozen=True)
class Limit:
    """At most ``seconds`` at quantile ``at`` (0..1; -1 is the mean)."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Limits:
    """Limits on single calls; empty where there is none."""

    ttft: tuple[Limit, ...] = ()
    tpot: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Hosted:
    """An endpoint of the fleet with its price."""

    endpoint: FleetEndpoint
    price: TokenPrice


@dataclass(frozen=True)
class Candidate:
    """One way to serve a mix, or one phase of it: an engine at an operating point, or an endpoint."""

    key: str
    role: str  # prefill, decode, mixed, endpoint
    mix: Mix
    supply: Supply | None = None
    model: Model | None = None
    point: Point | None = None
    hosted: Hosted | None = None

    @property
    def device(self) -> str:
        """Device type, or the endpoint's name."""
        return self.supply.device.id if self.supply else self.hosted.endpoint.name if self.hosted else ""

    @property
    def expected(self) -> Candidate:
        """The same operating point, on an engine that takes as long as predicted."""
        model = self.model and Model(self.model.engine.expected, self.model.mix, self.model.role)
        return replace(self, model=model)

    @property
    def usd_per_call(self) -> float:
        """Engine USD per call at the operating point; 0 for an endpoint."""
        return self.point.engine.usd_per_h / 3600 / self.point.calls_per_s if self.point else 0.0


@dataclass(frozen=True, order=True)
class Best:
    """The best that can be reached against a limit: ``seconds`` at its quantile, ``ratio`` to it.

    ``margin``: how much of the seconds is room for the error of the prediction.
    """

    ratio: float
    seconds: float
    limit: Limit = field(compare=False)
    margin: float = field(default=1.0, compare=False)

    def __str__(self) -> str:
        where = "mean" if self.limit.at < 0 else f"p{100 * self.limit.at:g}"
        return f"{where} {_seconds(self.seconds)} at best{self.room}, the limit {_seconds(self.limit.seconds)}"

    @property
    def room(self) -> str:
        """For messages: the margin, empty where there is none."""
        return f" with a margin of {self.margin:.2f}" if self.margin > 1 else ""


@dataclass
class Reach:
    """What single calls can reach at best, per device type, whatever it costs; and why nothing runs there."""

    ttft: dict[str, Best] = field(default_factory=dict)
    tpot: dict[str, Best] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)

    def why_not(self, device: str) -> str:
        """Which limit keeps a device type out, or an empty text."""
        if device in self.unfit:
            return self.unfit[device]
        for name, table in (("TTFT", self.ttft), ("TPOT", self.tpot)):
            best = table.get(device)
            if best is not None and best.ratio > 1:
                return f"{name} {best}"
        return ""


def _judge(
    table: dict[str, Best], device: str, limits: Sequence[Limit], value: Callable[[Limit], float], margin: float = 1.0
) -> bool:
    """Whether all limits are kept; remembers how near the device comes to the one it misses most."""
    if not limits:
        return True
    found = [Best(value(limit) / limit.seconds, value(limit), limit, margin) for limit in limits]
    worst = max(found)
    table[device] = min(worst, table.get(device, worst))
    return worst.ratio <= 1 + 1e-9


def _seconds(value: float) -> str:
    return format_duration(value) if math.isfinite(value) else "unbounded"


def engines_of(
    model: CatalogModel,
    supplies: Sequence[Supply],
    dtypes: Sequence[str],
    reach: Reach,
    library: Library | None = None,
) -> list[tuple[Supply, Engine]]:
    """Every engine of the fleet's devices that holds the model; ``reach.unfit`` says why a device holds none."""
    found: list[tuple[Supply, Engine]] = []
    for supply in supplies:
        for pp in ((1,), PP):
            rows, reason = _fitting(model, supply, dtypes, pp, library)
            found += rows
            if rows:
                break
            reach.unfit[supply.device.id] = reason
        if rows:
            reach.unfit.pop(supply.device.id, None)
    return found


def _fitting(
    model: CatalogModel, supply: Supply, dtypes: Sequence[str], pp: Sequence[int], library: Library | None
) -> tuple[list[tuple[Supply, Engine]], str]:
    most = 1 if supply.is_cpu else supply.server_devices
    limit = math.inf if supply.limit is None else supply.limit
    configs = [
        config
        for config in engine_configs(
            [supply.device],
            [model],
            dtypes=dtypes,
            kv_dtypes=(KV_DTYPE,),
            tp=[tp for tp in TP if tp <= most],
            pp=[1] if supply.is_cpu else pp,
            library=library,
        )
        if config.devices <= limit
    ]
    table = engine_table(configs)
    found = []
    for row, config in enumerate(table.configs):
        usd = supply.usd_per_h * config.devices
        kv, tokens = int(table.kv_bytes_per_token[row]), int(table.kv_tokens[row])
        margin = step_margin(config)
        cost = table.row(row).scaled(margin)
        found.append((supply, Engine(config, cost, tokens, kv, usd, supply.key, margin)))
    return found, table.left_out[-1].reason if table.left_out else "the fleet has too few devices"


def candidates_of(
    mix: Mix, engines: Iterable[tuple[Supply, Engine]], hosted: Iterable[Hosted], limits: Limits, reach: Reach
) -> list[Candidate]:
    """The operating points of all engines that keep the limits of single calls, without dominated ones."""
    found: list[Candidate] = []
    for supply, engine in engines:
        for role in ("prefill", "decode", "mixed"):
            model = Model(engine, mix, role)
            points = [_kept(model, point, limits, reach) for point in _points(model)]
            found += [
                Candidate(f"{role} {mix.model} {supply.key} {engine.name} #{n}", role, mix, supply, model, point)
                for n, point in enumerate(points)
                if point is not None
            ]
    for each in hosted:
        if each.endpoint.serves == mix.model and _endpoint_fits(each, limits, reach):
            found.append(Candidate(f"endpoint {each.endpoint.name}", "endpoint", mix, hosted=each))
    return prune(found)


def _points(model: Model) -> list[Point | None]:
    if model.role == "prefill":
        return [model.point(model.rate_at_busy(busy)) for busy in BUSY]
    most = model.most_sequences
    batches = [batch for batch in BATCHES if batch < most] + ([most] if most > 0 else [])
    return [model.state(model.rate_at_batch(batch), batch) for batch in batches]


def _kept(model: Model, point: Point | None, limits: Limits, reach: Reach) -> Point | None:
    if point is None or float(model.mix.prompt.max()) > model.engine.kv_tokens:
        return None
    device, margin = model.engine.config.device.id, model.engine.margin
    kept = True
    if model.role != "decode":
        rows = ttft_rows(point)
        kept = _judge(reach.ttft, device, limits.ttft, lambda limit: quantile(rows, limit.at), margin)
    if model.role != "prefill":
        kept &= _judge(reach.tpot, device, limits.tpot, lambda limit: point.tpot_at(z_of(limit.at)), margin)
    return point if kept else None


def _endpoint_fits(each: Hosted, limits: Limits, reach: Reach) -> bool:
    endpoint = each.endpoint
    tail = {True: endpoint.ttft_p95_s, False: endpoint.ttft_p50_s}
    ttft = _judge(reach.ttft, endpoint.name, limits.ttft, lambda limit: tail[limit.at > 0.5])
    return _judge(reach.tpot, endpoint.name, limits.tpot, lambda limit: endpoint.tpot_p50_s) and ttft


def ttft_rows(point: Point) -> Floats:
    """TTFT of each row: its prefill plus a wait drawn from the stationary wait.

    The wait is 0 with chance 1 - busy, else exponential: exact for M/M/1, the usual approximation for M/G/1.
    """
    if not point.busy or not point.wait_s:
        return point.service
    n = len(point.service)
    chance = np.random.default_rng(0).permutation((np.arange(n) + 0.5) / n)
    waits = chance < point.busy
    tail = np.where(waits, -np.log(np.maximum(chance, 1e-12) / point.busy), 0.0)
    return np.asarray(point.service + tail * point.wait_s / point.busy)


def quantile(values: Floats, at: float) -> float:
    """The quantile ``at`` (0..1), or the mean for -1."""
    return float(values.mean()) if at < 0 else float(np.quantile(values, at))


def z_of(at: float) -> float:
    """Standard deviations of a normal variable at quantile ``at``; 0 for the mean."""
    return 0.0 if at < 0 else NormalDist().inv_cdf(min(max(at, 1e-6), 1 - 1e-6))


def prune(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without candidates that another one of the same device and role beats in latency, price and size at once."""
    kept: list[Candidate] = []
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        if candidate.point is None:
            kept.append(candidate)
            continue
        groups.setdefault((candidate.supply.key if candidate.supply else "", candidate.role), []).append(candidate)
    for group in groups.values():
        front = _front(group)
        front.sort(key=lambda one: one.usd_per_call)
        step = max(1, math.ceil(len(front) / MOST_POINTS))
        kept += front[::step] if step == 1 else [*front[:-1:step], front[-1]]
    return kept


def _front(group: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one equals or beats in every merit; of equals the first."""
    merits = np.array([_merits(one) for one in group])
    kept: list[Candidate] = []
    for row, one in enumerate(group):
        no_worse = (merits <= merits[row] + 1e-9 * np.abs(merits[row])).all(axis=1)
        better = (merits < merits[row] - 1e-9 * np.abs(merits[row])).any(axis=1)
        earlier = np.arange(len(group)) < row
        if not (no_worse & (better | earlier)).any():
            kept.append(one)
    return kept


def _merits(one: Candidate) -> tuple[float, ...]:
    point = one.point
    assert point is not None
    latency = point.wait_s + float(point.service.mean()) + one.mix.mean_output * point.tpot_s
    rate = point.engine.config.devices * (point.engine.config.device.nic_bytes_per_s or 0.0)
    slow = 0.0 if one.role == "mixed" else -rate
    return (latency, one.usd_per_call, point.engine.usd_per_h, slow)
