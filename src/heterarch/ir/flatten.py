"""From a module to the flat executable form, once; a pure function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Block, Operation, SSAValue

from heterarch.errors import UnknownNameError, VerifyError, Where
from heterarch.ir import agent, serve
from heterarch.ir.flat import FlatProgram, Int32, OpKind, Slot
from heterarch.ir.op import TaskOp, where
from heterarch.ir.types import DistributionAttr, StreamType
from heterarch.ir.verify import graphs_of
from heterarch.workload.distribution import Distribution

KINDS: Mapping[type[Operation], OpKind] = {
    agent.CallOp: OpKind.GRAPH_CALL,
    agent.AwaitOp: OpKind.AWAIT,
    agent.BranchOp: OpKind.BRANCH,
    agent.LoopOp: OpKind.LOOP,
    agent.MapOp: OpKind.MAP,
    agent.ChatOp: OpKind.CHAT,
    agent.MemoryLoadOp: OpKind.MEMORY_LOAD,
    agent.MemoryStoreOp: OpKind.MEMORY_STORE,
    agent.ConstOp: OpKind.CONST,
    agent.ComputeOp: OpKind.COMPUTE,
    agent.HumanOp: OpKind.HUMAN,
    serve.KVLookupOp: OpKind.KV_LOOKUP,
    serve.PrefillOp: OpKind.PREFILL,
    serve.KVTransferOp: OpKind.KV_TRANSFER,
    serve.DecodeOp: OpKind.DECODE,
    serve.ServeToolOp: OpKind.TOOL,
    serve.ServeEmbedOp: OpKind.EMBED,
    serve.SearchOp: OpKind.SEARCH,
    serve.ServeRerankOp: OpKind.RERANK,
    serve.ServeAudioOp: OpKind.AUDIO,
    serve.ServeImageOp: OpKind.IMAGE,
    serve.TransferOp: OpKind.TRANSFER,
}
_SLOTS = {
    "tokens_in": Slot.TOKENS_IN,
    "tokens_out": Slot.TOKENS_OUT,
    "seconds": Slot.SECONDS,
    "trips": Slot.COUNT,
    "width": Slot.COUNT,
}


def flatten(module: ModuleOp, entry: str | None = None) -> FlatProgram:
    """The flat form of a decomposed module; ``entry`` is the graph to run (the last one by default).

    Raises:
        VerifyError: an op that only a pass can lower is still there.
        UnknownNameError: no graph of that name.
    """
    graphs = graphs_of(module)
    name = entry if entry is not None else list(graphs)[-1]
    if name not in graphs:
        raise UnknownNameError("agent", name, graphs)
    walk = _Walk()
    for label, graph in graphs.items():
        walk.graphs[label] = walk.new_region(-1, graph.body.block)
    for label, graph in graphs.items():
        walk.block(graph.body.block, walk.graphs[label])
    return walk.finish(walk.graphs[name])


@dataclass
class _Row:
    """One op while the walk goes on."""

    kind: OpKind
    region: int
    inputs: list[int]
    streams: list[bool]
    outputs: list[int]
    children: list[int]
    statistics: list[int]
    pool: int
    name: str
    attrs: Mapping[str, object]
    where: Where


@dataclass
class _Walk:
    rows: list[_Row] = field(default_factory=list)
    values: dict[SSAValue, int] = field(default_factory=dict)
    owners: list[int] = field(default_factory=list)
    args: list[list[int]] = field(default_factory=list)
    yields: list[list[int]] = field(default_factory=list)
    distributions: dict[Distribution, int] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    graphs: dict[str, int] = field(default_factory=dict)

    def new_region(self, owner: int, block: Block) -> int:
        self.owners.append(owner)
        self.args.append([self.value(argument) for argument in block.args])
        self.yields.append([])
        return len(self.owners) - 1

    def value(self, value: SSAValue) -> int:
        return self.values.setdefault(value, len(self.values))

    def block(self, block: Block, region: int) -> None:
        for op in block.ops:
            if isinstance(op, agent.YieldOp):
                self.yields[region] = [self.value(value) for value in op.values]
            else:
                self.op(op, region)

    def op(self, op: Operation, region: int) -> None:
        if type(op) not in KINDS or not isinstance(op, TaskOp):
            raise VerifyError(f"{op.name} cannot be executed", where=where(op), fix="run the pass `decompose` first")
        row = _Row(
            KINDS[type(op)],
            region,
            [self.value(value) for value in op.inputs],
            [isinstance(value.type, StreamType) for value in op.inputs],
            [self.value(value) for value in op.outputs],
            [],
            self.statistics(op),
            self.pool(op),
            op.id.data,
            _attrs(op),
            where(op),
        )
        index = len(self.rows)
        self.rows.append(row)
        if isinstance(op, agent.CallOp):
            row.children.append(self.graphs[op.callee.data])
        for body in op.bodies:
            child = self.new_region(index, body.block)
            row.children.append(child)
            self.block(body.block, child)

    def statistics(self, op: TaskOp) -> list[int]:
        found = [-1] * len(Slot)
        for name, attribute in op.properties.items():
            if isinstance(attribute, DistributionAttr) and name in _SLOTS:
                row = self.distributions.setdefault(attribute.data, len(self.distributions))
                found[_SLOTS[name]] = row
        return found

    def pool(self, op: TaskOp) -> int:
        name = op.properties.get("pool")
        return self.pools.setdefault(name.data, len(self.pools)) if isinstance(name, StringAttr) else -1

    def finish(self, entry: int) -> FlatProgram:
        rows = self.rows
        operand_offsets, operands = _ragged([row.inputs for row in rows])
        result_offsets, results = _ragged([row.outputs for row in rows])
        child_offsets, children = _ragged([row.children for row in rows])
        arg_offsets, args = _ragged(self.args)
        yield_offsets, yields = _ragged(self.yields)
        return FlatProgram(
            kind=_frozen([row.kind for row in rows]),
            region=_frozen([row.region for row in rows]),
            operand_offsets=operand_offsets,
            operands=operands,
            streams=np.array([flag for row in rows for flag in row.streams], dtype=np.bool_),
            result_offsets=result_offsets,
            results=results,
            child_offsets=child_offsets,
            children=children,
            region_owner=_frozen(self.owners),
            arg_offsets=arg_offsets,
            args=args,
            yield_offsets=yield_offsets,
            yields=yields,
            statistics=_frozen([row.statistics for row in rows]).reshape(len(rows), len(Slot)),
            pool=_frozen([row.pool for row in rows]),
            value_count=len(self.values),
            entry=entry,
            names=tuple(row.name for row in rows),
            attrs=tuple(row.attrs for row in rows),
            where=tuple(row.where for row in rows),
            distributions=tuple(self.distributions),
            pools=tuple(self.pools),
            graphs=dict(self.graphs),
            value_types=tuple(str(value.type) for value in self.values),
        )


def _frozen(values: object) -> Int32:
    array = np.array(values, dtype=np.int32)
    array.flags.writeable = False
    return array


def _ragged(rows: list[list[int]]) -> tuple[Int32, Int32]:
    """Offsets and contents of a list of lists."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    return _frozen(offsets), _frozen([item for row in rows for item in row])


def _attrs(op: TaskOp) -> Mapping[str, object]:
    plain = {k: _plain(v) for k, v in op.properties.items() if not isinstance(v, DistributionAttr)}
    plain = {k: v for k, v in plain.items() if k not in ("id", "pool")}
    if isinstance(op, agent.ConstOp):
        plain["value"] = json.loads(op.value.data)
    return plain


def _plain(attribute: Attribute) -> object:
    if isinstance(attribute, StringAttr):
        return attribute.data
    if isinstance(attribute, IntegerAttr | FloatAttr):
        value = attribute.value.data
        is_flag = isinstance(attribute, IntegerAttr) and str(attribute.type) == "i1"
        return bool(value) if is_flag else value
    if isinstance(attribute, ArrayAttr):
        return tuple(_plain(item) for item in attribute.data)
    return str(attribute)
