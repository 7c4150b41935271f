"""From a placement to the parts of a Plan document: pools, placement, predictions, provenance."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

import heterarch
from heterarch.cost.cold_start import cold_start_s
from heterarch.cost.energy import engine_power_w
from heterarch.cost.engine import step_source
from heterarch.cost.transfer import RDMA_LATENCY_S, RDMA_SHARE
from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.candidates import Candidate
from heterarch.plan.document import EndpointPart, OpPrediction, Pool, PoolLink, Predictions, Provenance, StepPart
from heterarch.plan.operating import MIXED_BUDGET, MOST_SEQUENCES, PREFILL_BUDGET, Model, Point
from heterarch.plan.phases import hosted_cached
from heterarch.plan.placement import Placement
from heterarch.plan.statistic import seconds_of
from heterarch.plan.timing import PlacedCall, uncached
from heterarch.plan.walk import CallSample
from heterarch.policy.base import Floats

ENDPOINT_CALLS = 1024  # in flight at once; the rate limits bind, not this


def pool_names(placement: Placement) -> dict[str, str]:
    """Resource -> pool name, for the resources in use: ``mixed-h100-sxm``, ``tools``, the endpoint's name."""
    names: dict[str, str] = {}
    for key in placement.solution.engines:
        base = _base_name(placement, key)
        taken = set(names.values())
        number = next(n for n in range(1, 1000) if (base if n == 1 else f"{base}-{n}") not in taken)
        names[key] = base if number == 1 else f"{base}-{number}"
    return names


def _base_name(placement: Placement, key: str) -> str:
    candidate = placement.candidates.get(key)
    if candidate is None:
        return next(pool.sort for pool in placement.setting.cpus if pool.key == key)
    return candidate.device if candidate.point is None else f"{candidate.role}-{candidate.device}"


def pools_of(placement: Placement, names: Mapping[str, str]) -> list[Pool]:
    """The pools to run, in the order of the resources."""
    return [_pool(placement, key, name) for key, name in names.items()]


def _pool(placement: Placement, key: str, name: str) -> Pool:
    count = placement.solution.engines[key]
    candidate = placement.candidates.get(key)
    if candidate is None:
        return _cpu_pool(placement, key, name, count)
    if candidate.hosted is not None:
        return _endpoint_pool(placement, candidate, name)
    return _engine_pool(placement, candidate, name, count)


def _cpu_pool(placement: Placement, key: str, name: str, count: int) -> Pool:
    pool = next(pool for pool in placement.setting.cpus if pool.key == key)
    watts = (pool.supply.device.tdp_w or 0.0) * pool.devices
    return Pool(
        name=name,
        role="tool",
        device=pool.supply.device.id,
        engines=count,
        devices_per_engine=pool.devices,
        concurrency=pool.slots,
        usd_per_engine_h=pool.supply.usd_per_h * pool.devices,
        watts_per_engine=watts,
    )


def _endpoint_pool(placement: Placement, candidate: Candidate, name: str) -> Pool:
    assert candidate.hosted is not None
    endpoint, price = candidate.hosted.endpoint, candidate.hosted.price
    part = EndpointPart(
        provider=endpoint.provider,
        api_model=endpoint.api_model,
        url=endpoint.url,
        api_key_env=endpoint.api_key_env,
        input_usd_per_mtok=price.input_usd_per_mtok,
        cached_usd_per_mtok=price.cached_usd_per_mtok,
        output_usd_per_mtok=price.output_usd_per_mtok,
        requests_per_min=endpoint.requests_per_min,
        tokens_per_min=endpoint.tokens_per_min,
        ttft_p50_s=endpoint.ttft_p50_s,
        ttft_p95_s=endpoint.ttft_p95_s,
        tpot_p50_s=endpoint.tpot_p50_s,
        tpot_p95_s=endpoint.tpot_p95_s,
        price_date=price.date,
        source=f"{price.source}; latency {endpoint.source}",
    )
    return Pool(
        name=name,
        role="endpoint",
        device=endpoint.name,
        engines=1,
        model=endpoint.serves,
        concurrency=ENDPOINT_CALLS,
        context_tokens=placement.setting.windows()[endpoint.serves],
        endpoint=part,
    )


