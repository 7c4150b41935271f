"""Dialect ``agent``: the authored program, before anything is decided about hardware."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    SymbolNameConstraint,
)
from xdsl.dialects.utils import parse_func_op_like, print_func_op_like
from xdsl.ir import Attribute, Block, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

from heterarch.ir.op import PlacedOp, TaskOp
from heterarch.ir.types import (
    CHAT,
    AudioType,
    ChatType,
    DataType,
    DistributionAttr,
    FutureType,
    ImageType,
    ListType,
    StreamType,
    TextType,
    strip_stream,
)

Strings = ArrayAttr[StringAttr]


@irdl_op_definition
class GraphOp(IRDLOperation):
    """An agent: a named graph with typed inputs and outputs."""

    name = "agent.graph"
    sym_name = prop_def(SymbolNameConstraint())
    function_type = prop_def(FunctionType)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    @classmethod
    def build_graph(cls, name: str, inputs: Sequence[Attribute], outputs: Sequence[Attribute]) -> GraphOp:
        """An empty graph whose block has one argument per input."""
        return cls(
            properties={
                "sym_name": StringAttr(name),
                "function_type": FunctionType.from_lists(list(inputs), list(outputs)),
            },
            regions=[Region(Block(arg_types=list(inputs)))],
        )

    def verify_(self) -> None:
        """Inputs and outputs agree with the block and its terminator."""
        if self.function_type.inputs.data != tuple(self.body.block.arg_types):
            raise VerifyException("inputs do not agree with the arguments of the body")
        _check_yield(self.body, self.function_type.outputs.data, "graph outputs")

    @classmethod
    def parse(cls, parser: Parser) -> GraphOp:
        """``agent.graph @name(%x: type) -> type { ... }``."""
        name, inputs, outputs, region, extra, _, _ = parse_func_op_like(
            parser, reserved_attr_names=("sym_name", "function_type")
        )
        op = cls.build_graph(name, list(inputs), list(outputs))
        if len(region.blocks) == 0:
            parser.raise_error("a graph needs a body")
        op.detach_region(0)
        op.add_region(region)
        op.attributes.update(extra.data if extra is not None else {})
        return op

    def print(self, printer: Printer) -> None:
        """Custom syntax."""
        print_func_op_like(
            printer,
            self.sym_name,
            self.function_type,
            self.body,
            self.attributes,
            reserved_attr_names=("sym_name", "function_type"),
        )


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Hands values back from a graph or a region."""

    name = "agent.yield"
    values = var_operand_def()
    traits = traits_def(IsTerminator())
    assembly_format = "($values^ `:` type($values))? attr-dict"

    def __init__(self, *values: SSAValue) -> None:
        super().__init__(operands=[list(values)])


@irdl_op_definition
class ConstOp(TaskOp):
    """A literal, as JSON text in ``value``."""

    name = "agent.const"
    value = prop_def(StringAttr)

    def check(self) -> None:
        """One result and no operand."""
        _arity(self, 0, 1)


@irdl_op_definition
class ChatOp(TaskOp):
    """A new conversation that starts with ``system``; every request shares that prefix. ``tokens_in`` is its length."""

    name = "agent.chat"
    system = prop_def(StringAttr)
    tokens_in = opt_prop_def(DistributionAttr)

    def check(self) -> None:
        """One conversation comes out."""
        _arity(self, 0, 1)
        _expect(self.outputs[0], ChatType, "result")


class StatefulOp(TaskOp):
    """An op on the session's memory."""

    key = prop_def(StringAttr)


@irdl_op_definition
class MemoryLoadOp(StatefulOp):
    """The session's value of ``key``, or the operand when there is none yet."""

    name = "agent.memory_load"

    def check(self) -> None:
        """The default has the type of the result."""
        _arity(self, 1, 1)
        if strip_stream(self.inputs[0].type) != self.outputs[0].type:
            raise VerifyException("the default has another type than the result")


