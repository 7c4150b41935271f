"""An LLM call as decisions of the placement problem: prefill, decode, and the KV that goes from one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.fleet import Fleet
from heterarch.cost.money.endpoint import binding_limit, call_usd, calls_per_s
from heterarch.cost.transfer import TransferRate, kv_transfer_s, link_rate, pair_link, pair_rate
from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.candidates import Candidate, Hosted, Limits, quantile, z_of
from heterarch.plan.mix import Mix
from heterarch.plan.operating import Point
from heterarch.plan.problem import Edge, Link, Op, Option, Resource
from heterarch.policy.base import Floats
from heterarch.units import Grade, Source

MOST_INGRESS = 0.8  # share of a link's rate that KV may take
CACHE_TTL_S = 300.0  # how long a hosted API keeps a prefix; a guess, the usual default of providers


@dataclass(frozen=True)
class Call:
    """One LLM call of the program: its four ops."""

    name: str
    model: str
    lookup: int
    prefill: int
    transfer: int
    decode: int


def calls_of(flat: FlatProgram) -> list[Call]:
    """The LLM calls of the program, in program order."""
    parts: dict[str, dict[OpKind, int]] = {}
    phases = (OpKind.KV_LOOKUP, OpKind.PREFILL, OpKind.KV_TRANSFER, OpKind.DECODE)
    for op in range(len(flat)):
        if flat.kind[op] in phases:
            parts.setdefault(str(flat.attrs[op]["call"]), {})[OpKind(flat.kind[op])] = op
    return [
        Call(name, str(flat.attrs[ops[OpKind.DECODE]]["model"]), *(ops[phase] for phase in phases))
        for name, ops in parts.items()
    ]


class Links:
    """The link between two device types: the fleet's own where it states one, else by their network cards."""

    def __init__(self, fleet: Fleet, catalog: Catalog) -> None:
        self._catalog = catalog
        self._stated = {(link.a, link.b): (catalog.link(link.link), link.shared) for link in fleet.links}
        self.layerwise = fleet.layerwise_kv
        self._known: dict[tuple[str, str], TransferRate | None] = {}

    def between(self, a: str, b: str) -> TransferRate | None:
        """Bytes per second per device pair and latency; None when no link is known."""
        if (a, b) not in self._known:
            self._known[a, b] = self._find(a, b)
        return self._known[a, b]

    def _find(self, a: str, b: str) -> TransferRate | None:
        stated = self._stated.get((a, b)) or self._stated.get((b, a))
        if stated:
            link, shared = stated
            source = Source(Grade.DECLARED, f"link {link.id} of the fleet")
            return replace(link_rate(link), source=source, shared=shared)
        try:
            return pair_link(self._catalog.device(a), self._catalog.device(b))
        except InputError:
            return None


def sent_tokens(mix: Mix, receiver: Point) -> Floats:
    """Tokens of KV sent per row: what the receiver does not hold; it keeps chats and the shared prompt like any."""
    return np.where(mix.gap_s <= receiver.age_s, mix.found(True), mix.missed)


def rate_between(sender: Point, receiver: Point, links: Links) -> TransferRate | None:
    """The rate between two engines, None where no link of their devices is known."""
    a, b = sender.engine.config, receiver.engine.config
    link = links.between(a.device.id, b.device.id)
    layers = a.model.layers if links.layerwise else 1
    return link and replace(pair_rate(link, a.devices, b.devices), layers=layers)


def sent_s(tokens: Floats, receiver: Point, rate: TransferRate, prefill_s: Floats) -> Floats:
    """Seconds to send the KV of ``tokens`` to an engine after a prefill of ``prefill_s``."""
    return np.asarray(kv_transfer_s(tokens * receiver.engine.kv_bytes_per_token, rate, prefill_s))


def resources_of(candidates: Sequence[Candidate]) -> list[Resource]:
    """One resource per candidate: engines to buy, or the one endpoint there is."""
    found = []
    for each in candidates:
        if each.point is None:
            found.append(Resource(each.key, 0.0, each.key, 1))
        else:
            engine = each.point.engine
            found.append(Resource(each.key, engine.usd_per_h, engine.supply, engine.config.devices))
    return found


def prefill_op(call: Call, mix: Mix, candidates: Sequence[Candidate]) -> Op:
    """The decision where the call's prompt is computed."""
    mine = mix.op == call.decode
    options = []
    for each in candidates:
        point = each.point
        if point is None:
            assert each.hosted is not None
            options.append(Option(each.key, each.hosted.endpoint.ttft_p50_s))
            continue
        latency = point.wait_s + float(point.service[mine].mean())
        load = 0.0
        if each.role == "prefill":
            load = mix.calls_per_s / point.calls_per_s * mix.share(point.service, call.decode)
        options.append(Option(each.key, latency, 0.0, load))
    return Op(f"{call.name}.prefill", tuple(options))


