"""Passes, one file each: a frozen dataclass whose fields are its options; the command line derives from it."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError

from heterarch.errors import InputError, UnknownNameError
from heterarch.ir.passes.decompose import Decompose
from heterarch.ir.passes.place import Place
from heterarch.ir.text import context
from heterarch.ir.verify import verify

PASSES: dict[str, type[ModulePass]] = {each.name: each for each in (Decompose, Place)}


def parse_passes(pipeline: str) -> list[ModulePass]:
    """Passes from text such as ``decompose,place{assign="step.decode=h100"}``.

    Raises:
        UnknownNameError: no such pass.
        InputError: the pipeline cannot be read, or a pass has no such option.
    """
    try:
        specs = list(parse_pipeline(pipeline))
    except ArgSpecParseError as error:
        raise InputError(
            "cannot read the pass pipeline", observed=pipeline, expected="pass,pass{option=value}"
        ) from error
    return [_build(spec.name, spec) for spec in specs]


def _build(name: str, spec: object) -> ModulePass:
    if name not in PASSES:
        raise UnknownNameError("pass", name, PASSES)
    try:
        return PASSES[name].from_spec(spec)  # type: ignore[arg-type]
    except Exception as error:
        raise InputError(f"pass {name!r} does not take these options: {error}") from None


def run_passes(module: ModuleOp, passes: list[ModulePass], *, verify_each: bool = False) -> ModuleOp:
    """A copy of ``module`` after ``passes``, verified at the end and, if asked, after each pass."""
    result = module.clone()
    for each in passes:
        each.apply(context(), result)
        if verify_each:
            verify(result)
    verify(result)
    return result
