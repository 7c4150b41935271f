"""Text in, text out: the custom and the generic form of a module, both with locations."""

from __future__ import annotations

import re
from io import StringIO

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError

from heterarch.errors import InputError, Where
from heterarch.ir.agent import Agent
from heterarch.ir.serve import Serve


def context() -> Context:
    """A context that knows the dialects builtin, agent and serve."""
    ctx = Context()
    for dialect in (Builtin, Agent, Serve):
        ctx.load_dialect(dialect)
    return ctx


def print_module(module: ModuleOp, *, generic: bool = False, locations: bool = True) -> str:
    """The text of a module; ``generic`` is the form that upstream ``mlir-opt`` reads as unregistered ops."""
    stream = StringIO()
    Printer(stream, print_generic_format=generic, print_debuginfo=locations).print_op(module)
    return stream.getvalue() + "\n"


def parse_module(text: str, name: str = "<module>") -> ModuleOp:
    """Read a module in custom or generic form.

    Raises:
        InputError: a syntax error, an unknown op, type or field; with line and column.
    """
    _check_strings(text, name)
    try:
        return Parser(context(), text, name).parse_module()
    except ParseError as error:
        span = error.span
        line = text.count("\n", 0, span.start) + 1
        column = span.start - (text.rfind("\n", 0, span.start) + 1) + 1
        raise InputError(f"cannot read the module: {error.msg}", where=Where(name, line, column)) from None


_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n\v\f]|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+"|//[^\n]*|"')


def _check_strings(text: str, name: str) -> None:
    """Refuse a broken string; the lexer of xDSL 0.74 takes exponential time to see that it does not end."""
    for match in _STRING_OR_COMMENT.finditer(text):
        if match.group() == '"':
            line = text.count("\n", 0, match.start()) + 1
            column = match.start() - (text.rfind("\n", 0, match.start()) + 1) + 1
            raise InputError(
                "cannot read the module: the string does not end, or has an unknown escape",
                where=Where(name, line, column),
            )