def decode_op(call: Call, mix: Mix, candidates: Sequence[Candidate], visits: float) -> Op:
    """The decision where the call's answer is generated; on a mixed engine it carries the load of both phases."""
    mine = mix.op == call.decode
    after_first = float(mix.output[mine].mean()) - 1.0
    options = []
    for each in candidates:
        point = each.point
        if point is None:
            assert each.hosted is not None
            options.append(_hosted_option(each.key, each.hosted, mix, call, after_first, visits))
            continue
        work = mix.output * point.tpot_s / (1.0 + point.batch) + point.service
        load = mix.calls_per_s / point.calls_per_s * mix.share(work, call.decode)
        options.append(Option(each.key, after_first * point.tpot_s, 0.0, load))
    return Op(f"{call.name}.decode", tuple(options))


def _hosted_option(key: str, hosted: Hosted, mix: Mix, call: Call, after_first: float, visits: float) -> Option:
    mine = mix.op == call.decode
    prompt, output = float(mix.prompt[mine].mean()), float(mix.output[mine].mean())
    cached = float(hosted_cached(mix.gap_s, mix.prompt, mix.found(True))[mine].mean())
    endpoint = hosted.endpoint
    most = calls_per_s(endpoint.requests_per_min, endpoint.tokens_per_min, prompt, output)
    usd = visits * call_usd(hosted.price, prompt, cached, output)
    load = max(mix.calls_of(call.decode) / most, 1e-6)
    return Option(key, after_first * endpoint.tpot_p50_s, usd, load)


def over_limit(hosted: Hosted, mix: Mix) -> str:
    """The rate limit of an endpoint that the calls of a model exceed and by how much; empty where they do not."""
    endpoint = hosted.endpoint
    output = mix.mean_output
    most, name = binding_limit(endpoint.requests_per_min, endpoint.tokens_per_min, mix.mean_prompt, output)
    if mix.calls_per_s <= most:
        return ""
    needed = mix.calls_per_s * 60 * (mix.mean_prompt + output if name == "tokens/min" else 1.0)
    limit = needed * most / mix.calls_per_s
    return (
        f"{endpoint.name} admits {limit:,.0f} {name}, the calls of {mix.model} need {needed:,.0f} "
        f"({needed / limit:.3g} times the limit)"
    )


def hosted_cached(gap_s: Floats, prompt: Floats, found: Floats) -> Floats:
    """Prompt tokens that a hosted API bills as cached: all but the new ones within :data:`CACHE_TTL_S`."""
    return np.where(gap_s <= CACHE_TTL_S, prompt - found, 0.0)


def kv_edge(
    call: Call,
    mix: Mix,
    before: Sequence[Candidate],
    after: Sequence[Candidate],
    links: Links,
    limits: Limits,
) -> Edge:
    """Which pairs of choices go together, and what moving the KV takes.

    A mixed engine or an endpoint does both phases; two engines of different precision never share KV; a pair whose
    transfer spoils the TPOT (finish - first token, so the transfer counts), or fills the link, is forbidden.
    """
    pairs: dict[tuple[int, int], Link] = {}
    mine = mix.op == call.decode
    for j, receiver in enumerate(after):
        if receiver.role != "decode":
            pairs |= {(i, j): Link() for i, sender in enumerate(before) if sender.key == receiver.key}
            continue
        assert receiver.point is not None
        tokens = sent_tokens(mix, receiver.point)[mine]
        seen: dict[tuple[float, float, int], Link | None] = {}
        for i, sender in enumerate(before):
            if sender.role != "prefill" or sender.point is None:
                continue
            if sender.point.engine.config.dtype != receiver.point.engine.config.dtype:
                continue
            rate = rate_between(sender.point, receiver.point, links)
            if rate is None:
                continue
            key = (rate.bytes_per_s, rate.latency_s, i if rate.layers > 1 else -1)
            if key not in seen:
                prefill_s = sender.point.service[mine]
                calls_per_s = mix.calls_of(call.decode) if rate.shared else receiver.point.calls_per_s
                load = calls_per_s * float(tokens.mean()) * receiver.point.engine.kv_bytes_per_token
                fits = load <= MOST_INGRESS * rate.bytes_per_s
                seen[key] = _link(mix.output[mine], tokens, receiver.point, rate, prefill_s, limits) if fits else None
            link = seen[key]
            if link is not None:
                pairs[i, j] = link
    return Edge(f"{call.name}.prefill", f"{call.name}.decode", pairs)


def _link(
    output: Floats, tokens: Floats, receiver: Point, rate: TransferRate, prefill_s: Floats, limits: Limits
) -> Link | None:
    seconds = sent_s(tokens, receiver, rate, prefill_s)
    several = output > 1
    spread = seconds[several] / (output[several] - 1)
    for limit in limits.tpot if several.any() else ():
        if quantile(receiver.tpot_at(z_of(limit.at)) + spread, limit.at) > limit.seconds:
            return None
    return Link(float(seconds.mean()))


def indexed(candidates: Sequence[Candidate]) -> Mapping[str, Candidate]:
    """Candidates by resource key."""
    return {each.key: each for each in candidates}
