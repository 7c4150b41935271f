"""The placement problem as a table: which option each op takes, and how many engines of each resource that needs.

Everything physical (rooflines, queues, prices) is in the numbers; this file only knows choices, loads and a path. The
founding paper's model (arXiv 2507.19635, section 3.1) with three changes: the latency limit holds on the critical
path and not per task; a transfer belongs to a *pair* of choices; engines are bought whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from heterarch.errors import InputError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Resource:
    """Engines of one configuration: ``usd_per_h`` and ``devices`` (of type ``device``) per engine."""

    name: str
    usd_per_h: float = 0.0
    device: str = ""
    devices: int = 1


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run an op.

    ``latency_s`` per visit; ``usd_per_request`` what a request pays beside the engines (tokens of a hosted API);
    ``load``: engines of ``resource`` that the op keeps busy at the planned rate, a fraction is shared with other ops.
    ``resource`` may be empty: the op needs no engine.
    """

    resource: str
    latency_s: float = 0.0
    usd_per_request: float = 0.0
    load: float = 0.0


@dataclass(frozen=True, slots=True)
class Op:
    """A decision: exactly one of ``options`` is taken."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """What one pair of choices costs: seconds per visit and USD per request."""

    latency_s: float = 0.0
    usd_per_request: float = 0.0


@dataclass(frozen=True)
class Edge:
    """Data from op ``before`` to op ``after``; ``links[i, j]`` for option i of the one and j of the other.

    A pair that is not in ``links`` is forbidden.
    """

    before: str
    after: str
    links: Mapping[tuple[int, int], Link]

    @property
    def name(self) -> str:
        """``before->after``."""
        return f"{self.before}->{self.after}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A place on the path of one request: ``visits`` times the latency of ``runs`` (an op or an edge), plus a constant.

    ``after`` names the stages that must have ended. Loops are one stage with many visits; alternatives of a branch
    stand in series, each with its probability as visits; parallel ops are stages that do not follow each other.
    """

    name: str
    runs: str = ""
    visits: float = 1.0
    constant_s: float = 0.0
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Choose an option per op and whole engines per resource; minimise USD per hour.

    minimise  sum_r engines_r usd_per_h_r + requests_per_h (sum_o usd_per_request + sum_e usd_per_request)
    with      sum_o load_o <= engines_r for each resource, sum_r devices_r engines_r <= inventory for each device,
              and the longest path through ``stages`` <= ``latency_limit_s``.

    Without ``stages`` every op and every edge is one stage, visited once.

    Raises:
        InputError: a name that is not known or stands twice, a number below zero or not finite, a cycle, no option.
    """

    ops: tuple[Op, ...]
    resources: tuple[Resource, ...] = ()
    edges: tuple[Edge, ...] = ()
    stages: tuple[Stage, ...] = ()
    inventory: Mapping[str, int] = field(default_factory=dict)
    latency_limit_s: float | None = None
    requests_per_h: float = 1.0

    def __post_init__(self) -> None:
        if not self.stages:
            object.__setattr__(self, "stages", _one_stage_each(self.ops, self.edges))
        for kind, names in (
            ("op", [op.name for op in self.ops]),
            ("edge", [edge.name for edge in self.edges]),
            ("resource", [resource.name for resource in self.resources]),
            ("stage", [stage.name for stage in self.stages]),
        ):
            _unique(kind, names)
        _check_options(self)
        _check_edges(self)
        _check_stages(self)
        _check_limits(self)

    def op(self, name: str) -> Op:
        """The op of that name."""
        return next(op for op in self.ops if op.name == name)

    def resource(self, name: str) -> Resource:
        """The resource of that name."""
        return next(resource for resource in self.resources if resource.name == name)


@dataclass(frozen=True)
class Outcome:
    """What a choice comes to: whole engines per resource, devices per type, USD per hour and the path's seconds."""

    engines: Mapping[str, int]
    devices: Mapping[str, int]
    usd_per_h: float
    latency_s: float
    allowed: bool  # every edge takes a pair that is not forbidden

    def feasible(self, problem: Problem, tolerance: float = 1e-6) -> bool:
        """Whether the choice keeps the pairs, the inventory and the latency limit of ``problem``."""
        limit = problem.latency_limit_s
        stocked = all(n <= problem.inventory.get(device, n) for device, n in self.devices.items())
        return self.allowed and stocked and (limit is None or self.latency_s <= limit * (1 + tolerance))


