"""The compiler of the core, with the types of what it compiles kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numba

_numba: Any = numba
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def compiled(function: F) -> F:
    """``function`` as machine code that other compiled code calls; Python cannot call it.

    Arithmetic is IEEE (no fast-math), so that the same seed gives the same bytes. Arrays are borrowed from the caller
    and never made (no reference counts, which took two thirds of the time).
    """
    return _made(function)


def inlined(function: F) -> F:
    """:func:`compiled`, as part of its caller: for what one hot caller calls, so that no arguments are copied."""
    return _made(function, forceinline=True)


def _made(function: F, **options: bool) -> F:
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made: Any = _numba.njit(_nrt=False, error_model="numpy", **wrappers, **options)(function)
    template = made.get_call_template
    made.get_call_template = lambda types, names: template(tuple(map(_wide, types)), names)
    result: F = made
    return result


def _wide(kind: Any) -> Any:
    """Of an argument's type: one for all integers, of records and constants alike, so that code is made once."""
    return _numba.types.int64 if isinstance(kind, _numba.types.Integer) else _numba.types.unliteral(kind)


def entry(function: F) -> F:
    """``function`` as machine code that Python calls, kept on disk for the next process.

    What is kept is keyed by the function's own byte code and closure only, so an entry must close over the
    :func:`fingerprint` of every module whose functions it calls.
    """
    made: F = _numba.njit(_nrt=False, cache=True, error_model="numpy")(function)
    return made


def bound(function: Callable[..., T], *fixed: Any) -> Callable[..., T]:
    """An :func:`entry` with its first arguments fixed; the arguments to come must be float, then int.

    Skips the look-up of the types of ``fixed``, which takes longer than a short call.
    """
    dispatcher: Any = function
    types = tuple(_numba.typeof(value) for value in fixed)
    return partial(dispatcher.compile((*types, _numba.float64, _numba.int64)), *fixed)


def fingerprint(*modules: ModuleType) -> int:
    """A number, never 0, that changes with the source of any of ``modules``, or of this one."""
    total = 0
    for file in (__file__, *(str(module.__file__) for module in modules)):
        total = zlib.crc32(Path(file).read_bytes(), total)
    return total or 1