def _engine_pool(placement: Placement, candidate: Candidate, name: str, count: int) -> Pool:
    assert candidate.point is not None
    assert candidate.model is not None
    assert candidate.supply is not None
    point, planned = placement.points[candidate.key], candidate.point
    engine = planned.engine.expected
    config = engine.config
    nic = (config.device.nic_bytes_per_s or 0.0) * RDMA_SHARE * config.devices
    return Pool(
        name=name,
        role=candidate.role,  # type: ignore[arg-type]
        device=config.device.id,
        engines=count,
        devices_per_engine=config.devices,
        model=config.model.id,
        dtype=config.dtype,
        kv_dtype=config.kv_dtype,
        tp=config.tp,
        pp=config.pp,
        concurrency=_seats(placement, candidate),
        max_batched_tokens=PREFILL_BUDGET if candidate.role == "prefill" else MIXED_BUDGET,
        context_tokens=config.model.context,
        kv_tokens=engine.kv_tokens,
        kv_bytes_per_token=engine.kv_bytes_per_token,
        transfer_bytes_per_s=nic if candidate.role != "mixed" else 0.0,
        transfer_latency_s=RDMA_LATENCY_S if candidate.role != "mixed" else 0.0,
        transfer_layers=config.model.layers if candidate.role == "prefill" and placement.setting.links.layerwise else 1,
        usd_per_engine_h=engine.usd_per_h,
        watts_per_engine=_watts(candidate.model, point),
        start_s=round(cold_start_s(config.model.weight_bytes(config.dtype)), 1),
        engines_per_server=max(1, candidate.supply.server_devices // config.devices),
        step=StepPart.of(engine.cost),
    )


def links_of(placement: Placement, names: Mapping[str, str]) -> list[PoolLink]:
    """The links over which the plan's pools send KV, one per pair."""
    found: dict[tuple[str, str], PoolLink] = {}
    for placed in placement.calls.values():
        if placed.rate is None:
            continue
        rate, pair = placed.rate, (names[placed.before.key], names[placed.after.key])
        found[pair] = PoolLink(
            sender=pair[0],
            receiver=pair[1],
            bytes_per_s=rate.bytes_per_s,
            latency_s=rate.latency_s,
            shared_bytes_per_s=rate.bytes_per_s if rate.shared else 0.0,
        )
    return list(found.values())


def _seats(placement: Placement, candidate: Candidate) -> int:
    """Sequences at once: what the plan expects with three standard deviations more, or more where there is room.

    There is as long as the KV memory holds them and a decode iteration keeps the TPOT limits. A burst (a map, for one)
    would otherwise queue beside an engine that can take it.
    """
    assert candidate.point is not None
    assert candidate.model is not None
    batch, mix = candidate.point.batch, candidate.mix
    expected = math.ceil(1 + batch + 3 * math.sqrt(batch))
    if candidate.role != "prefill":
        held = int(candidate.point.engine.kv_tokens / (mix.mean_prompt + mix.mean_output))
        limit = min((slo.target for slo in placement.setting.slos if slo.metric == "tpot"), default=math.inf)
        quick = bisect_right(range(1, min(held, MOST_SEQUENCES) + 1), limit, key=candidate.model.step_s)
        expected = max(expected, quick)
    return min(MOST_SEQUENCES, max(8, expected))


def _watts(model: Model, point: Point) -> float:
    """Mean watts of an engine: prefill at its own utilisation, decode iterations while a sequence is there."""
    config = point.engine.config
    decode = 1.0 - math.exp(-point.batch)
    try:
        if point.role == "prefill":
            seconds = max(float(point.service.mean()), 1e-9)
            return float(engine_power_w(config, max(float(model.found.mean()), 1.0), seconds, point.busy))
        busy = min(1.0, point.busy + (1.0 - point.busy) * decode)
        return float(engine_power_w(config, 1.0 + point.batch, max(point.tpot_s, 1e-9), busy))
    except InputError:
        return 0.0


def placement_of(placement: Placement, names: Mapping[str, str]) -> dict[str, str]:
    """Op name -> pool, for every op that does work."""
    flat = placement.setting.flat
    found: dict[int, str] = {}
    for call in placement.setting.calls:
        placed = placement.calls.get(call.decode)
        if placed is None:  # never reached; still needs a pool
            placed = next(p for op, p in placement.calls.items() if _model(flat, op) == call.model)
        found |= dict.fromkeys((call.lookup, call.prefill), names[placed.before.key])
        found |= dict.fromkeys((call.transfer, call.decode), names[placed.after.key])
    found |= {op: names[key] for op, key in placement.tasks.items()}
    return {flat.names[op]: found[op] for op in sorted(found)}


def _model(flat: FlatProgram, op: int) -> str:
    return str(flat.attrs[op]["model"])


def predictions_of(placement: Placement, names: Mapping[str, str]) -> Predictions:
    """What the placement promises, from the walk under it."""
    setting, walked = placement.setting, placement.walked
    calls = walked.calls
    several = calls["output"] > 1
    tpot = (calls["transfer_s"] + calls["decode_s"])[several] / (calls["output"][several] - 1)
    tokens = float((calls["context"] + calls["appended"] + calls["output"]).sum()) / walked.requests
    usd = placement.solution.usd_per_request
    pools = {pool.name: pool for pool in pools_of(placement, names)}
    return Predictions(
        requests_per_s=setting.requests_per_s,
        usd_per_h=placement.usd_per_h,
        usd_per_request=usd,
        usd_per_million_tokens=usd / tokens * 1e6 if tokens else 0.0,
        watts=sum(pool.engines * pool.watts_per_engine for pool in pools.values()),
        e2e_s=_summary(walked.e2e_s),
        ttft_s=_summary(calls["prefill_s"]),
        tpot_s=_summary(tpot),
        prefix_hit_rate=hit_rate(placement),
        utilisation={names[key]: load for key, load in utilisation(placement).items()},
        ops=_op_predictions(placement, names),
    )


def _summary(values: Floats) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "p50": 0.0, "p95": 0.0}
    return {
        "mean": float(values.mean()),
        "p50": float(np.quantile(values, 0.5)),
        "p95": float(np.quantile(values, 0.95)),
    }


