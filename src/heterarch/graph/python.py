"""The Python front end: a function is run once with stand-ins for its inputs, and what it calls is recorded.

@ha.agent
def answer(question: ha.Text) -> ha.Text:
    return ha.model("Meta-Llama-3.1-8B", question)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

from xdsl.ir import Attribute, Region

from heterarch.errors import CaptureError, InputError, Where
from heterarch.graph.build import Agent, Builder
from heterarch.graph.reference import relative
from heterarch.graph.values import Audio, Chat, Data, Future, Image, List, Text, Value, caller, stream, type_of, wrap
from heterarch.ir import agent as dialect
from heterarch.ir.op import TaskOp
from heterarch.ir.types import AUDIO, CHAT, DATA, IMAGE, TEXT, FutureType, ListType, strip_stream
from heterarch.workload.distribution import Distribution, constant

Statistic = Distribution | float | None
T = TypeVar("T")
V = TypeVar("V", bound=Value)
_builder: ContextVar[Builder | None] = ContextVar("builder", default=None)


# ---------------------------------------------------------------- agents and callables


@dataclass(frozen=True)
class TracedAgent(Agent):
    """An agent captured from Python; inside another agent, calling it records a sub-agent call."""

    def __call__(self, *inputs: Value | object) -> Any:
        """Record a synchronous call of this agent."""
        return _call(self, inputs, "sync")


def agent(function: Callable[..., Any]) -> TracedAgent:
    """Capture ``function`` as an agent: its parameters are the inputs, what it returns the outputs.

    Raises:
        CaptureError: a Python `if` or `for` on a traced value, a lambda as a callable, an input without a type, ...
        VerifyError: the graph breaks a rule, such as a node that nothing uses.
    """
    where = Where(relative(function.__code__.co_filename), function.__code__.co_firstlineno)
    parameters = inspect.signature(function).parameters.values()
    types = [type_of(p.annotation, where, name=p.name) for p in parameters]
    builder = Builder(function.__name__, where.file, where, types)
    arguments = builder.graph.body.block.args
    for argument, parameter in zip(arguments, parameters, strict=True):
        argument.name_hint = parameter.name
    token = _builder.set(builder)
    try:
        outputs = _values(function(*[wrap(argument) for argument in arguments]), where)
    finally:
        _builder.reset(token)
    done = builder.done([value.ssa for value in outputs])
    return TracedAgent(done.name, done.source, done.module, done.callables)


@dataclass(frozen=True)
class Callee:
    """A Python function that an agent calls: recorded inside an agent, called as it is outside."""

    function: Callable[..., Any]
    kind: type[TaskOp]
    seconds: Distribution | None
    effects: bool | None

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Record a call, or make it."""
        builder = _builder.get()
        if builder is None:
            return self.function(*args, **kwargs)
        where = caller()
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        annotation = inspect.signature(self.function).return_annotation
        settings = {"callee": builder.symbol(self.function, where), "seconds": self.seconds, "effects": self.effects}
        return _emit(
            self.kind, None, self.function.__name__, list(bound.arguments.values()),
            [type_of(annotation, where, default=DATA)], settings,
        )[0]  # fmt: skip


@overload
def tool(function: Callable[..., Any], /) -> Callee: ...
@overload
def tool(*, seconds: Statistic = None, effects: bool = False) -> Callable[[Callable[..., Any]], Callee]: ...
def tool(function: Callable[..., Any] | None = None, /, *, seconds: Statistic = None, effects: bool = False) -> Any:
    """Mark a module-level function as a tool.

    ``seconds`` is its service time (default from the workload), ``effects`` says that it changes the world.
    """
    if function is None:
        return lambda f: Callee(f, dialect.ToolOp, _statistic(seconds), effects or None)
    return Callee(function, dialect.ToolOp, _statistic(seconds), effects or None)


@overload
def compute(function: Callable[..., Any], /) -> Callee: ...
@overload
def compute(*, seconds: Statistic = 1e-4) -> Callable[[Callable[..., Any]], Callee]: ...
def compute(function: Callable[..., Any] | None = None, /, *, seconds: Statistic = 1e-4) -> Any:
    """Mark a module-level function as plain computation on the agent's own values (``seconds`` of one core)."""
    if function is None:
        return lambda f: Callee(f, dialect.ComputeOp, _statistic(seconds), None)
    return Callee(function, dialect.ComputeOp, _statistic(seconds), None)


# ---------------------------------------------------------------- models


