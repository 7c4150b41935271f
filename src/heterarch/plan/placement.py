"""One attempt: build the problem under given limits, solve it, and see what the placement really does.

The end-to-end limit of the program holds at a percentile, the path of the problem is an expectation. The ratio of
the two is measured by the sampled walk under the placement found and fed back, until the walk meets the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heterarch.errors import InfeasibleError
from heterarch.plan.candidates import Best, Candidate, Limit, Limits, candidates_of
from heterarch.plan.cpu import cpu_op, cpu_resource
from heterarch.plan.critical import critical_stages
from heterarch.plan.operating import Point
from heterarch.plan.phases import decode_op, kv_edge, over_limit, prefill_op, rate_between, resources_of
from heterarch.plan.problem import Edge, Op, Problem
from heterarch.plan.setting import Setting
from heterarch.plan.solve import Solution, diagnose, infeasible, least_latency_s, solve
from heterarch.plan.timing import PlacedCall, PlacedTask, PlacedTiming
from heterarch.plan.walk import Walked, walk
from heterarch.policy.base import Floats
from heterarch.units import format_duration

ROUNDS = 6  # of feeding the tail back
TOLERANCE = 1.002  # of a percentile measured on a sample


@dataclass(frozen=True)
class Targets:
    """Limits on single calls, and on the request end to end."""

    calls: Limits
    e2e: tuple[Limit, ...] = ()

    def tightened(self, metric: str, factor: float) -> Targets:
        """The same with the limits of ``metric`` (e2e, ttft, tpot) multiplied by ``factor``."""

        def scale(limits: Sequence[Limit]) -> tuple[Limit, ...]:
            return tuple(Limit(limit.at, limit.seconds * factor) for limit in limits)

        if metric == "e2e":
            return replace(self, e2e=scale(self.e2e))
        calls = self.calls
        return replace(self, calls=replace(calls, **{metric: scale(getattr(calls, metric))}))


@dataclass(frozen=True)
class Placement:
    """A solved placement: what each decision took, the engines, the real operating points, and the walk under it."""

    setting: Setting
    problem: Problem
    solution: Solution
    candidates: Mapping[str, Candidate]
    points: Mapping[str, Point]
    calls: Mapping[int, PlacedCall]  # decode op -> where the call runs
    tasks: Mapping[int, str]  # CPU op -> resource
    walked: Walked
    rounds: int

    @property
    def usd_per_h(self) -> float:
        """Objective."""
        return self.solution.usd_per_h

    def slots(self, resource: str) -> int:
        """Tasks at once of a CPU pool."""
        return slots_of(self.setting, self.solution, resource)


def offer(setting: Setting, targets: Targets) -> dict[str, list[Candidate]]:
    """Candidates per model that keep the limits of single calls; notes in ``setting.reach`` why others do not."""
    return {
        name: candidates_of(mix, setting.engines[name], setting.hosted, targets.calls, setting.reach[name])
        for name, mix in setting.mixes.items()
    }


def check_offer(setting: Setting, offered: Mapping[str, Sequence[Candidate]]) -> None:
    """Every model has a way to be served.

    Raises:
        InfeasibleError: no candidate of a model keeps the limits of single calls; names the best reachable value.
    """
    for model, candidates in offered.items():
        roles = {candidate.role for candidate in candidates}
        if not roles & {"mixed", "endpoint"} and not {"prefill", "decode"} <= roles:
            raise _out_of_reach(setting, model)


def _out_of_reach(setting: Setting, model: str) -> InfeasibleError:
    reach = setting.reach[model]
    for metric, table in (("ttft", reach.ttft), ("tpot", reach.tpot)):
        found: dict[str, Best] = {device: best for device, best in table.items()}
        device = min(found, key=lambda name: found[name], default="")
        if found and found[device].ratio > 1:
            best = found[device]
            return InfeasibleError(
                f"the {metric} limit of the model {model} can be met on no device of the fleet",
                observed=f"best reachable {format_duration(best.seconds)}{best.room}, on {device}",
                expected=f"at most {format_duration(best.limit.seconds)}",
                fix=f"allow {format_duration(best.seconds * 1.05)}, a smaller --dtype, or faster devices",
            )
    return InfeasibleError(
        f"no engine of the fleet can hold the longest calls of the model {model}",
        observed="; ".join(f"{device}: {reason}" for device, reason in reach.unfit.items()) or None,
        fix="add devices with more memory, or allow a smaller --dtype such as fp8",
    )


def build(setting: Setting, offered: Mapping[str, Sequence[Candidate]], targets: Targets) -> Problem:
    """The placement problem, without a latency limit."""
    ops: list[Op] = []
    edges: list[Edge] = []
    runs: dict[int, str] = {}
    used: dict[str, Candidate] = {}
    for call in setting.calls:
        if call.decode not in setting.walked.runs:
            continue
        mix, all_ = setting.mixes[call.model], offered[call.model]
        before = [c for c in all_ if c.role != "decode"]
        after = [c for c in all_ if c.role != "prefill"]
        ops.append(prefill_op(call, mix, before))
        ops.append(decode_op(call, mix, after, setting.walked.runs[call.decode]))
        edges.append(kv_edge(call, mix, before, after, setting.links, targets.calls))
        runs |= {call.prefill: ops[-2].name, call.transfer: edges[-1].name, call.decode: ops[-1].name}
        used |= {c.key: c for c in all_}
    for op in setting.tasks:
        ops.append(cpu_op(setting.flat, op, setting.walked, setting.cpus, setting.requests_per_s))
        runs[op] = ops[-1].name
    return Problem(
        ops=tuple(ops),
        resources=(*resources_of(list(used.values())), *(cpu_resource(pool) for pool in setting.cpus)),
        edges=tuple(edges),
        stages=critical_stages(setting.flat, setting.walked, runs),
        inventory=setting.inventory,
        requests_per_h=3600.0 * setting.requests_per_s,
    )


def attempt(setting: Setting, targets: Targets, offered: Mapping[str, Sequence[Candidate]] | None = None) -> Placement:
    """The cheapest placement whose walk meets the end-to-end limits; of ``offered`` candidates where given.

    Raises:
        InfeasibleError: there is none; names what binds, the best reachable value, and what would relax it.
    """
    offered = offer(setting, targets) if offered is None else offered
    check_offer(setting, offered)
    problem = build(setting, offered, targets)
    placement = _solved(setting, problem, offered, 1)
    for number in range(2, ROUNDS + 1):
        worst = _worst(placement.walked.e2e_s, targets.e2e)
        if worst is None or worst.ratio <= TOLERANCE:
            return placement
        path = placement.solution.latency_s
        limit = path / worst.ratio * (1 - 1e-4 * number)
        problem = replace(problem, latency_limit_s=limit)
        try:
            placement = _solved(setting, problem, offered, number)
        except InfeasibleError:
            raise _too_slow(setting, problem, offered, targets) from None
    worst = _worst(placement.walked.e2e_s, targets.e2e)
    if worst is not None and worst.ratio > TOLERANCE * 1.01:
        raise _too_slow(setting, problem, offered, targets)
    return placement


def expected(placement: Placement) -> Placement:
    """The same choice with the step times as they are predicted, without the margins that it was made with."""
    candidates = {key: candidate.expected for key, candidate in placement.candidates.items()}
    return _walked(placement.setting, placement.problem, placement.solution, candidates, placement.rounds)


def _worst(e2e: Floats, limits: Sequence[Limit]) -> Best | None:
    found = []
    for limit in limits:
        value = float(e2e.mean()) if limit.at < 0 else float(np.quantile(e2e, limit.at))
        found.append(Best(value / limit.seconds, value, limit))
    return max(found, default=None)


def _too_slow(
    setting: Setting, problem: Problem, offered: Mapping[str, Sequence[Candidate]], targets: Targets
) -> InfeasibleError:
    """What binds: the fastest placement of all, walked, against the limit."""
    free = replace(problem, latency_limit_s=None)
    fastest = least_latency_s(free)
    if fastest is None:
        return infeasible(problem, diagnose(problem), f"the agent under {setting.workload.name}")
    placement = _solved(setting, replace(problem, latency_limit_s=fastest * 1.001), offered, 0)
    worst = _worst(placement.walked.e2e_s, targets.e2e)
    assert worst is not None
    where = "mean" if worst.limit.at < 0 else f"p{100 * worst.limit.at:g}"
    needs = diagnose(problem).needs
    relax = [f"allow e2e.{where}<={format_duration(worst.seconds * 1.02).replace(' ', '')}"]
    relax += [f"allow {n} of {device}" for device, n in needs.items()]
    alone = _without_calls(setting)
    return InfeasibleError(
        "the end-to-end limit cannot be met",
        observed=f"best reachable {where} {format_duration(worst.seconds)}, of which {format_duration(alone)} "
        "(mean) is spent outside of LLM calls",
        expected=f"at most {format_duration(worst.limit.seconds)}",
        fix=", or ".join([*relax, "raise the limit, shorten the answers, or add faster devices"]),
    )


def _without_calls(setting: Setting) -> float:
    return float(setting.walked.e2e_s.mean())


def _solved(setting: Setting, problem: Problem, offered: Mapping[str, Sequence[Candidate]], number: int) -> Placement:
    candidates = {each.key: each for group in offered.values() for each in group}
    try:
        solution = solve(problem)
    except InfeasibleError:
        if problem.latency_limit_s is not None:
            raise
        raise _too_small(setting, problem) from None
    return _walked(setting, problem, solution, candidates, number)


def _walked(
    setting: Setting, problem: Problem, solution: Solution, candidates: Mapping[str, Candidate], number: int
) -> Placement:
    """The solution with the operating points of its engines, and the walk under it."""
    points = _points(problem, solution, candidates)
    calls = {}
    for call in setting.calls:
        if call.decode in setting.walked.runs:
            calls[call.decode] = _placed_call(setting, problem, solution, candidates, points, call.name)
    names = {setting.flat.names[op]: op for op in setting.tasks}
    tasks = {op: _taken(problem, solution, name) for name, op in names.items()}
    timing = PlacedTiming(calls, _placed_tasks(setting, solution, tasks), setting.seed)
    walked = walk(setting.flat, setting.workload, seed=setting.seed, timing=timing, windows=setting.windows())
    return Placement(setting, problem, solution, candidates, points, calls, tasks, walked, number)


def _too_small(setting: Setting, problem: Problem) -> InfeasibleError:
    """What of the inventory binds; of an endpoint, its rate limit."""
    error = infeasible(problem, diagnose(problem), f"the agent under {setting.workload.name}")
    offered = {option.resource for op in problem.ops for option in op.options}
    over = [
        over_limit(each, setting.mixes[each.endpoint.serves])
        for each in setting.hosted
        if f"endpoint {each.endpoint.name}" in offered
    ]
    error.observed = "; ".join(str(part) for part in (error.observed, *over) if part)
    return error


def _taken(problem: Problem, solution: Solution, op: str) -> str:
    return problem.op(op).options[solution.choice[op]].resource


def _points(problem: Problem, solution: Solution, candidates: Mapping[str, Candidate]) -> dict[str, Point]:
    """The operating point of each engine at the rate that it gets from the whole engines bought."""
    loads: dict[str, float] = {}
    for op in problem.ops:
        option = op.options[solution.choice[op.name]]
        loads[option.resource] = loads.get(option.resource, 0.0) + option.load
    found = {}
    for key, count in solution.engines.items():
        candidate = candidates.get(key)
        if candidate is None or candidate.point is None or candidate.model is None:
            continue
        rate = candidate.point.calls_per_s * min(1.0, loads[key] / count)
        found[key] = candidate.model.point(rate) or candidate.point
    return found


def _placed_call(
    setting: Setting,
    problem: Problem,
    solution: Solution,
    candidates: Mapping[str, Candidate],
    points: Mapping[str, Point],
    name: str,
) -> PlacedCall:
    before = candidates[_taken(problem, solution, f"{name}.prefill")]
    after = candidates[_taken(problem, solution, f"{name}.decode")]
    sender, receiver = points.get(before.key), points.get(after.key)
    rate = None
    if sender is not None and receiver is not None and before.key != after.key:
        rate = rate_between(sender, receiver, setting.links)
    return PlacedCall(before, after, sender, receiver, rate)


def slots_of(setting: Setting, solution: Solution, resource: str) -> int:
    """Tasks at once of a CPU pool, all its workers together."""
    pool = next(pool for pool in setting.cpus if pool.key == resource)
    return pool.slots * solution.engines.get(resource, 0)


def _placed_tasks(setting: Setting, solution: Solution, tasks: Mapping[int, str]) -> dict[int, PlacedTask]:
    """Op -> its pool; all ops of a pool wait in one queue, a short one behind the long ones of others."""
    walked, rate = setting.walked, setting.requests_per_s
    pools: dict[str, PlacedTask] = {}
    for resource in dict.fromkeys(tasks.values()):
        mine = [op for op, other in tasks.items() if other == resource]
        runs = sum(walked.runs[op] for op in mine)
        mean = sum(walked.runs[op] * walked.seconds.get(op, 0.0) for op in mine) / runs
        square = sum(walked.runs[op] * walked.squares.get(op, 0.0) for op in mine) / runs
        pools[resource] = PlacedTask(max(1, slots_of(setting, solution, resource)), rate * runs, mean, square)
    return {op: pools[resource] for op, resource in tasks.items()}
