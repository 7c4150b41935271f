"""The builder that every front end writes through: ops, ids, callables and regions of one module."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, BoolAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr, f64, i64
from xdsl.ir import Attribute, Block, Region, SSAValue

from heterarch.errors import CaptureError, Where
from heterarch.graph.reference import Reference, reference
from heterarch.ir import agent
from heterarch.ir.op import TaskOp, location
from heterarch.ir.types import DATA, TEXT, DistributionAttr, ListType
from heterarch.ir.verify import tasks, verify
from heterarch.workload.distribution import Distribution


@dataclass(frozen=True)
class Agent:
    """An agent: a thin handle on its module, and the table from symbols to the user's callables.

    ``name`` is the entry graph of ``module``; ``source`` is the file it was captured from.
    """

    name: str
    source: str
    module: ModuleOp
    callables: Mapping[str, Reference]

    @property
    def graph(self) -> agent.GraphOp:
        """The entry graph."""
        return next(
            op for op in self.module.body.block.ops if isinstance(op, agent.GraphOp) and op.sym_name.data == self.name
        )


@dataclass
class Builder:
    """Appends ops to one graph; regions nest."""

    name: str
    source: str
    where: Where
    input_types: Sequence[Attribute]
    graph: agent.GraphOp = field(init=False)
    blocks: list[Block] = field(init=False)
    callables: dict[str, Reference] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    subgraphs: dict[str, agent.GraphOp] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = agent.GraphOp.build_graph(self.name, self.input_types, [])
        self.graph.location = location(self.where)
        self.blocks = [self.graph.body.block]

    def emit(
        self,
        kind: type[TaskOp],
        name: str | None,
        default_name: str,
        inputs: Sequence[SSAValue],
        outputs: Sequence[Attribute],
        properties: Mapping[str, object] | None = None,
        regions: Sequence[Region] = (),
        where: Where | None = None,
    ) -> Sequence[SSAValue]:
        """Append an op and return its results.

        ``name`` is the user's and must be new; without one ``default_name`` gets a number when it is taken.
        """
        settings = {key: attribute(value) for key, value in (properties or {}).items() if value is not None}
        op = kind.build_op(self._id(name, default_name, where), inputs, outputs, settings, regions, where or self.where)
        self.blocks[-1].add_op(op)
        for result in op.outputs:
            result.name_hint = _hint(op.id.data)
        return op.outputs

    @contextmanager
    def region(self, types: Sequence[Attribute], names: Sequence[str] = ()) -> Iterator[Block]:
        """A block to append to; its terminator is for the caller to add with :meth:`finish`."""
        block = Block(arg_types=list(types))
        for argument, name in zip(block.args, names, strict=False):
            argument.name_hint = _hint(name)
        self.blocks.append(block)
        try:
            yield block
        finally:
            self.blocks.pop()

    def finish(self, block: Block, values: Sequence[SSAValue], where: Where | None = None) -> Region:
        """End ``block`` with a yield of ``values``; the region that holds it."""
        end = agent.YieldOp(*values)
        end.location = location(where or self.where)
        block.add_op(end)
        return Region(block)

    def symbol(self, function: Callable[..., Any], where: Where | None) -> str:
        """The symbol under which the module names ``function``; recorded in the table of callables."""
        found = reference(function, where)
        base = found.ref.rpartition(":")[2]
        symbol, count = base, 1
        while symbol in self.callables and self.callables[symbol].ref != found.ref:
            count += 1
            symbol = f"{base}_{count}"
        self.callables[symbol] = found
        return symbol

    def constant(self, value: object, where: Where | None) -> SSAValue:
        """A literal: a string is text, a list of strings a list of text, anything else that JSON can hold is data."""
        try:
            text = json.dumps(value)
        except TypeError:
            raise CaptureError("a literal must be JSON", observed=repr(value), where=where) from None
        strings = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        type_: Attribute = TEXT if isinstance(value, str) else ListType(TEXT) if strings else DATA
        return self.emit(agent.ConstOp, None, "const", [], [type_], {"value": text}, where=where)[0]

    def include(self, sub: Agent) -> agent.GraphOp:
        """Bring a sub-agent's graphs and callables into this module; its op ids get its name as prefix."""
        if sub.name not in self.subgraphs:
            module = sub.module.clone()
            for op in tasks(module):
                prefix = "" if op.id.data.startswith(sub.name + ".") else sub.name + "."
                op.properties["id"] = StringAttr(prefix + op.id.data)
            for graph in list(module.body.block.ops):
                assert isinstance(graph, agent.GraphOp)
                graph.detach()  # type: ignore[no-untyped-call]
                self.subgraphs.setdefault(graph.sym_name.data, graph)
            for symbol, found in sub.callables.items():
                if self.callables.setdefault(symbol, found).ref != found.ref:
                    raise CaptureError(
                        f"two callables are called {symbol!r}",
                        observed=f"{self.callables[symbol].ref} and {found.ref}",
                        fix="rename one of them",
                    )
        return self.subgraphs[sub.name]

    def done(self, outputs: Sequence[SSAValue]) -> Agent:
        """Close the graph, verify the module, and return the agent.

        Raises:
            VerifyError: a rule of the dialect is broken.
        """
        block = self.graph.body.block
        end = agent.YieldOp(*outputs)
        end.location = location(self.where)
        block.add_op(end)
        graph = agent.GraphOp.build_graph(self.name, self.input_types, [value.type for value in outputs])
        graph.location = self.graph.location
        graph.detach_region(graph.body)
        graph.add_region(self.graph.detach_region(self.graph.body))
        module = ModuleOp([*self.subgraphs.values(), graph])
        module.location = graph.location
        verify(module)
        return Agent(self.name, self.source, module, dict(self.callables))

    def _id(self, name: str | None, default: str, where: Where | None) -> str:
        if name is not None and name in self.used:
            raise CaptureError(f"two nodes are called {name!r}", where=where, fix="give one of them another name")
        chosen, count = name or default, 1
        while chosen in self.used:
            count += 1
            chosen = f"{default}_{count}"
        self.used.add(chosen)
        return chosen


def attribute(value: object) -> Attribute:
    """The MLIR attribute of a Python setting."""
    if isinstance(value, Attribute):
        return value
    if isinstance(value, Distribution):
        return DistributionAttr(value)
    if isinstance(value, bool):
        return BoolAttr.from_bool(value)
    if isinstance(value, int):
        return IntegerAttr(value, i64)
    if isinstance(value, float):
        return FloatAttr(value, f64)
    if isinstance(value, list | tuple):
        return ArrayAttr([attribute(item) for item in value])
    return StringAttr(str(value))


def _hint(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
