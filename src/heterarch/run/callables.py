"""The user's Python callables: from references in a plan to functions, and errors that point at the user's line."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heterarch.errors import HeterarchError, InputError, StalePlanError, Where
from heterarch.graph.reference import relative, resolve, source_sha256
from heterarch.ir.flat import FlatProgram, OpKind
from heterarch.plan.document import CallablePart
from heterarch.run.threads import Threads

Function = Callable[..., Any]
_NEED_CALLEE = frozenset(
    {OpKind.TOOL, OpKind.COMPUTE, OpKind.SEARCH, OpKind.AUDIO, OpKind.IMAGE, OpKind.HUMAN}
)  # EMBED and RERANK have a meaning without one


@dataclass
class Bindings:
    """Functions by symbol; ``notes`` says which have changed since the plan was made."""

    functions: Mapping[str, Function]
    notes: Sequence[str] = ()
    threads: Threads = field(default_factory=Threads)

    async def call(self, symbol: str, arguments: Sequence[object]) -> Any:
        """What the function returns; a coroutine function is awaited, any other runs in a thread.

        Raises:
            HeterarchError: the function raised; the message names the exception and the line.
        """
        function = self.functions[symbol]
        try:
            if inspect.iscoroutinefunction(function):
                return await function(*arguments)
            return await self.threads.call(function, *arguments)
        except HeterarchError:
            raise
        except Exception as error:
            raise _failure(symbol, error) from error

    def call_now(self, symbol: str, arguments: Sequence[object]) -> Any:
        """What a quick function (a predicate, a join) returns; it runs on the event loop."""
        try:
            return self.functions[symbol](*arguments)
        except HeterarchError:
            raise
        except Exception as error:
            raise _failure(symbol, error) from error


def bind(
    flat: FlatProgram,
    table: Sequence[CallablePart] = (),
    functions: Mapping[str, Function] | None = None,
    *,
    strict: bool = False,
) -> Bindings:
    """Functions for every symbol that ``flat`` names: from ``functions`` if there, else resolved from the plan's
    ``table``.

    Raises:
        InputError: a tool without a callable, a symbol that is in no table, a module that cannot be imported.
        StalePlanError: with ``strict``, the source of a callable is not the plan's.
    """
    given = functions or {}
    references = {row.symbol: row for row in table}
    found: dict[str, Function] = {}
    notes: list[str] = []
    for op, symbol in _symbols(flat):
        if symbol in found:
            continue
        if symbol in given:
            found[symbol] = given[symbol]
        elif symbol in references:
            found[symbol] = resolve(references[symbol].ref)
            notes += _changed(references[symbol], found[symbol], strict)
        else:
            raise InputError(
                f"no callable is known for {symbol!r}",
                where=flat.where[op],
                expected="a row in agent.callables",
                observed=f"op {flat.names[op]}",
                fix="plan the agent again",
            )
    return Bindings(found, notes)


def _symbols(flat: FlatProgram) -> list[tuple[int, str]]:
    """Every (op, symbol) of the program; a service without one that needs one is an error."""
    pairs = []
    for op, attrs in enumerate(flat.attrs):
        kind = OpKind(int(flat.kind[op]))
        if kind is not OpKind.GRAPH_CALL:
            pairs += [(op, str(attrs[name])) for name in ("callee", "until", "join") if attrs.get(name)]
        if kind in _NEED_CALLEE and not attrs.get("callee"):
            raise InputError(
                f"{kind.name.lower()} {flat.names[op]!r} has no Python function: it can be planned, not run",
                where=flat.where[op],
                fix="give it one (using=..., callable: ...)",
            )
    return [(op, symbol) for op, symbol in pairs if symbol != "list"]


def _changed(row: CallablePart, function: Function, strict: bool) -> list[str]:
    now = source_sha256(function)
    if now == row.sha256:
        return []
    if strict:
        raise StalePlanError(
            f"the source of {row.ref} has changed since the plan was made",
            observed=now[:12],
            expected=row.sha256[:12],
            where=row.where or None,
            fix="plan again",
        )
    return [f"the source of {row.ref} has changed since the plan was made; the predictions may not hold"]


def _failure(symbol: str, error: Exception) -> HeterarchError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = Where(relative(last.filename), last.lineno or 0)
    return HeterarchError(f"{symbol} raised {type(error).__name__}: {error}", where=where)
