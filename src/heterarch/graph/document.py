"""The YAML front end: the same agents as in Python, strict, with the line of every mistake."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xdsl.ir import Attribute, Region, SSAValue

from heterarch.documents import Locate, load_yaml, validate
from heterarch.errors import CaptureError, UnknownNameError, VerifyError, Where
from heterarch.graph import schema
from heterarch.graph.build import Agent, Builder
from heterarch.graph.reference import relative, resolve
from heterarch.ir import agent as dialect
from heterarch.ir.types import AUDIO, CHAT, DATA, IMAGE, TEXT, FutureType, ListType, StreamType, strip_stream

TYPES: Mapping[str, Attribute] = {"text": TEXT, "data": DATA, "list": ListType(TEXT), "audio": AUDIO, "image": IMAGE}
Place = tuple[str | int, ...]
Load = Callable[[str], Agent]


def read_agent_document(path: str, load: Load) -> Agent:
    """Capture the agent of a YAML file; ``load`` finds sub-agents by reference.

    Raises:
        InputError: the file is not a valid agent document; with line, and the nearest names for a misspelt one.
        VerifyError: a cycle of data edges without a loop, an unreachable node, types that do not fit.
    """
    data, locate = load_yaml(path)
    document = validate(schema.AgentDocument, data, locate)
    where = _relative(locate(()))
    builder = Builder(document.name, relative(path), where, [TYPES[kind] for kind in document.inputs.values()])
    scope: dict[str, SSAValue] = {}
    for name, argument in zip(document.inputs, builder.graph.body.block.args, strict=True):
        argument.name_hint = name
        scope[name] = argument
    compiler = _Compiler(builder, locate, Path(path).parent, load)
    compiler.nodes(document.nodes, scope, ("nodes",))
    outputs = [compiler.value(ref, scope, ("outputs", i)) for i, ref in enumerate(document.outputs)]
    return builder.done(outputs)


@dataclass
class _Compiler:
    builder: Builder
    locate: Locate
    folder: Path
    load: Load

    def nodes(self, nodes: Mapping[str, Any], scope: dict[str, SSAValue], place: Place) -> None:
        """Emit ``nodes`` in the order of their data; their results join ``scope``."""
        for name in self.order(nodes, place):
            self.node(name, nodes[name], scope, (*place, name))

    def order(self, nodes: Mapping[str, Any], place: Place) -> list[str]:
        """The nodes so that each follows those it reads."""
        needs = {name: [r for r in map(_base, _references(node)) if r in nodes] for name, node in nodes.items()}
        try:
            return list(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError as error:
            cycle = list(reversed(error.args[1]))
            raise VerifyError(
                "data goes round in a cycle", observed=" -> ".join(cycle), where=self.where((*place, cycle[0])),
                fix="carry the value through a loop node",
            ) from None  # fmt: skip

    def node(self, name: str, node: Any, scope: dict[str, SSAValue], place: Place) -> None:
        """Emit one node."""
        emit = getattr(self, "emit_" + type(node).__name__.removesuffix("Node").lower())
        results = emit(name, node, scope, place)
        parts = _parts(node)
        for part, value in zip(parts, results, strict=False):
            scope[f"{name}.{part}"] = value
        if results:
            scope[name] = results[-1] if isinstance(node, schema.ModelNode) else results[0]

    def value(self, ref: str, scope: Mapping[str, SSAValue], place: Place) -> SSAValue:
        """The value that ``ref`` names."""
        if ref not in scope:
            raise UnknownNameError("value", ref, scope, where=self.where(place))
        return scope[ref]

    def values(self, refs: Sequence[str], scope: Mapping[str, SSAValue], place: Place) -> list[SSAValue]:
        return [self.value(ref, scope, (*place, i)) for i, ref in enumerate(refs)]

    def where(self, place: Place) -> Where:
        return _relative(self.locate(place))

    def symbol(self, ref: str | None, place: Place) -> str | None:
        """The symbol of the Python function that ``ref`` names; files are relative to the document."""
        if ref is None:
            return None
        home, _, name = ref.rpartition(":")
        target = f"{self.folder / home}:{name}" if home.endswith(".py") else ref
        try:
            return self.builder.symbol(resolve(target), self.where(place))
        except CaptureError:
            raise
        except UnknownNameError as error:
            error.where = self.where(place)
            raise

    def region(
        self, nodes: Mapping[str, Any], names: Sequence[str], types: Sequence[Attribute], yields: Sequence[str],
        scope: Mapping[str, SSAValue], place: Place,
    ) -> tuple[Region, list[Attribute]]:  # fmt: skip
        """The region of a loop, case or map, and the types that it yields."""
        with self.builder.region(types, names) as block:
            inner = {**scope, **dict(zip(names, block.args, strict=True))}
            self.nodes(nodes, inner, (*place, "nodes"))
            results = self.values(yields, inner, (*place, "yield"))
            region = self.builder.finish(block, results, self.where(place))
        return region, [strip_stream(value.type) for value in results]

    def emit(
        self, kind: Any, name: str, place: Place, inputs: Sequence[SSAValue], outputs: Sequence[Attribute],
        settings: Mapping[str, object] | None = None, regions: Sequence[Region] = (),
    ) -> Sequence[SSAValue]:  # fmt: skip
        return self.builder.emit(kind, name, name, inputs, outputs, settings, regions, self.where(place))

    # one method per node kind

    def emit_const(self, name: str, node: schema.ConstNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        return [self.builder.constant(node.value, self.where(place))]

    def emit_chat(self, name: str, node: schema.ChatNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        return self.emit(dialect.ChatOp, name, place, [], [CHAT], {"system": node.system, "tokens_in": node.tokens})

    def emit_model(self, name: str, node: schema.ModelNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        inputs = self.values(node.inputs, scope, (*place, "inputs"))
        settings = node.model_dump(include={"model", "template", "max_tokens"}) | {
            "tokens_in": node.tokens_in,
            "tokens_out": node.tokens_out,
        }
        text = StreamType(TEXT) if node.streaming else TEXT
        return self.emit(dialect.ModelOp, name, place, inputs, [CHAT, text], settings)

    def emit_callable(self, name: str, node: schema.CallableNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        inputs = self.values(node.inputs, scope, (*place, "inputs"))
        settings: dict[str, object] = {"callee": self.symbol(node.using, (*place, "using")), "seconds": node.seconds}
        if node.op == "tool":
            settings["effects"] = node.effects or None
        kind = dialect.ToolOp if node.op == "tool" else dialect.ComputeOp
        return self.emit(kind, name, place, inputs, [TYPES[node.gives]], settings)

    def emit_service(self, name: str, node: schema.ServiceNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        kind, type_ = _SERVICES[node.op]
        settings: dict[str, object] = {"callee": self.symbol(node.using, (*place, "using")), "seconds": node.seconds}
        if kind is dialect.AudioOp:
            settings["task"] = node.op
        return self.emit(kind, name, place, [self.value(node.input, scope, (*place, "input"))], [type_], settings)

    def emit_retrieve(self, name: str, node: schema.RetrieveNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        settings = node.model_dump(include={"index", "top_k", "keep"}) | {
            "callee": self.symbol(node.using, (*place, "using")),
            "seconds": node.search_seconds,
            "embed_seconds": node.embed_seconds,
            "rerank_seconds": node.rerank_seconds,
        }
        query = self.value(node.query, scope, (*place, "query"))
        return self.emit(dialect.RetrieveOp, name, place, [query], [ListType(TEXT)], settings)

    def emit_rerank(self, name: str, node: schema.RerankNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        inputs = [self.value(getattr(node, key), scope, (*place, key)) for key in ("documents", "query")]
        symbol = self.symbol(node.using, (*place, "using"))
        settings = {"keep": node.keep, "callee": symbol, "seconds": node.seconds}
        return self.emit(dialect.RerankOp, name, place, inputs, [ListType(TEXT)], settings)

    def emit_load(self, name: str, node: schema.LoadNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        default = self.value(node.default, scope, (*place, "default"))
        return self.emit(dialect.MemoryLoadOp, name, place, [default], [strip_stream(default.type)], {"key": node.key})

    def emit_store(self, name: str, node: schema.StoreNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        value = self.value(node.value, scope, (*place, "value"))
        return self.emit(dialect.MemoryStoreOp, name, place, [value], [], {"key": node.key})

    def emit_loop(self, name: str, node: schema.LoopNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        inputs = [self.value(ref, scope, (*place, "carry", key)) for key, ref in node.carry.items()]
        types = [strip_stream(value.type) for value in inputs]
        region, _ = self.region(node.nodes, list(node.carry), types, node.yield_, scope, place)
        until = self.symbol(node.until, (*place, "until"))
        settings = {"trips": node.trips, "until": until, "max_trips": node.max_trips}
        return self.emit(dialect.LoopOp, name, place, inputs, types, settings, [region])

    def emit_branch(self, name: str, node: schema.BranchNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        selector = self.value(node.on, scope, (*place, "on"))
        regions: list[Region] = []
        types: list[Attribute] = []
        for case, body in node.cases.items():
            region, types = self.region(body.nodes, [], [], [body.yield_], scope, (*place, "cases", case))
            regions.append(region)
        stated = [body.probability for body in node.cases.values()]
        shares = [float(p) for p in stated if p is not None]
        if shares and len(shares) != len(stated):
            raise CaptureError("state the probability of every case, or of none", where=self.where((*place, "cases")))
        even = [1 / len(stated)] * len(stated)
        settings = {"cases": tuple(node.cases), "probabilities": tuple(shares or even)}
        return self.emit(dialect.BranchOp, name, place, [selector], types, settings, regions)

    def emit_map(self, name: str, node: schema.MapNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        items = self.value(node.over, scope, (*place, "over"))
        type_ = strip_stream(items.type)
        if not isinstance(type_, ListType):
            raise CaptureError("a map needs a list", observed=str(type_), where=self.where((*place, "over")))
        region, types = self.region(node.nodes, [node.as_], [type_.element], [node.yield_], scope, place)
        join = self.symbol(node.join, (*place, "join"))
        result = DATA if join else ListType(types[0])
        return self.emit(dialect.MapOp, name, place, [items], [result], {"width": node.width, "join": join}, [region])

    def emit_call(self, name: str, node: schema.CallNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        home, mark, qualname = node.agent.partition(":")
        target = f"{self.folder / home}{mark}{qualname}" if home.endswith((".py", ".yaml", ".yml")) else node.agent
        graph = self.builder.include(self.load(target))
        outputs = list(graph.function_type.outputs.data)
        mode = "async" if node.op == "spawn" else "sync"
        types = [FutureType(outputs[0])] if mode == "async" else outputs
        inputs = self.values(node.inputs, scope, (*place, "inputs"))
        return self.emit(dialect.CallOp, name, place, inputs, types, {"callee": graph.sym_name.data, "mode": mode})

    def emit_wait(self, name: str, node: schema.WaitNode, scope: Any, place: Place) -> Sequence[SSAValue]:
        future = self.value(node.future, scope, (*place, "future"))
        if not isinstance(future.type, FutureType):
            raise CaptureError("wait needs a spawn", observed=str(future.type), where=self.where((*place, "future")))
        return self.emit(dialect.AwaitOp, name, place, [future], [future.type.element])


_SERVICES: Mapping[str, tuple[type[dialect.CallableOp], Attribute]] = {
    "embed": (dialect.EmbedOp, DATA),
    "stt": (dialect.AudioOp, TEXT),
    "tts": (dialect.AudioOp, AUDIO),
    "image": (dialect.ImageOp, IMAGE),
    "human": (dialect.HumanOp, TEXT),
}
_REFERENCE_FIELDS = ("inputs", "input", "query", "documents", "default", "value", "carry", "on", "over", "future")


def _parts(node: Any) -> Sequence[str]:
    if isinstance(node, schema.ModelNode):
        return ("chat", "text")
    return tuple(node.carry) if isinstance(node, schema.LoopNode) else ()


def _references(node: Any) -> Iterator[str]:
    """Every value that a node reads, those that its inner nodes read from outside included."""
    if not isinstance(node, schema.ConstNode):
        for field in _REFERENCE_FIELDS:
            yield from _strings(getattr(node, field, ()))
    for body in (node, *getattr(node, "cases", {}).values()):
        for inner in getattr(body, "nodes", {}).values():
            yield from _references(inner)
        yield from _strings(getattr(body, "yield_", ()))


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    return value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()


def _base(ref: str) -> str:
    return ref.partition(".")[0]


def _relative(where: Where) -> Where:
    return Where(relative(where.file), where.line, where.column)