@irdl_op_definition
class MemoryStoreOp(StatefulOp):
    """Keeps a value for the next request of the session."""

    name = "agent.memory_store"

    def check(self) -> None:
        """One value goes in."""
        _arity(self, 1, 0)


@irdl_op_definition
class ModelOp(PlacedOp):
    """One LLM call: appends its inputs to the chat (first operand, optional) and answers.

    ``tokens_in`` are the tokens appended by this call, ``tokens_out`` the tokens of the answer.
    """

    name = "agent.model"
    model = prop_def(StringAttr)
    template = opt_prop_def(StringAttr)
    max_tokens = opt_prop_def(IntegerAttr)
    tokens_in = opt_prop_def(DistributionAttr)
    tokens_out = opt_prop_def(DistributionAttr)

    def check(self) -> None:
        """Results are the chat after the call and the answer."""
        _arity(self, -1, 2)
        _expect(self.outputs[0], ChatType, "first result")
        _expect(self.outputs[1], TextType, "second result")
        if not self.inputs:
            raise VerifyException("a model call needs a chat or a prompt")
        if any(value.type == CHAT for value in self.inputs[1:]):
            raise VerifyException("a model call takes one chat, as its first operand")
        if self.template is not None:
            _check_template(self.template.data, len(self.inputs) - (strip_stream(self.inputs[0].type) == CHAT))


class CallableOp(PlacedOp):
    """An op whose work is a Python callable (``callee``, a symbol) or a service known by its time (``seconds``)."""

    callee = opt_prop_def(StringAttr)
    seconds = opt_prop_def(DistributionAttr)

    #: types that the single result may have; empty for any
    RESULT_TYPES: ClassVar[tuple[type[Attribute], ...]] = ()

    def check(self) -> None:
        """One result of an allowed type."""
        _arity(self, -1, 1)
        if self.RESULT_TYPES:
            _expect(self.outputs[0], self.RESULT_TYPES, "result")


@irdl_op_definition
class ToolOp(CallableOp):
    """A tool call; ``effects`` says that it changes the world, so it is kept though nothing reads its result."""

    name = "agent.tool"
    effects = opt_prop_def(BoolAttr)


@irdl_op_definition
class ComputeOp(CallableOp):
    """Plain Python on the agent's own values."""

    name = "agent.compute"


@irdl_op_definition
class RetrieveOp(CallableOp):
    """Retrieval from ``index``: embed the query, search ``top_k`` documents, re-rank and keep ``keep`` of them."""

    name = "agent.retrieve"
    index = prop_def(StringAttr)
    top_k = prop_def(IntegerAttr)
    keep = opt_prop_def(IntegerAttr)
    embed_seconds = opt_prop_def(DistributionAttr)
    rerank_seconds = opt_prop_def(DistributionAttr)
    RESULT_TYPES: ClassVar[tuple[type[Attribute], ...]] = (ListType,)


@irdl_op_definition
class EmbedOp(CallableOp):
    """Text to vectors."""

    name = "agent.embed"
    RESULT_TYPES: ClassVar[tuple[type[Attribute], ...]] = (DataType,)


@irdl_op_definition
class RerankOp(CallableOp):
    """Orders documents by relevance to a query."""

    name = "agent.rerank"
    keep = opt_prop_def(IntegerAttr)
    RESULT_TYPES: ClassVar[tuple[type[Attribute], ...]] = (ListType,)


@irdl_op_definition
class AudioOp(CallableOp):
    """A speech model: ``task`` is "stt" (speech to text) or "tts" (text to speech)."""

    name = "agent.audio"
    task = prop_def(StringAttr)
    RESULT_TYPES: ClassVar[tuple[type[Attribute], ...]] = (TextType, AudioType)

    def check(self) -> None:
        """The task is known and agrees with the result."""
        super().check()
        if self.task.data not in ("stt", "tts"):
            raise VerifyException(f"unknown speech task {self.task.data!r}; expected stt or tts")
        wanted = TextType if self.task.data == "stt" else AudioType
        _expect(self.outputs[0], wanted, f"result of {self.task.data}")


