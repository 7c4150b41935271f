"""The critical path of a request as stages of the placement problem.

Nested regions are flattened: a loop is its body visited as often as its trips, the cases of a branch stand in series
with their probability as visits, a map is one copy of its body. That is the exact expected path for sequences, loops
and branches; of parallel parts it is the longest expected one. What the expectation leaves out (the slowest copy of a
map, percentiles, streams) is measured by the sampled walk, see ``placement.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from heterarch.errors import InputError
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.problem import Stage
from heterarch.plan.walk import Walked

_NESTED = {OpKind.GRAPH_CALL, OpKind.BRANCH, OpKind.LOOP, OpKind.MAP}


@dataclass
class _Path:
    flat: FlatProgram
    walked: Walked
    runs: Mapping[int, str]  # op -> the decision or edge whose latency it takes
    stages: list[Stage] = field(default_factory=list)
    depth: int = 0


def critical_stages(flat: FlatProgram, walked: Walked, runs: Mapping[int, str]) -> tuple[Stage, ...]:
    """The stages of one request of ``flat``; ``runs`` names the decision (or edge) of each op that has one.

    Ops without a decision that take time (a person who answers) are constants of their mean seconds.

    Raises:
        InputError: the program calls itself.
    """
    path = _Path(flat, walked, runs)
    _region(path, flat.entry, "", 1.0, (), {})
    return tuple(path.stages)


def _region(
    path: _Path, region: int, prefix: str, visits: float, after: tuple[str, ...], outer: Mapping[int, tuple[str, ...]]
) -> tuple[str, ...]:
    """Add the stages of a region that starts when ``after`` have ended; gives the stages that end it.

    ``outer``: value -> the stages that end it, for values of enclosing regions.
    """
    flat = path.flat
    path.depth += 1
    if path.depth > 50:
        raise InputError("the program calls itself", fix="bound the recursion with a loop")
    made: dict[int, tuple[str, ...]] = {}
    last: dict[str, None] = dict.fromkeys(after)
    for op in flat.ops_in(region).tolist():
        inputs = flat.inputs(op).tolist()
        known = {**outer, **made}
        before = dict.fromkeys(name for value in inputs for name in known.get(value, ()))
        if not inputs or any(value not in made for value in inputs):
            before |= dict.fromkeys(after)
        end = _op(path, op, prefix, visits, tuple(before), known)
        made |= dict.fromkeys(flat.outputs(op).tolist(), end)
        for name in before:
            last.pop(name, None)
        last |= dict.fromkeys(end)
    path.depth -= 1
    return tuple(last)


def _op(
    path: _Path, op: int, prefix: str, visits: float, after: tuple[str, ...], known: Mapping[int, tuple[str, ...]]
) -> tuple[str, ...]:
    kind = OpKind(path.flat.kind[op])
    name = prefix + path.flat.names[op]
    if kind not in _NESTED:
        decision = path.runs.get(op, "")
        constant = 0.0 if decision else visits * path.walked.seconds.get(op, 0.0)
        path.stages.append(Stage(name, decision, visits, constant, after))
        return (name,)
    for index, region in enumerate(path.flat.regions_of(op).tolist()):
        times = visits * _times(path, op, region, kind)
        inside = _region(path, region, f"{name}/{index}/", times, after, known)
        after = (f"{name}/{index}",)
        path.stages.append(Stage(after[0], after=inside))
    return after


def _times(path: _Path, op: int, region: int, kind: OpKind) -> float:
    """Visits of the region per visit of its op, on the path: trips or probability; 1 for maps and sub-agents."""
    if kind in (OpKind.GRAPH_CALL, OpKind.MAP):
        return 1.0
    runs = path.walked.runs.get(op, 0.0)
    return path.walked.region_runs.get(region, 0.0) / runs if runs else 0.0
