"""What a traced function holds instead of data, and the errors that say what to write instead of `if` and `for`."""

from __future__ import annotations

import inspect
import sys
from typing import Any, ClassVar, NoReturn

from xdsl.ir import Attribute, SSAValue

from heterarch.errors import CaptureError, Where
from heterarch.graph.reference import relative
from heterarch.ir.types import AUDIO, CHAT, DATA, IMAGE, TEXT, ListType, StreamType, strip_stream


class Value:
    """A value that exists when the agent runs; at capture it only stands for the edge.

    Deciding on it in Python is an error that names the construct to use.
    """

    type: ClassVar[Attribute] = DATA

    def __init__(self, ssa: SSAValue) -> None:
        self.ssa = ssa

    def __bool__(self) -> bool:
        _refuse("`if`, `while`, `and`, `or` and `not` cannot decide on a value of the agent", "ha.branch or ha.loop")

    def __eq__(self, other: object) -> bool:
        _refuse("values of the agent cannot be compared while it is captured", "ha.branch on the result of a compute")

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Any:
        _refuse("`for` and unpacking cannot walk a value of the agent", "ha.map or ha.loop")

    def __contains__(self, item: object) -> bool:
        _refuse("`in` cannot look into a value of the agent", "ha.branch on the result of a compute")

    def __len__(self) -> int:
        _refuse("the length of a value is not known while the agent is captured", "ha.map with a width")

    def __getitem__(self, key: object) -> Any:
        _refuse("a value of the agent cannot be indexed while it is captured", "a @ha.compute function")

    def __str__(self) -> str:
        _refuse("a value of the agent cannot become a string while it is captured", "the template= of ha.model")

    def __format__(self, spec: str) -> str:
        return str(self)

    def __add__(self, other: object) -> Any:
        _refuse("values of the agent cannot be added while it is captured", "a @ha.compute function, or template=")

    __radd__ = __add__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ssa.name_hint or ''}>"


class Text(Value):
    """Text."""

    type = TEXT


class Data(Value):
    """Any JSON-like value."""


class Audio(Value):
    """Sampled sound."""

    type = AUDIO


class Image(Value):
    """A picture."""

    type = IMAGE


class Chat(Value):
    """A conversation; its prefix is what KV reuse is about."""

    type = CHAT


class List(Value):
    """A list, such as the documents that a retrieval found."""

    type = ListType(TEXT)


class Future(Value):
    """The result of :func:`heterarch.spawn`, to be waited for."""


KINDS: tuple[type[Value], ...] = (Text, Data, Audio, Image, Chat, List)


def wrap(ssa: SSAValue) -> Value:
    """The handle for a value of the module."""
    whole = strip_stream(ssa.type)
    if isinstance(whole, ListType):
        return List(ssa)
    for kind in KINDS:
        if kind.type == whole:
            return kind(ssa)
    return Future(ssa)


def type_of(annotation: object, where: Where, *, default: Attribute | None = None, name: str = "") -> Attribute:
    """The type that an annotation stands for: ``ha.Text``, ``str``, ``list[ha.Text]``, ...

    ``name`` is that of the input, for the error.

    Raises:
        CaptureError: no annotation, or one that is no type of values.
    """
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__qualname__", str(annotation))
    text = text if "[" not in str(annotation) else str(annotation)
    text = text.replace("heterarch.graph.values.", "").replace("ha.", "").strip()
    if text.startswith(("list[", "List[")):
        return ListType(_NAMES.get(text[5:-1].strip(), DATA))
    if text in _NAMES:
        return _NAMES[text]
    if default is not None:
        return default
    raise CaptureError(
        f"the input {name!r} of an agent needs a type" if name else "an input of an agent needs a type",
        observed="no annotation" if annotation is inspect.Parameter.empty else text,
        expected="ha.Text, ha.Data, ha.Audio, ha.Image, ha.List", where=where,
    )  # fmt: skip


_NAMES: dict[str, Attribute] = {kind.__name__: kind.type for kind in KINDS} | {
    "str": TEXT,
    "bytes": AUDIO,
    "list": ListType(DATA),
}


def stream(type_: Attribute) -> Attribute:
    """The type of the value as it arrives in chunks."""
    return StreamType(type_)


def caller() -> Where:
    """The line of the user's program: the nearest frame outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("heterarch."):
        frame = frame.f_back
    return Where(relative(frame.f_code.co_filename), frame.f_lineno)


def _refuse(what: str, use: str) -> NoReturn:
    raise CaptureError(what, where=caller(), fix=f"use {use}")