@irdl_op_definition
class ImageOp(CallableOp):
    """An image model."""

    name = "agent.image"
    RESULT_TYPES: ClassVar[tuple[type[Attribute], ...]] = (ImageType,)


@irdl_op_definition
class HumanOp(CallableOp):
    """A person answers."""

    name = "agent.human"


@irdl_op_definition
class CallOp(TaskOp):
    """A sub-agent: ``callee`` is a graph of this module; ``mode`` sync waits, async gives a future."""

    name = "agent.call"
    callee = prop_def(StringAttr)
    mode = prop_def(StringAttr)

    def check(self) -> None:
        """An async call gives one future."""
        if self.mode.data not in ("sync", "async"):
            raise VerifyException(f"mode is {self.mode.data!r}, expected sync or async")
        if self.mode.data == "async":
            _arity(self, -1, 1)
            _expect(self.outputs[0], FutureType, "result of an async call")


@irdl_op_definition
class AwaitOp(TaskOp):
    """Waits for an asynchronous sub-agent."""

    name = "agent.await"

    def check(self) -> None:
        """A future goes in, its value comes out."""
        _arity(self, 1, 1)
        if self.inputs[0].type != FutureType(self.outputs[0].type):
            raise VerifyException("waits for a value of another type than its future's")


@irdl_op_definition
class BranchOp(TaskOp):
    """Runs the region of the case that the first operand names; ``probabilities`` say how often each is taken."""

    name = "agent.branch"
    cases = prop_def(Strings)
    probabilities = opt_prop_def(ArrayAttr[FloatAttr])
    REGION_COUNT: ClassVar[int] = -1

    def check(self) -> None:
        """One region per case, probabilities that sum to one, equal results."""
        if len(self.bodies) != len(self.cases) or not self.cases:
            raise VerifyException(f"{len(self.cases)} cases and {len(self.bodies)} regions")
        if self.probabilities is not None:
            shares = [p.value.data for p in self.probabilities]
            if len(shares) != len(self.cases) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise VerifyException(f"probabilities {shares} must be one per case and sum to 1")
        for region in self.bodies:
            _check_arguments(region, [v.type for v in self.inputs[1:]])
            _check_yield(region, [v.type for v in self.outputs], "branch results")


@irdl_op_definition
class LoopOp(TaskOp):
    """Runs its region again and again; operands are carried, ``trips`` says how often, ``until`` when to stop."""

    name = "agent.loop"
    trips = opt_prop_def(DistributionAttr)
    until = opt_prop_def(StringAttr)
    max_trips = opt_prop_def(IntegerAttr)
    REGION_COUNT: ClassVar[int] = 1

    def check(self) -> None:
        """Carried values keep their types from operand to argument, yield and result."""
        types = [strip_stream(v.type) for v in self.inputs]
        if [v.type for v in self.outputs] != types:
            raise VerifyException("results differ in type from the carried values")
        _check_arguments(self.bodies[0], types)
        _check_yield(self.bodies[0], types, "carried values")


@irdl_op_definition
class MapOp(TaskOp):
    """Runs its region once per item of the first operand, side by side; results are joined in order.

    ``join`` is a symbol of a callable that folds the list; without it the result is the list.
    """

    name = "agent.map"
    width = opt_prop_def(DistributionAttr)
    join = opt_prop_def(StringAttr)
    REGION_COUNT: ClassVar[int] = 1

    def check(self) -> None:
        """The first operand is a list; its element and the shared operands are the region's arguments."""
        if not self.inputs or not isinstance(strip_stream(self.inputs[0].type), ListType):
            raise VerifyException("maps over a value that is not a list")
        items = strip_stream(self.inputs[0].type)
        assert isinstance(items, ListType)
        _check_arguments(self.bodies[0], [items.element, *(v.type for v in self.inputs[1:])])
        _arity(self, -1, 1)
        if self.join is None:
            wanted = self.outputs[0].type
            if not isinstance(wanted, ListType):
                raise VerifyException("a map without join gives a list")
            _check_yield(self.bodies[0], [wanted.element], "map results")