def hit_rate(placement: Placement) -> float:
    """Share of prompt tokens found in the cache of the engine that prefills."""
    prompt = missing = 0.0
    table = placement.walked.calls
    for op, placed in placement.calls.items():
        rows = table[table["op"] == op]
        sample = CallSample(op, *(rows[name] for name in CallSample._fields[1:]))
        whole = sample.context + sample.appended
        prompt += float(whole.sum())
        missing += float(_uncached(placed, sample, whole).sum())
    return 1.0 - missing / prompt if prompt else 0.0


def _uncached(placed: PlacedCall, sample: CallSample, whole: Floats) -> Floats:
    if placed.sender is not None:
        return uncached(sample, placed.sender, keeps_output=placed.sender.role == "mixed")
    return whole - hosted_cached(sample.gap_s, whole, sample.appended)


def loads_of(placement: Placement) -> dict[str, dict[str, float]]:
    """Resource -> decision -> engines that it keeps busy."""
    found: dict[str, dict[str, float]] = {}
    for op in placement.problem.ops:
        option = op.options[placement.solution.choice[op.name]]
        found.setdefault(option.resource, {})[op.name] = option.load
    return found


def utilisation(placement: Placement) -> dict[str, float]:
    """Resource -> share of the load that its engines are planned for at most."""
    engines = placement.solution.engines
    return {key: sum(loads.values()) / engines[key] for key, loads in loads_of(placement).items() if key in engines}


def _op_predictions(placement: Placement, names: Mapping[str, str]) -> list[OpPrediction]:
    setting, walked = placement.setting, placement.walked
    flat = setting.flat
    usd = _usd_per_request(placement)
    found = []
    pools = placement_of(placement, names)
    sources = _sources(placement)
    for op in sorted(walked.runs):
        if flat.names[op] not in pools:
            continue
        found.append(
            OpPrediction(
                op=flat.names[op],
                kind=OpKind(flat.kind[op]).name.lower(),
                pool=pools[flat.names[op]],
                visits=walked.runs[op],
                mean_s=walked.seconds.get(op, 0.0),
                usd_per_request=usd.get(op, 0.0),
                source=sources.get(op, "no time of its own"),
            )
        )
    return found


