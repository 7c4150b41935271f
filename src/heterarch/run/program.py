"""A flat program prepared for execution: per region, who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heterarch.errors import Where
from heterarch.ir.flat import FlatProgram, OpKind, Slot
from heterarch.ir.regions import NESTED, captures

_CONTROL = frozenset(kind for kind in OpKind if kind < OpKind.KV_LOOKUP)


@dataclass(frozen=True, slots=True)
class Node:
    """One op: value ids it reads and writes, regions it owns or calls, and what is known of it.

    ``successors`` are rows within its region. ``count`` is the mean of its COUNT statistic (trips, width), if any.
    """

    op: int
    name: str
    kind: OpKind
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    regions: tuple[int, ...]
    successors: tuple[int, ...]
    pool: str | None
    attrs: Mapping[str, object]
    where: Where
    count: float | None
    tokens_out: float | None
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]

    @property
    def is_work(self) -> bool:
        """Whether the op does work that a plan places, and is timed."""
        return self.kind not in _CONTROL


@dataclass(frozen=True, slots=True)
class Region:
    """Ops of one region; ``waits[i]`` is how many others op ``i`` waits for, ``roots`` those that wait for none.

    ``captures`` are values of enclosing regions that this one reads. ``is_chain``: no two ops are ever ready at once.
    """

    nodes: tuple[Node, ...]
    waits: tuple[int, ...]
    roots: tuple[int, ...]
    arguments: tuple[int, ...]
    yields: tuple[int, ...]
    captures: tuple[int, ...]
    is_chain: bool


@dataclass(frozen=True)
class Program:
    """All regions, and the one to enter."""

    regions: tuple[Region, ...]
    entry: int
    graphs: Mapping[str, int]


def prepare(flat: FlatProgram) -> Program:
    """The executable form of ``flat``.

    An op waits for the ops that write what it reads (a value read inside its own regions counts), and for earlier
    ops of its region that touch the same key of the session's memory when one of the two writes it.
    """
    return _Preparation(flat).program()


class _Preparation:
    def __init__(self, flat: FlatProgram) -> None:
        self.flat = flat
        self.ops: list[list[int]] = [[] for _ in range(len(flat.region_owner))]
        for op, region in enumerate(flat.region.tolist()):
            self.ops[region].append(op)
        self.captures = captures(flat)
        self.memory: dict[int, frozenset[tuple[str, bool]]] = {}

    def program(self) -> Program:
        regions = tuple(self.region(number) for number in range(len(self.ops)))
        return Program(regions, self.flat.entry, self.flat.graphs)

    def region(self, region: int) -> Region:
        flat, ops = self.flat, self.ops[region]
        waits = self.waits(ops)
        successors: list[list[int]] = [[] for _ in ops]
        for row, before in enumerate(waits):
            for earlier in before:
                successors[earlier].append(row)
        roots = tuple(row for row, before in enumerate(waits) if not before)
        return Region(
            nodes=tuple(self.node(op, successors[row]) for row, op in enumerate(ops)),
            waits=tuple(len(before) for before in waits),
            roots=roots,
            arguments=tuple(flat.arguments(region).tolist()),
            yields=tuple(flat.yielded(region).tolist()),
            captures=tuple(sorted(self.captures[region])),
            is_chain=len(roots) == 1 and all(len(after) < 2 for after in successors),
        )

    def waits(self, ops: Sequence[int]) -> list[set[int]]:
        """For every op the rows of those it waits for."""
        writer = {value: row for row, op in enumerate(ops) for value in self.flat.outputs(op).tolist()}
        waits = [{writer[value] for value in self.reads(op) if value in writer} for op in ops]
        touched: dict[str, list[tuple[int, bool]]] = {}
        for row, op in enumerate(ops):
            for key, writes in sorted(self.touches(op, frozenset())):
                earlier = touched.setdefault(key, [])
                waits[row] |= {other for other, wrote in earlier if (wrote or writes) and other != row}
                earlier.append((row, writes))
        return waits

    def reads(self, op: int) -> set[int]:
        reads = set(self.flat.inputs(op).tolist())
        if self.flat.kind[op] in NESTED:
            for region in self.flat.regions_of(op).tolist():
                reads |= self.captures[region]
        return reads

    def touches(self, op: int, above: frozenset[int]) -> frozenset[tuple[str, bool]]:
        """Memory keys that ``op`` or anything it runs touches, and whether it writes; ``above`` guards recursion."""
        kind = OpKind(int(self.flat.kind[op]))
        if kind in (OpKind.MEMORY_LOAD, OpKind.MEMORY_STORE):
            return frozenset({(str(self.flat.attrs[op].get("key", "")), kind is OpKind.MEMORY_STORE)})
        found: frozenset[tuple[str, bool]] = frozenset()
        for region in self.flat.regions_of(op).tolist():
            if region in above:
                continue
            if region not in self.memory:
                inside = [self.touches(each, above | {region}) for each in self.ops[region]]
                self.memory[region] = frozenset().union(*inside)
            found |= self.memory[region]
        return found

    def node(self, op: int, successors: Sequence[int]) -> Node:
        flat = self.flat
        inputs, outputs = tuple(flat.inputs(op).tolist()), tuple(flat.outputs(op).tolist())
        count, tokens = flat.statistic(op, Slot.COUNT), flat.statistic(op, Slot.TOKENS_OUT)
        return Node(
            op=op,
            name=flat.names[op],
            kind=OpKind(int(flat.kind[op])),
            inputs=inputs,
            outputs=outputs,
            regions=tuple(flat.regions_of(op).tolist()),
            successors=tuple(successors),
            pool=flat.pool_of(op),
            attrs=flat.attrs[op],
            where=flat.where[op],
            count=count.mean if count else None,
            tokens_out=tokens.mean if tokens else None,
            input_types=tuple(flat.value_types[value] for value in inputs),
            output_types=tuple(flat.value_types[value] for value in outputs),
        )