def chat(system: str, *, tokens: Statistic = None, name: str | None = None) -> Chat:
    """A new conversation that starts with ``system``; ``tokens`` is the length of that prefix (system and tools)."""
    return cast(
        "Chat", _emit(dialect.ChatOp, name, "chat", [], [CHAT], {"system": system, "tokens_in": _statistic(tokens)})[0]
    )


@overload
def model(
    model: str,
    chat: Chat,
    /,
    *inputs: Value | str,
    template: str | None = None,
    tokens_in: Statistic = None,
    tokens_out: Statistic = None,
    max_tokens: int | None = None,
    streaming: bool = False,
    name: str | None = None,
) -> tuple[Chat, Text]: ...
@overload
def model(
    model: str,
    prompt: Text | Data | List | Image | Audio | str,
    /,
    *inputs: Value | str,
    template: str | None = None,
    tokens_in: Statistic = None,
    tokens_out: Statistic = None,
    max_tokens: int | None = None,
    streaming: bool = False,
    name: str | None = None,
) -> Text: ...
def model(
    model: str, first: Value | str, /, *inputs: Value | str, template: str | None = None, tokens_in: Statistic = None,
    tokens_out: Statistic = None, max_tokens: int | None = None, streaming: bool = False, name: str | None = None,
) -> Any:  # fmt: skip
    """Call an LLM of the catalogue: with a chat first, returns the chat after the call and the answer; else the answer.

    Args:
        model: id in the model catalogue.
        first: a :class:`Chat` to continue, or the prompt.
        inputs: more values; they are appended in order, or put into ``template`` as ``{0}``, ``{1}``, ...
        template: text of the message, with places for the inputs.
        tokens_in: tokens that this call appends (without the chat before it); default from the workload.
        tokens_out: tokens of the answer; default from the workload.
        max_tokens: hard limit on the answer.
        streaming: readers that can may start on the first token.
        name: id of the node, default ``model``.
    """
    settings = {
        "model": model, "template": template, "max_tokens": max_tokens,
        "tokens_in": _statistic(tokens_in), "tokens_out": _statistic(tokens_out),
    }  # fmt: skip
    text = stream(TEXT) if streaming else TEXT
    after, reply = _emit(dialect.ModelOp, name, "model", [first, *inputs], [CHAT, text], settings)
    return (after, reply) if isinstance(first, Chat) else reply


def embed(
    text: Value | str, *, using: Callable[..., Any] | None = None, seconds: Statistic = None, name: str | None = None
) -> Data:
    """Text to vectors."""
    return cast("Data", _service(dialect.EmbedOp, name, "embed", [text], DATA, using, seconds))


def retrieve(
    query: Value | str, *, index: str, using: Callable[..., Any] | None = None, top_k: int = 20, keep: int = 5,
    embed_seconds: Statistic = None, search_seconds: Statistic = None, rerank_seconds: Statistic = None,
    name: str | None = None,
) -> List:  # fmt: skip
    """Retrieval: embed the query, search ``index`` for ``top_k`` documents, re-rank, keep ``keep``.

    ``using(vector, query)`` does the search in a live run, where an embedding that has no engine is the query itself.
    """
    builder = _current("retrieve")
    settings = {
        "index": index, "top_k": top_k, "keep": keep, "callee": builder.symbol(using, caller()) if using else None,
        "seconds": _statistic(search_seconds), "embed_seconds": _statistic(embed_seconds),
        "rerank_seconds": _statistic(rerank_seconds),
    }  # fmt: skip
    return cast("List", _emit(dialect.RetrieveOp, name, "retrieve", [query], [ListType(TEXT)], settings)[0])


def rerank(
    documents: Value, query: Value | str, *, keep: int = 5, using: Callable[..., Any] | None = None,
    seconds: Statistic = None, name: str | None = None,
) -> List:  # fmt: skip
    """Order documents by relevance to ``query`` and keep the first ``keep``."""
    found = _service(dialect.RerankOp, name, "rerank", [documents, query], ListType(TEXT), using, seconds, keep=keep)
    return cast("List", found)


def speech_to_text(
    audio: Value, *, using: Callable[..., Any] | None = None, seconds: Statistic = None, name: str | None = None
) -> Text:
    """Transcribe speech."""
    return cast("Text", _service(dialect.AudioOp, name, "stt", [audio], TEXT, using, seconds, task="stt"))


def text_to_speech(
    text: Value | str, *, using: Callable[..., Any] | None = None, seconds: Statistic = None, name: str | None = None
) -> Audio:
    """Speak a text; starts on the first chunk of a streaming answer."""
    return cast("Audio", _service(dialect.AudioOp, name, "tts", [text], AUDIO, using, seconds, task="tts"))


