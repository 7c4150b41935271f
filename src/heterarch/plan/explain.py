"""Why this plan: what was chosen, what binds and what it costs, and what every other choice would have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from heterarch.errors import HeterarchError, InfeasibleError
from heterarch.plan.assemble import engines_text, hit_rate, pool_names, pools_of
from heterarch.plan.candidates import Candidate
from heterarch.plan.document import Alternative, Pool
from heterarch.plan.phases import over_limit
from heterarch.plan.placement import Placement, Targets, attempt, offer
from heterarch.units import format_duration, format_usd

RELAXED = 1.25  # what a limit is multiplied with to see what it costs


def alternatives_of(
    placement: Placement, offered: Mapping[str, Sequence[Candidate]], targets: Targets
) -> list[Alternative]:
    """The best plan on each device type or endpoint alone, and the best with prefill and decode together or apart."""
    setting = placement.setting
    devices = [supply.device.id for supply in setting.supplies if not supply.is_cpu]
    devices += [supply.device.id for supply in setting.supplies if supply.is_cpu and _serves(offered, supply.device.id)]
    endpoints = [each.endpoint for each in setting.hosted if each.endpoint.serves in setting.mixes]
    found = []
    for name in dict.fromkeys([*devices, *(endpoint.name for endpoint in endpoints)]):
        only = {m: [c for c in group if c.device == name] for m, group in offered.items()}
        found.append(_alternative(placement, f"only {name}", only, targets, _why_not(placement, name, only)))
    for name, kept in (("prefill and decode together", {"mixed"}), ("prefill and decode apart", {"prefill", "decode"})):
        only = {m: [c for c in group if c.role in kept] for m, group in offered.items()}
        found.append(_alternative(placement, name, only, targets, ""))
    return found


def _serves(offered: Mapping[str, Sequence[Candidate]], device: str) -> bool:
    return any(candidate.device == device for group in offered.values() for candidate in group)


def _why_not(placement: Placement, device: str, only: Mapping[str, Sequence[Candidate]]) -> str:
    """Why a device alone cannot serve some model, or an empty text."""
    for model, group in only.items():
        if not group:
            reason = placement.setting.reach[model].why_not(device)
            return reason or f"it does not serve {model} within the limits"
        roles = {candidate.role for candidate in group}
        if not roles & {"mixed", "endpoint"} and not {"prefill", "decode"} <= roles:
            return f"within the limits it can only {' or '.join(sorted(roles))} {model}"
    return ""


def _alternative(
    placement: Placement, name: str, only: Mapping[str, Sequence[Candidate]], targets: Targets, reason: str
) -> Alternative:
    if reason:
        return Alternative(name=name, usd_per_h=None, reason=reason)
    try:
        other = attempt(placement.setting, targets, only)
    except InfeasibleError as error:
        reason = _limited(placement, only) or _beyond(placement, only, targets) or _said(error)
        return Alternative(name=name, usd_per_h=None, reason=reason)
    pools = [pool for pool in pools_of(other, pool_names(other)) if pool.role != "tool"]
    return Alternative(name=name, usd_per_h=other.usd_per_h, reason=engines_text(pools))


def _said(error: InfeasibleError) -> str:
    return error.what + (f" ({error.observed})" if error.observed else "")


def _limited(placement: Placement, only: Mapping[str, Sequence[Candidate]]) -> str:
    """The rate limits that endpoints on their own exceed, or an empty text."""
    hosted = {c.hosted.endpoint.name: (c.hosted, c.mix) for group in only.values() for c in group if c.hosted}
    if any(candidate.point for group in only.values() for candidate in group):
        return ""
    return "; ".join(text for text in (over_limit(*pair) for pair in hosted.values()) if text)


def _beyond(placement: Placement, only: Mapping[str, Sequence[Candidate]], targets: Targets) -> str:
    """What it would take with any number of devices, or an empty text when that does not help either."""
    setting = placement.setting
    if any(candidate.hosted for group in only.values() for candidate in group):
        return ""
    endless = replace(setting, supplies=tuple(replace(supply, limit=None) for supply in setting.supplies))
    try:
        other = attempt(endless, targets, only)
    except InfeasibleError:
        return ""
    pools = [pool for pool in pools_of(other, pool_names(other)) if pool.role != "tool"]
    return f"it needs {engines_text(pools)} ({format_usd(other.usd_per_h)}/h), more than the fleet has"


def why_of(
    placement: Placement, pools: Sequence[Pool], alternatives: Sequence[Alternative], targets: Targets
) -> list[str]:
    """Short sentences for the reader."""
    return [
        *(_pool_sentence(pool) for pool in pools),
        _cache_sentence(placement),
        *_binding(placement, targets),
        *_against_single(placement, alternatives),
    ]


def _pool_sentence(pool: Pool) -> str:
    if pool.role == "endpoint":
        return f"{pool.model} is called at the hosted API {pool.device}."
    devices = f"{pool.engines * pool.devices_per_engine} {pool.device}"
    price = format_usd(pool.engines * pool.usd_per_engine_h)
    if pool.role == "tool":
        tasks = pool.engines * pool.concurrency
        return f"{pool.name}: {devices} for {tasks} task{'s' if tasks > 1 else ''} at once, {price}/h."
    split = f"TP{pool.tp}" + (f" PP{pool.pp}" if pool.pp > 1 else "")
    many = f"{pool.engines} engine" + ("s" if pool.engines > 1 else "")
    does = {"mixed": "prefills and decodes"}.get(pool.role, f"does {pool.role} of")
    return f"{pool.name}: {does} {pool.model} on {many} ({devices}, {split}, {pool.dtype}), {price}/h."


def _cache_sentence(placement: Placement) -> str:
    ages = [p.age_s for key, p in placement.points.items() if placement.candidates[key].role != "decode"]
    rate = f"{hit_rate(placement):.0%} of prompt tokens are found in the prefix cache"
    if not ages:
        return rate + "."
    least = min(ages)
    stay = "idle chats are never evicted" if least == float("inf") else f"idle chats stay {format_duration(least)}"
    return f"{rate}; {stay}."


def _binding(placement: Placement, targets: Targets) -> list[str]:
    """What each limit costs: the saving when it is relaxed by a quarter, and devices of which none is left."""
    found = []
    limits = {"ttft": targets.calls.ttft, "tpot": targets.calls.tpot, "e2e": targets.e2e}
    for metric, given in limits.items():
        if given:
            found.append(_saving(placement, targets, metric))
    used: dict[str, int] = {}
    for key, count in placement.solution.engines.items():
        resource = placement.problem.resource(key)
        used[resource.device] = used.get(resource.device, 0) + count * resource.devices
    for device, limit in placement.problem.inventory.items():
        if not device.startswith("endpoint ") and used.get(device, 0) >= limit > 0:
            found.append(f"All {limit} {device} of the fleet are used.")
    return found


def _saving(placement: Placement, targets: Targets, metric: str) -> str:
    relaxed = targets.tightened(metric, RELAXED)
    try:
        offered = offer(placement.setting, relaxed)
        saved = placement.usd_per_h - attempt(placement.setting, relaxed, offered).usd_per_h
    except HeterarchError:
        saved = 0.0
    if saved <= 1e-3 * placement.usd_per_h:
        return f"The {metric} limit does not bind: a quarter more of it saves nothing."
    return f"The {metric} limit binds: a quarter more of it saves {format_usd(saved)}/h."


def _against_single(placement: Placement, alternatives: Sequence[Alternative]) -> list[str]:
    """The plan against the best fleet of one device type."""
    single = [other for other in alternatives if other.name.startswith("only ") and other.usd_per_h is not None]
    best = min(single, key=lambda other: other.usd_per_h or 0.0, default=None)
    if best is None or best.usd_per_h is None:
        return ["No fleet of one device type can do it."]
    extra = best.usd_per_h - placement.usd_per_h
    if extra <= 1e-6 * placement.usd_per_h:
        return [f"No mix of devices is cheaper than {best.reason}."]
    share = extra / placement.usd_per_h
    return [f"The best fleet of one device type ({best.reason}) costs {format_usd(extra)}/h more, {share:+.0%}."]
