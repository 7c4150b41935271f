"""Callables by reference: a plan names each as ``package.module:qualname`` or ``file.py:qualname``.

The reference and the SHA-256 of the source travel in the plan; lambdas and closures have no name that another
process could resolve, so they are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from heterarch.errors import CaptureError, HeterarchError, InputError, UnknownNameError, Where


class Reference(NamedTuple):
    """Name, hash of the source and place of a callable."""

    ref: str
    sha256: str
    where: Where


def reference(function: Callable[..., Any], where: Where | None = None) -> Reference:
    """How a plan can name ``function``; ``where`` is the line that uses it, for the error.

    Raises:
        CaptureError: a lambda, a closure, a nested function, or one without source.
    """
    target = inspect.unwrap(getattr(function, "function", function))
    if not inspect.isfunction(target):
        raise CaptureError("only Python functions can be named by a plan", observed=repr(function), where=where)
    code = target.__code__
    place = Where(relative(code.co_filename), code.co_firstlineno)
    if target.__name__ == "<lambda>":
        raise CaptureError(
            "a lambda has no name that a plan could keep", where=where or place, fix="use a def at module level"
        )
    if target.__closure__ or "<locals>" in target.__qualname__:
        raise CaptureError(
            f"{target.__qualname__!r} is defined inside a function, so a plan could not name it again",
            where=where or place,
            fix="move it to module level and pass what it needs as arguments",
        )
    return Reference(f"{_home(target)}:{target.__qualname__}", source_sha256(target), place)


def source_sha256(function: Callable[..., Any]) -> str:
    """SHA-256 of the dedented source text of ``function``."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(function, "function", function))))
    except OSError:
        raise CaptureError(f"the source of {function!r} cannot be read", fix="define it in a file") from None
    return hashlib.sha256(source.encode()).hexdigest()


def resolve(ref: str) -> Callable[..., Any]:
    """The callable that ``ref`` names.

    Raises:
        InputError: the module or file is not there, or the reference is not ``place:name``.
        UnknownNameError: the module has no such name.
    """
    home, mark, qualname = ref.rpartition(":")
    if not mark:
        raise InputError("cannot read the callable", observed=ref, expected="package.module:name or file.py:name")
    found: Any = load_module(home)
    for part in qualname.split("."):
        if not hasattr(found, part):
            raise UnknownNameError(f"callable in {home}", qualname, [n for n in vars(found) if not n.startswith("_")])
        found = getattr(found, part)
    function: Callable[..., Any] = getattr(found, "function", found)
    return function


def load_module(home: str) -> ModuleType:
    """Import ``package.module``, or the file ``path/to/file.py``; a file is loaded once per path.

    Raises:
        InputError: no such module or file.
    """
    if home.endswith(".py"):
        return _load_file(str(Path(home).resolve()))
    try:
        return importlib.import_module(home)
    except ModuleNotFoundError as error:
        raise InputError(
            f"cannot import module {home!r}: {error}", fix="install it, set PYTHONPATH, or give a file.py"
        ) from None
    except HeterarchError:
        raise
    except Exception as error:
        raise _failed(home, error) from error


@cache
def _load_file(path: str) -> ModuleType:
    file = Path(path)
    if not file.is_file():
        raise InputError(
            "no such Python file", observed=relative(path), fix=f"paths start at the working directory, {Path.cwd()}"
        )
    name = f"heterarch_file_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        raise CaptureError(
            f"cannot read the Python file: {error.msg}", where=Where(relative(path), error.lineno or 0)
        ) from None
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, HeterarchError) or not isinstance(error, Exception):
            raise
        raise _failed(relative(path), error) from error
    return module


def _failed(home: str, error: Exception) -> CaptureError:
    """The error of a module that raised when it was imported, at the last line of the user's that ran."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if relative(frame.filename) == home] or frames
    where = Where(relative(own[-1].filename), own[-1].lineno or 0)
    return CaptureError(f"the module raised {type(error).__name__}: {error}", where=where)


def relative(path: str) -> str:
    """``path`` as seen from the working directory where it lies below it, else as it is."""
    file = Path(path)
    return file.relative_to(Path.cwd()).as_posix() if file.is_absolute() and file.is_relative_to(Path.cwd()) else path


def _home(function: Callable[..., Any]) -> str:
    """The module name where it can be imported by anyone, else the file."""
    name = function.__module__
    if name != "__main__" and not name.startswith("heterarch_file_"):
        return name
    return relative(inspect.getfile(function))