def evaluate(problem: Problem, choice: Mapping[str, int]) -> Outcome:
    """Re-compute from the tables alone what ``choice`` (op -> row of its options) comes to."""
    taken = {op.name: op.options[choice[op.name]] for op in problem.ops}
    links = {edge.name: edge.links.get((choice[edge.before], choice[edge.after])) for edge in problem.edges}
    loads: dict[str, float] = {}
    for option in taken.values():
        if option.resource:
            loads[option.resource] = loads.get(option.resource, 0.0) + option.load
    engines = {name: whole_engines(load) for name, load in loads.items()}
    devices: dict[str, int] = {}
    for name, count in engines.items():
        resource = problem.resource(name)
        if resource.device:
            devices[resource.device] = devices.get(resource.device, 0) + count * resource.devices
    variable = sum(o.usd_per_request for o in taken.values())
    variable += sum(link.usd_per_request for link in links.values() if link)
    usd_per_h = sum(n * problem.resource(name).usd_per_h for name, n in engines.items())
    latencies = {name: option.latency_s for name, option in taken.items()}
    latencies |= {name: link.latency_s if link else math.inf for name, link in links.items()}
    return Outcome(
        engines,
        devices,
        usd_per_h + problem.requests_per_h * variable,
        longest_path_s(problem.stages, latencies),
        all(link is not None for link in links.values()),
    )


def whole_engines(load: float) -> int:
    """Engines to buy for a load; rounding noise of 1e-6 of an engine does not buy another one."""
    return math.ceil(load - 1e-6)


def longest_path_s(stages: Sequence[Stage], latencies: Mapping[str, float]) -> float:
    """Seconds of the critical path when each op and edge takes ``latencies`` per visit."""
    end: dict[str, float] = {}
    for name in order(stages):
        stage = next(s for s in stages if s.name == name)
        start = max((end[before] for before in stage.after), default=0.0)
        seconds = stage.visits * latencies[stage.runs] if stage.runs and stage.visits else 0.0
        end[name] = start + stage.constant_s + seconds
    return max(end.values(), default=0.0)


def order(stages: Iterable[Stage]) -> list[str]:
    """Names of the stages, each after the ones that it waits for.

    Raises:
        InputError: the stages form a cycle.
    """
    try:
        return list(TopologicalSorter({stage.name: stage.after for stage in stages}).static_order())
    except CycleError as error:
        raise InputError(
            "the stages of a path form a cycle",
            observed=" -> ".join(error.args[1]),
            fix="make a loop one stage with many visits",
        ) from None


def _one_stage_each(ops: Sequence[Op], edges: Sequence[Edge]) -> tuple[Stage, ...]:
    transfers = [Stage(edge.name, edge.name, after=(edge.before,)) for edge in edges]
    into: dict[str, tuple[str, ...]] = {}
    for edge in edges:
        into[edge.after] = (*into.get(edge.after, ()), edge.name)
    return (*(Stage(op.name, op.name, after=into.get(op.name, ())) for op in ops), *transfers)


def _unique(kind: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"two of the {kind}s have one name", observed=twice)


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UnknownNameError(kind, name, known)


def _amount(what: str, *values: float) -> None:
    for value in values:
        if not math.isfinite(value) or value < 0:
            raise InputError(f"{what} must be finite and not negative", observed=value)


def _check_options(problem: Problem) -> None:
    resources = {resource.name for resource in problem.resources}
    for op in problem.ops:
        if not op.options:
            raise InputError(f"the op {op.name!r} has no option", expected="at least one")
        for option in op.options:
            _amount(f"an option of {op.name!r}", option.latency_s, option.usd_per_request, option.load)
            if option.resource:
                _known("resource", option.resource, resources)


def _check_edges(problem: Problem) -> None:
    rows = {op.name: len(op.options) for op in problem.ops}
    for edge in problem.edges:
        _known("op", edge.before, rows)
        _known("op", edge.after, rows)
        for (i, j), link in edge.links.items():
            if not (0 <= i < rows[edge.before] and 0 <= j < rows[edge.after]):
                raise InputError(f"the edge {edge.name!r} names an option that is not there", observed=(i, j))
            _amount(f"a link of {edge.name!r}", link.latency_s, link.usd_per_request)


def _check_stages(problem: Problem) -> None:
    stages = {stage.name for stage in problem.stages}
    runs = {op.name for op in problem.ops} | {edge.name for edge in problem.edges}
    for stage in problem.stages:
        _amount(f"the stage {stage.name!r}", stage.visits, stage.constant_s)
        if stage.runs:
            _known("op or edge", stage.runs, runs)
        for before in stage.after:
            _known("stage", before, stages)
    order(problem.stages)


def _check_limits(problem: Problem) -> None:
    _amount("requests_per_h", problem.requests_per_h)
    _amount("an inventory", *problem.inventory.values())
    if problem.latency_limit_s is not None:
        _amount("the latency limit", problem.latency_limit_s)
    for resource in problem.resources:
        _amount(f"the resource {resource.name!r}", resource.usd_per_h)
        if resource.devices < 1:
            raise InputError(f"an engine of {resource.name!r} needs a device", observed=resource.devices)