def image(
    prompt: Value | str, *, using: Callable[..., Any] | None = None, seconds: Statistic = None, name: str | None = None
) -> Image:
    """Draw a picture."""
    return cast("Image", _service(dialect.ImageOp, name, "image", [prompt], IMAGE, using, seconds))


def human(
    question: Value | str,
    *,
    using: Callable[..., Any] | None = None,
    seconds: Statistic = None,
    name: str | None = None,
) -> Text:
    """Ask a person."""
    return cast("Text", _service(dialect.HumanOp, name, "human", [question], TEXT, using, seconds))


# ---------------------------------------------------------------- memory


def load(key: str, default: V, *, name: str | None = None) -> V:
    """The session's value of ``key``, or ``default`` on its first request."""
    value = _lift(default)
    types = [strip_stream(value.ssa.type)]
    return cast("V", _emit(dialect.MemoryLoadOp, name, f"load_{key}", [value], types, {"key": key})[0])


def store(key: str, value: Value | str, *, name: str | None = None) -> None:
    """Keep ``value`` for the session's next request."""
    _emit(dialect.MemoryStoreOp, name, f"store_{key}", [value], [], {"key": key})


# ---------------------------------------------------------------- control flow


def loop(
    body: Callable[..., T], *carried: Value | str, trips: Statistic = None, until: Callable[..., bool] | None = None,
    max_trips: int | None = None, name: str | None = None,
) -> T:  # fmt: skip
    """Run ``body(*carried)`` again and again; what it returns is carried into the next trip, and out at the end.

    Args:
        body: captured once; takes and returns the carried values (one value or a tuple of them).
        carried: their first values.
        trips: how many trips a request makes, for planning and simulation.
        until: module-level function of the carried values; a live run stops when it is true.
        max_trips: hard limit of a live run.
        name: id of the node, default ``loop``.
    """
    builder = _current("loop")
    where = caller()
    values = [_lift(value) for value in carried]
    types = [strip_stream(value.ssa.type) for value in values]
    region, _ = _region(body, types, where)
    symbol = builder.symbol(until, where) if until is not None else None
    settings = {"trips": _statistic(trips), "until": symbol, "max_trips": max_trips}
    results = _emit(dialect.LoopOp, name, "loop", values, types, settings, [region])
    return cast("T", results[0] if len(results) == 1 else results)


def branch(
    selector: Value, cases: Mapping[str, Callable[..., T]], *inputs: Value | str,
    probabilities: Mapping[str, float] | None = None, name: str | None = None,
) -> T:  # fmt: skip
    """Run the case whose name equals the text of ``selector``; each body takes ``inputs``.

    ``probabilities`` (case to share) drive planning and simulation; without them every case is as likely.
    """
    where = caller()
    values = [_lift(value) for value in inputs]
    types = [strip_stream(value.ssa.type) for value in values]
    traced = [_region(body, types, where) for body in cases.values()]
    shares = probabilities or dict.fromkeys(cases, 1 / len(cases))
    if set(shares) != set(cases):
        raise CaptureError(
            "the probabilities do not name the cases", observed=sorted(shares), expected=sorted(cases), where=where
        )
    settings = {"cases": tuple(cases), "probabilities": tuple(float(shares[case]) for case in cases)}
    results = _emit(
        dialect.BranchOp, name, "branch", [selector, *values], traced[0][1], settings, [region for region, _ in traced]
    )
    return cast("T", results[0] if len(results) == 1 else results)


def map(
    body: Callable[..., Any], items: Value, *shared: Value | str, width: Statistic = None,
    join: Callable[..., Any] | None = None, name: str | None = None,
) -> Any:  # fmt: skip
    """Run ``body(item, *shared)`` for every item of a list, side by side; gives the list of results in order.

    ``join`` is a module-level function that folds the list into one value; ``width`` how many items there are.
    """
    builder = _current("map")
    where = caller()
    values = [_lift(value) for value in (items, *shared)]
    first = strip_stream(values[0].ssa.type)
    if not isinstance(first, ListType):
        raise CaptureError(
            "ha.map needs a list", observed=str(first), where=where, fix="return list[str] from a compute"
        )
    types = [first.element, *(strip_stream(value.ssa.type) for value in values[1:])]
    region, outputs = _region(body, types, where)
    if len(outputs) != 1:
        raise CaptureError("the body of a map returns one value", observed=len(outputs), where=where)
    settings: dict[str, object] = {"width": _statistic(width)}
    result: Attribute = ListType(outputs[0])
    if join is not None:
        settings["join"] = builder.symbol(join, where)
        result = type_of(inspect.signature(join).return_annotation, where, default=DATA)
    return _emit(dialect.MapOp, name, "map", values, [result], settings, [region])[0]