_NUMBERED = re.compile(r"\{(\d+)\}")
_MALFORMED = re.compile(r"\{\s*\d+\s*(?:(?:[!:\[]|\.[A-Za-z_])[^{}]*)?\}|\{\d+(?=\s|$)")
_UNNUMBERED = re.compile(r"\{(?:[A-Za-z_]\w*)?\}")


def _check_template(template: str, inputs: int) -> None:
    """Places are ``{0}``, ``{1}``, ... of the inputs after the chat; other braces may stand, since JSON has them."""
    beyond = [place for place in _NUMBERED.findall(template) if int(place) >= inputs]
    if beyond:
        takes = ", ".join(f"{{{i}}}" for i in range(inputs)) or "no place: it has no inputs besides the chat"
        raise VerifyException(
            f"the template has a place {{{beyond[0]}}} and the call gives {inputs} inputs to it (a chat is none); "
            f"it may use {takes}"
        )
    plain = _NUMBERED.sub("", template)
    odd = _MALFORMED.search(plain)
    if odd is None and inputs and plain == template:
        odd = _UNNUMBERED.search(plain)
    if odd is not None:
        raise VerifyException(
            f"the template has {odd.group()!r}, which is no place of an input; places are written {{0}}, {{1}}, ..."
        )


def _arity(op: TaskOp, inputs: int, outputs: int) -> None:
    if inputs >= 0 and len(op.inputs) != inputs:
        raise VerifyException(f"has {len(op.inputs)} operands, expected {inputs}")
    if len(op.outputs) != outputs:
        raise VerifyException(f"has {len(op.outputs)} results, expected {outputs}")


def _expect(value: SSAValue, kinds: type[Attribute] | tuple[type[Attribute], ...], what: str) -> None:
    if not isinstance(strip_stream(value.type), kinds):
        names = kinds if isinstance(kinds, tuple) else (kinds,)
        expected = " or ".join("!" + str(kind.name) for kind in names)
        raise VerifyException(f"{what} is {value.type}, expected {expected}")


def _check_arguments(region: Region, types: Sequence[Attribute]) -> None:
    seen = list(region.block.arg_types)
    if [strip_stream(t) for t in seen] != [strip_stream(t) for t in types]:
        raise VerifyException(f"region takes {_names(seen)}, expected {_names(types)}")


def _check_yield(region: Region, types: Sequence[Attribute], what: str) -> None:
    last = region.block.last_op
    if not isinstance(last, YieldOp):
        raise VerifyException("a region must end with agent.yield")
    seen = [strip_stream(v.type) for v in last.values]
    if seen != [strip_stream(t) for t in types]:
        raise VerifyException(f"yields {_names(seen)}, but {what} are {_names(types)}")


def _names(types: Sequence[Attribute]) -> str:
    return "(" + ", ".join(str(t) for t in types) + ")"


OPS: list[type[Operation]] = [
    GraphOp, YieldOp, ConstOp, ChatOp, MemoryLoadOp, MemoryStoreOp, ModelOp, ToolOp, ComputeOp, RetrieveOp, EmbedOp,
    RerankOp, AudioOp, ImageOp, HumanOp, CallOp, AwaitOp, BranchOp, LoopOp, MapOp,
]  # fmt: skip
Agent = Dialect(
    "agent",
    OPS,
    [TextType, DataType, AudioType, ImageType, ChatType, ListType, FutureType, StreamType, DistributionAttr],
)