def _usd_per_request(placement: Placement) -> dict[int, float]:
    """Op -> USD per request: its share of its pool by load; a mixed pool by time in prefill and in decode."""
    problem, solution = placement.problem, placement.solution
    requests = problem.requests_per_h
    found: dict[str, float] = {}
    for key, loads in loads_of(placement).items():
        total = sum(loads.values())
        hourly = solution.engines.get(key, 0) * problem.resource(key).usd_per_h
        for op, load in loads.items():
            taken = problem.op(op).options[solution.choice[op]]
            found[op] = taken.usd_per_request + (hourly * load / total / requests if total and requests else 0.0)
    by_op = {op: found.get(placement.setting.flat.names[op], 0.0) for op in placement.tasks}
    for call in placement.setting.calls:
        placed = placement.calls.get(call.decode)
        if placed is None:
            continue
        first, second = found.get(f"{call.name}.prefill", 0.0), found.get(f"{call.name}.decode", 0.0)
        share = _prefill_share(placed, call.decode)
        by_op[call.prefill] = first + second * share
        by_op[call.decode] = second * (1.0 - share)
    return by_op


def _prefill_share(placed: PlacedCall, op: int) -> float:
    """The share of a call's engine time that is prefill, on an engine that does both."""
    point = placed.sender
    if point is None or point.role != "mixed":
        return 0.0
    mix = placed.before.mix
    mine = mix.op == op
    prefill = float(point.service[mine].mean())
    decode = float(mix.output[mine].mean()) * point.tpot_s / (1.0 + point.batch)
    return prefill / (prefill + decode) if prefill + decode else 0.0


def _sources(placement: Placement) -> dict[int, str]:
    setting = placement.setting
    found = {op: str(seconds_of(setting.flat, op, setting.workload).source) for op in placement.tasks}
    for call in setting.calls:
        placed = placement.calls.get(call.decode)
        if placed is None:
            continue
        for op, candidate in ((call.prefill, placed.before), (call.decode, placed.after)):
            if candidate.hosted is not None:
                found[op] = str(candidate.hosted.endpoint.source)
            elif candidate.point is not None:
                found[op] = str(step_source(candidate.point.engine.config))
        if placed.rate is not None:
            found[call.transfer] = str(placed.rate.source)
    return found


def provenance_of(placement: Placement) -> Provenance:
    """Hashes of everything that the answer rests on."""
    setting = placement.setting
    catalog = setting.catalog
    rows = {f"site:{setting.fleet.site}": catalog.row_sha256("site", setting.fleet.site)}
    for device in dict.fromkeys(entry.device for entry in setting.fleet.devices):
        rows[f"device:{device}"] = catalog.row_sha256("device", device)
        rows[f"quotes:{device}"] = catalog.row_sha256("quotes", device)
    for model in setting.mixes:
        rows[f"model:{model}"] = catalog.row_sha256("model", model)
    return Provenance(
        heterarch_version=heterarch.__version__,
        catalog_sha256=rows,
        statistics_sha256=statistics_sha256(setting.flat),
        fleet=setting.fleet.name,
        fleet_sha256=setting.fleet.sha256(),
        workload=setting.workload.name,
        workload_sha256=hashlib.sha256(setting.workload.model_dump_json().encode()).hexdigest(),
        seed=setting.seed,
    )


def statistics_sha256(flat: FlatProgram) -> str:
    """SHA-256 of the program's distributions and of which op has which."""
    digest = hashlib.sha256()
    for distribution in flat.distributions:
        digest.update(repr(asdict(distribution)).encode())
    digest.update(repr(flat.statistics.tolist()).encode())
    return digest.hexdigest()


def engines_text(pools: Sequence[Pool]) -> str:
    """The devices of a plan in one line: ``8 h100-sxm, 11 cpu-vcpu``."""
    devices: dict[str, int] = {}
    for pool in pools:
        if pool.role != "endpoint":
            devices[pool.device] = devices.get(pool.device, 0) + pool.engines * pool.devices_per_engine
    names = [f"{count} {device}" for device, count in devices.items()]
    return ", ".join([*names, *(pool.device for pool in pools if pool.role == "endpoint")])