def spawn(sub: Agent, *inputs: Value | str) -> Future:
    """Start a sub-agent and go on; :func:`wait` for what it returns."""
    return cast("Future", _call(sub, inputs, "async"))


def wait(future: Future, *, name: str | None = None) -> Any:
    """The result of a sub-agent started with :func:`spawn`."""
    type_ = future.ssa.type
    if not isinstance(type_, FutureType):
        raise CaptureError("ha.wait needs what ha.spawn returned", observed=str(type_), where=caller())
    return _emit(dialect.AwaitOp, name, "wait", [future], [type_.element])[0]


# ---------------------------------------------------------------- recording


def _current(what: str) -> Builder:
    builder = _builder.get()
    if builder is None:
        raise CaptureError(
            f"ha.{what} was called outside an agent", where=caller(), fix="call it in an @ha.agent function"
        )
    return builder


def _lift(value: Value | object) -> Value:
    return value if isinstance(value, Value) else wrap(_current("const").constant(value, caller()))


def _emit(
    kind: type[TaskOp], name: str | None, default: str, inputs: Sequence[Value | object], outputs: Sequence[Attribute],
    properties: Mapping[str, object] | None = None, regions: Sequence[Region] = (),
) -> tuple[Value, ...]:  # fmt: skip
    builder = _current(default)
    operands = [_lift(value).ssa for value in inputs]
    results = builder.emit(kind, name, default, operands, outputs, properties, regions, caller())
    return tuple(wrap(result) for result in results)


def _service(
    kind: type[TaskOp], name: str | None, default: str, inputs: Sequence[Value | object], output: Attribute,
    using: Callable[..., Any] | None, seconds: Statistic, **settings: object,
) -> Value:  # fmt: skip
    symbol = _current(default).symbol(using, caller()) if using is not None else None
    properties = {**settings, "callee": symbol, "seconds": _statistic(seconds)}
    return _emit(kind, name, default, inputs, [output], properties)[0]


def _region(body: Callable[..., Any], types: Sequence[Attribute], where: Where) -> tuple[Region, list[Attribute]]:
    builder = _current("region")
    names = _parameters(body)
    if len(names) != len(types):
        raise CaptureError(
            f"the body takes {len(names)} values", expected=f"{len(types)}, as many as are passed", where=where
        )
    with builder.region(types, names) as block:
        values = _values(body(*[wrap(argument) for argument in block.args]), where)
        region = builder.finish(block, [value.ssa for value in values], where)
    return region, [strip_stream(value.ssa.type) for value in values]


def _parameters(body: Any) -> list[str]:
    """Names of the values that a body takes; a body may be a function, a tool or a sub-agent."""
    if isinstance(body, Agent):
        return [argument.name_hint or "" for argument in body.graph.body.block.args]
    return list(inspect.signature(getattr(body, "function", body)).parameters)


def _values(result: Any, where: Where) -> list[Value]:
    items = result if isinstance(result, tuple | list) else [] if result is None else [result]
    if not all(isinstance(item, Value | str) for item in items):
        raise CaptureError("returns something that is not a value of the agent", observed=repr(result), where=where)
    return [_lift(item) for item in items]


def _call(sub: Agent, inputs: Sequence[Value | object], mode: str) -> Any:
    builder = _builder.get()
    if builder is None:
        raise CaptureError(
            f"agent {sub.name!r} cannot be called outside an agent", where=caller(),
            fix="plan it and run the plan: heterarch plan, heterarch run",
        )  # fmt: skip
    graph = builder.include(sub)
    outputs = list(graph.function_type.outputs.data)
    types = [FutureType(outputs[0])] if mode == "async" else outputs
    results = _emit(dialect.CallOp, None, sub.name, inputs, types, {"callee": sub.name, "mode": mode})
    return results[0] if len(results) == 1 else results


def _statistic(value: Statistic) -> Distribution | None:
    if value is None or isinstance(value, Distribution):
        return value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CaptureError(
            "a statistic is a number or a distribution", observed=repr(value), where=caller(),
            fix="give a number, or ha.quantiles(p50=..., p95=...)",
        )  # fmt: skip
    try:
        return constant(float(value))
    except InputError as error:
        error.where = caller()
        raise
